"""A store in an object store: ranged, parallel reads, multipart writes, commits by put-if-absent, a lease as lock."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

import numpy as np

from hubstore.errors import CorruptStoreError, StoreError
from hubstore.storage.cache import Bytes, FileCache, Mappings, page_aligned, user_cache, write_file
from hubstore.storage.cloud import FIRST_PATIENCE, connect, told
from hubstore.storage.lease import LEASE, Lease, LentLease
from hubstore.storage.local import Buffer
from hubstore.storage.location import Url, shell_word
from hubstore.store.commit import FileRecord
from hubstore.store.shardfile import crc32c

if TYPE_CHECKING:
    from obstore import Bytes as Readable
    from obstore import GetResult, ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")

STREAMED = 1 << 18
"""Bytes that are taken over from the client at a time: gathered first, they would be copied twice."""

REFUSED = re.compile(r"\b40[013]\b")
"""In what the client says of an answer that refuses."""

READERS = 16
"""Requests of one process at a time."""

WRITERS, UNWRITTEN = 2, 8
"""Threads that write to the cache, and objects that wait for them at most."""

MAPPED = 256
"""Pieces that stay mapped over all layers: far fewer than the files that a process may open."""

OPENED = 3
"""How often a file is opened that other processes remove from the cache meanwhile."""

PART = 8 << 20
"""Bytes of one request: larger objects are read and written in parts, side by side."""

PARTS = 9_000
"""Parts of an upload at most; servers take 10,000."""


class RemoteStorage:
    """Everything below one URL of an object store.

    Args:
        root: the URL.
        store: a client for what is below it.
        cache: where whole objects are kept; the user's by default.
        first: a client of less patience, for as long as the server has not answered.
    """

    def __init__(
        self, root: Url, store: ObjectStore, cache: FileCache | None = None, *, first: ObjectStore | None = None
    ) -> None:
        self._root = root
        self._patient = store
        self._first = first
        self._cache = user_cache() if cache is None else cache
        self.mappings = Mappings(self._cache.most, MAPPED)
        self._lease: Lease | LentLease | None = None
        self._unwritten: dict[str, Future[None]] = {}
        self._fetching: dict[str, tuple[threading.Lock, int]] = {}
        self._fetching_guard = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process connects anew, and writes by this one's lease; credentials do not travel."""
        return type(self).at, (self._root, self._lease and self._lease.token)

    @classmethod
    def at(cls, root: Url, token: str | None = None) -> Self:
        """What is below a URL; `token` is of the lease of the process that started this one."""
        storage = cls(root, connect(root), first=connect(root, FIRST_PATIENCE))
        if token is not None:
            storage._lease = LentLease(storage._client, root, token)
        return storage

    @property
    def root(self) -> Url:
        """The URL."""
        return self._root

    @property
    def _store(self) -> ObjectStore:
        return self._client()

    def _client(self) -> ObjectStore:
        return self._patient if self._first is None else self._first

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READERS, thread_name_prefix="hubstore read")

    @cached_property
    def _writers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WRITERS, thread_name_prefix="hubstore cache")

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._head(key) is not None

    def size(self, key: str) -> int:
        """Bytes in the object; CorruptStoreError when it is missing."""
        return self._head_of(key)["size"]

    def read(self, key: str) -> bytes:
        """The object's bytes, from the server; CorruptStoreError when it is missing."""
        import obstore

        with self._missing(key), self._told("reading", key):
            found = obstore.get(self._store, key)
            if found.meta["size"] <= 2 * PART:
                return bytes(found.bytes())
        return self._parts(key, found.meta).tobytes()

    def read_all(self, keys: Sequence[str]) -> Sequence[bytes]:
        """As `read`, of many objects side by side, in their order."""
        return [*self._readers.map(self.read, keys)]

    def write(self, key: str, *buffers: Buffer) -> None:
        """Put the object, in parts of one upload where it is large: it is there when the last part is."""
        import obstore

        self._may_write()
        with self._told("writing", key):
            content = _joined(buffers)
            obstore.put(self._store, key, content, chunk_size=_part_size(len(content)))

    def create(self, key: str, *buffers: Buffer) -> bool:
        """Put the object on the condition that there is none, which the server decides."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self._may_write(anew=True)
        token = uuid.uuid4().hex
        with self._told("writing", key):
            try:
                obstore.put(
                    self._store, key, _joined(buffers), mode="create", use_multipart=False, attributes={"writer": token}
                )
            except (AlreadyExistsError, PreconditionError):
                return self._is_ours(key, token)
        return True

    def list(self, prefix: str) -> Sequence[str]:
        """Every object below `prefix`, sorted; the lease is left out."""
        import obstore

        with self._told("listing", prefix):
            pages = obstore.list(self._store, prefix or None)
            return sorted(found["path"] for page in pages for found in page if found["path"] != LEASE)

    def stamps(self, keys: Sequence[str], prefixes: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """Name, time in nanoseconds and size of the objects `keys` that are there and of all below `prefixes`."""
        import obstore

        heads = [found for key in keys if (found := self._head(key)) is not None]
        for prefix in prefixes:
            with self._told("listing", prefix):
                heads += [found for page in obstore.list(self._store, prefix) for found in page]
        for found in sorted(heads, key=lambda head: head["path"]):
            yield found["path"], _nanoseconds(found), found["size"]

    def look_up(self, key: str) -> tuple[int, int, str | None] | None:
        """Size, time in nanoseconds and ETag of the object; None where it is not there."""
        found = self._head(key)
        return None if found is None else (found["size"], _nanoseconds(found), found["e_tag"])

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        import obstore

        self._may_write()
        with contextlib.suppress(FileNotFoundError), self._told("removing", key):
            obstore.delete(self._store, key)

    def map(self, key: str) -> Bytes:
        """The object's bytes, mapped copy-on-write from the cache where it takes them, else in memory."""
        meta = self._head_of(key)
        name = self._named(key, meta)
        with self._one_at_a_time(name):
            found = self._cache.map(name)
            if found is None and self._cache.add(name, meta["size"], partial(self._fetch, key, meta)):
                found = self._cache.map(name)
        return self._parts(key, meta) if found is None else found

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
            fetched = self._checked(key, record)
            if record.size <= self._cache.largest:
                self._keep(name, fetched, record.crc32c)
        return fetched

    def cached(self, key: str, record: FileRecord) -> Bytes | None:
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

    def _local(self, key: str, *, pin: bool) -> Path:
        meta = self._head_of(key)
        name, size = self._named(key, meta), meta["size"]
        with self._one_at_a_time(name):
            path = self._cache.find(name, pin=pin) or self._cache.add(
                name, size, partial(self._fetch, key, meta), pin=pin
            )
        if path is None:
            raise StoreError(
                f"{self._root / key} has {size:,} bytes and is read as a file, which the cache {self._cache.folder} "
                f"cannot hold ({self._cache.largest:,} bytes at most); set HUBSTORE_CACHE_BYTES higher, or "
                "HUBSTORE_CACHE to a folder with room"
            )
        return path

    def ranges(self, key: str, record: FileRecord, starts: Sequence[int], stops: Sequence[int]) -> Sequence[Bytes]:
        """Bytes [start, stop) of an object that a commit records, side by side.

        Raises:
            CorruptStoreError: the object is missing, or too short.
        """
        import obstore

        with self._missing(key), self._told("reading", key):
            try:
                found = obstore.get_ranges(self._store, key, starts=starts, ends=stops, coalesce=0)
            except obstore.exceptions.BaseError as error:
                size = self._head_of(key)["size"]
                if size != record.size:
                    raise self._changed(key, size, record) from error
                raise
        parts = [_array(part) for part in found]
        for part, start, stop in zip(parts, starts, stops, strict=True):
            if len(part) != stop - start:
                raise self._changed(key, start + len(part), record)
        return parts

    def put_file(self, key: str, path: Path) -> None:
        """Upload a finished local file in parts, and remove it."""
        import obstore

        self._may_write()
        with self._told("writing", key):
            obstore.put(self._store, key, path, chunk_size=_part_size(path.stat().st_size))
        path.unlink()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the store's lease; this process's writes are refused once it is lost."""
        return self._locked()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        before, self._lease = self._lease, Lease(self._client, self._root)
        try:
            with self._lease.held():
                yield
        finally:
            self._lease = before

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Read beside others, in one of this storage's threads."""
        return self._readers.submit(work)

    def _keep(self, name: str, content: Bytes, checksum: int) -> None:
        """Put into the cache what was read: beside the reading that goes on, unless the disk is too slow for it."""

        def write() -> None:
            self._cache.add(name, len(content), lambda file: write_file(file, content), checksum=checksum)

        if len(self._unwritten) >= UNWRITTEN:
            write()
            return
        self._unwritten[name] = writing = self._writers.submit(write)
        writing.add_done_callback(lambda done: self._unwritten.pop(name, None))

    def _parts(self, key: str, meta: ObjectMeta) -> Bytes:
        """An object's bytes in memory."""
        out = page_aligned(meta["size"])

        def put(start: int, part: Bytes) -> None:
            out[start : start + len(part)] = part

        self._in_parts(key, meta, put)
        return out

    def _fetch(self, key: str, meta: ObjectMeta, path: Path) -> None:
        """Write an object to a new file, as old as the object is, while its parts arrive."""
        with path.open("xb") as file:
            self._in_parts(key, meta, lambda start, part: _write_at(file.fileno(), start, part))
        os.utime(path, ns=(time.time_ns(), _nanoseconds(meta)))

    def _in_parts(self, key: str, meta: ObjectMeta, put: Callable[[int, Bytes], None]) -> None:
        """Read an object in parts side by side, all of one version."""
        import obstore

        size, version = meta["size"], meta["e_tag"]
        same = {"if_match": version} if version and not version.startswith("W/") else {}  # weak ones match nothing

        def read(start: int) -> None:
            stop = min(start + PART, size)
            options: Any = {"range": (start, stop), **same}
            with self._missing(key), self._told("reading", key):
                try:
                    found = obstore.get(self._store, key, options=options)
                    part = _array(found.bytes())
                except obstore.exceptions.PreconditionError:
                    raise self._changed_meanwhile(key) from None
            if _versions_differ(meta, found.meta) or len(part) != stop - start:
                raise self._changed_meanwhile(key)
            put(start, part)

        starts = range(0, size, PART)
        if len(starts) <= 1:
            for start in starts:
                read(start)
            return
        with ThreadPoolExecutor(min(READERS, len(starts))) as pool:
            list(pool.map(read, starts))

    def _checked(self, key: str, record: FileRecord) -> Bytes:
        import obstore

        if record.size <= 2 * PART:
            with self._missing(key), self._told("reading", key):
                fetched = _streamed(obstore.get(self._store, key))
        else:
            fetched = self._parts(key, self._head_of(key))
        if len(fetched) != record.size:
            raise self._changed(key, len(fetched), record)
        if crc32c(fetched.data) != record.crc32c:
            raise CorruptStoreError(
                f"{self._root / key}: its bytes do not match the checksum of its commit; "
                f"`hubstore verify {shell_word(self._root)}` lists all that is wrong"
            )
        return fetched

    def _head(self, key: str) -> ObjectMeta | None:
        import obstore

        with self._told("looking up", key):
            try:
                return obstore.head(self._store, key)
            except FileNotFoundError:
                return None
            except obstore.exceptions.BaseError as error:
                if not REFUSED.search(str(error)):
                    raise
                return obstore.get(self._store, key).meta  # refused as well, and with the reason that HEAD leaves out

    def _head_of(self, key: str) -> ObjectMeta:
        found = self._head(key)
        if found is None:
            raise self._is_missing(key)
        return found

    def _is_ours(self, key: str, token: str) -> bool:
        """Whether what is there was just put, by a request whose answer was lost and which was tried again."""
        import obstore

        try:
            return bool(obstore.get(self._store, key).attributes.get("writer") == token)
        except FileNotFoundError:
            return False

    def _may_write(self, *, anew: bool = False) -> None:
        if self._lease is not None:
            self._lease.check(anew=anew)

    def _named(self, key: str, meta: ObjectMeta) -> str:
        version = f"{meta['e_tag']} {meta['version']} {meta['last_modified']} {meta['size']}"
        if not meta["e_tag"] and not meta["last_modified"].timestamp():  # nothing tells another object in its place
            version = uuid.uuid4().hex
        return _name(f"{self._root / key} {version}")

    def _committed(self, key: str, record: FileRecord) -> str:
        return _name(f"{self._root / key} {record.size} {record.crc32c:08x}")

    @contextlib.contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[None]:
        """Threads of this process that want one object wait for the first, and find it in the cache."""
        with self._fetching_guard:
            lock, waiting = self._fetching.get(name, (threading.Lock(), 0))
            self._fetching[name] = lock, waiting + 1
        try:
            with lock:
                yield
        finally:
            with self._fetching_guard:
                lock, waiting = self._fetching.pop(name)
                if waiting > 1:
                    self._fetching[name] = lock, waiting - 1

    @contextlib.contextmanager
    def _told(self, doing: str, key: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        what = f"{doing} {self._root / key if key else self._root}"
        try:
            with told(what, self._root):
                yield
        except (AlreadyExistsError, PreconditionError):
            raise StoreError(
                f"{what}: the server refused it, since something else was done to the object at the same time; run the "
                "same command again"
            ) from None
        self._first = None  # the server answers

    @contextlib.contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error, StoreError):
                raise
            raise self._is_missing(key) from None

    def _is_missing(self, key: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self._root / key} is missing; `hubstore verify {shell_word(self._root)}` lists all that is wrong"
        )

    def _changed_meanwhile(self, key: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._root / key} changed while it was read; run the same command again")

    def _changed(self, key: str, size: int, record: FileRecord) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self._root / key} has {size} bytes, {record.size} were committed; "
            f"`hubstore verify {shell_word(self._root)}` lists all that is wrong"
        )


