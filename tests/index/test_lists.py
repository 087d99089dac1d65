"""An index whose lists stay in their file: FAISS's own bytes, read when they are visited, and never unchecked."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import faiss
import google_crc32c
import numpy as np
import pytest
import torch

import hubstore
from hubstore.bench.states import hub_states
from hubstore.errors import CorruptStoreError, IndexingError, IndexWarning
from hubstore.index import build, kinds, load, runs
from hubstore.index.clustering import Centroids, cluster
from hubstore.index.description import read_description
from hubstore.index.listfile import index_core
from hubstore.index.opening import open_lists
from hubstore.index.rows import centered, random_rotation, rotated
from hubstore.index.validate import RefusedIndexError, read_head
from hubstore.storage import FileRecord
from hubstore.store import StoreReader
from tests.index.stores import brute_force, recall, write_store

ROWS, WIDTH = 2000, 36


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> StoreReader:
    store = write_store(tmp_path_factory.mktemp("lists") / "x.hub", hub_states(ROWS, WIDTH, 2)[None], shard_rows=500)
    build(store, kind="ivfrabitq", device="cpu")
    return store


@pytest.fixture
def store(original, tmp_path) -> StoreReader:
    """A copy with its index, which a test may spoil."""
    shutil.copytree(original.path, tmp_path / "x.hub")
    return StoreReader(tmp_path / "x.hub")


def index_file(store: StoreReader) -> Any:
    return store.path / "indexes/mean/0/index.faiss"


def sign(store: StoreReader, data: np.ndarray, *, lists: bool = True) -> None:
    """Put a file into the store with the checksums that fit it, those of its lists too, as a stranger could."""
    described = read_description(store, "0", "mean")
    table = open_lists(store, described).head.table
    tail = data[-4 * len(table.sizes) :].view("<u4")
    if lists:
        for number, (start, length) in enumerate(zip(table.offsets, table.lengths, strict=True)):
            tail[number] = google_crc32c.value(data[start : start + length].tobytes())
    head = data[: described.head.size - 4 * len(tail)]
    index_file(store).write_bytes(data.tobytes())
    signed = replace(described, file=FileRecord.of(data), head=FileRecord.of(head, tail.view(np.uint8)))
    (store.path / "indexes/mean/0/index.json").write_bytes(signed.encode())


def test_the_lists_are_to_the_byte_what_faiss_packs(original):
    opened = open_lists(original, read_description(original, "0", "mean"))
    head = opened.head
    vectors = rotated(centered(original.hidden(0).read(), head.mean), head.rotation)
    core = index_core(head.centroids, head.bits, 0)
    core.add(vectors)
    theirs = faiss.downcast_InvertedLists(core.invlists)
    for number, size in enumerate(head.table.sizes.tolist()):
        blocks, ids = opened.content(number)
        assert size == theirs.list_size(number)
        if size:
            assert np.array_equal(ids, faiss.rev_swig_ptr(theirs.get_ids(number), size))
            assert np.array_equal(blocks.ravel(), faiss.rev_swig_ptr(theirs.get_codes(number), blocks.size))


def test_the_nearest_centroid_is_that_of_a_plain_comparison():
    rows = hub_states(3000, 24).numpy() / 8
    points = cluster(rows, 50, 0, torch.device("cpu"))
    distances = ((rows[:, None].astype(np.float64) - points) ** 2).sum(2)
    assert np.array_equal(Centroids(points, torch.device("cpu")).nearest(rows), distances.argmin(1))
    assert distances.min(1).mean() < 1.05 * faiss_error(rows, 50)


def faiss_error(rows: np.ndarray, lists: int) -> float:
    clustering = faiss.Kmeans(rows.shape[1], lists, niter=10, seed=1)
    clustering.train(rows)
    return float(clustering.index.search(rows, 1)[0].mean())


def test_every_list_has_a_centroid_though_rows_are_fewer_than_they_seem():
    rows = np.repeat(hub_states(5, 8).numpy(), 100, axis=0)
    points = cluster(rows, 32, 0, torch.device("cpu"))
    assert points.shape == (32, 8)
    assert np.isfinite(points).all()


def test_a_rotation_is_orthogonal_and_its_seeds_own():
    one, other = random_rotation(40, 0), random_rotation(40, 1)
    assert np.allclose(one @ one.T, np.eye(40), atol=1e-6)
    assert np.array_equal(one, random_rotation(40, 0))
    assert not np.allclose(one, other)


def test_opening_reads_no_list_and_the_search_that_visits_a_changed_one_says_so(store):
    data = np.fromfile(index_file(store), np.uint8)
    table = open_lists(store, read_description(store, "0", "mean")).head.table
    number = int(np.argmax(table.sizes))
    data[table.offsets[number] + 5] ^= 4
    index_file(store).write_bytes(data.tobytes())
    index = load(store, 0, device="cpu")
    assert index.kind == "ivfrabitq"
    with pytest.raises(CorruptStoreError, match=rf"index\.faiss .*list {number} does not match.*--rebuild"):
        index.search(hub_states(3, WIDTH), 5, search_effort=len(table.sizes))
    assert any("index.faiss" in one.key for one in hubstore.open(store.path).verify())


def test_what_no_search_visits_needs_no_reading(store):
    data = np.fromfile(index_file(store), np.uint8)
    opened = open_lists(store, read_description(store, "0", "mean"))
    query = store.hidden(0).read(0, 1)
    vector = rotated(centered(query, opened.head.mean), opened.head.rotation)
    visited = int(((opened.head.centroids - vector) ** 2).sum(1).argmin())
    for number, start in enumerate(opened.head.table.offsets.tolist()):
        if number != visited and opened.head.table.sizes[number]:
            data[start] ^= 1
    index_file(store).write_bytes(data.tobytes())
    assert load(store, 0, device="cpu").search(query, 1, search_effort=1)[1].item() == 0


@pytest.mark.parametrize("place", ["head", "tail"])
def test_a_head_that_is_not_as_it_was_written_is_refused_when_it_is_opened(store, place):
    data = bytearray(index_file(store).read_bytes())
    data[-1 if place == "tail" else 300] ^= 1
    index_file(store).write_bytes(bytes(data))
    with pytest.raises(CorruptStoreError, match=r"head does not match.*--rebuild"):
        load(store, 0, device="cpu")
    index_file(store).write_bytes(bytes(data[:-1]))
    with pytest.raises(CorruptStoreError, match=r"index\.faiss is not as it was written"):
        load(store, 0, device="cpu")


@pytest.mark.parametrize("value", [ROWS, -1, 1 << 60])
def test_a_list_that_names_no_row_of_the_store_is_not_searched_whoever_signed_it(store, value):
    data = np.fromfile(index_file(store), np.uint8)
    table = open_lists(store, read_description(store, "0", "mean")).head.table
    number = int(np.argmax(table.sizes))
    first = int(table.offsets[number] + table.capacities[number] * table.code_size)
    data[first : first + 8] = np.array([value], "<i8").view(np.uint8)
    sign(store, data)
    index = load(store, 0, device="cpu")
    with pytest.raises(CorruptStoreError, match="names a row that is not there"):
        index.search(hub_states(3, WIDTH), 5, search_effort=len(table.sizes))
    (found,) = hubstore.open(store.path).verify()
    assert "names a row that is not there; build the index again" in found.what


def test_a_row_that_two_lists_hold_is_found_once_whoever_signed_them(store):
    data = np.fromfile(index_file(store), np.uint8)
    table = open_lists(store, read_description(store, "0", "mean")).head.table
    ids = table.offsets + table.capacities * table.code_size
    source = int(np.argmax(table.sizes))
    twice = np.arange(len(table.sizes))[table.sizes == table.sizes[source]]
    first = data[ids[source] : ids[source] + 8].copy()
    for number in set(np.flatnonzero(table.sizes)) - set(twice):
        at = ids[number]
        if data[at + 8 : at + 16].view("<i8")[0] > first.view("<i8")[0]:
            data[at : at + 8] = first
    sign(store, data)
    found = load(store, 0, device="cpu").source.find(hub_states(20, WIDTH, 5), 400, len(table.sizes))
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found)
    assert (found < 0).any()


def test_a_list_that_holds_a_row_twice_is_not_searched_whoever_signed_it(store):
    data = np.fromfile(index_file(store), np.uint8)
    table = open_lists(store, read_description(store, "0", "mean")).head.table
    number = int(np.argmax(table.sizes))
    first = int(table.offsets[number] + table.capacities[number] * table.code_size)
    data[first + 8 : first + 16] = data[first : first + 8]
    sign(store, data)
    with pytest.raises(CorruptStoreError, match=rf"rows of its list {number} do not ascend.*--rebuild"):
        load(store, 0, device="cpu").search(hub_states(3, WIDTH), 5, search_effort=len(table.sizes))


def test_codes_of_any_bytes_make_no_search_fail(store):
    data = np.fromfile(index_file(store), np.uint8)
    table = open_lists(store, read_description(store, "0", "mean")).head.table
    rng = np.random.default_rng(0)
    for start, capacity in zip(table.offsets.tolist(), table.capacities.tolist(), strict=True):
        stop = start + capacity * table.code_size
        data[start:stop] = rng.integers(0, 256, stop - start)
    sign(store, data)
    queries = hub_states(20, WIDTH, 5)
    scores, positions = load(store, 0, device="cpu").search(queries, 5)
    rows = store.hidden(0).take(positions.ravel().numpy()).double().view(20, 5, WIDTH)
    cosines = torch.nn.functional.cosine_similarity(rows, queries.double()[:, None], dim=-1)
    torch.testing.assert_close(scores, cosines.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [400, pytest.param(50_000, marks=pytest.mark.slow)])
def test_no_changed_byte_of_the_head_leads_a_search_elsewhere(original, count):
    described = read_description(original, "0", "mean")
    data = np.fromfile(index_file(original), np.uint8)
    tail = data[-4 * described.parameters["nlist"] :]
    whole = data[: described.head.size - len(tail)]
    expected = read_head(whole, tail, described)
    rng, refused = np.random.default_rng(0), 0
    numbers = [np.array([n], "<i8").view(np.uint8) for n in (0, 1, -1, ROWS, ROWS + 1, 1 << 31, 1 << 62, -(1 << 63))]
    for place in np.concatenate([rng.integers(0, len(whole) - 8, count), len(whole) - 9 - np.arange(600)]).tolist():
        changed = whole.copy()
        if rng.random() < 0.6:
            changed[place] ^= 1 << rng.integers(8)
        else:
            length = rng.choice([4, 8])
            changed[place : place + length] = numbers[rng.integers(len(numbers))][:length]
        try:
            found = read_head(changed, tail, described)
        except RefusedIndexError:
            refused += 1
            continue
        assert np.array_equal(found.table.offsets, expected.table.offsets)
        assert found.table.code_size == expected.table.code_size
        assert np.isfinite(found.centroids).all()
    assert refused > 300


def test_a_head_of_another_kind_or_without_its_checksum_is_no_index_of_lists(store, tmp_path):
    described = read_description(store, "0", "mean")
    for bad in (replace(described, head=None), replace(described, head=FileRecord(4, 0))):
        (store.path / "indexes/mean/0/index.json").write_bytes(bad.encode())
        with pytest.warns(IndexWarning, match="searched exactly"):
            assert load(store, 0, device="cpu").kind == "exact"


def test_a_build_that_is_killed_goes_on_and_writes_the_same_file(store, monkeypatch):
    before = index_file(store).read_bytes()
    monkeypatch.setattr(runs, "ROWS_AT_ONCE", 256)
    monkeypatch.setattr(runs, "RUN_BYTES", 1)  # a run for each 256 rows
    real, encoded = runs.Workspace.run, []

    def run(place: Any, start: int, stop: int, make: Any, code_size: int) -> Any:
        def counted() -> Any:
            if start == 1024 and len(encoded) == 4:
                raise KeyboardInterrupt
            encoded.append(start)
            return make()

        return real(place, start, stop, counted, code_size)

    monkeypatch.setattr(runs.Workspace, "run", run)
    with pytest.raises(KeyboardInterrupt):
        build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    assert index_file(store).read_bytes() == before  # the old one stays meanwhile
    assert hubstore.open(store.path).verify() == []
    encoded.append(-1)
    monkeypatch.setattr(runs, "cluster", None, raising=False)
    build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    assert encoded == [0, 256, 512, 768, -1, 1024, 1280, 1536, 1792]
    assert index_file(store).read_bytes() == before
    assert sorted(path.name for path in index_file(store).parent.iterdir()) == ["index.faiss", "index.json"]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["trained", "run-0-2000"])
def test_what_a_build_left_is_made_again_where_it_is_none_of_its(store, monkeypatch, name, signed):
    before, folder = index_file(store).read_bytes(), index_file(store).parent

    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hubstore.index.builder.write_list_file", fail)
        with pytest.raises(KeyboardInterrupt):
            build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    (left,) = folder.glob(f".index.build.*.{name}.*")
    data = np.fromfile(left, np.uint8)
    place = 8 * ROWS if name.startswith("run") else 0
    data[place : place + 8] = data[place + 8 : place + 16] if name.startswith("run") else 255
    if signed:
        data[-4:] = np.frombuffer(google_crc32c.value(data[:-4].tobytes()).to_bytes(4, "little"), np.uint8)
    left.write_bytes(data.tobytes())
    build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    assert index_file(store).read_bytes() == before


def test_a_build_writes_through_no_link_in_a_strangers_store(store, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in ("lock", "written"):
        link = index_file(store).parent / f".index.build.{name}.partial"
        link.symlink_to(tmp_path / "mine")
        with pytest.raises(IndexingError, match=rf"\.index\.build\.{name}\.partial is a link"):
            build(store, kind="ivfrabitq", rebuild=True, device="cpu")
        assert (tmp_path / "mine").read_text() == "mine"
        link.unlink()


@pytest.mark.parametrize("name", ["lock", "written"])
def test_a_build_does_not_wait_for_a_pipe_in_its_place(store, name):
    pipe = index_file(store).parent / f".index.build.{name}.partial"
    os.mkfifo(pipe)
    with pytest.raises(IndexingError, match=rf"\.index\.build\.{name}\.partial is a pipe"):
        build(store, kind="ivfrabitq", rebuild=True, device="cpu")


def test_a_pipe_in_the_place_of_what_a_build_left_is_replaced(store, tmp_path):
    place = runs.Workspace(tmp_path, "key")
    made = runs.Training(np.ones(4, "f4"), np.eye(4, dtype="f4"), np.ones((2, 4), "f4"), kinds.RABITQ_BITS)
    os.mkfifo(tmp_path / ".index.build.key.trained.partial")
    assert place.training(lambda: made, 2, 4) is made
    assert place.training(pytest.fail, 2, 4).centroids.tolist() == made.centroids.tolist()


def test_runs_of_other_rows_or_settings_are_not_gone_on_from(store, monkeypatch):
    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hubstore.index.builder.write_list_file", fail)
        with pytest.raises(KeyboardInterrupt):
            build(store, kind="ivfrabitq", seed=1, rebuild=True, device="cpu")
    before = index_file(store).read_bytes()
    build(store, kind="ivfrabitq", rebuild=True, device="cpu")
    assert index_file(store).read_bytes() == before
    assert sorted(path.name for path in index_file(store).parent.iterdir()) == ["index.faiss", "index.json"]


def test_of_two_builds_at_once_the_second_is_refused(store):
    folder = index_file(store).parent
    with runs.workspace(folder, {}, "this"), pytest.raises(IndexingError, match="is being indexed by another process"):
        build(store, kind="ivfrabitq", rebuild=True, device="cpu")


def test_a_lock_that_its_holder_removed_is_taken_for_none(store, monkeypatch):
    folder, real = index_file(store).parent, runs.fcntl.flock
    held = runs.workspace(folder, {}, "first")
    held.__enter__()

    def first_ends(file: Any, kind: int) -> None:
        monkeypatch.setattr(runs.fcntl, "flock", real)
        held.__exit__(None, None, None)  # after the file was opened, before it is locked
        real(file, kind)

    monkeypatch.setattr(runs.fcntl, "flock", first_ends)
    with (
        runs.workspace(folder, {}, "second"),
        pytest.raises(IndexingError, match="another process"),
        runs.workspace(folder, {}, "third"),
    ):
        pytest.fail("two build at once")


def test_an_index_that_grows_has_the_lists_that_faiss_would_have(store):
    rows = hub_states(700, WIDTH, 4)
    grown = write_store(store.path, rows[None], first_shard=4, shard_rows=500)
    before = open_lists(store, read_description(store, "0", "mean")).head
    (description,) = build(grown, kind="ivfrabitq", device="cpu")
    assert (description.rows, description.trained_rows) == (ROWS + 700, ROWS)
    opened = open_lists(grown, description)
    assert np.array_equal(opened.head.centroids, before.centroids)
    core = index_core(before.centroids, before.bits, 0)
    core.add(rotated(centered(grown.hidden(0).read(), before.mean), before.rotation))
    theirs = faiss.downcast_InvertedLists(core.invlists)
    for number, size in enumerate(opened.sizes.tolist()):
        blocks, ids = opened.content(number)
        assert size == theirs.list_size(number)
        if size:
            assert np.array_equal(ids, faiss.rev_swig_ptr(theirs.get_ids(number), size))
            assert np.array_equal(blocks.ravel(), faiss.rev_swig_ptr(theirs.get_codes(number), blocks.size))


@pytest.mark.parametrize("width", [6, 9, 37, 100])
def test_rows_of_any_width_are_found(tmp_path, width):
    rows = hub_states(200, width)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=200)
    build(store, kind="ivfrabitq", device="cpu")
    _, positions = load(store, 0, device="cpu").search(rows[:20], 1)
    assert positions.ravel().tolist() == list(range(20))


def test_a_layer_with_huge_dimensions_is_found_in_as_well(tmp_path):
    rows = hub_states(3000, 48, near_parallel=True)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=3000)
    (description,) = build(store, kind="ivfrabitq", device="cpu")
    queries = rows[:100] + 0.1 * hub_states(100, 48, seed=8)
    _, positions = load(store, 0, device="cpu").search(queries, 10)
    assert description.recall.measured > 0.93
    assert recall(positions, brute_force(rows, queries, 10)) > 0.93
