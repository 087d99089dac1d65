"""The one seam between hubstore and where its bytes live. Keys are "/"-separated and relative to the store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from hubstore.errors import CorruptStoreError, StoreError, StoreLockedError
from hubstore.storage.location import shell_word

if TYPE_CHECKING:
    from hubstore.storage.location import Location

Buffer = bytes | memoryview
PARTIAL = ".partial"

ABANDONED_S = 86_400.0
"""Age of a temporary file of whose writer nothing else is known."""


class Storage(Protocol):
    """Reads, atomic writes and listing of one store's files."""

    @property
    def root(self) -> Location:
        """Where the store is, for messages."""
        ...

    def exists(self, key: str) -> bool:
        """Whether `key` holds something."""
        ...

    def size(self, key: str) -> int:
        """Bytes under `key`; CorruptStoreError when it is missing."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes under `key`; CorruptStoreError when it is missing."""
        ...

    def write(self, key: str, *buffers: Buffer) -> None:
        """Put the concatenated `buffers` under `key`: wholly and durably, or not at all."""
        ...

    def create(self, key: str, *buffers: Buffer) -> bool:
        """Like `write` where `key` is free; False, and nothing done, where it is taken."""
        ...

    def list(self, prefix: str) -> Sequence[str]:
        """Every key below `prefix`, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""
        ...

    def map(self, key: str) -> npt.NDArray[np.uint8]:
        """The bytes under `key`, memory-mapped."""
        ...

    def local(self, key: str) -> Path:
        """A local file with the bytes under `key`, for libraries that take only file names."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Move a finished local file to `key`, atomically and durably."""
        ...

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Be the store's only writer; StoreLockedError when another process is."""
        ...


class LocalStorage:
    """A folder on a local disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()  # a process may change its folder later

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def exists(self, key: str) -> bool:
        """Whether the file is there."""
        return (self._root / key).is_file()

    def size(self, key: str) -> int:
        """Bytes in the file; CorruptStoreError when it is missing."""
        try:
            return (self._root / key).stat().st_size
        except FileNotFoundError:
            raise self._missing(key) from None

    def read(self, key: str) -> bytes:
        """The file's bytes; CorruptStoreError when it is missing."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            raise self._missing(key) from None

    def write(self, key: str, *buffers: Buffer) -> None:
        """Write a temporary file, fsync it, rename it over `key`, fsync the folder."""
        with self._partial(key) as partial:
            _write_file(partial, buffers)
            partial.replace(self._root / key)
        _fsync_folder((self._root / key).parent)

    def create(self, key: str, *buffers: Buffer) -> bool:
        """Write a temporary file and link it to `key`, which fails where `key` exists."""
        try:
            with self._partial(key) as partial:
                _write_file(partial, buffers)
                os.link(partial, self._root / key)
        except FileExistsError:
            return False
        _fsync_folder((self._root / key).parent)
        return True

    def list(self, prefix: str) -> Sequence[str]:
        """Every file below `prefix`, sorted; temporary files are left out."""
        folder = self._root / prefix
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != PARTIAL)
        return sorted(path.relative_to(self._root).as_posix() for path in files)

    def delete(self, key: str) -> None:
        """Remove the file, and the folders that this leaves empty."""
        path = self._root / key
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self._root:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def map(self, key: str) -> npt.NDArray[np.uint8]:
        """The file's bytes, mapped copy-on-write: nothing the caller does reaches the disk."""
        if self.size(key) == 0:
            return np.empty(0, np.uint8)
        return np.memmap(self._root / key, np.uint8, mode="c")

    def local(self, key: str) -> Path:
        """The file itself."""
        return self._root / key

    def put_file(self, key: str, path: Path) -> None:
        """Fsync `path` and rename it to `key`, by way of the store's own disk where they differ."""
        with self._partial(key) as partial:
            shutil.move(path, partial)
            _fsync_file(partial)
            partial.replace(self._root / key)
        _fsync_folder((self._root / key).parent)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an advisory lock on the folder; the kernel lets go of it when the process ends."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(
                f"{self._root} cannot be made a store ({error.strerror}); choose a folder that may be written"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreLockedError(
                    f"{self._root} is being written by another process; wait until it ends, then try again"
                ) from None
            self._sweep()
            try:
                yield
            finally:
                self._sweep()
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what writers left behind that were killed: an earlier run, or workers of this one."""
        for folder in ("hidden", "items", "previews", "commits", "plan", "lens"):
            for path in (self._root / folder).rglob(f"*{PARTIAL}"):
                path.unlink(missing_ok=True)
        for path in self._root.glob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)
        for folder in ("indexes", "analyses"):  # made without the lock: what is young may be under way
            for path in (self._root / folder).rglob(f"*{PARTIAL}"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > ABANDONED_S:
                        path.unlink()

    @contextlib.contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        """A temporary name beside `key`, of which nothing is left at the end."""
        target = self._root / key
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")  # process ids are not one host's
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(
                f"{target} could not be written ({error.strerror or error}); free space or mend the disk and run the "
                "same command again: what was committed stays"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _missing(self, key: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self._root / key} is missing; `hubstore verify {shell_word(self._root)}` lists all that is wrong"
        )


def _write_file(path: Path, buffers: Sequence[Buffer]) -> None:
    with path.open("xb", buffering=0) as file:
        for buffer in buffers:
            _write_all(file.fileno(), memoryview(buffer).cast("B"))
        os.fsync(file.fileno())


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
