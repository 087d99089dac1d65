"""A FAISS file that hubstore does not write is never searched, whoever signed it; and one that is written is whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

import hubstore
from hubstore.bench.states import hub_states
from hubstore.errors import CorruptStoreError, IndexingError, IndexWarning
from hubstore.index import build, load
from hubstore.index.builder import read_faiss
from hubstore.index.cache import IndexCache
from hubstore.index.description import read_description
from hubstore.index.layer import LayerIndex, exact_description
from hubstore.index.rows import unwrap
from hubstore.index.validate import RefusedIndexError, check_index
from hubstore.storage import FileRecord
from hubstore.store import StoreReader
from tests.index.stores import write_store
from tests.limits import files_of_at_most

ROWS, WIDTH = 900, 32
KINDS = ("hnsw", "ivf", "ivfpq")


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, StoreReader]:
    made = {}
    for kind in KINDS:
        made[kind] = write_store(tmp_path_factory.mktemp(kind) / "x.hub", hub_states(ROWS, WIDTH, 2)[None])
        build(made[kind], kind=kind, device="cpu")
    return made


def sign(store: StoreReader, data: bytes, **changes: Any) -> None:
    """Put a FAISS file into the store, with the size and checksum that its description then has."""
    folder = store.path / "indexes/mean/0"
    (folder / "index.faiss").write_bytes(data)
    described = replace(read_description(store, "0", "mean"), file=FileRecord.of(data), **changes)
    (folder / "index.json").write_bytes(described.encode())


def changed(vector: Any, change: Callable[[np.ndarray], None]) -> None:
    values = faiss.vector_to_array(vector).copy()
    change(values)
    faiss.copy_array_to_vector(values, vector)


def _upper_links_to_a_low_node(core: Any) -> None:
    levels, offsets = (faiss.vector_to_array(one) for one in (core.hnsw.levels, core.hnsw.offsets))
    low = int(np.flatnonzero(levels == 1)[-1])

    def change(links: np.ndarray) -> None:
        for node in np.flatnonzero(levels > 1):
            links[int(offsets[node]) + 64 : int(offsets[node + 1])] = low

    changed(core.hnsw.neighbors, change)


def _set(place: int, value: Any) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(place, value)


def _infinite(core: Any) -> None:
    changed(faiss.downcast_index(core.storage).codes, lambda codes: codes.view("<u2").__setitem__(7, 0x7C00))


def _list_ids(core: Any, value: int) -> None:
    lists = faiss.downcast_InvertedLists(core.invlists)
    most = max(range(lists.nlist), key=lists.list_size)
    faiss.rev_swig_ptr(lists.get_ids(most), lists.list_size(most))[0] = value


CRAFTED: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("hnsw", "upper links lead to a node of the lowest level", _upper_links_to_a_low_node),
    ("hnsw", "a link beyond the rows", lambda core: changed(core.hnsw.neighbors, _set(0, ROWS))),
    ("hnsw", "a link below none", lambda core: changed(core.hnsw.neighbors, _set(0, -2))),
    ("hnsw", "a level that is not there", lambda core: changed(core.hnsw.levels, _set(3, 60))),
    ("hnsw", "a node of no level", lambda core: changed(core.hnsw.levels, _set(3, 0))),
    ("hnsw", "an offset beyond the links", lambda core: changed(core.hnsw.offsets, _set(5, 1 << 40))),
    ("hnsw", "an entry beyond the rows", lambda core: setattr(core.hnsw, "entry_point", ROWS)),
    ("hnsw", "a search from a level that is not there", lambda core: setattr(core.hnsw, "max_level", 9)),
    ("hnsw", "links a level", lambda core: changed(core.hnsw.cum_nneighbor_per_level, _set(1, 1 << 20))),
    ("hnsw", "infinite rows", _infinite),
    ("hnsw", "fewer rows", lambda core: setattr(core.storage, "ntotal", ROWS - 1)),
    ("ivf", "a row beyond the store's", lambda core: _list_ids(core, ROWS)),
    ("ivf", "a row below none", lambda core: _list_ids(core, -(1 << 60))),
    ("ivfpq", "a row beyond the store's", lambda core: _list_ids(core, ROWS)),
    ("ivf", "a search of no list", lambda core: setattr(core, "nprobe", 0)),
    ("ivfpq", "another implementation", lambda core: setattr(core, "implem", 2)),
    ("ivfpq", "blocks of other sizes", lambda core: setattr(core, "bbs", 64)),
]


@pytest.mark.parametrize(("kind", "change"), [(a, c) for a, _, c in CRAFTED], ids=[f"{a}: {b}" for a, b, _ in CRAFTED])
def test_an_index_that_would_make_faiss_read_elsewhere_is_not_searched(stores, kind, change):
    store = stores[kind]
    build(store, kind=kind, rebuild=True, device="cpu")
    whole = read_faiss(store, read_description(store, "0", "mean"))
    change(unwrap(whole)[0])
    sign(store, faiss.serialize_index(whole).tobytes())
    query = hub_states(3, WIDTH, seed=3)
    with pytest.warns(
        IndexWarning, match=r"index\.faiss is no index .* searched exactly\. `hubstore index .*--rebuild`"
    ):
        index = load(store, 0, device="cpu")
    assert index.kind == "exact"
    states = store.hidden(0)
    expected = LayerIndex(exact_description(store, states), states, torch.device("cpu"))
    for found, exact in zip(index.search(query, 5), expected.search(query, 5), strict=True):
        assert torch.equal(found, exact)


def test_verify_names_an_index_that_is_not_searched_though_its_checksum_matches(stores):
    store = stores["ivf"]
    build(store, kind="ivf", rebuild=True, device="cpu")
    assert hubstore.open(store.path).verify() == []
    whole = read_faiss(store, read_description(store, "0", "mean"))
    _list_ids(unwrap(whole)[0], ROWS)
    sign(store, faiss.serialize_index(whole).tobytes())
    (found,) = hubstore.open(store.path).verify()
    assert (found.key, found.wrong) == ("indexes/mean/0/index.faiss", True)
    assert "names a row that is not there; build the index again: `hubstore index" in found.what
    build(store, kind="ivf", rebuild=True, device="cpu")
    assert hubstore.open(store.path).verify() == []


@pytest.mark.parametrize("make", ["ids", "flat", "other chain", "truncated", "longer", "file"])
def test_what_hubstore_does_not_build_is_refused_before_faiss_reads_it(stores, make, monkeypatch):
    store = stores["hnsw"]
    build(store, kind="hnsw", rebuild=True, device="cpu")
    whole = read_faiss(store, read_description(store, "0", "mean"))
    data = faiss.serialize_index(whole).tobytes()
    flat = faiss.IndexHNSWFlat(WIDTH, 32)
    flat.add(hub_states(ROWS, WIDTH).numpy())
    mapped = faiss.IndexIDMap(faiss.IndexHNSWFlat(WIDTH, 32))
    mapped.add_with_ids(hub_states(ROWS, WIDTH).numpy(), np.arange(ROWS))
    others = {
        "ids": lambda: faiss.serialize_index(mapped).tobytes(),
        "flat": lambda: faiss.serialize_index(flat).tobytes(),
        "other chain": lambda: faiss.serialize_index(faiss.IndexPreTransform(unwrap(whole)[0])).tobytes(),
        "truncated": lambda: data[:-9],
        "longer": lambda: data + b"\0",
        "file": lambda: data[:500].replace(b"IHNs", b"IwFl") + data[500:],
    }
    sign(store, others[make]())
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS read it"))
    with pytest.warns(IndexWarning, match="searched exactly"):
        load(store, 0, device="cpu")


@pytest.mark.parametrize(
    ("kind", "name"), [("hnsw", "efSearch"), ("ivf", "nlist"), ("ivf", "nprobe"), ("ivfpq", "refine")]
)
@pytest.mark.parametrize("value", [None, 0, -1, 1 << 31, True, "9"])
def test_parameters_that_no_search_takes_are_refused(stores, kind, name, value):
    store = stores[kind]
    build(store, kind=kind, rebuild=True, device="cpu")
    described = read_description(store, "0", "mean")
    bad = replace(described, parameters={**described.parameters, name: value})
    with pytest.raises(RefusedIndexError, match=name):
        check_index(store.storage.map("indexes/mean/0/index.faiss"), bad)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [150, pytest.param(50_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_bytes_that_pass_make_faiss_fail(stores, kind, count):
    store = stores[kind]
    build(store, kind=kind, rebuild=True, device="cpu")
    described = read_description(store, "0", "mean")
    data = (store.path / "indexes/mean/0/index.faiss").read_bytes()
    query, rng = hub_states(4, WIDTH, seed=3).numpy(), np.random.default_rng(0)
    refused = 0
    numbers = [
        np.array([one], "<i8").view(np.uint8) for one in (0, 1, -1, ROWS, ROWS + 1, 1 << 31, 1 << 62, -(1 << 63))
    ]
    beginning, anywhere = rng.integers(0, 600, count), rng.integers(0, len(data) - 8, count)
    for place in np.concatenate([beginning, anywhere, len(data) - 9 - np.arange(50)]).tolist():
        mutated = np.frombuffer(data, np.uint8).copy()
        if rng.random() < 0.6:
            mutated[place] ^= 1 << rng.integers(8)
        else:
            length = rng.choice([4, 8])
            mutated[place : place + length] = numbers[rng.integers(len(numbers))][:length]
        try:
            check_index(mutated, described)
        except RefusedIndexError:
            refused += 1
            continue
        found = faiss.deserialize_index(mutated).search(query, 10)[1]
        assert -1 <= found.min() <= found.max() < ROWS
    assert refused > 50


def test_a_refused_index_is_said_once_for_an_open_store_and_does_not_grow(stores, tmp_path):
    store = write_store(tmp_path / "x.hub", hub_states(ROWS, WIDTH, 2)[None], shard_rows=300)
    build(store, kind="hnsw", device="cpu")
    whole = read_faiss(store, read_description(store, "0", "mean"))
    _upper_links_to_a_low_node(unwrap(whole)[0])
    sign(store, faiss.serialize_index(whole).tobytes())
    cache = IndexCache(store)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert cache.layer("0", "mean", device="cpu").kind == "exact"
    assert [one.category for one in said] == [IndexWarning]
    longer = write_store(tmp_path / "x.hub", hub_states(300, WIDTH, 4)[None], first_shard=3, shard_rows=300)
    with pytest.raises(CorruptStoreError, match=r"cannot grow.*--rebuild"):
        build(longer, kind="hnsw", device="cpu")
    build(longer, kind="hnsw", rebuild=True, device="cpu")
    assert load(longer, 0, device="cpu").kind == "hnsw"


def files(store: StoreReader) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.path / "indexes/mean/0").iterdir()}


@pytest.mark.parametrize("left", [10, 4096, 1])
def test_on_a_full_disk_a_rebuild_keeps_the_old_index_and_leaves_nothing_else(tmp_path, left):
    store = write_store(tmp_path / "x.hub", hub_states(ROWS, WIDTH, 2)[None])
    build(store, kind="hnsw", device="cpu")
    before = files(store)
    with (
        files_of_at_most(len(before["index.faiss"]) - left),
        pytest.raises(IndexingError, match=r"indexes/mean/0: the index could not be written there \(File too large\)"),
    ):
        build(store, kind="hnsw", rebuild=True, device="cpu")
    assert files(store) == before
    assert load(store, 0, device="cpu").kind == "hnsw"


@pytest.mark.parametrize("died_at", ["delete", "first put_file", "second put_file"])
def test_a_build_that_is_killed_leaves_the_old_index_or_none_and_the_same_command_builds_it(
    tmp_path, monkeypatch, died_at
):
    store = write_store(tmp_path / "x.hub", hub_states(ROWS, WIDTH, 2)[None])
    build(store, kind="hnsw", device="cpu")
    wanted, before = died_at.split()[-1], files(store)
    real, calls = getattr(store.storage, wanted), 0

    def die(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == (2 if "second" in died_at else 1):
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(store.storage, wanted, die)
    with pytest.raises(KeyboardInterrupt):
        build(store, kind="hnsw", seed=1, rebuild=True, device="cpu")
    monkeypatch.undo()
    if died_at == "delete":
        assert files(store) == before
    else:
        assert "index.json" not in files(store)
    build(store, kind="hnsw", seed=1, device="cpu")
    assert load(store, 0, device="cpu").kind == "hnsw"


def test_what_the_disk_has_taken_is_what_the_description_says(tmp_path, monkeypatch):
    store = write_store(tmp_path / "x.hub", hub_states(ROWS, WIDTH, 2)[None])
    monkeypatch.setenv("TMPDIR", "/proc")  # the store's own disk takes the file
    described = build(store, kind="ivf", device="cpu")[0]
    assert described.file == FileRecord.of((store.path / "indexes/mean/0/index.faiss").read_bytes())
    assert Path(store.path / "indexes/mean/0/index.json").read_bytes() == described.encode()
