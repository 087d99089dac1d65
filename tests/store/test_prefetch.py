"""Rows that a re-rank is to read are asked of the disk at once, and no others."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from hubstore.bench.states import hub_states
from hubstore.errors import QueryError
from hubstore.index import build, load
from hubstore.storage.prefetch import PIECE, of_descriptor, page_ranges, prefetch
from hubstore.store import HiddenStates, states
from tests.index.stores import write_store

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize("seed", range(5))
def test_the_pages_of_ranges_are_each_page_that_holds_a_byte_of_them_once(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 60 * PAGE, 40)
    stops = starts + rng.integers(0, 3 * PAGE, 40)
    found = page_ranges(starts, stops)
    touched = {page for a, b in zip(starts, stops, strict=True) for page in range(a // PAGE, -(-b // PAGE)) if a < b}
    assert {page for a, b in found // PAGE for page in range(a, b)} == touched
    assert (found[1:, 0] > found[:-1, 1]).all()


def test_a_long_range_is_asked_for_in_pieces_that_the_kernel_reads_whole(tmp_path):
    asked = []
    prefetch(lambda start, length: asked.append((start, length)), np.array([5]), np.array([3 * PIECE]))
    assert asked == [(0, PIECE), (PIECE, PIECE), (2 * PIECE, PIECE)]
    path = tmp_path / "x"
    path.write_bytes(bytes(PIECE))
    with path.open("rb") as file:
        prefetch(of_descriptor(file.fileno()), np.array([0]), np.array([PIECE]))
    prefetch(None, np.array([0]), np.array([1]))


@pytest.mark.parametrize("compressor", ["none", "blosc-lz4-bitshuffle"])
def test_the_pages_of_the_rows_and_no_others_are_read_ahead(tmp_path, monkeypatch, compressor):
    rows = hub_states(4000, 64)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=1000, compressor=compressor)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(states, "of_mapped", lambda mapped: lambda start, length: asked.append((start, length)))
    positions = np.array([2999, 5, 1500, 5])
    hidden = store.hidden(0)
    hidden.prefetch(positions)
    assert asked == [], "the system soon holds so small a layer"
    monkeypatch.setattr(states, "RESIDENT", 0)
    hidden.prefetch(positions)
    places = [5 * 256 // PAGE, 500 * 256 // PAGE, 999 * 256 // PAGE] if compressor == "none" else []
    assert asked == [(place * PAGE, PAGE) for place in places]
    assert torch.equal(hidden.take(positions), rows[torch.from_numpy(positions)])
    with pytest.raises(QueryError):
        hidden.prefetch([4000])


def test_a_search_by_an_index_asks_for_its_candidates_rows(tmp_path, monkeypatch):
    rows = hub_states(3000, 32)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=1000)
    build(store, kind="ivfrabitq", device="cpu")
    asked = []
    monkeypatch.setattr(HiddenStates, "prefetch", lambda self, positions: asked.append(np.asarray(positions)))
    _, found = load(store, 0, device="cpu").search(rows[:4], 5)
    assert np.isin(found.numpy(), asked[0]).all()
    assert len(asked) == 1
