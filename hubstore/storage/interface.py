"""The one interface between hubstore and where its bytes live. Keys are "/"-separated and relative to the store."""

from __future__ import annotations

import contextlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from hubstore.errors import CorruptStoreError, StoreError
from hubstore.storage.location import Location, shell_word
from hubstore.storage.mappings import Mappings
from hubstore.storage.record import Buffer, Bytes, FileRecord

T = TypeVar("T")

_NO_KEY = re.compile(r"(\A|/)\.{0,2}(/|\Z)|\x00")
"""In what names no file below a root: a part that is empty, . or .., or a zero byte."""

PARTIAL = ".partial"
"""Suffix of files that are still being written."""


def check_key(root: Location, key: str) -> None:
    """StoreError where a key names nothing below the root."""
    if _NO_KEY.search(key):
        raise StoreError(f"{root}: {key!r:.200} names no file of a store; what names it is damaged, or not hubstore's")


class FileStat(NamedTuple):
    """What is known of a file without reading it.

    Args:
        key: its name.
        size: its bytes.
        mtime_ns: when it was written, in nanoseconds.
        etag: what an object store calls this version of it, where it says so.
    """

    key: str
    size: int
    mtime_ns: int
    etag: str | None = None


class Storage(ABC):
    """Reads, atomic writes and listing of the files below one root.

    Args:
        root: a folder, or a URL.
        mappings: bounds the files that stay mapped.
    """

    is_local = False
    """Whether the files are on this machine's disks."""

    def __init__(self, root: Location, mappings: Mappings) -> None:
        self._root = root
        self.mappings = mappings
        self.before_write: Callable[[str], None] = lambda key: None
        """Called with each key before it is written or removed; what it raises refuses that."""

    @property
    def root(self) -> Location:
        """Where the files are."""
        return self._root

    @abstractmethod
    def stat(self, key: str) -> FileStat | None:
        """Size, time and version of the file; None where there is none."""

    @abstractmethod
    def stat_many(self, keys: Sequence[str], prefixes: Sequence[str] = ()) -> Sequence[FileStat]:
        """The files `keys` that are there and all below `prefixes`, by key."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[str]:
        """Every key below `prefix`, sorted; files that are still being written are left out."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The file's bytes, from where it is; CorruptStoreError when it is missing."""

    @abstractmethod
    def read_ranges(self, key: str, record: FileRecord, starts: Sequence[int], stops: Sequence[int]) -> Sequence[Bytes]:
        """Bytes [start, stop) of a file that was committed; CorruptStoreError when it is missing or too short."""

    @abstractmethod
    def map(self, key: str) -> Bytes:
        """The file's bytes, mapped copy-on-write where that is possible; CorruptStoreError when it is missing."""

    @abstractmethod
    def map_committed(self, key: str, record: FileRecord) -> Bytes:
        """As `map`, of a file that was committed; CorruptStoreError when it has another size."""

    def mapped(self, key: str, record: FileRecord) -> Bytes | None:
        """As `map_committed`, where that needs no download; else None."""
        return self.map_committed(key, record)

    @abstractmethod
    def record(self, key: str) -> FileRecord | None:
        """Size and CRC32C of the file's bytes where it is, whatever a cache holds; None where there is none."""

    @abstractmethod
    def local(self, key: str) -> Path:
        """A local file with the bytes, for libraries that take only file names; it stays while this process runs."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """The file, opened: it can be read for as long as it is open."""

    @abstractmethod
    def write(self, key: str, *buffers: Buffer) -> None:
        """Put the concatenated `buffers` under `key`: wholly and durably, or not at all."""

    @abstractmethod
    def put_if_absent(self, key: str, *buffers: Buffer) -> bool:
        """Like `write` where `key` is free; False, and nothing done, where it is taken."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Move a finished local file to `key`, atomically and durably."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""

    @abstractmethod
    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Be the only writer; StoreLockedError when another process is."""

    @abstractmethod
    def share(self) -> contextlib.AbstractContextManager[None]:
        """Be one of several writers, each of shards of its own; StoreLockedError where one holds the lock."""

    @abstractmethod
    def scratch(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """A free path for a file that `put_file` moves to `key`: on the storage's own disk, if it has one."""

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return self.stat(key) is not None

    def size(self, key: str) -> int:
        """Bytes in the file; CorruptStoreError when it is missing."""
        found = self.stat(key)
        if found is None:
            raise self.missing(key)
        return found.size

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        """The bytes of each file, in their order."""
        return self.in_order((0, partial(self.read, key)) for key in keys)

    def in_order(self, jobs: Iterable[tuple[int, Callable[[], T]]]) -> Iterator[T]:
        """The results of `jobs`, each with the bytes that it reads; remote ones are read side by side."""
        return (job() for _, job in jobs)

    def free_bytes(self) -> float:
        """Bytes that can still be written; infinite where nothing says."""
        return math.inf

    def check_vacant(self, own: Sequence[str]) -> None:
        """StoreExistsError where files stand at the root and none of the keys `own`, which a store would have."""
        return

    def missing(self, key: str) -> CorruptStoreError:
        """The error of a file that is not there."""
        return self.corrupt(key, "is missing")

    def other_size(self, key: str, size: int, record: FileRecord) -> CorruptStoreError:
        """The error of a file that has another size than was committed."""
        return self.corrupt(key, f"has {size} bytes, {record.size} were committed")

    def corrupt(self, key: str, what: str) -> CorruptStoreError:
        """The error of a file that is not as it was written."""
        return CorruptStoreError(
            f"{self._root / key} {what}; `hubstore verify {shell_word(self._root)}` lists all that is wrong"
        )
