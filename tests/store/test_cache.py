"""The cache of files from object stores: its bound, what other processes do to it, and what is read by way of it."""

from __future__ import annotations

import os
import shutil
import threading
import time
import tracemalloc

import pytest
import torch
from obstore.store import MemoryStore

from hubstore.errors import CorruptStoreError, StoreError
from hubstore.storage import FileRecord, client, cloud, open_storage
from hubstore.storage import objects as remote
from hubstore.storage.cache import LINKED_S, FileCache
from hubstore.storage.location import Url
from hubstore.storage.objects import RemoteStorage
from hubstore.store import StoreReader, write_metadata, write_shard
from tests.store.test_roundtrip import item_table, layout

ROOT = Url("s3", "lab/x.hub")


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path / "cache", 100_000)


@pytest.fixture
def storage(cache):
    return RemoteStorage(ROOT, MemoryStore(), cache)


def put(cache, name, size):
    return cache.add(name, size, lambda file: file.write_bytes(bytes(size)))


def written(storage):
    """Wait for what is written to the cache in the background."""
    for writing in list(storage._unwritten.values()):
        writing.result()


def test_an_object_that_the_bound_hardly_holds_is_read(storage):
    for size in (95_000, 95_001, 97_000, 100_000, 100_001):
        storage.write("k", bytes(size))
        assert len(storage.map("k")) == size
    with pytest.raises(StoreError, match=r"has 100,001 bytes .* cannot hold \(95,000 bytes at most\)"):
        storage.local("k")


def test_what_was_just_added_is_there_whatever_is_pinned(storage):
    for number in range(4):
        storage.write(f"{number}", bytes(60_000))
        assert storage.local(f"{number}").exists()
        with storage.open(f"{number}") as file:
            assert len(file.read()) == 60_000


@pytest.mark.parametrize("read", ["map", "map_committed", "mapped", "open"])
def test_a_file_that_another_process_removes_is_read_again(storage, cache, monkeypatch, read):
    content = os.urandom(1000)
    storage.write("k", content)
    given = ("k",) if read in ("map", "open") else ("k", FileRecord.of(content))
    storage.map_committed("k", FileRecord.of(content))
    storage.map("k")
    written(storage)
    look_up, removed = cache._look_up, []

    def late(name):
        found = look_up(name)
        if found and not removed:
            removed.append(found[0])
            found[0].unlink()
        return found

    monkeypatch.setattr(cache, "_look_up", late)
    found = getattr(storage, read)(*given)
    assert removed
    assert (found.read() if read == "open" else found.tobytes()) == content


def test_a_folder_or_a_file_that_cannot_be_swept_stops_no_read(storage, cache, monkeypatch):
    storage.write("k", bytes(90_000))
    sweep = cache._files
    monkeypatch.setattr(cache, "_files", lambda: shutil.rmtree(cache.folder) or sweep())
    assert len(storage.map("k")) == 90_000
    monkeypatch.undo()
    put(cache, "a", 90_000)
    monkeypatch.setattr(type(cache.folder), "unlink", lambda path, **given: (_ for _ in ()).throw(PermissionError()))
    assert len(storage.map("k")) == 90_000


def test_a_cache_that_is_only_read_is_used(cache, monkeypatch):
    path = put(cache, "n", 4)
    monkeypatch.setattr(os, "utime", lambda *given, **options: (_ for _ in ()).throw(OSError(30, "read-only")))
    assert FileCache(cache.folder, 100_000).find("n") == path


def test_what_a_caller_changes_before_it_is_written_is_not_kept(tmp_path):
    storage = RemoteStorage(ROOT, MemoryStore(), FileCache(tmp_path / "cache", 1 << 30))
    content = os.urandom(100_000)
    storage.write("k", content)
    record = FileRecord.of(content)
    storage.map_committed("k", record)
    written(storage)
    assert storage.map_committed("k", record).tobytes() == content  # from the cache, whose file is checked now
    shutil.rmtree(storage._cache.folder)
    gate = threading.Event()
    for _ in range(remote.WRITERS):
        storage._writers.submit(gate.wait)
    storage.map_committed("k", record)[:] = 0
    gate.set()
    written(storage)
    assert storage.map_committed("k", record).tobytes() == content


