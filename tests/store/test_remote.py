"""A store in an object store behaves as one in a folder; here over a client's store in memory."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import numpy as np
import obstore
import pytest
import torch
from obstore.store import MemoryStore

from hubstore.corpus import Corpus, Item
from hubstore.errors import (
    CorruptStoreError,
    QueryError,
    StoreAccessError,
    StoreError,
    StoreNotFoundError,
)
from hubstore.extraction.plan import PlanStart, load_plan, make_plan
from hubstore.index.builder import build
from hubstore.index.description import check_file
from hubstore.storage import LocalStorage, client, open_storage
from hubstore.storage.cache import FileCache
from hubstore.storage.location import Url, location
from hubstore.storage.objects import RemoteStorage
from hubstore.storage.web import WebStorage
from hubstore.store import DTYPES, StoreReader, verify, write_metadata, write_shard
from hubstore.store.files import stored_keys
from tests.index.stores import write_store
from tests.store.test_roundtrip import item_table, layout

ROOT = Url("s3", "lab/x.hub")
COUNTS = (64, 64, 50)


class Counting(RemoteStorage):
    """Remembers which objects were read whole and which in ranges."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.whole: list[str] = []
        self.ranged: list[tuple[str, int]] = []

    def _checked(self, key, record):
        self.whole.append(key)
        return super()._checked(key, record)

    def read_ranges(self, key, record, starts, stops):
        self.ranged.append((key, sum(stops) - sum(starts)))
        return super().read_ranges(key, record, starts, stops)


@pytest.fixture
def storage(tmp_path):
    return Counting(ROOT, MemoryStore(), FileCache(tmp_path / "cache", 1 << 30))


