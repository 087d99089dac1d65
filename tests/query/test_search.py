"""A search gives the right neighbors, in a table that says what they are, or an error that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch

from hubstore.bench.states import hub_states
from hubstore.corpus import Item
from hubstore.errors import NonFiniteError, QueryError, StaleIndexError
from hubstore.index import build, load_or_exact
from hubstore.query import RESULT_SCHEMA, search
from hubstore.query.filters import items_where
from hubstore.store import StoreReader
from tests.index.stores import LANGUAGES, brute_force, by_language, write_store

ROWS, WIDTH, LAYERS = 600, 32, 3


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    return torch.stack([by_language(hub_states(ROWS, WIDTH, seed))[0] for seed in range(LAYERS)])


@pytest.fixture(scope="module")
def store(states, tmp_path_factory) -> StoreReader:
    """200 concepts in three languages; the second shard holds the last of es and zh-Hans, which are then images."""
    _, numbers = by_language(hub_states(ROWS, WIDTH))
    return write_store(
        tmp_path_factory.mktemp("query") / "x.hub",
        states,
        languages=[language for language in LANGUAGES for _ in range(ROWS // 3)],
        modalities=["text"] * 500 + ["image"] * 100,
        concepts=[f"concept-{number}" for number in numbers],
        shard_rows=256,
    )


def column(table: pa.Table, name: str, **where: object) -> list[object]:
    rows = table.to_pylist()
    return [row[name] for row in rows if all(row[key] == value for key, value in where.items())]


def positions_of(table: pa.Table, **where: object) -> list[int]:
    return [int(str(name).removeprefix("item-")) for name in column(table, "id", **where)]


def test_neighbors_by_id_are_those_of_brute_force_without_the_item_at_every_layer(store, states):
    found = search(store, ids=["item-5", "item-450"], k=4, device="cpu")
    assert found.schema.equals(RESULT_SCHEMA)
    assert found.num_rows == 2 * LAYERS * 4
    for layer in range(LAYERS):
        for query in (5, 450):
            others = np.delete(np.arange(ROWS), query)
            (truth,) = brute_force(states[layer], states[layer, query][None], 4, others)
            assert positions_of(found, query=f"item-{query}", layer=str(layer)) == truth.tolist()


def test_rows_are_ordered_by_query_layer_and_rank_and_say_what_they_are(store):
    rows = search(store, ids=["item-450", "item-5"], k=3, layers=[2, "0"], device="cpu").to_pylist()
    expected = [(query, layer, rank) for query in ("item-450", "item-5") for layer in ("2", "0") for rank in (1, 2, 3)]
    assert [(row["query"], row["layer"], row["rank"]) for row in rows] == expected
    items = {row["id"]: row for row in store.items.to_pylist()}
    for row in rows:
        item = items[row["id"]]
        for name in ("concept", "language", "modality", "text"):
            assert row[name] == item[name]


def test_scores_descend_and_are_cosines(store, states):
    found = search(store, ids=["item-0"], k=20, layers=[1], device="cpu")
    hits = states[1, positions_of(found)].double()
    cosines = torch.nn.functional.cosine_similarity(hits, states[1, :1].double())
    np.testing.assert_allclose(found["score"].to_numpy(), cosines, atol=1e-6)
    assert (np.diff(found["score"].to_numpy()) <= 0).all()


def test_the_item_itself_comes_first_when_it_is_not_excluded(store):
    found = search(store, ids=["item-7"], k=2, layers=[0], exclude_self=False, device="cpu")
    assert found["id"].to_pylist()[0] == "item-7"
    assert found["score"].to_pylist()[0] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf", "ivfpq"])
def test_excluding_the_same_language_answers_each_query_from_the_others(tmp_path, states, kind):
    languages = [language for language in LANGUAGES for _ in range(ROWS // 3)]
    store = write_store(tmp_path / "x.hub", states[:1], languages=languages, shard_rows=256)
    build(store, kind=kind, device="cpu")
    queries = [3, 250, 599, 10]
    found = search(store, ids=[f"item-{q}" for q in queries], k=5, exclude_same_language=True, device="cpu")
    for query in queries:
        others = np.array([i for i in range(ROWS) if languages[i] != languages[query]])
        (truth,) = brute_force(states[0], states[0, query][None], 5, others)
        assert positions_of(found, query=f"item-{query}") == truth.tolist()


def test_filters_by_language_modality_and_concept_equal_brute_force(store, states):
    everything = store.items.to_pylist()
    concepts = [f"concept-{number}" for number in range(0, 200, 3)]
    cases = [
        ({"languages": ["zh-Hans"]}, lambda item: item["language"] == "zh-Hans"),
        ({"languages": ["en", "zh-Hans"]}, lambda item: item["language"] != "es"),
        ({"modalities": ["image"]}, lambda item: item["modality"] == "image"),
        ({"concepts": concepts}, lambda item: item["concept"] in concepts),
        (
            {"concepts": concepts, "languages": "zh-Hans", "modalities": ["text"]},
            lambda item: item["concept"] in concepts and item["language"] == "zh-Hans" and item["modality"] == "text",
        ),
    ]
    for filters, passes in cases:
        allowed = np.array([i for i, item in enumerate(everything) if i != 1 and passes(item)])
        found = search(store, ids=["item-1"], k=6, layers=[0], device="cpu", **filters)
        assert positions_of(found) == brute_force(states[0], states[0, 1:2], 6, allowed)[0].tolist()


def test_fewer_rows_than_k_give_fewer_rows(store):
    found = search(store, ids=["item-0"], concepts=["concept-0"], k=10, layers=[0], device="cpu")
    assert sorted(found["rank"].to_pylist()) == [1, 2]
    assert set(found["concept"].to_pylist()) == {"concept-0"}


def test_texts_go_through_the_encoder_once_for_all_layers(store, states):
    calls = []

    def encoder(items: Sequence[Item]) -> dict[str, torch.Tensor]:
        calls.append([item.text for item in items])
        return {str(layer): states[layer, [4, 300]] for layer in range(LAYERS)}

    found = search(store, texts=["vier", "drei"], k=1, encoder=encoder, device="cpu")
    assert calls == [["vier", "drei"]]
    assert positions_of(found, query="vier") == [4] * LAYERS
    assert positions_of(found, query="drei") == [300] * LAYERS
    excluding = search(
        store,
        texts=["vier", "drei"],
        query_languages=["en", "es"],
        exclude_same_language=True,
        k=3,
        encoder=encoder,
        device="cpu",
    )
    assert "en" not in column(excluding, "language", query="vier")
    assert "es" not in column(excluding, "language", query="drei")


def test_vectors_are_searched_at_every_layer_alike_or_at_their_own(store, states):
    one = search(store, vectors=states[1, 8], k=1, layers=[0, 1], device="cpu")
    assert set(one["query"].to_pylist()) == {"vector 0"}
    assert positions_of(one, layer="1") == [8]
    by_layer = {"0": states[0, [5, 6]].numpy(), "2": states[2, [7, 8]].bfloat16()}
    found = search(store, vectors=by_layer, k=1, layers=["0", "2"], device="cpu")
    assert positions_of(found, layer="0") == [5, 6]
    assert positions_of(found, layer="2") == [7, 8]


def test_the_metadata_says_what_was_searched_and_how(store):
    found = search(store, ids=["item-0"], languages=["es"], layers=[1], k=2, device="cpu")
    about = json.loads(found.schema.metadata[b"hubstore"])
    assert about["store"].endswith("x.hub")
    assert about["model"] == {"id": "made-up"}
    assert (about["pooling"], about["layers"], about["k"]) == ("mean", ["1"], 2)
    assert about["indexes"] == {"1": "exact"}
    assert about["filters"]["languages"] == ["es"]


def test_loaded_indexes_are_used_and_named(tmp_path, states):
    store = write_store(tmp_path / "x.hub", states)
    build(store, [1], kind="ivf", device="cpu")
    loaded = {layer: load_or_exact(store, layer, device="cpu") for layer in store.layers}
    found = search(store, ids=["item-0"], indexes=loaded, device="cpu")
    assert json.loads(found.schema.metadata[b"hubstore"])["indexes"] == {"0": "exact", "1": "ivf", "2": "exact"}


def test_a_stale_index_is_refused_unless_allowed(tmp_path, states):
    path = tmp_path / "x.hub"
    build(write_store(path, states[:1], shard_rows=100), kind="ivf", device="cpu")
    grown = write_store(path, hub_states(50, WIDTH)[None], first_shard=6, shard_rows=100)
    with pytest.raises(StaleIndexError):
        search(grown, ids=["item-620"], device="cpu")
    found = search(grown, ids=["item-620"], allow_stale=True, device="cpu")
    assert found.num_rows == 10
    assert max(positions_of(found)) < 600


@pytest.fixture(scope="module")
def token_store(tmp_path_factory) -> tuple[StoreReader, torch.Tensor, list[int]]:
    counts = [1 + (7 * item) % 5 for item in range(90)]
    states = hub_states(sum(counts), WIDTH)
    languages = ["en"] * 40 + ["es"] * 50
    path = tmp_path_factory.mktemp("tokens") / "x.hub"
    return write_store(path, states[None], tokens=counts, languages=languages, shard_rows=32), states, counts


def test_token_neighbors_name_their_item_and_their_place_in_it(token_store):
    store, states, counts = token_store
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    row = int(np.flatnonzero(owner == 33)[1])
    found = search(store, ids=["item-33"], k=5, device="cpu")
    assert set(found["query"].to_pylist()) == {f"item-33[{token}]" for token in range(counts[33])}
    (truth,) = brute_force(states, states[row][None], 5, np.flatnonzero(owner != 33))
    assert positions_of(found, query="item-33[1]") == owner[truth].tolist()
    assert column(found, "token", query="item-33[1]") == place[truth].tolist()


def test_filters_over_tokens_keep_whole_items(token_store):
    store, states, counts = token_store
    owner = np.repeat(np.arange(len(counts)), counts)
    found = search(store, vectors=states[0], languages=["es"], k=8, device="cpu")
    (truth,) = brute_force(states, states[:1], 8, np.flatnonzero(owner >= 40))
    assert positions_of(found) == owner[truth].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of ids, texts, images, audio and vectors"),
        ({"ids": ["item-0"], "texts": ["a"]}, "exactly one of ids, texts, images, audio and vectors"),
        ({"ids": []}, "there is no query"),
        ({"ids": ["item-0"], "k": 0}, "k is 0"),
        ({"ids": ["item-0", "itme-17"]}, r"'itme-17'.*closest: item-17"),
        ({"ids": ["item-0"], "layers": [9]}, r"no layer '9'; it keeps 0, 1, 2"),
        ({"ids": ["item-0"], "layers": []}, "no layer is named"),
        ({"ids": ["item-0"], "pooling": "last"}, r"no pooling 'last'; it keeps mean"),
        ({"ids": ["item-0"], "languages": ["de"]}, r"no language 'de'; it has en, es, zh-Hans"),
        ({"ids": ["item-0"], "modalities": ["audio"]}, r"no modality 'audio'; it has image, text"),
        ({"ids": ["item-0"], "concepts": ["concept-x0"]}, r"no concept 'concept-x0'; closest: concept-"),
        ({"ids": ["item-0"], "languages": ["en"], "modalities": ["image"]}, "no item .* passes the filters"),
        ({"ids": ["item-0"], "languages": ["en"], "exclude_same_language": True}, "query's language en"),
        ({"texts": ["a"]}, "need an encoder"),
        ({"vectors": torch.ones(WIDTH), "exclude_same_language": True}, "query_languages"),
        ({"vectors": torch.ones(2, WIDTH), "query_languages": ["en"]}, "2 queries and 1 query languages"),
        ({"vectors": torch.ones(3)}, r"\[1, 3\].*\[queries, 32\]"),
        ({"vectors": {"0": torch.ones(WIDTH)}}, "no vectors for layer 1; there are for 0"),
        ({"vectors": np.array([["a"] * WIDTH])}, r"layer 0 are of <U1; give real numbers"),
        ({"vectors": np.ones(WIDTH, complex)}, r"layer 0 are of complex128; give real numbers"),
        ({"vectors": torch.ones(WIDTH, dtype=torch.complex64)}, r"layer 0 are of torch.complex64"),
        ({"vectors": np.ones(WIDTH, bool)}, r"layer 0 are of bool"),
        ({"vectors": np.array([None] * WIDTH)}, r"layer 0 are of object"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "no array of numbers"),
        ({"vectors": np.ones((1, 1, WIDTH))}, r"\[1, 1, 32\]; the store needs \[queries, 32\]"),
        ({"vectors": np.float32(3)}, "vectors"),
        ({"vectors": {name: np.empty((0, WIDTH)) for name in "012"}}, "no query at all"),
        ({"ids": ["item-0"], "k": 1.5}, "k is 1.5; ask for 1 at least"),
        ({"ids": ["item-0"], "search_effort": 0}, "search_effort is 0; ask for 1"),
        ({"ids": ["item-0"], "search_effort": 2**40}, "search_effort is 1099511627776; ask for 1 to"),
        ({"texts": ["a"], "encoder": lambda texts: {"0": torch.ones(1, WIDTH)}}, "no states of layer 1"),
        ({"texts": ["a"], "layers": [0], "encoder": lambda texts: {"0": torch.ones(2, WIDTH)}}, r"\[1, 32\]"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(store, arguments, message):
    with pytest.raises(QueryError, match=message):
        search(store, device="cpu", **arguments)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", ">f4", "float16", "float64", "longdouble"])
def test_vectors_of_any_real_numbers_find_the_same(store, dtype):
    vector = np.arange(1, WIDTH + 1)
    expected = search(store, vectors=vector.astype(np.float32), k=3, layers=[0], device="cpu")
    assert search(store, vectors=vector.astype(dtype), k=3, layers=[0], device="cpu")["id"].equals(expected["id"])


def test_more_neighbors_than_there_are_rows_are_all_rows(store):
    found = search(store, ids=["item-0"], k=10**15, layers=[0], languages=["en"], device="cpu")
    assert found.num_rows == ROWS // 3 - 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_refused(store, value):
    with pytest.raises(NonFiniteError, match="layer 0"):
        search(store, vectors=torch.full((WIDTH,), value), device="cpu")


def test_a_single_id_or_text_need_not_be_a_list(store):
    one = search(store, ids="item-3", k=1, layers=[0], device="cpu")
    assert one["query"].to_pylist() == ["item-3"]


def test_a_vector_of_zeros_is_refused_by_its_number_and_layer(store, states):
    rows = torch.stack([states[1, 8], torch.zeros(WIDTH)])
    with pytest.raises(QueryError, match="query vector 1 for layer 0 is all zeros: it points nowhere"):
        search(store, vectors=rows, layers=[0], device="cpu")
    with pytest.raises(QueryError, match="query vector 0 for layer 2 is all zeros"):
        search(store, vectors={"1": rows[:1], "2": rows[1:]}, layers=[1, 2], device="cpu")


def test_an_item_whose_state_is_all_zeros_has_no_neighbors_there_and_costs_no_other_query_its_own(tmp_path, states):
    rows = states[:2].clone()
    rows[0, 3] = 0
    store = write_store(tmp_path / "x.hub", rows)
    found = search(store, ids=["item-3", "item-4"], k=2, device="cpu")
    assert [(row["query"], row["layer"]) for row in found.to_pylist()] == [
        *[("item-3", "1")] * 2, *[("item-4", "0")] * 2, *[("item-4", "1")] * 2,
    ]  # fmt: skip


def test_an_item_is_found_by_its_partition_and_concept_whatever_its_id(store):
    named = store.positions(["zh-Hans:concept-5"])
    row = store.items.slice(int(named[0]), 1).to_pylist()[0]
    assert (row["language"], row["concept"]) == ("zh-Hans", "concept-5")
    by_id = search(store, ids=[row["id"]], k=3, layers=[1], device="cpu").drop_columns(["query"])
    assert search(store, ids=["zh-Hans:concept-5"], k=3, layers=[1], device="cpu").drop_columns(["query"]) == by_id
    with pytest.raises(QueryError, match="no item with id 'zh-Hans:nothing'"):
        store.positions(["zh-Hans:nothing"])


def test_many_names_of_partitions_and_concepts_are_looked_up_in_one_pass(store, monkeypatch):
    concepts = store.items["concept"].to_pylist()
    expected = {f"{p.name}:{concepts[at]}": at for p in store.partitions.values() for at in p.positions().tolist()}
    missing = [f"{name}:none-{number}" for name in store.partitions for number in range(20)]
    lookups = []
    original = type(store)._of_concepts
    monkeypatch.setattr(type(store), "_of_concepts", lambda *given: lookups.append(given) or original(*given))
    found = store.find([*expected, *missing, "nowhere:x", "x"]).tolist()
    assert found == [*expected.values(), *[-1] * (len(missing) + 2)]
    assert len(lookups) == 1


def test_a_name_of_several_items_is_refused_with_their_ids(tmp_path, states):
    store = write_store(tmp_path / "x.hub", states[:1, :4], concepts=["a", "a", "b", None])
    assert store.positions(["en:b", "item-3"]).tolist() == [2, 3]
    with pytest.raises(QueryError, match=r"'en:a' names 2 items of .*: item-0, item-1; give one of these ids"):
        search(store, ids=["en:a"], device="cpu")


def test_a_condition_decodes_the_columns_that_it_compares_and_only_once(store, monkeypatch):
    read, real = [], StoreReader._tables

    def tables(self, commits, columns):
        read.append(list(columns))
        return real(self, commits, columns)

    monkeypatch.setattr(StoreReader, "_tables", tables)
    opened = StoreReader(store.path)
    passing = items_where(opened, "tokens >= 1 and language != 'es'")
    assert passing.positions().tolist() == items_where(opened, "language in ('en', 'zh-Hans')").positions().tolist()
    assert read == [["language", "tokens"]]