def test_an_object_is_written_to_the_cache_as_its_parts_arrive(tmp_path):
    storage = RemoteStorage(ROOT, MemoryStore(), FileCache(tmp_path / "cache", 1 << 30))
    storage.write("k", bytes(12 * client.PART - 7))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert len(storage.map("k")) == 12 * client.PART - 7
        path = storage.local("k")
        assert tracemalloc.get_traced_memory()[1] - before < client.PART
    finally:
        tracemalloc.stop()
    assert path.stat().st_mtime_ns == storage.stat("k").mtime_ns


def test_layers_keep_no_more_mapped_than_the_cache_holds(storage, cache):
    shape = layout("float32", poolings=("mean",))
    for shard in range(40):
        states = torch.full((3, 64, shape.width), float(shard))
        write_shard(storage, shape, shard, item_table(shard, [1] * 64), {"mean": states})
    write_metadata(storage, shape, {"corpora": []}, 64 * 40, 0)
    reader = StoreReader(ROOT, storage)
    layers = [reader.hidden(layer) for layer in ("0", "1")]
    for start in range(0, 64 * 40, 64):
        for layer in layers:
            layer.read(start, start + 64)
            written(storage)
            assert (layer.read(start, start + 64) == start // 64).all()
    kept = [len(layer._mapped) for layer in layers]
    assert min(kept) > 0
    assert sum(kept) * storage.size("hidden/mean/1/c/0/0") <= cache.most


def test_the_link_of_a_corpus_outlives_its_file_and_counts(cache, monkeypatch):
    from hubstore.storage.location import LINKS

    path = put(cache, "n", 50_000)
    link = cache.folder / LINKS / "folder" / "a.csv"
    link.parent.mkdir(parents=True)
    os.link(path, link)
    (link.parent / ".origin").write_text("s3://lab/a.csv")
    path.unlink()
    put(cache, "m", 40_000)
    put(cache, "o", 40_000)
    assert link.stat().st_size == 50_000
    assert cache.find("m") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LINKED_S + 60)
    put(cache, "p", 40_000)
    assert not link.parent.exists()


def test_an_object_without_validators_is_never_taken_for_an_earlier_one(web):
    storage = open_storage(f"{web.url}/x.hub")
    for content in (b"old", b"new"):
        web.files["/x.hub/k"] = content
        assert storage.map("k").tobytes() == storage.local("k").read_bytes() == content


def test_a_weak_validator_is_not_asked_to_match(web):
    web.files["/x.hub/k"], web.tags["/x.hub/k"] = b"content", 'W/"abc"'
    storage = open_storage(f"{web.url}/x.hub")
    assert storage.map("k").tobytes() == storage.local("k").read_bytes() == b"content"
    web.asked.clear()
    assert storage.map("k").tobytes() == b"content"
    assert [verb for verb, _ in web.asked] == ["HEAD"]


def test_an_object_that_changes_while_it_is_read_is_named(storage):
    storage.write("k", bytes(10))
    meta = storage._head_of("k")
    storage.write("k", bytes(11))
    with pytest.raises(CorruptStoreError, match=r"s3://lab/x\.hub/k changed while it was read; run the same command"):
        storage._client.parts("k", meta)


def test_a_conflict_is_named(web, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    web.refuse = (409, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    monkeypatch.setattr(remote, "FIRST_PATIENCE", cloud.datetime.timedelta(milliseconds=100))
    with pytest.raises(StoreError, match=r"^writing s3://lab/x\.hub/k: the server refused it, since something else"):
        open_storage("s3://lab/x.hub").write("k", b"v")
