"""Any number of actors answers as one process does, to the last digit; layers are indexed side by side."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

import hubstore
from hubstore.bench.states import hub_states
from hubstore.errors import EngineError, IndexingError, NonFiniteError, QueryError, StoreError
from hubstore.index import Allowed, build, load_or_exact
from hubstore.query.ray import merge, searchers
from tests.index.stores import LANGUAGES, by_language, write_store
from tests.query.test_search import ROWS
from tests.serve.servers import served

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

LAYERS, WIDTH = 3, 32


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    """Crowded states, of which many are the same: what orders them is beyond float32, or their place alone."""
    layers = []
    for seed in range(LAYERS):
        rows = by_language(hub_states(ROWS, WIDTH, seed, near_parallel=True))[0]
        rows[100:200] = rows[:100]
        rows[400:500] = rows[:100]
        layers.append(rows)
    return torch.stack(layers)


@pytest.fixture(scope="module")
def path(states, tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "x.hub"
    languages = [language for language in LANGUAGES for _ in range(ROWS // 3)]
    write_store(path, states, languages=languages, shard_rows=256)
    return path


def test_layers_are_indexed_side_by_side(cluster, path):
    """First of this module: the actors of the others leave no room."""
    store = hubstore.open(path)
    built = store.index([0, 2], kind="hnsw", device="cpu", engine="ray", seed=3)
    assert [one.layer for one in built] == ["0", "2"]
    assert built == build(store, [0, 2], kind="hnsw", device="cpu", seed=3)
    small = hubstore.open(write_store(path.with_name("small.hub"), torch.ones(1, 5, WIDTH)).path)
    with pytest.raises(IndexingError, match="ivfpq needs"):
        small.index(kind="ivfpq", device="cpu", engine="ray")
    shutil.rmtree(path / "indexes")


def test_what_no_node_has_room_for_is_not_waited_for_without_end(cluster, path, monkeypatch):
    monkeypatch.setattr("hubstore.extraction.cluster.PATIENCE_S", 1.0)
    monkeypatch.setattr("hubstore.index.ray.resolve_device", torch.device)
    with pytest.raises(EngineError, match=r"room for a layer's index \(1 CPU and 1 GPU\) for 1 s; add one .*stay, and"):
        hubstore.open(path).index([0], device="cuda", engine="ray")


@pytest.fixture(scope="module")
def held(cluster):
    """Two actors, which import what they need however busy the machine is."""
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr("hubstore.query.ray.PATIENCE_S", 500.0)
        with searchers(device="cpu", actors=2) as two:
            assert len(two.actors) == 2
            yield two


@pytest.fixture
def answering(held, monkeypatch):
    """Whoever asks the cluster gets the two."""
    monkeypatch.setattr("hubstore.query.ray.searchers", lambda **options: nullcontext(held))


def test_the_engine_answers_a_query_as_one_process_does(answering, path):
    store = hubstore.open(path)
    asked = {"ids": ["item-5", "item-450"], "k": 7, "exclude_same_language": True, "device": "cpu"}
    assert store.search(**asked, engine="ray") == store.search(**asked)


def test_a_server_answers_from_the_cluster(answering, path):
    asked = {"id": ["item-5", "item-450"], "k": 7, "exclude_same_language": "true"}
    answers = []
    for engine in ("local", "ray"):
        with served(path, device="cpu", engine=engine) as server:
            answers.append(server.get("/api/v1/stores/x/neighbors", **asked).columns)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("actors", [1, 2])
def test_actors_answer_as_one_process_to_the_last_digit(held, path, states, actors):
    store = hubstore.open(path)
    queries = states[0, ::37]
    some = Allowed.from_ranges([(3, 90), (150, 451), (599, 600)])
    for name, layer in (
        replace(held, actors=held.actors[:actors], target_count=actors).layers(store, store.layers).items()
    ):
        whole = load_or_exact(store, name, device="cpu")
        for allowed in (None, some, Allowed.from_ranges([])):
            for k in (1, 10, 700):
                scores, rows = layer.search(queries, k, allowed)
                expected_scores, expected_rows = whole.search(queries, k, allowed)
                assert torch.equal(rows, expected_rows)
                assert torch.equal(scores, expected_scores)
                assert scores.dtype == torch.float32


def test_parts_merge_by_float64_and_then_by_position():
    close = np.nextafter(0.5, 1)
    parts = [
        (np.array([[0.5, 0.25]]), np.array([[1, 4]])),
        (np.array([[close, 0.5]]), np.array([[7, 6]])),
        (np.array([[-np.inf, -np.inf]]), np.array([[-1, -1]])),
    ]
    scores, rows = merge(parts, 1, 5)
    assert rows.tolist() == [[7, 1, 6, 4, -1]]
    assert scores.tolist() == [[0.5, 0.5, 0.5, 0.25, -torch.inf]]
    assert merge([], 2, 3)[1].tolist() == [[-1] * 3] * 2


def test_what_cannot_be_asked_is_said_as_by_one_process(held, path, states):
    store = hubstore.open(path)
    layer = held.layers(store, ["1"])["1"]
    with pytest.raises(QueryError, match="k is 0"):
        layer.search(states[0, :1], 0)
    with pytest.raises(QueryError, match="layer 1 needs"):
        layer.search(states[0, :1, :5], 3)
    with pytest.raises(NonFiniteError, match="row 0 of queries holds NaN"):
        layer.search(torch.full((1, WIDTH), torch.nan), 3)


def test_a_store_that_grew_or_was_replaced_meanwhile_is_searched_as_it_is_now(held, states, tmp_path):
    path = tmp_path / "x.hub"

    def nearest(to):
        store = hubstore.open(path)
        (found,) = held.layers(store, ["0"])["0"].search(to[None], 1)[1].tolist()
        assert found == load_or_exact(store, "0", device="cpu").search(to[None], 1)[1][0].tolist()
        return found[0]

    write_store(path, states[:, :300], shard_rows=256)
    assert nearest(states[0, 590]) < 300
    older = held.layers(hubstore.open(path), ["0"])["0"]
    write_store(path, states[:, 300:], first_shard=2, shard_rows=256)
    assert nearest(states[0, 590]) == 590
    assert older.search(states[0, 590:591], 1)[1].item() < 300
    shutil.rmtree(path)
    write_store(path, states[:, 300:], shard_rows=256)
    assert nearest(states[0, 590]) == 290
    with pytest.raises(StoreError, match="is another store on the node"):
        older.search(states[0, :1], 1)


def test_an_actor_that_fails_is_said_with_what_it_failed_with(held, path):
    (layer,) = held.layers(hubstore.open(path), ["0"]).values()
    with pytest.raises(EngineError, match=r"could not be searched: AttributeError: 'NoneType' .*; ask again") as raised:
        layer._found(held.actors[0], held.actors[0].search.remote(None, None, 1, None))
    assert "\x1b" not in str(raised.value)
    assert len(held.actors) == 2


def test_what_a_lost_node_had_is_asked_of_the_others_and_another_node_takes_its_place(cluster, held, path, states):
    """Last of this module: the actors are others afterward."""
    store = hubstore.open(path)
    (layer,) = held.layers(store, ["0"]).values()
    expected = load_or_exact(store, "0", device="cpu").search(states[0, ::37], 10)

    def answers():
        return all(map(torch.equal, layer.search(states[0, ::37], 10), expected))

    assert answers()
    cluster.kill()
    began = time.monotonic()
    assert answers()
    assert time.monotonic() - began < 100
    assert len(held.actors) == 1
    cluster.add()
    while len(held.actors) < 2 and time.monotonic() - began < 400:
        assert answers()
        time.sleep(0.2)
    assert len(held.actors) == 2
    for actor in list(held.actors):
        held.lose(actor, "the power is off")
    with pytest.raises(EngineError, match=r"layer 0 of .*x\.hub could not be searched: .* the power is off; ask again"):
        layer.search(states[0, :1], 1)
