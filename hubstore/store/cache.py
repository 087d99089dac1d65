"""A bounded folder of files that were read from object stores, shared by all processes of a user."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubstore.errors import StoreError
from hubstore.store.shardfile import crc32c
from hubstore.store.storage import PARTIAL

DEFAULT_BYTES = 8 << 30

BLOCK = 1 << 24
ABANDONED_S = 3600
"""A partial file that nobody wrote to for so long is a killed process's."""


class FileCache:
    """Files by name, the least recently used removed first.

    A file's own name ends in its CRC32C, and each process checks it before it uses the file. Files are put in place
    whole, and those that are mapped live on when they are removed, so that processes need not agree on anything.

    Args:
        folder: where the files are; made when the first is added.
        most: bytes of all files together; 0 keeps nothing.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._checked: set[str] = set()
        self._pinned: set[str] = set()
        self._partials = itertools.count()
        self._unswept = most  # what is there already is counted at once
        self._sweeping = threading.Lock()

    def find(self, name: str, *, pin: bool = False) -> Path | None:
        """The file called `name`, if it is there and as it was added; `pin` keeps this process from removing it."""
        for path in sorted(self.folder.glob(f"{name}-*")):
            if path.suffix == PARTIAL:
                continue
            try:
                if path.name not in self._checked and not _intact(path):
                    path.unlink(missing_ok=True)
                    continue
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            except OSError:  # another process removed it, or it cannot be read
                continue
            self._checked.add(path.name)
            if pin:
                self._pinned.add(path.name)
            return path
        return None

    def add(
        self, name: str, size: int, fill: Callable[[Path], None], *, checksum: int | None = None, pin: bool = False
    ) -> Path | None:
        """The file called `name`, which `fill` writes; None where it is too large, or the folder cannot hold it.

        `checksum` is the CRC32C of what should be written, where it is known: the file is held against it when it is
        used.
        """
        if size > self.most:
            return None
        partial = self.folder / f".{name}.{os.getpid()}-{next(self._partials)}{PARTIAL}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fill(partial)
            final = self.folder / f"{name}-{_checksum(partial) if checksum is None else checksum:08x}"
            partial.replace(final)
        except OSError as error:
            if isinstance(error, StoreError):  # the object store's, not the disk's
                raise
            return None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        if checksum is None:
            self._checked.add(final.name)
        if pin:
            self._pinned.add(final.name)
        self._make_room(size)
        return final

    def _make_room(self, added: int) -> None:
        """Remove the oldest files above the bound; looked at once for every twentieth of it that is added."""
        with self._sweeping:
            self._unswept += added
            if self._unswept < self.most // 20:
                return
            self._unswept = 0
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            for used, size, path in files:
                if path.suffix == PARTIAL and time.time() - used > ABANDONED_S:
                    path.unlink(missing_ok=True)
                elif total > self.most * 19 // 20 and path.suffix != PARTIAL and path.name not in self._pinned:
                    path.unlink(missing_ok=True)
                    total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                state = entry.stat()
                if entry.is_file():
                    found.append((max(state.st_atime, state.st_mtime), state.st_size, Path(entry.path)))
        return found


def page_aligned(size: int) -> npt.NDArray[np.uint8]:
    """uint8 [size] from the start of a page, as `write_file` writes fastest."""
    room = np.empty(size + mmap.PAGESIZE, np.uint8)  # numpy's memory has huge pages, an anonymous mapping has not
    start = -room.ctypes.data % mmap.PAGESIZE
    return room[start : start + size]


def write_file(path: Path, content: npt.NDArray[np.uint8]) -> None:
    """Write a new file, where the disk allows past the page cache: a copy there takes as long as a download."""
    view, direct = content.data, 0
    if content.ctypes.data % mmap.PAGESIZE == 0:
        direct = len(content) // mmap.PAGESIZE * mmap.PAGESIZE
    if direct:
        try:
            _write(path, os.O_CREAT | os.O_EXCL | getattr(os, "O_DIRECT", 0), view[:direct])
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that has no such writing
                raise
            path.unlink(missing_ok=True)
            direct = 0
    _write(path, os.O_CREAT | os.O_APPEND, view[direct:])


def _write(path: Path, flags: int, view: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


@cache
def user_cache() -> FileCache:
    """The cache of this user: HUBSTORE_CACHE names its folder, HUBSTORE_CACHE_BYTES its bound.

    Raises:
        StoreError: HUBSTORE_CACHE_BYTES is no number of bytes.
    """
    given = os.environ.get("HUBSTORE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    bound = os.environ.get("HUBSTORE_CACHE_BYTES", str(DEFAULT_BYTES))
    if not bound.isdigit():
        raise StoreError(f"HUBSTORE_CACHE_BYTES is {bound!r}; give a number of bytes, such as {DEFAULT_BYTES}, or 0")
    return FileCache(Path(given) if given else base / "hubstore" / "objects", int(bound))


def _intact(path: Path) -> bool:
    return path.name.rpartition("-")[2] == f"{_checksum(path):08x}"


def _checksum(path: Path) -> int:
    if path.stat().st_size == 0:
        return 0
    mapped = np.memmap(path, np.uint8, mode="r")
    return crc32c(*(mapped[i : i + BLOCK].data for i in range(0, len(mapped), BLOCK)))
