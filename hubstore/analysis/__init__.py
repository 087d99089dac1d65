"""Analyses of a store: similarity, retrieval, clustering, alignment and geometry, and maps of it, kept in the store.

Each analysis returns a long-form Arrow table (analysis, layer, x, y, metric, variant, value, low, high, n and columns
of its own), `projection` one of points; each is computed once for its parameters and the store's commits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hubstore.analysis.alignment import alignment
from hubstore.analysis.between import calibrated_between, compare
from hubstore.analysis.calibrated import calibrated
from hubstore.analysis.clustering import clustering
from hubstore.analysis.comparing import compare_options
from hubstore.analysis.contrasts import contrasts
from hubstore.analysis.geometry import geometry
from hubstore.analysis.hub_page import hub_page
from hubstore.analysis.hub_score import hub_score
from hubstore.analysis.language_eraser import language_eraser
from hubstore.analysis.layers import Executor
from hubstore.analysis.pairs import chosen_pairs
from hubstore.analysis.probe import probe
from hubstore.analysis.projection import PROJECTION_SCHEMA, projection
from hubstore.analysis.results import metadata
from hubstore.analysis.retrieval import found_by_concept, retrieval
from hubstore.analysis.similarity import concept_differences, similarity, unresolved
from hubstore.analysis.subspace import subspace
from hubstore.errors import AnalysisError
from hubstore.options import CalibrationOptions, CompareOptions, strings, take

if TYPE_CHECKING:
    from hubstore.store import StoreReader

__all__ = [
    "ANALYSES",
    "EVERY",
    "PROJECTION_SCHEMA",
    "CalibrationOptions",
    "CompareOptions",
    "alignment",
    "analyze",
    "calibrated",
    "calibrated_between",
    "clustering",
    "compare",
    "concept_differences",
    "contrasts",
    "found_by_concept",
    "geometry",
    "hub_page",
    "hub_score",
    "language_eraser",
    "metadata",
    "probe",
    "projection",
    "retrieval",
    "similarity",
    "subspace",
    "unresolved",
]

ANALYSES = ("similarity", "retrieval", "clustering", "alignment", "geometry")
"""What `analyze` runs by default."""
EVERY = (*ANALYSES, "calibrated", "subspace", "probe")
"""What it runs where named, too: they cost more than all others."""


def analyze(  # noqa: PLR0913
    store: StoreReader,
    names: str | Sequence[str] | None = None,
    options: CompareOptions | None = None,
    calibration: CalibrationOptions | None = None,
    *,
    cross_layers: bool = False,
    label: str | Mapping[str, str] | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> dict[str, pa.Table]:
    """Run several analyses with their defaults.

    Args:
        store: an opened store.
        names: one or some of `EVERY`; None is `ANALYSES`.
        options: what to compare, and how to draw; its fields (pairs, pivot, layers, pooling, seed, bootstrap) may be
            given by name too. Clustering and geometry take the partitions that the pairs name.
        calibration: of "calibrated"; its fields (measures, permutations, sample, ...) may be given by name too.
        cross_layers: of "calibrated": every layer of one side against every layer of the other.
        label: of "probe": classes of concepts, a column of the items or the class of each concept.
        device: where to compute: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1". Tables that are
            kept are reused wherever they were computed.
        progress: called with the analysis, its layers done and its layers in all.
        jobs: processes of this host that share the layers, or who else does; the tables are the same. A script that
            asks for several guards its entry with `if __name__ == "__main__":`, since those processes import it.
        named: fields of `CompareOptions` and of `CalibrationOptions`.

    Returns:
        The tables by analysis.

    Raises:
        QueryError: a device that is not there.
        AnalysisError: a name that is no analysis, or what the analysis itself refuses.
    """
    chosen = list(dict.fromkeys(strings("names", names, error=AnalysisError) or ANALYSES))
    calibration = take(CalibrationOptions, named, calibration)
    options = compare_options("analyze", options, named)
    pairs = chosen_pairs(store, options.pairs, options.pivot)  # once for all of them
    options = replace(options, pairs=None if pairs is None else tuple(pairs), pivot=None)
    for name in chosen:
        if name not in EVERY:
            raise AnalysisError(f"there is no analysis {name!r}; choose from {', '.join(EVERY)}")
    runs: dict[str, Any] = {
        "similarity": similarity,
        "retrieval": retrieval,
        "clustering": clustering,
        "alignment": alignment,
        "geometry": geometry,
        "calibrated": functools.partial(calibrated, calibration=calibration, cross_layers=cross_layers),
        "subspace": subspace,
        "probe": functools.partial(probe, label=label),
    }
    return {
        name: runs[name](store, None, options, device=device, progress=_reporter(name, progress), jobs=jobs)
        for name in chosen
    }


def _reporter(name: str, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
