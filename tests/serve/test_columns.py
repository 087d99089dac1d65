"""Columns of one's own and conditions on them: the same from Python, a command, a server and its client."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hubstore
from hubstore.errors import QueryError
from tests.command_line import fail, typed
from tests.serve.servers import served
from tests.tiny_models import tiny_model

COUNT = 30
WHERE = "year >= 2010 and source = 'wiki'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    rows = [
        {
            "id": f"i{n}",
            "text": f"Item {n}",
            "concept": f"c{n // 2}",
            "language": ("en", "de")[n % 2],
            "year": 2000 + n,
            "source": ("wiki", "news", None)[n % 3],
        }
        for n in range(COUNT)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = hubstore.corpus.open_corpus(folder / "a.jsonl", keep_columns="year,source")
    return hubstore.extract(
        corpus, tiny_model("gpt2"), folder / "x.hub", poolings=("mean", "tokens"), layers=("0", "1")
    )


@pytest.fixture(scope="module")
def server(store):
    with served(store.path, device="cpu") as running:
        yield running


def passing(store):
    items = store.items.to_pylist()
    return {one["id"] for one in items if one["year"] >= 2010 and one["source"] == "wiki"}


def test_a_search_answers_with_the_items_that_pass_and_no_others(store):
    found = store.search(ids=["i0"], k=COUNT, layers=[1], where=WHERE)
    assert set(found["id"].to_pylist()) == passing(store)
    ranked = [
        name for name in store.search(ids=["i0"], k=COUNT, layers=[1])["id"].to_pylist() if name in passing(store)
    ]
    assert found["id"].to_pylist() == ranked
    assert json.loads(found.schema.metadata[b"hubstore"])["filters"]["where"] == WHERE


def test_a_condition_and_the_other_filters_hold_together(store):
    found = store.search(
        ids=["i0"], k=COUNT, layers=[1], where=WHERE, languages=["de"], concepts=["c7", "c10"], centered=True
    )
    assert set(found["id"].to_pylist()) == {"i15", "i21"}
    vectors = np.ones((2, store.width), np.float32)
    apart = store.search(
        vectors=vectors, query_languages=["en", "de"], exclude_same_language=True, where=WHERE, k=COUNT, layers=[1]
    ).to_pylist()
    assert {(row["query"], row["language"]) for row in apart} == {("vector 0", "de"), ("vector 1", "en")}
    assert {row["id"] for row in apart} == passing(store)
    tokens = store.search(ids=["i0"], k=500, layers=[1], pooling="tokens", where="concept = 'c3'")
    assert set(tokens["id"].to_pylist()) == {"i6", "i7"}


def test_a_condition_that_no_item_passes_says_so(store):
    with pytest.raises(QueryError, match=r"no item .* passes the filters \(where year > 3000\)"):
        store.search(ids=["i0"], where="year > 3000")
    with pytest.raises(QueryError, match="where is ''"):
        store.search(ids=["i0"], where="")
    with pytest.raises(QueryError, match="10,000 are the most"):
        store.search(ids=["i0"], where="year = 1 or " * 1000 + "good")


def test_the_server_and_its_client_take_the_condition_and_give_the_columns(store, server):
    here = store.search(ids=["i0"], k=COUNT, layers=[1], where=WHERE)["id"].to_pylist()
    name = "/api/v1/stores/x"
    by_query = server.get(f"{name}/neighbors", id="i0", k=COUNT, layer=1, where=WHERE)
    by_body = server.post(f"{name}/neighbors", {"ids": ["i0"], "k": COUNT, "layers": [1], "where": WHERE})
    assert by_query.columns["id"] == by_body.columns["id"] == here
    remote = hubstore.connect(server.url, store="x")
    assert remote.search(ids=["i0"], k=COUNT, layers=[1], where=WHERE)["id"].to_pylist() == here
    wrong = server.get(f"{name}/neighbors", id="i0", where="yaer > 3")
    assert wrong.status == 400
    assert "names 'yaer', which is no column" in wrong.error
    assert server.get(f"{name}/items", limit=3).columns["year"] == store.items["year"].to_pylist()[:3]
    assert server.get(f"{name}/item", id="i3").json["columns"] == {"year": 2003, "source": "wiki"}
    assert remote.items["source"].to_pylist() == store.items["source"].to_pylist()
    assert remote["i3"].columns.items() <= store["i3"].columns.items()
    assert remote["i3"].columns["year"] == 2003


def test_the_command_takes_the_condition(store):
    status, out, said = typed("query", store.path, "--id", "i0", "-k", 50, "--layers", 1, "--where", WHERE, "--json")
    assert status == 0, said
    assert {row["id"] for row in json.loads(out)} == passing(store)
    assert "at character 7" in fail("query", store.path, "--id", "i0", "--where", "year >")
    status, out, _ = typed("info", store.path, "--json")
    assert json.loads(out)["columns"] == {"year": "int64", "source": "string"}


def test_by_language_a_language_with_no_item_that_passes_has_no_rows(store, server):
    asked = ("--id", "i0", "-k", 3, "--layers", 1, "--by-language", "--json")
    for place in ((store.path,), (store.path.stem, "--url", f"http://127.0.0.1:{server.port}")):
        status, out, said = typed("query", *place, *asked, "--where", "language = 'de' and year > 2010")
        assert status == 0, said
        assert [(row["language"], row["rank"]) for row in json.loads(out)] == [("de", 1), ("de", 2), ("de", 3)]
        nothing = fail("query", *place, *asked, "--where", "year > 3000")
        assert "passes the filters (language en, de; where year > 3000)" in nothing
    assert "at character 7" in fail("query", store.path, *asked, "--where", "year >")


def test_a_column_that_is_called_as_a_coordinate_does_not_stand_for_it(tmp_path):
    rows = [{"id": f"{n}", "text": f"Item {n}", "language": "en", "x": f"own {n}", "layer": n} for n in range(12)]
    corpus = hubstore.read_memory(rows, keep_columns="x,layer")
    hubstore.extract(corpus, tiny_model("gpt2"), tmp_path / "x.hub", layers=("0", "1"))
    with served(tmp_path / "x.hub", device="cpu") as running:
        found = running.get("/api/v1/stores/x/projection", fields=["id", "x", "y"], layer="1")
        assert found.status == 200
        assert all(isinstance(value, float) for value in found.columns["x"])
