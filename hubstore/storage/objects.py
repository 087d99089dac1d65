"""Files of an object store: ranged, parallel reads by way of the user's cache, and a lease as lock."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar
from weakref import WeakValueDictionary

from hubstore.errors import StoreError
from hubstore.storage.cache import FileCache, user_cache, write_file
from hubstore.storage.client import READERS, ObjectClient, concatenated, stat_of
from hubstore.storage.cloud import FIRST_PATIENCE, connect
from hubstore.storage.interface import FileStat, Storage, check_key
from hubstore.storage.lease import LEASE, DelegatedLease, Lease
from hubstore.storage.location import Url
from hubstore.storage.mappings import Mappings
from hubstore.storage.record import Buffer, Bytes, FileRecord

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")

WRITERS, UNWRITTEN = 2, 8
"""Threads that write to the cache, and objects that wait for them at most."""

MAPPED = 256
"""Pieces that stay mapped over all layers: far fewer than the files that a process may open."""

OPENED = 3
"""How often a file is opened that other processes remove from the cache meanwhile."""

AHEAD_BYTES = 128 << 20
"""Bytes that are read ahead of the result that is waited for."""


class RemoteStorage(Storage):
    """Everything below one URL of an object store.

    Args:
        root: the URL.
        store: a client for what is below it.
        cache: where whole objects are stored; the user's by default.
        first: a client of less patience, for as long as the server has not answered.
    """

    def __init__(
        self, root: Url, store: ObjectStore, cache: FileCache | None = None, *, first: ObjectStore | None = None
    ) -> None:
        self._cache = user_cache() if cache is None else cache
        super().__init__(root, Mappings(self._cache.most, MAPPED))
        self._url = root
        self._client = ObjectClient(root, store, first)
        self._lease: Lease | DelegatedLease | None = None
        self._unwritten: dict[str, Future[None]] = {}
        self._fetching: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # while somebody waits
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process connects anew, and writes by this one's lease; credentials do not travel."""
        return type(self).at, (self._url, self._lease and self._lease.token)

    @classmethod
    def at(cls, root: Url, token: str | None = None) -> Self:
        """What is below a URL; `token` is of the lease of the process that started this one."""
        storage = cls(root, connect(root), first=connect(root, FIRST_PATIENCE))
        if token is not None:
            storage._lease = DelegatedLease(storage._client.store, root, token)
        return storage

    @property
    def root(self) -> Url:
        """The URL."""
        return self._url

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READERS, thread_name_prefix="hubstore read")

    @cached_property
    def _writers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WRITERS, thread_name_prefix="hubstore cache")

    def stat(self, key: str) -> FileStat | None:
        """Size, time and ETag of the object; None where there is none."""
        found = self._client.head(key)
        return found and stat_of(key, found)

    def stat_many(self, keys: Sequence[str], prefixes: Sequence[str] = ()) -> Sequence[FileStat]:
        """The objects `keys` that are there and all below `prefixes`, by key."""
        heads = self._readers.map(self.stat, keys)
        listed = [stat_of(found["path"], found) for prefix in prefixes for found in self._client.list(prefix)]
        return sorted({*filter(None, heads), *listed}, key=lambda found: found.key)

    def list(self, prefix: str) -> Sequence[str]:
        """Every object below `prefix`, sorted; the lease is left out."""
        return sorted(found["path"] for found in self._client.list(prefix) if found["path"] != LEASE)

    def read(self, key: str) -> bytes:
        """The object's bytes, from the server; CorruptStoreError when it is missing."""
        with self._there(key):
            return self._client.whole(key).tobytes()

    def read_ranges(self, key: str, record: FileRecord, starts: Sequence[int], stops: Sequence[int]) -> Sequence[Bytes]:
        """Bytes [start, stop) of an object that was committed, side by side; CorruptStoreError when it is too short."""
        with self._there(key):
            try:
                parts = self._client.ranges(key, starts, stops)
            except StoreError as error:
                size = self.size(key)
                if size != record.size:
                    raise self.other_size(key, size, record) from error
                raise
        for part, start, stop in zip(parts, starts, stops, strict=True):
            if len(part) != stop - start:
                raise self.other_size(key, start + len(part), record)
        return parts

    def record(self, key: str) -> FileRecord | None:
        """Size and CRC32C of the object on the server; None where there is none."""
        try:
            return FileRecord.of(self._client.whole(key))
        except FileNotFoundError:
            return None

    def map(self, key: str) -> Bytes:
        """The object's bytes, mapped copy-on-write from the cache where it takes them, else in memory."""
        meta = self._head_of(key)
        name = self._named(key, meta)
        with self._one_at_a_time(name), self._there(key):
            found = self._cache.map(name)
            if found is None and self._cache.add(name, meta["size"], partial(self._client.download, key, meta)):
                found = self._cache.map(name)
            return self._client.parts(key, meta) if found is None else found

    def map_committed(self, key: str, record: FileRecord) -> Bytes:
        """The bytes of an object that a commit records: mapped from the cache where it holds them already, else read.

        Read, they are in memory, and in the cache for the next time.

        Raises:
            CorruptStoreError: the object is missing, or not what was committed.
        """
        name = self._committed(key, record)
        with self._one_at_a_time(name):
            waiting = self._unwritten.get(name)
            if waiting is not None:  # its bytes are with another caller, who may change them; the file is checked
                waiting.result()
            found = self._cache.map(name)
            if found is not None:
                return found
            downloaded = self._checked(key, record)
            if record.size <= self._cache.largest:
                self._add_to_cache(name, downloaded, record.crc32c)
        return downloaded

    def mapped(self, key: str, record: FileRecord) -> Bytes | None:
        """The bytes of an object that a commit records, where the cache holds them."""
        return self._cache.map(self._committed(key, record))

    def local(self, key: str) -> Path:
        """A copy of the object in the cache, as old as the object is.

        Raises:
            CorruptStoreError: it is missing.
            StoreError: the cache cannot hold it.
        """
        return self._local(key, pin=True)

    def open(self, key: str) -> BinaryIO:
        """As `local`, but opened: it can be read for as long as it is open, and may leave the cache meanwhile."""
        for _ in range(OPENED):
            path = self._local(key, pin=False)
            with contextlib.suppress(FileNotFoundError):
                return path.open("rb")
        raise StoreError(
            f"{self._root / key}: other processes removed its copy from the cache {self._cache.folder} again and "
            "again; set HUBSTORE_CACHE_BYTES higher"
        )

    def write(self, key: str, *buffers: Buffer) -> None:
        """Put the object: it is there when its last part is."""
        self._check_write(key)
        content = concatenated(buffers)
        self._client.put(key, content, len(content))

    def put_if_absent(self, key: str, *buffers: Buffer) -> bool:
        """Put the object on the condition that there is none, which the server decides."""
        self._check_write(key, anew=True)
        return self._client.put_if_absent(key, concatenated(buffers))

    def put_file(self, key: str, path: Path) -> None:
        """Upload a finished local file in parts, and remove it."""
        self._check_write(key)
        self._client.put(key, path, path.stat().st_size)
        path.unlink()

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        self._check_write(key)
        self._client.delete(key)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lease; this process's writes are refused once it is lost."""
        return self._locked()

    def share(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is held: a commit is put where there is none, and whoever plans holds the lease meanwhile."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        before, self._lease = self._lease, Lease(self._client.store, self._url)
        try:
            with self._lease.held():
                yield
        finally:
            self._lease = before

    @contextlib.contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """A free path in a temporary folder."""
        try:
            temporary = tempfile.TemporaryDirectory()
        except OSError as error:
            raise StoreError(
                f"{self._root / key}: no folder takes the file until it is uploaded ({error}); set TMPDIR to one "
                "that does"
            ) from error
        with temporary as folder:
            yield Path(folder) / key.rpartition("/")[2]

    def in_order(self, jobs: Iterable[tuple[int, Callable[[], T]]]) -> Iterator[T]:
        """The results of `jobs`; the next ones are read meanwhile, up to `AHEAD_BYTES` of them."""
        waiting: deque[tuple[int, Future[T]]] = deque()
        ahead = 0
        try:
            for size, job in jobs:
                while len(waiting) >= READERS or (waiting and ahead >= AHEAD_BYTES):
                    read, result = waiting.popleft()
                    yield result.result()
                    ahead -= read
                waiting.append((size, self._readers.submit(job)))
                ahead += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, result in waiting:
                result.cancel()

    def _add_to_cache(self, name: str, content: Bytes, checksum: int) -> None:
        """Put into the cache what was read: beside the reading that goes on, unless the disk is too slow for it."""

        def write() -> None:
            self._cache.add(name, len(content), lambda file: write_file(file, content), checksum=checksum)

        if len(self._unwritten) >= UNWRITTEN:
            write()
            return
        self._unwritten[name] = writing = self._writers.submit(write)
        writing.add_done_callback(lambda done: self._unwritten.pop(name, None))

    def _local(self, key: str, *, pin: bool) -> Path:
        meta = self._head_of(key)
        name, size = self._named(key, meta), meta["size"]
        with self._one_at_a_time(name), self._there(key):
            path = self._cache.find(name, pin=pin) or self._cache.add(
                name, size, partial(self._client.download, key, meta), pin=pin
            )
        if path is None:
            raise StoreError(
                f"{self._root / key} has {size:,} bytes and is read as a file, which the cache {self._cache.folder} "
                f"cannot hold ({self._cache.largest:,} bytes at most); set HUBSTORE_CACHE_BYTES higher, or "
                "HUBSTORE_CACHE to a folder with room"
            )
        return path

    def _checked(self, key: str, record: FileRecord) -> Bytes:
        with self._there(key):
            found = self._client.whole(key, record.size)
        if len(found) != record.size:
            raise self.other_size(key, len(found), record)
        if FileRecord.of(found) != record:
            raise self.corrupt(key, "has bytes that do not match the checksum of its commit")
        return found

    def _head_of(self, key: str) -> ObjectMeta:
        found = self._client.head(key)
        if found is None:
            raise self.missing(key)
        return found

    def _check_write(self, key: str, *, anew: bool = False) -> None:
        check_key(self._root, key)
        self.before_write(key)
        if self._lease is not None:
            self._lease.check(anew=anew)

    def _named(self, key: str, meta: ObjectMeta) -> str:
        """The name in the cache of one version of an object."""
        version = f"{meta['e_tag']} {meta['version']} {meta['last_modified']} {meta['size']}"
        if not meta["e_tag"] and not meta["last_modified"].timestamp():  # no answer tells one version from another
            version = uuid.uuid4().hex
        return _name(f"{self._root / key} {version}")

    def _committed(self, key: str, record: FileRecord) -> str:
        """The name in the cache of an object that was committed."""
        return _name(f"{self._root / key} {record.size} {record.crc32c:08x}")

    def _one_at_a_time(self, name: str) -> threading.Lock:
        """Threads of this process that want one object wait for the first, and find it in the cache."""
        with self._guard:
            return self._fetching.setdefault(name, threading.Lock())

    @contextlib.contextmanager
    def _there(self, key: str) -> Iterator[None]:
        """CorruptStoreError where the server says that there is no such object."""
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error, StoreError):
                raise
            raise self.missing(key) from None


def _name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:40]
