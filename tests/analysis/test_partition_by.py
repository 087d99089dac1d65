"""The values of a column are partitions as languages are: the same numbers, kept apart, on every way to them."""

from __future__ import annotations

import json

import pytest
import torch

import hubstore
from hubstore.analysis import analyze, metadata
from hubstore.analysis.layers import LayerTask
from hubstore.analysis.similarity import similarity
from hubstore.errors import QueryError
from tests.command_line import typed
from tests.serve.servers import served
from tests.tiny_models import tiny_language_model

CHOICES = {"layers": ["1", "2"], "bootstrap": 20}
COUNT = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    words = {"en": "day", "de": "Tag", "sw": "siku"}
    rows = [
        {"id": f"{tag}:{n}", "text": f"{word} {n * n}", "language": tag, "concept": f"c{n}"}
        | {"source": None if tag == "sw" else f"the {tag} press", "year": 2000 + n % 2}
        for tag, word in words.items()
        for n in range(COUNT)
    ]
    path = tmp_path_factory.mktemp("store") / "rows.hub"
    model, options = tiny_language_model("llama"), {"dtype": "float32", "poolings": ("mean",)}
    return hubstore.extract(hubstore.read_memory(rows, keep_columns="source,year"), model, path, **options)


def test_a_column_that_repeats_the_languages_gives_their_numbers(store):
    by = store.partitioned_by("source")
    assert {name: by.partition(name).size for name in by.partitions} == {"the en press": COUNT, "the de press": COUNT}
    found = analyze(by, ["similarity", "retrieval"], **CHOICES)
    expected = analyze(store, ["similarity", "retrieval"], pairs=[("en", "de")], **CHOICES)
    for name, table in found.items():
        assert metadata(table)["parameters"]["partition_by"] == "source"
        for column in ("layer", "variant", "metric", "value", "low", "high", "n"):
            assert table[column].to_pylist() == expected[name][column].to_pylist(), column


def test_results_of_other_partitions_are_kept_apart(store):
    plain = analyze(store, ["geometry"], **CHOICES)["geometry"]
    by = analyze(store.partitioned_by("language"), ["geometry"], **CHOICES)["geometry"]
    assert plain["value"].to_pylist() == by["value"].to_pylist()
    assert metadata(plain)["parameters"].get("partition_by") is None
    years = analyze(store.partitioned_by("year"), ["geometry"], **CHOICES)["geometry"]
    assert {"2000", "2001"} <= set(years["x"].to_pylist())
    assert store.partition_by is None


def test_a_process_that_opens_the_store_has_the_same_partitions(store):
    table = similarity(store.partitioned_by("source"), **CHOICES)
    parameters = metadata(table)["parameters"]
    task = LayerTask(lambda opened, device, given: Names(opened), parameters, {}, torch.device("cpu"))
    assert task.of(hubstore.open(store.path))("1") == ["the en press", "the de press"]


class Names:
    """What an analysis would find: the partitions of the store that it is given."""

    def __init__(self, store):
        self.find = lambda layer: list(store.partitions)


def test_a_column_that_is_not_kept_or_has_too_many_values_is_refused(store, monkeypatch):
    with pytest.raises(QueryError, match="no column 'text' to partition by; it has language, modality, source, year"):
        store.partitioned_by("text")
    monkeypatch.setattr("hubstore.store.by_column.MOST_VALUES", 1)
    with pytest.raises(QueryError, match=r"'year' of .* has 2 values"):
        store.partitioned_by("year")


def test_the_command_and_the_server_partition_by_a_column_too(store):
    arguments = ["analyze", store.path, "similarity", "--layers", "1,2", "--bootstrap", "20", "--json"]
    said = json.loads(typed(*arguments, "--partition-by", "source")[1])["similarity"]["rows"]
    assert {(row["x"], row["y"]) for row in said} == {("the en press", "the de press")}
    with served(store.path) as server:
        asked = {"analysis": "similarity", "layer": "1"}
        found = server.get("/api/v1/stores/rows/curves", partition_by="source", **asked)
        plain = server.get("/api/v1/stores/rows/curves", **asked)
        assert set(found.columns["x"]) == {"the en press"}
        assert set(plain.columns["x"]) == {"en", "de"}
        refused = server.get("/api/v1/stores/rows/curves", partition_by="nothing", **asked)
        assert (refused.status, "to partition by" in refused.error) == (400, True)


def test_a_report_by_a_column_says_so_and_shows_no_neighbors_of_other_languages(store, tmp_path):
    assert typed("report", store.path, "--partition-by", "source", "--layers", "1,2", "--bootstrap", "20", "--out",
                 tmp_path / "page")[0] == 0  # fmt: skip
    page = (tmp_path / "page" / "report.html").read_text()
    assert "one for each source" in page
    assert "this page is by source" in page
    assert not (tmp_path / "page" / "tables" / "neighbors.csv").exists()
