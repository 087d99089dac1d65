"""The scan of one-bit codes beside FAISS's, whose lists it reads, and beside a plain sum."""

from __future__ import annotations

import faiss
import numba
import numpy as np
import pytest
import torch

from hubstore.bench.states import hub_states
from hubstore.index import build, kinds, load
from hubstore.index import scan as scan_module
from hubstore.index.listfile import index_core
from hubstore.index.listtable import ListTable
from hubstore.index.scan import Scan, _Found
from hubstore.kernels.cpu import shuffle
from tests.index.stores import brute_force, recall, write_store

needs_shuffles = pytest.mark.skipif(not shuffle.vector_bytes(), reason="the processor has no wide byte shuffles")

ROWS, LISTS = 3000, 20


def lists_of(rows: np.ndarray, centroids: np.ndarray):
    """FAISS's index of rows, and a scan of the same lists as a file has them."""
    core = index_core(centroids, 1, 0)
    core.add(rows)
    lists = faiss.downcast_InvertedLists(core.invlists)
    sizes = np.array([lists.list_size(number) for number in range(len(centroids))], np.int64)
    table = ListTable(sizes, core.code_size, 100)
    room = np.zeros(table.stop + 64, np.uint8)
    content = room[-room.ctypes.data % 64 :][: table.stop]
    for number, (start, capacity) in enumerate(zip(table.offsets, table.capacities, strict=True)):
        if sizes[number]:
            stop = start + capacity * core.code_size
            content[start:stop] = faiss.rev_swig_ptr(lists.get_codes(number), int(stop - start))
            ids = faiss.rev_swig_ptr(lists.get_ids(number), int(sizes[number]))
            content[stop : stop + 8 * len(ids)] = ids.view(np.uint8)
    return core, Scan(content, table, centroids)


@pytest.fixture(scope="module", params=[37, 384])
def scanned(request):
    rows = hub_states(ROWS + 40, request.param).numpy() / 20
    centroids = 0.9 * rows[:LISTS]
    return *lists_of(rows[:ROWS], centroids), rows[:ROWS], rows[ROWS:]