def fill(storage, shape):
    generator = torch.Generator().manual_seed(0)
    first_token_shard = 0
    for shard, count in enumerate(COUNTS):
        tokens = [1 + (i * 7) % 5 for i in range(count)]
        rows = {"mean": count, "tokens": sum(tokens)}
        states = {
            pooling: torch.randn(3, rows[pooling], shape.width, generator=generator).to(DTYPES[shape.dtype])
            for pooling in shape.poolings
        }
        write_shard(storage, shape, shard, item_table(shard, tokens), states, first_token_shard=first_token_shard)
        first_token_shard += -(-sum(tokens) // shape.shard_rows)
    write_metadata(storage, shape, {"corpora": []}, 192, first_token_shard * shape.shard_rows)


@pytest.fixture(params=[("none", "float32"), ("none", "bfloat16"), ("blosc-lz4-bitshuffle", "float16")])
def both(request, tmp_path, storage):
    compressor, dtype = request.param
    shape = layout(dtype, compressor)
    local = LocalStorage(tmp_path / "x.hub")
    fill(local, shape)
    fill(storage, shape)
    return StoreReader(local.root), StoreReader(ROOT, storage)


@pytest.mark.parametrize("bound", [1 << 30, 0], ids=["cached", "uncached"])
def test_rows_read_from_ranges_are_those_of_mapped_files(both, tmp_path, storage, bound):
    storage._cache = FileCache(tmp_path / "other", bound)
    local, remote = both
    assert remote.digest == local.digest
    assert remote.items.equals(local.items)
    rng = np.random.default_rng(0)
    for pooling in ("mean", "tokens"):
        here, there = local.hidden("1", pooling), remote.hidden("1", pooling)
        assert len(here) == len(there)
        for count in (0, 1, 3, 20, 100, len(here), 2 * len(here)):
            wanted = rng.integers(0, len(here), count)
            assert torch.equal(here.take(wanted), there.take(wanted))
        for start, stop in ((0, len(here)), (3, 10), (60, 70), (128, 178), (0, 0), (177, 178), (10, 170)):
            assert torch.equal(here.read(start, stop), there.read(start, stop))
            assert [at for at, _ in here.segments(start, stop)] == [at for at, _ in there.segments(start, stop)]
        with pytest.raises(QueryError, match=r"rows of layer .* are 0 to "):
            there.take([len(here)])


def test_few_rows_are_read_by_their_ranges_and_nothing_else(storage):
    shape = layout("float32")
    fill(storage, shape)
    states = StoreReader(ROOT, storage).hidden("1", "mean")
    states.take([5, 70, 71, 5])
    assert storage.whole == []
    assert sorted(size for _, size in storage.ranged) == [shape.width * 4, 2 * shape.width * 4]


def test_a_scan_reads_each_object_once_and_the_next_scan_reads_none(storage):
    fill(storage, layout("float32"))
    first = StoreReader(ROOT, storage).hidden("1", "mean").read()
    assert sorted(storage.whole) == [f"hidden/mean/1/c/{shard}/0" for shard in range(3)]
    again = StoreReader(ROOT, storage).hidden("1", "mean")
    assert torch.equal(again.read(), first)
    assert torch.equal(again.take([3]), first[[3]])
    assert len(storage.whole) == 3
    assert storage.ranged == []


def test_rows_that_a_caller_changes_are_as_they_were_for_the_next(storage):
    fill(storage, layout("float32"))
    before = StoreReader(ROOT, storage).hidden("1", "mean").read()
    for _, rows in StoreReader(ROOT, storage).hidden("1", "mean").segments():
        rows.zero_()
    for _ in range(2):
        assert torch.equal(StoreReader(ROOT, storage).hidden("1", "mean").read(), before)
    storage._writers.shutdown()
    again = RemoteStorage(ROOT, storage._client.store(), FileCache(storage._cache.folder, 1 << 30))
    assert torch.equal(StoreReader(ROOT, again).hidden("1", "mean").read(), before)


def test_a_scan_that_is_given_up_ends(storage):
    fill(storage, layout("float32"))
    scan = StoreReader(ROOT, storage).hidden("1", "mean").segments()
    next(scan)
    scan.close()


def test_a_store_is_the_same_to_the_byte(both):
    local, remote = both
    keys = local.storage.list("")
    assert remote.storage.list("") == keys
    for key in keys:
        if not key.startswith("commits/"):
            assert remote.storage.read(key) == local.storage.read(key)
    assert verify(remote.storage) == []


def test_create_gives_a_key_to_one_of_many(storage):
    won = []

    def put(number):
        if storage.put_if_absent("k", b"%d" % number):
            won.append(number)

    writers = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert storage.read("k") == b"%d" % won[0]


def test_what_is_missing_or_changed_is_named(storage):
    fill(storage, layout("float32"))
    key = "hidden/mean/1/c/0/0"
    whole = storage.read(key)
    with pytest.raises(CorruptStoreError, match=r"s3://lab/x.hub/nothing is missing; `hubstore verify s3://lab/x.hub`"):
        storage.read("nothing")
    storage.write(key, b"\0" + whole[1:])
    assert [problem.key for problem in verify(storage)] == [key]
    with pytest.raises(CorruptStoreError, match="do not match the checksum of its commit"):
        StoreReader(ROOT, storage).hidden("1", "mean").read()
    storage.write(key, whole[:100])
    with pytest.raises(CorruptStoreError, match="has 100 bytes"):
        StoreReader(ROOT, storage).hidden("1", "mean").read()
    with pytest.raises(CorruptStoreError, match=f"has 100 bytes, {len(whole)} were committed"):
        StoreReader(ROOT, storage).hidden("1", "mean").take([60])
    storage.delete(key)
    with pytest.raises(CorruptStoreError, match="is missing"):
        StoreReader(ROOT, storage).hidden("1", "mean").take([60])
    assert "missing" in verify(storage)[0].what


def test_verify_reads_the_server_whatever_the_cache_holds(storage):
    fill(storage, layout("float32"))
    states = StoreReader(ROOT, storage).hidden("1", "mean")
    before = states.read()
    key = "hidden/mean/1/c/0/0"
    storage.write(key, b"\0" + storage.read(key)[1:])
    assert [problem.key for problem in verify(storage)] == [key]
    assert torch.equal(StoreReader(ROOT, storage).hidden("1", "mean").read(), before)  # from the cache: as committed


def test_a_mapped_object_that_was_replaced_is_read_anew(storage):
    storage.write("plan/order.npy", b"old")
    assert storage.map("plan/order.npy").tobytes() == b"old"
    storage.write("plan/order.npy", b"new")
    assert storage.map("plan/order.npy").tobytes() == b"new"
    assert storage.local("plan/order.npy").read_bytes() == b"new"


def test_a_large_object_goes_up_and_down_in_parts(storage, tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 40_000_000, np.uint8).tobytes()
    storage.write("large", content[:10], content[10:])
    assert storage.read("large") == content
    assert storage.map("large").tobytes() == content
    (tmp_path / "file").write_bytes(content)
    storage.put_file("moved", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert storage.local("moved").read_bytes() == content


def test_an_upload_has_no_more_parts_than_servers_take(storage, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(client, "PART", 10)
    monkeypatch.setattr(obstore, "put", lambda store, key, content, chunk_size: sizes.append(chunk_size))
    for size in (20, 1_000_001):
        (tmp_path / "file").write_bytes(bytes(size))
        storage.write("k", bytes(size))
        storage.put_file("k", tmp_path / "file")
    assert sizes == [10, 10, 112, 112]


def test_of_many_that_want_one_object_each_waits_for_the_one_before(storage):
    within, most = [], []

    def want():
        with storage._one_at_a_time("name"):
            within.append(1)
            most.append(len(within))
            time.sleep(0.01)
            within.pop()

    for pause in (0.005, 0.008):  # some come while others wait, and as they go
        threads = [threading.Thread(target=want) for _ in range(8)]
        for thread in threads:
            thread.start()
            time.sleep(pause)
        for thread in threads:
            thread.join()
    assert max(most) == 1
    assert dict(storage._fetching) == {}


def test_what_was_uploaded_is_not_read_back_for_its_checksum(storage, tmp_path, monkeypatch):
    local = write_store(tmp_path / "x.hub", torch.randn(1, 300, 16), shard_rows=256).storage
    for key in local.list(""):
        storage.write(key, local.read(key))
    uploaded = []
    put_file = storage.put_file
    monkeypatch.setattr(storage, "put_file", lambda key, path: uploaded.append(key) or put_file(key, path))
    for read in ("map", "read", "local"):
        real = getattr(storage, read)
        monkeypatch.setattr(storage, read, lambda key, real=real: pytest.fail(key) if key in uploaded else real(key))
    (description,) = build(StoreReader(ROOT, storage), kind="hnsw")
    rows = [Item(f"i{n}", f"text {n}", "en", str(n)) for n in range(9)]
    start, none = PlanStart(0, 0, 0, 0), np.empty(0, np.uint64)
    batches = Corpus.from_items(rows).batches()
    make_plan(storage, layout("float32"), batches, start, {}, known_ids=none, memory_budget=1 << 20)
    assert {"indexes/mean/0/index.faiss", "plan/items.arrow"} <= set(uploaded)
    monkeypatch.undo()
    check_file(StoreReader(ROOT, storage), description)
    assert load_plan(storage).items == 9


def test_a_changed_file_of_the_cache_is_not_used(tmp_path):
    cache = FileCache(tmp_path, 1 << 20)
    path = cache.add("name", 4, lambda file: file.write_bytes(b"good"))
    path.write_bytes(b"evil")
    assert FileCache(tmp_path, 1 << 20).find("name") is None
    assert not path.exists()


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(tmp_path):
    cache = FileCache(tmp_path, 100_000)
    for number in range(50):
        cache.add(f"n{number}", 10_000, lambda file: file.write_bytes(bytes(10_000)))
        assert cache.find("n0") is not None
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 105_000
        time.sleep(0.002)
    assert cache.find("n49") is not None
    assert cache.find("n20") is None
    assert cache.add("huge", 100_001, lambda file: file.write_bytes(b"")) is None


def test_a_file_that_the_cache_cannot_hold_is_refused_with_the_remedy(tmp_path):
    storage = RemoteStorage(ROOT, MemoryStore(), FileCache(tmp_path, 10))
    storage.write("index.faiss", bytes(11))
    with pytest.raises(StoreError, match="set HUBSTORE_CACHE_BYTES higher"):
        storage.local("index.faiss")
    assert len(storage.map("index.faiss")) == 11


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("s3://lab/a/x.hub", Url("s3", "lab/a/x.hub")),
        ("S3://lab/x.hub/", Url("s3", "lab/x.hub")),
        (Path("s3://lab/x.hub"), Url("s3", "lab/x.hub")),
        ("https://host:1/x.hub", Url("https", "host:1/x.hub")),
        ("a/x.hub", Path("a/x.hub")),
        (Path("/a/x.hub"), Path("/a/x.hub")),
        ("c:/x.hub", Path("c:/x.hub")),
    ],
)
def test_locations(text, kind):
    assert location(text) == kind
    assert location(kind) == kind


def test_a_url_has_the_parts_that_messages_need():
    url = location("s3://lab/a/x.hub")
    assert (str(url), url.name, url.host, url.path) == ("s3://lab/a/x.hub", "x.hub", "lab", "a/x.hub")
    assert str(url / "commits/0.json") == "s3://lab/a/x.hub/commits/0.json"


@pytest.mark.parametrize("text", ["s3://key:secret@lab/x.hub", "https://lab/x.hub?sig=secret", "ftp://lab/x.hub"])
def test_a_location_that_is_refused_is_not_repeated(text):
    with pytest.raises(StoreError) as error:
        location(text)
    assert "secret" not in str(error.value)


def test_a_storage_that_goes_to_another_process_takes_no_credentials_along(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    sent = pickle.dumps(open_storage("s3://lab/x.hub"))
    assert b"a-secret" not in sent
    assert pickle.loads(sent).root == ROOT


def test_a_web_store_is_read_and_not_written(storage, tmp_path):
    fill(storage, layout("float32"))
    web = WebStorage(Url("https", "lab/x.hub"), storage._client.store(), FileCache(tmp_path / "web", 1 << 30))
    web.listing = stored_keys
    reader = StoreReader(web.root, web)
    assert len(reader) == sum(COUNTS)
    assert web.list("") == [*storage.list("")]
    assert verify(web) == []
    for write in (
        lambda: web.write("k", b""),
        lambda: web.put_if_absent("k", b""),
        lambda: web.delete("k"),
        lambda: web.put_file("k", tmp_path / "f"),
        web.lock,
    ):
        with pytest.raises(StoreAccessError, match="read over https, which cannot be written to"):
            write()


def test_over_https_centered_indexes_and_the_log_are_there_too(storage, tmp_path):
    fill(storage, layout("float32"))
    pooling, layer = (StoreReader(ROOT, storage).layout.poolings[0], StoreReader(ROOT, storage).layers[0])
    keys = [f"indexes/{pooling}/{layer}/centered/{name}" for name in ("index.faiss", "index.json")]
    for key in (*keys, "log/0.json"):
        storage.write(key, b"x")
    web = WebStorage(Url("https", "lab/x.hub"), storage._client.store(), FileCache(tmp_path / "web", 1 << 30))
    web.listing = stored_keys
    assert web.list("") == [*storage.list("")]
    assert web.list("log") == ["log/0.json"]
    assert web.list("indexes") == keys


def test_no_store_at_a_url_is_no_store(storage):
    with pytest.raises(StoreNotFoundError, match=r"s3://lab/x\.hub is not a hubstore store"):
        StoreReader(ROOT, storage)