def _joined(buffers: Sequence[Buffer]) -> bytes | memoryview:
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    return views[0] if len(views) == 1 else b"".join(views)


def _part_size(size: int) -> int:
    return max(PART, -(-size // PARTS))


def _array(content: Readable | bytes) -> Bytes:
    return np.frombuffer(memoryview(content), np.uint8)


def _streamed(found: GetResult) -> Bytes:
    """An object's bytes, each copied once."""
    out, end = page_aligned(found.meta["size"]), 0
    for chunk in found.stream(min_chunk_size=STREAMED):
        part = _array(chunk)
        if end + len(part) > len(out):
            break
        out[end : end + len(part)] = part
        end += len(part)
    return out[:end]


def _versions_differ(one: ObjectMeta, other: ObjectMeta) -> bool:
    """Whether two answers are of different objects, as far as both tell."""
    tags = {found["e_tag"] for found in (one, other)} - {None}
    times = {found["last_modified"].timestamp() for found in (one, other)} - {0}
    return one["size"] != other["size"] or len(tags) > 1 or len(times) > 1


def _write_at(descriptor: int, start: int, content: Bytes) -> None:
    view = content.data
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written


def _nanoseconds(found: ObjectMeta) -> int:
    return round(found["last_modified"].timestamp() * 1e9)


def _name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:40]
