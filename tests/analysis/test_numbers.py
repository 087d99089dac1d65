"""Numbers that an analysis cannot have are refused by name, before anything is computed."""

from __future__ import annotations

import pytest

from hubstore import analysis
from hubstore.errors import AnalysisError
from tests.analysis.test_similarity import related
from tests.memory_store import parallel

NOT_COUNTS = [0, -1, -(2**40), 1.5, "3", True]
NOT_SEEDS = [-1, 2**32, 0.5]
NOT_RESAMPLES = [-1, 10**9, 2.5]


@pytest.mark.parametrize(
    ("name", "option", "bad"),
    [
        *((name, "seed", NOT_SEEDS) for name in (*analysis.ANALYSES, "projection")),
        *((name, "bootstrap", NOT_RESAMPLES) for name in analysis.ANALYSES),
        *((name, "k", NOT_COUNTS) for name in ("retrieval", "clustering", "alignment", "geometry")),
        ("clustering", "permutations", NOT_RESAMPLES),
        ("geometry", "sample", [*NOT_COUNTS, 1]),
        ("projection", "points", NOT_COUNTS),
    ],
)
def test_a_number_that_an_analysis_cannot_have_is_refused_by_name(name, option, bad):
    store = parallel("ab", related())
    for value in bad:
        with pytest.raises(AnalysisError, match=f"^{option} is {value!r};"):
            getattr(analysis, name)(store, **{option: value})
    assert not store.storage.files
