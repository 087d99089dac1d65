"""Probes read what is there, in languages that they were not fitted on, and memorize what means nothing."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import metadata, probe
from hubstore.errors import AnalysisError, QueryError
from tests.analysis.test_subspace import LANGUAGES, spoken
from tests.memory_store import parallel


def rows(table, **where):
    for column, value in where.items():
        table = table.filter(pc.equal(table[column], value))
    return table.to_pylist()


def classed(n=120, seed=0, strength=3.0):
    """A store in which a direction that all languages share has the class of each concept, and the classes."""
    states = spoken(n=n, seed=seed, shift=1.0)
    classes = ["bird" if i % 3 == 0 else "fish" for i in range(n)]
    direction = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(seed + 1))
    states += strength * torch.tensor([one == "bird" for one in classes]).float()[:, None] * direction
    return parallel(LANGUAGES, {"0": states}), {f"c{i}": one for i, one in enumerate(classes)}


def test_the_class_of_a_concept_is_read_in_other_languages_and_labels_that_mean_nothing_are_not():
    store, label = classed()
    table = probe(store, label=label)
    across = [row for row in rows(table, variant="concept_class") if row["x"] != row["y"]]
    assert len(across) == 12
    for row in across:
        assert row["value"] > 0.9
        assert row["chance"] == pytest.approx(2 / 3, abs=0.1)
        assert row["control"] < row["seen"]
        assert row["low"] < row["value"] <= row["high"] <= 1
        assert row["n"] == 60
    assert sum(row["control"] for row in across) / 12 < 0.85
    within = [row["control"] for row in rows(table, variant="concept_class") if row["x"] == row["y"]]
    assert max(within) <= 1


def test_the_language_is_read_on_concepts_that_were_not_fitted():
    store, _ = classed()
    (row,) = rows(probe(store), variant="language")
    assert row["value"] > 0.9
    assert row["chance"] == 0.25
    assert row["control"] < row["seen"]
    (row,) = rows(probe(parallel(LANGUAGES, {"0": spoken(shift=0.0)})), variant="language")
    assert row["low"] < 0.25 < row["high"] + 0.05


def test_length_is_read_as_a_correlation_and_where_it_is_not_there_it_is_none():
    states = spoken(n=120)
    store = parallel(LANGUAGES, {"0": states})  # the text is the concept's number: of 2 to 4 characters
    lengths = torch.tensor([len(f"c{i}") for i in range(120)]).float()
    with_length = parallel(LANGUAGES, {"0": states + 6 * lengths[:, None] * torch.linspace(-1, 1, states.shape[-1])})
    found, absent = (rows(probe(one), variant="length", x="en", y="th")[0] for one in (with_length, store))
    assert absent["value"] < 0.5
    assert found["value"] > 0.9
    assert found["metric"] == "correlation"
    assert found["low"] < found["value"] < found["high"]
    assert abs(found["control"]) < found["seen"]


def test_classes_come_from_a_column_too_and_concepts_without_one_are_counted():
    store, label = classed()
    some = {concept: of for concept, of in label.items() if concept != "c5"}
    assert metadata(probe(store, label=some))["notes"]["without_class"] == 1
    plain = rows(probe(store, label=label), variant="concept_class")
    with pytest.raises(QueryError, match=r"have no column 'topic'; they have id, concept"):
        probe(store, label="topic")
    with pytest.raises(AnalysisError, match="are of 1 classes"):
        probe(store, label="language")
    topics = [label[concept] for concept in store.items["concept"].to_pylist()]
    store.items = store.items.append_column("topic", pa.array(topics))
    assert rows(probe(store, label="topic"), variant="concept_class") == plain


@pytest.mark.parametrize(("n", "classes"), [(120, 120), (120, 61), (1200, 300)])
def test_a_column_that_names_nearly_every_concept_is_no_class(n, classes):
    store, _ = classed(n=n)
    label = {f"c{i}": f"k{i % classes}" for i in range(n)}
    with pytest.raises(AnalysisError, match=f"are of {classes}; a probe tells at most {min(n // 2, 256)} apart"):
        probe(store, label=label)
