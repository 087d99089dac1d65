"""A centered search through an index of centered rows scores as the exact one does, and finds nearly all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import hubstore
from hubstore.bench.states import hub_states
from hubstore.errors import CorruptStoreError, IndexingError, StaleIndexError
from hubstore.index import Allowed, build, cache, layer
from hubstore.index import load as load_raw
from hubstore.index.description import read_description
from hubstore.index.layer import load_centered
from hubstore.index.means import CenteredStates
from hubstore.query import search
from hubstore.query.centered import CenteredLayer
from hubstore.serve.snapshot import Snapshot
from hubstore.store import StoreReader
from tests.index.stores import LANGUAGES, by_language, recall, write_store
from tests.serve.servers import served

ROWS, WIDTH = 3000, 32


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> StoreReader:
    states, concepts = by_language(hub_states(ROWS, WIDTH, 2))
    apart = 15 * hub_states(3, WIDTH, 9)
    states = states + apart.repeat_interleave(ROWS // 3, 0)
    return write_store(
        tmp_path_factory.mktemp("centered") / "x.hub",
        states[None],
        languages=[language for language in LANGUAGES for _ in range(ROWS // 3)],
        concepts=[str(concept) for concept in concepts],
        shard_rows=700,
    )


@pytest.fixture(scope="module")
def store(made) -> StoreReader:
    build(made, kind="ivfrabitq", centered=True, device="cpu")
    return made


def test_centered_states_are_rows_less_their_partitions_mean(made):
    states, rows = CenteredStates(made, made.hidden(0)), made.hidden(0).read().double()
    means = rows.view(3, ROWS // 3, WIDTH).mean(1)
    expected = (rows - means.repeat_interleave(ROWS // 3, 0)).float()
    torch.testing.assert_close(states.read(), expected)
    assert torch.equal(states.take([2999, 0, 1500]), states.read()[[2999, 0, 1500]])
    assert torch.equal(torch.cat([part for _, part in states.segments(900, 2100)]), states.read(900, 2100))
    assert (states.shape, len(states)) == ((ROWS, WIDTH), ROWS)


def test_it_finds_what_was_asked_for_with_the_scores_of_the_exact_search(store):
    described = read_description(store, "0", "mean", centered=True)
    index = load_centered(StoreReader(store.path), "0", "mean", device="cpu")
    assert index.kind == "ivfrabitq"
    queries = CenteredStates(store, store.hidden(0)).read()[::30] + 0.2 * hub_states(100, WIDTH, 7)
    exact = CenteredLayer(store, "0", "mean", torch.device("cpu")).search(queries, 10)
    scores, positions = index.search(queries, 10)
    assert recall(positions, exact[1].numpy()) == pytest.approx(described.recall.measured, abs=0.04)
    same = positions == exact[1]
    assert torch.equal(scores[same], exact[0][same])
    allowed = Allowed.from_ranges([(10, 60), (1500, 1510)])
    for found, true in zip(
        index.search(queries, 5, allowed),
        CenteredLayer(store, "0", "mean", torch.device("cpu")).search(queries, 5, allowed),
        strict=True,
    ):
        assert torch.equal(found, true)


def test_a_centered_query_goes_through_it_and_says_so(store):
    ids = [f"item-{number}" for number in range(0, ROWS, 150)]
    through = search(store, ids=ids, k=5, centered=True, device="cpu")
    exactly = search(store, ids=ids, k=5, centered=True, device="cpu", indexes={})
    said, exact = (json.loads(table.schema.metadata[b"hubstore"]) for table in (through, exactly))
    assert (said["indexes"], exact["indexes"]) == ({"0": "ivfrabitq"}, {"0": "exact"})
    assert said["recalls"]["0"] == read_description(store, "0", "mean", centered=True).recall.measured
    same = np.isin(through["id"].to_pylist(), exactly["id"].to_pylist())
    assert same.mean() > 0.9
    opened = hubstore.open(store.path)
    assert opened.search(ids=ids, k=5, centered=True).equals(through)
    first = opened._indexes.centered(["0"], "mean")["0"]
    assert opened._indexes.centered(["0"], "mean")["0"].source is first.source


def test_the_means_are_the_files_and_computed_no_second_time(store, monkeypatch):
    fresh = StoreReader(store.path)
    head = load_centered(fresh, "0", "mean", device="cpu").source.lists.head
    monkeypatch.setattr("hubstore.store.states.HiddenStates.read", None)
    load_centered(StoreReader(store.path), "0", "mean", device="cpu")
    monkeypatch.undo()
    assert np.array_equal(head.means, CenteredStates(StoreReader(store.path), store.hidden(0)).means)


def test_it_is_looked_at_again_where_it_is_replaced_while_it_is_opened(store, monkeypatch):
    real, attempts = cache.open_index, []

    def replaced_meanwhile(*arguments):
        attempts.append(arguments)
        if len(attempts) == 1:
            raise CorruptStoreError("its head does not match its checksum")
        return real(*arguments)

    monkeypatch.setattr(cache, "open_index", replaced_meanwhile)
    found = cache.IndexCache(StoreReader(store.path)).centered(["0"], "mean", device="cpu")
    assert (found["0"].kind, len(attempts)) == ("ivfrabitq", 2)


def test_a_server_opens_it_once_and_again_only_where_the_store_has_another(store, monkeypatch):
    real, opened = layer.open_lists, []
    monkeypatch.setattr(layer, "open_lists", lambda *arguments: opened.append(arguments) or real(*arguments))
    asked = {"id": "item-7", "k": 5, "centered": "1"}
    with served(store.path, device="cpu") as server:
        answers = [server.get("/api/v1/stores/x/neighbors", **asked).columns for _ in range(3)]
    expected = search(store, ids=["item-7"], k=5, centered=True, device="cpu", indexes={})
    assert answers[0] == answers[1] == answers[2]
    assert set(answers[0]["id"]) & set(expected["id"].to_pylist())
    assert len(opened) == 1
    first = Snapshot(store.path, "x", device="cpu")
    index = first.centered_indexes(["0"], "mean")["0"]
    later = Snapshot(store.path, "x", device="cpu", previous=first)
    assert later.centered_indexes(["0"], "mean")["0"].source is index.source
    assert len(opened) == 2


def test_it_stands_beside_the_other_index_and_verify_knows_both(store):
    build(store, kind="ivfrabitq", device="cpu")
    assert load_raw(store, 0, device="cpu").description.centered is None
    assert load_centered(store, "0", "mean").description.centered == tuple(store.partitions)
    assert hubstore.open(store.path).verify() == []
    file = store.path / "indexes/mean/0/centered/index.faiss"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    found = hubstore.open(store.path).verify()
    assert any("--centered --rebuild" in one.what for one in found)
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_raw_index_in_its_place_is_refused(store):
    raw = store.path / "indexes/mean/0/centered/index.json"
    before = raw.read_bytes()
    raw.write_bytes(replace(read_description(store, "0", "mean", centered=True), centered=None).encode())
    with pytest.raises(hubstore.errors.CorruptStoreError, match="--centered --rebuild"):
        load_centered(store, "0", "mean")
    raw.write_bytes(before)


def test_other_kinds_have_no_index_of_centered_rows(store):
    with pytest.raises(IndexingError, match="centered rows is exact or ivfrabitq, not hnsw"):
        build(store, kind="hnsw", centered=True)


def test_small_stores_are_searched_exactly_and_grown_ones_are_built_anew(tmp_path):
    rows = hub_states(300, 16)
    languages = ["en", "es"] * 150
    store = write_store(tmp_path / "x.hub", rows[None], languages=sorted(languages), shard_rows=300)
    (described,) = build(store, centered=True, device="cpu")
    assert described.kind == "exact"
    assert load_centered(store, "0", "mean") is None
    build(store, kind="ivfrabitq", centered=True, device="cpu")
    grown = write_store(tmp_path / "x.hub", 3 + rows[None, :150], languages=["es"] * 150, first_shard=1, shard_rows=300)
    with pytest.raises(StaleIndexError, match=r"`hubstore index .* --centered` adds"):
        search(grown, ids=["item-1"], centered=True)
    stale = load_centered(grown, "0", "mean", allow_stale=True, device="cpu")
    assert stale.search(rows[:2], 3)[1].max() < 300
    (again,) = build(grown, kind="ivfrabitq", centered=True, device="cpu")
    assert (again.rows, again.trained_rows) == (450, 450)
    assert layer.load_centered(grown, "0", "mean", device="cpu").rows == 450
