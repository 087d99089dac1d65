"""Filters of an index of lists: which way a search goes, and that it finds what it says of the rows that pass."""

from __future__ import annotations

import numpy as np
import pytest

from hubstore.bench.states import hub_states
from hubstore.index import Allowed, build, kinds, load
from hubstore.index import layer as layers
from hubstore.index.kinds import filtered_effort
from tests.index.stores import brute_force, recall, write_store

ROWS, WIDTH = 4000, 36


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An index that was built as a large one is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kinds, "HNSW_ROWS", 1000)
        made = write_store(tmp_path_factory.mktemp("filters") / "x.hub", hub_states(ROWS, WIDTH, 2)[None])
        build(made, kind="ivfrabitq", device="cpu")
    return made


@pytest.fixture
def index(store, monkeypatch):
    monkeypatch.setattr(layers, "HNSW_ROWS", 1000)
    return load(store, 0, device="cpu")


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03])
def test_a_filtered_search_through_lists_finds_what_the_index_is_set_to_find(store, index, monkeypatch, share):
    monkeypatch.setattr(layers.LayerIndex, "_lists_are_nearer", lambda *_: True)
    monkeypatch.setattr(layers, "exact_search", None)
    mask = np.random.default_rng(0).random(ROWS) < share
    rows = store.hidden(0).read()
    queries = rows[:100] + 0.1 * hub_states(100, WIDTH, seed=8)
    _, found = index.search(queries, 5, Allowed.from_mask(mask))
    assert mask[found[found >= 0].numpy()].all()
    assert recall(found, brute_force(rows, queries, 5, np.flatnonzero(mask))) > 0.93


def test_few_rows_are_searched_exactly_and_many_through_the_lists(index):
    every = Allowed.from_mask(np.arange(ROWS) % 2 == 0)
    few = Allowed.from_positions([3, 700, 2999])
    assert not index._lists_are_nearer(1, 20, few, None)
    assert index._lists_are_nearer(1, 20, every, None)


def test_a_range_of_rows_is_read_sooner_than_as_many_that_lie_apart(index):
    together = Allowed.from_ranges([(0, 400)])
    apart = Allowed.from_positions(np.arange(400) * 10)
    assert index._lists_are_nearer(8, 20, apart, None)
    assert not index._lists_are_nearer(8, 20, together, None)


def test_what_a_filter_leaves_is_measured_when_a_large_index_is_built(store):
    settings = load(store, 0, device="cpu").description.parameters
    assert all(settings["nprobe"] <= settings[name] <= settings["nlist"] for name in kinds.SHARES)


def test_lists_to_visit_grow_as_fewer_rows_may_be_found():
    settings = {"nlist": 1000, "nprobe": 50, "nprobe_10": 80, "nprobe_1": 200}
    efforts = [filtered_effort(settings, 50, share) for share in (1.0, 0.3, 0.1, 0.03, 0.01, 0.0001)]
    assert (efforts[0], efforts[2], efforts[4]) == (50, 80, 200)
    assert efforts == sorted(efforts)
    assert filtered_effort(settings, 100, 0.1) == 160
    assert filtered_effort(settings | {"nprobe_1": 10**500}, 50, 0.01) == 1000  # whatever a stranger's file says
    old = {"nlist": 1000, "nprobe": 50}  # of an index that an earlier release built
    assert [filtered_effort(old, 50, share) for share in (0.5, 0.001)] == [100, 1000]