def plain_distances(core, rows: np.ndarray, centroids: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """float64 [q, rows]: |r|² + |q|² - 2 f <x, q> as it is written, in float64 and of the whole query."""
    own = core.quantizer.search(rows, 1)[1][:, 0]
    residuals = rows.astype(np.float64) - centroids[own]
    signs = np.where(residuals > 0, 1, -1) / np.sqrt(rows.shape[1])
    squares = (residuals**2).sum(1)
    factors = squares / (signs * residuals).sum(1)
    moved = queries[:, None].astype(np.float64) - centroids[own]
    return squares + (moved**2).sum(2) - 2 * factors * (signs * moved).sum(2)


@needs_shuffles
def test_the_rows_that_are_found_are_the_nearest_by_the_formula(scanned):
    core, scan, rows, queries = scanned
    every = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
    found = scan.nearest(queries, every, 30)
    plain = plain_distances(core, rows, scan.centroids, queries)
    reached = np.take_along_axis(plain, found, 1)
    least = np.sort(plain, axis=1)[:, :30]
    # By what a query's 6 bits leave out.
    assert np.abs(reached - least).mean() < 0.01 * least.mean()
    assert np.abs(reached - least).max() < 0.1 * least.mean()


@needs_shuffles
def test_the_rows_that_are_found_are_those_that_faiss_finds(scanned):
    core, scan, _, queries = scanned
    core.nprobe = 6
    lists = core.quantizer.search(queries, 6)[1]
    theirs = core.search(queries, 40)[1]
    found = scan.nearest(queries, lists, 40)
    assert np.mean([np.isin(one, other).mean() for one, other in zip(theirs, found, strict=True)]) > 0.95


@needs_shuffles
def test_neither_threads_nor_the_order_of_lists_change_what_is_found(scanned):
    _, scan, _, queries = scanned
    lists = np.stack([np.random.default_rng(n).permutation(LISTS) for n in range(len(queries))])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = scan.nearest(queries, lists, 25)
        torch.set_num_threads(3)
        assert np.array_equal(scan.nearest(queries, lists[:, ::-1], 25), alone)
    finally:
        torch.set_num_threads(before)


@needs_shuffles
def test_as_many_queries_are_searched_at_once_as_heaps_have_room_for(scanned, monkeypatch):
    _, scan, _, queries = scanned
    lists = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
    together, held = scan.nearest(queries, lists, 25), []
    empty = _Found.empty
    monkeypatch.setattr(_Found, "empty", lambda *shape: held.append(shape) or empty(*shape))
    monkeypatch.setattr("hubstore.index.scan.HEAP_BYTES", 3 * 25 * 12 * (1 + torch.get_num_threads()))
    assert np.array_equal(scan.nearest(queries, lists, 25), together)
    assert {many for _, many, _ in held} == {3, len(queries) % 3} - {0}
    assert scan.nearest(queries[:0], lists[:0], 25).shape == (0, 25)


@needs_shuffles
def test_the_nearest_lists_of_many_queries_are_scanned_by_all_threads(scanned, monkeypatch):
    _, scan, _, queries = scanned
    lists = np.broadcast_to(np.arange(4), (len(queries), 4))
    tasks, run = [], scan_module.in_threads
    monkeypatch.setattr(scan_module, "in_threads", lambda work, parts: tasks.append(len(parts)) or run(work, parts))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        scan.nearest(queries, lists, 5)
    finally:
        torch.set_num_threads(before)
    assert tasks[0] == 3


@needs_shuffles
def test_only_allowed_rows_are_found_and_all_where_they_are_few(scanned):
    _, scan, _, queries = scanned
    few = np.array([3, 8, 500, 2999])
    bits = np.zeros(ROWS, np.bool_)
    bits[few] = True
    every = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
    found = scan.nearest(queries, every, 6, np.packbits(bits, bitorder="little"))
    assert np.array_equal(np.sort(found[:, :4], axis=1), np.broadcast_to(few, (len(queries), 4)))
    assert np.all(found[:, 4:] == -1)


@needs_shuffles
def test_of_rows_as_near_the_smaller_position_is_found_first():
    row = hub_states(2, 40).numpy() / 20
    _, scan = lists_of(np.repeat(row[:1], 100, axis=0), row[1:].copy())
    assert scan.nearest(row[:1], np.zeros((1, 1), np.int64), 7)[0].tolist() == list(range(7))


@pytest.mark.parametrize("wide", [32, 64])
def test_sums_of_a_block_are_those_of_a_plain_loop(monkeypatch, wide):
    if shuffle.vector_bytes() < wide:
        pytest.skip("the processor has no such shuffles")
    monkeypatch.setattr(shuffle, "vector_bytes", lambda: wide)

    @numba.njit
    def sums_of(codes, table, out):
        shuffle.block_sums(codes.ctypes.data, table.ctypes.data, len(table), out.ctypes.data)

    rng, groups = np.random.default_rng(0), 8
    codes, table = rng.integers(0, 256, (groups, 16), np.uint8), rng.integers(0, 256, (groups, 16), np.uint8)
    out, order = np.empty(32, np.uint16), np.ravel([np.arange(8), np.arange(8, 16)], order="F")
    sums_of(codes.ravel(), table.ravel(), out)
    expected = np.zeros(32, np.int64)
    for group in range(groups):
        for place, row in enumerate(order):
            expected[row] += table[group, codes[group, place] & 15]
            expected[16 + row] += table[group, codes[group, place] >> 4]
    assert np.array_equal(out, expected)


def test_where_no_shuffles_are_faiss_searches_the_same_file(tmp_path, monkeypatch):
    rows = hub_states(1500, 36)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=1500)
    build(store, kind="ivfrabitq", device="cpu")
    monkeypatch.setattr("hubstore.index.scan.vector_bytes", lambda: 0)
    queries = rows[:50] + 0.1 * hub_states(50, 36, seed=8)
    found = load(store, 0, device="cpu").search(queries, 10)[1]
    assert recall(found, brute_force(rows, queries, 10)) > 0.9


def test_an_index_of_two_bits_as_an_earlier_release_builds_is_searched_and_grows(tmp_path, monkeypatch):
    rows = hub_states(2000, 36)
    store = write_store(tmp_path / "x.hub", rows[None, :1500], shard_rows=1500)
    with monkeypatch.context() as patched:
        patched.setattr(kinds, "RABITQ_BITS", 2)
        (described,) = build(store, kind="ivfrabitq", device="cpu")
    assert "RaBitQfs2" in described.factory
    grown = write_store(store.path, rows[None, 1500:], first_shard=1, shard_rows=1500)
    (described,) = build(grown, device="cpu")
    assert (described.factory.partition(",")[2], described.rows) == ("RaBitQfs2", 2000)
    found = load(grown, 0, device="cpu").search(rows[:50], 10)[1]
    assert recall(found, brute_force(rows, rows[:50], 10)) > 0.9
