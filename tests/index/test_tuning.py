"""How hard an index is searched by default is chosen by what it finds, on rows that are held out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hubstore.bench.states import hub_states
from hubstore.cli.query import _recalls
from hubstore.errors import IndexingError
from hubstore.index import build, kinds, load
from hubstore.index.description import IndexDescription, MeasuredRecall, read_description
from hubstore.index.tuning import HeldOut, tuned
from hubstore.query import search
from hubstore.store import StoreReader
from tests.index.stores import brute_force, recall, write_store

ROWS, WIDTH = 5000, 32


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    return hub_states(ROWS + 200, WIDTH, 2)


@pytest.fixture(scope="module")
def store(drawn, tmp_path_factory) -> StoreReader:
    return write_store(tmp_path_factory.mktemp("tuned") / "x.hub", drawn[None, :ROWS])


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "ivfrabitq"])
@pytest.mark.parametrize("target", [0.7, 0.99])
def test_a_default_search_finds_what_was_asked_for_and_hardly_more(store, drawn, kind, target):
    (described,) = build(store, kind=kind, recall=target, rebuild=True, device="cpu")
    assert described.recall.target == target
    assert read_description(store, "0", "mean").recall == described.recall
    _, positions = load(store, 0, device="cpu").search(drawn[ROWS:], 10)
    found = recall(positions, brute_force(drawn[:ROWS], drawn[ROWS:], 10))
    assert found == pytest.approx(described.recall.measured, abs=0.06)
    assert target - 0.03 < described.recall.measured < target + 0.2


def test_another_recall_is_chosen_for_anew_and_the_same_is_not(store):
    (first,) = build(store, kind="ivfrabitq", recall=0.8, rebuild=True, device="cpu")
    assert build(store, kind="ivfrabitq", recall=0.8, device="cpu") == (first,)
    (second,) = build(store, kind="ivfrabitq", recall=0.99, device="cpu")
    assert second.parameters["nprobe"] > first.parameters["nprobe"]
    assert second.file == first.file  # nothing was built
    assert read_description(store, "0", "mean") == second
    assert build(store, kind="ivfrabitq", device="cpu") == (second,)  # what was asked for before holds
    (again,) = build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    assert again.recall.target == 0.99
    (lower,) = build(store, kind="ivfrabitq", rebuild=True, recall=0.9, device="cpu")
    assert lower.recall.target == 0.9


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq", "ivfrabitq"])
def test_an_index_of_an_earlier_release_is_searched_and_is_measured_when_it_is_next_brought_up_to_date(store, kind):
    (built,) = build(store, kind=kind, recall=0.95, rebuild=True, device="cpu")
    older = replace(built, recall=None, parameters=kinds.parameters(kind, ROWS))
    (store.path / "indexes/mean/0/index.json").write_bytes(older.encode())
    assert load(store, 0, device="cpu").description.recall is None
    assert build(store, kind=kind, recall=0.95, device="cpu") == (built,)


def test_held_out_rows_are_none_that_the_index_was_trained_on(store):
    trained = np.sort(np.random.default_rng(0).choice(ROWS, ROWS - 700, replace=False))
    held = HeldOut.of(store.hidden(0), trained, 0, torch.device("cpu"))
    assert not np.isin(held.own, trained).any()
    assert len(np.unique(held.own)) == len(held.own) > 500
    assert not (held.truth == held.own[:, None]).any()
    assert torch.equal(held.rows, store.hidden(0).take(held.own))
    assert np.array_equal(held.truth[:5, :1], brute_force(store.hidden(0).read(), held.rows[:5], 2)[:, 1:])


def test_rows_with_more_equal_neighbors_than_are_asked_for_settle_nothing(tmp_path):
    rows = hub_states(400, 16)
    rows[100:200] = rows[100]
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=400)
    held = HeldOut.of(store.hidden(0), np.arange(400), 0, torch.device("cpu"))
    assert not ((held.own >= 100) & (held.own < 200)).any()
    assert len(held.own) > 200
    same = write_store(tmp_path / "y.hub", rows[None, 100:200], shard_rows=400)
    assert HeldOut.of(same.hidden(0), np.arange(100), 0, torch.device("cpu")) is None
    (described,) = build(same, kind="ivfrabitq", device="cpu")
    assert described.recall is None
    assert load(same, 0, device="cpu").search(rows[100:101], 3)[1].tolist() == [[0, 1, 2]]


def test_what_no_effort_finds_is_said_as_it_is(store):
    held = HeldOut.of(store.hidden(0), np.arange(ROWS), 0, torch.device("cpu"))
    described = IndexDescription("0", "mean", "ivfpq", "ivfpq", ROWS, WIDTH, (), 0, "", None, {"nlist": 4, "nprobe": 1})

    def none(queries: torch.Tensor, count: int, effort: int) -> np.ndarray:
        return np.full((len(queries), count), -1)

    parameters, found = tuned(replace(described, parameters=kinds.parameters("ivfpq", ROWS)), held, none, 0.95)
    assert found.measured == 0
    assert parameters["nprobe"] == parameters["nlist"]


@pytest.mark.parametrize("value", [0, 1.01, -1, "much", float("nan")])
def test_a_recall_that_is_none_is_refused(store, value):
    with pytest.raises(IndexingError, match="recall is"):
        build(store, kind="ivf", recall=value)


def test_a_query_says_what_its_index_was_measured_to_find(store, drawn):
    (described,) = build(store, kind="ivfrabitq", rebuild=True, device="cpu")

    def said(**options: object) -> tuple[object, list[str]]:
        table = search(store, vectors=drawn[ROWS : ROWS + 2].numpy(), k=3, device="cpu", **options)
        return json.loads(table.schema.metadata[b"hubstore"])["recalls"]["0"], _recalls(table)

    measured = described.recall.measured
    assert said() == (measured, [f"approximate (ivfrabitq): recall@10 {measured:.3f} when it was built"])
    recall, (line,) = said(search_effort=2)
    assert recall is None
    assert "was not measured" in line
    older = replace(described, recall=None)
    (store.path / "indexes/mean/0/index.json").write_bytes(older.encode())
    assert b"recall" not in older.encode()
    assert said()[0] is None
    build(store, kind="exact", device="cpu")
    assert said() == (1.0, [])


def test_a_measured_recall_survives_its_record():
    made = IndexDescription(
        *("0", "mean", "ivf", "auto", 9, 4, (), 0, "1"), recall=MeasuredRecall(0.95, 0.9609, 10, 256)
    )
    assert IndexDescription.decode(made.encode()) == made
