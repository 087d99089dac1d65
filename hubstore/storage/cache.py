"""A bounded folder of files that were read from object stores, shared by all processes of a user."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from hubstore.checks import whole_number
from hubstore.errors import StoreError
from hubstore.storage.interface import PARTIAL
from hubstore.storage.location import LINKS
from hubstore.storage.record import Bytes, crc32c

DEFAULT_BYTES = 8 << 30

ABANDONED_S = 3600
"""A partial file that nobody wrote to for so long is a killed process's."""

LINKED_S = 24 * 3600
"""How long a corpus's link to a file outlives the file in the cache, for the process that reads by it."""


class FileCache:
    """Files by name, the least recently used removed first.

    A file's own name ends in its CRC32C, and each process checks it before it uses the file. Files are put in place
    whole, and an open or mapped file stays readable after it is removed. Processes therefore share the folder without
    locks: a process that finds a file removed downloads it again.

    Args:
        folder: where the files are; made when the first is added.
        most: bytes of all files together; 0 keeps nothing.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._checked: dict[str, tuple[int, int]] = {}  # inode and time: a file put in its place is another
        self._pinned: set[str] = set()
        self._unswept = most  # what is there already is counted at once
        self._sweeping = threading.Lock()

    @property
    def largest(self) -> int:
        """Bytes of the largest file that is taken: what is left after a sweep."""
        return self.most * 19 // 20

    def find(self, name: str, *, pin: bool = False) -> Path | None:
        """The file called `name`, if it is there and as it was added; `pin` keeps this process from removing it."""
        found = self._look_up(name)
        if found is None:
            return None
        path, _ = found
        if pin:
            self._pinned.add(path.name)
        return path if path.exists() else None

    def map(self, name: str) -> Bytes | None:
        """The bytes of the file called `name`, mapped copy-on-write, if it is there and as it was added."""
        found = self._look_up(name)
        return None if found is None else found[1]

    def add(
        self, name: str, size: int, fill: Callable[[Path], None], *, checksum: int | None = None, pin: bool = False
    ) -> Path | None:
        """The file called `name`, which `fill` writes; None where it is too large, or the folder cannot hold it.

        `checksum` is the CRC32C of what should be written, where it is known: the file is held against it when it is
        used.
        """
        if size > self.largest:
            return None
        partial = self.folder / f".{name}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fill(partial)
            content, written = _mapped(partial)
            final = self.folder / f"{name}-{crc32c(content) if checksum is None else checksum:08x}"
            self._checked.pop(final.name, None)
            partial.replace(final)
        except OSError as error:
            if isinstance(error, StoreError):  # the object store's, not the disk's
                raise
            return None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        if checksum is None:
            self._checked[final.name] = written
        if pin:
            self._pinned.add(final.name)
        with contextlib.suppress(OSError):  # of a folder that another process removed
            self._make_room(final, size)
        return final

    def _look_up(self, name: str) -> tuple[Path, Bytes] | None:
        for path in sorted(self.folder.glob(f"{name}-*")):
            with contextlib.suppress(OSError):  # another process removed it, or it cannot be read
                content, written = _mapped(path)
                if self._checked.get(path.name) != written:
                    if not path.name.endswith(f"-{crc32c(content):08x}"):
                        self._remove(path)
                        continue
                    self._checked[path.name] = written
                with contextlib.suppress(OSError):  # of a folder that is only read
                    os.utime(path, ns=(time.time_ns(), written[1]))
                return path, content
        return None

    def _make_room(self, new: Path, added: int) -> None:
        """Remove the oldest files above the bound; looked at once for every twentieth of it that is added."""
        with self._sweeping:
            self._unswept += added
            if self._unswept < self.most // 20:
                return
            self._unswept = 0
            files = sorted(self._files())
            total = sum(size for _, size, _ in files) + self._sweep_links()
            for used, size, path in files:
                if path.suffix == PARTIAL:
                    if time.time() - used > ABANDONED_S:
                        self._remove(path)
                elif total > self.largest and path != new and path.name not in self._pinned and self._remove(path):
                    total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                state = entry.stat()
                if entry.is_file():
                    found.append((max(state.st_atime, state.st_mtime), state.st_size, Path(entry.path)))
        return found

    def _sweep_links(self) -> int:
        """Remove the links that have outlived their files long enough; the bytes of the others that have."""
        alone = 0
        for link in self.folder.glob(f"{LINKS}/*/[!.]*"):
            with contextlib.suppress(OSError):
                state = link.lstat()
                if link.is_symlink() or state.st_nlink > 1:  # no bytes of its own
                    continue
                if time.time() - state.st_ctime > LINKED_S:  # its file's removal was the last change
                    shutil.rmtree(link.parent)
                else:
                    alone += state.st_size
        return alone

    def _remove(self, path: Path) -> bool:
        """Whether it could be removed: others may have done so, or own it."""
        self._checked.pop(path.name, None)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            return True
        return False


def page_aligned(size: int) -> Bytes:
    """uint8 [size] from the start of a page, as `write_file` writes fastest."""
    room = np.empty(size + mmap.PAGESIZE, np.uint8)  # numpy's memory has huge pages, an anonymous mapping has not
    start = -room.ctypes.data % mmap.PAGESIZE
    return room[start : start + size]


def write_file(path: Path, content: Bytes) -> None:
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
    folder = os.environ.get("HUBSTORE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    bound = os.environ.get("HUBSTORE_CACHE_BYTES", str(DEFAULT_BYTES))
    most = whole_number(bound)
    if most is None or most < 0:
        raise StoreError(f"HUBSTORE_CACHE_BYTES is {bound!r}; give a number of bytes, such as {DEFAULT_BYTES}, or 0")
    return FileCache((Path(folder) if folder else base / "hubstore" / "objects").absolute(), most)


def _mapped(path: Path) -> tuple[Bytes, tuple[int, int]]:
    """A file's bytes, mapped copy-on-write, with its inode and time."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        content = np.memmap(file, np.uint8, mode="c") if state.st_size else np.empty(0, np.uint8)
    return content, (state.st_ino, state.st_mtime_ns)
