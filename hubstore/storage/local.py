"""A folder on a local disk."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import platform
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hubstore.errors import HubstoreError, StoreError, StoreExistsError, StoreLockedError
from hubstore.files import ABANDONED_S, sync_file
from hubstore.storage.disk import create, reading, sync_folder, unwritable, write_file
from hubstore.storage.interface import PARTIAL, FileStat, Storage, check_key
from hubstore.storage.mappings import process_mappings
from hubstore.storage.record import Buffer, Bytes, FileRecord


class LocalStorage(Storage):
    """A folder on a local disk."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self._folder = root.absolute()  # a process may change its folder later
        self._locked: tuple[str, int, int] | None = None
        super().__init__(self._folder, process_mappings())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._folder,), {"_locked": self._locked}

    @property
    def root(self) -> Path:
        """The folder."""
        return self._folder

    def _path(self, key: str, *, links: bool = True) -> Path:
        """Where a file is; StoreError where a link leads to it out of the folder.

        The folder itself may be a link. A store from elsewhere may hold links to any place.

        Args:
            key: of the file.
            links: whether one may be followed that stays in the folder, as to read; where files are made or removed,
                no folder may be one.
        """
        check_key(self._folder, key)
        parts = key.split("/")
        for count in range(1, len(parts) + links):
            place = os.path.join(self._folder, *parts[:count])
            try:
                is_link = stat.S_ISLNK(os.lstat(place).st_mode)
            except OSError:
                break
            if is_link and (not links or not self._holds(os.path.realpath(self._folder / key))):
                raise StoreError(
                    f"{place} is a link, which {'leads out of the store' if links else 'no file is written through'}; "
                    "put the files themselves in its place, or make the whole store a link"
                )
        return self._folder / key

    def _holds(self, path: str) -> bool:
        return path.startswith(f"{os.path.realpath(self._folder)}/")

    @reading
    def stat(self, key: str) -> FileStat | None:
        """Size and time of the file; None where there is none."""
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileStat(key, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    def stat_many(self, keys: Sequence[str], prefixes: Sequence[str] = ()) -> Sequence[FileStat]:
        """The files `keys` that are there and all below `prefixes`, by key."""
        found = {name: one for name in keys if (one := self.stat(name)) is not None}
        for prefix in prefixes:
            found |= {one.key: one for one in self._stats_below(prefix)}
        return [found[name] for name in sorted(found)]

    @reading
    def _stats_below(self, prefix: str) -> Sequence[FileStat]:
        """Of every file below `prefix`, without a look at the folders above each: a store may have a million."""
        skip = len(f"{self._folder}/")
        below = _entries_below(self._folder / prefix, refused=bool(prefix))
        stats = ((entry.path[skip:], entry.stat()) for entry in below)
        return [FileStat(key, one.st_size, one.st_mtime_ns) for key, one in stats]

    @reading
    def list(self, prefix: str) -> Sequence[str]:
        """Every file below `prefix`, sorted; temporary files are left out."""
        above = f"{self._folder}/"
        below = _entries_below(self._folder / prefix, refused=bool(prefix))
        return sorted(entry.path.removeprefix(above) for entry in below)

    @reading
    def read(self, key: str) -> bytes:
        """The file's bytes; CorruptStoreError when it is missing."""
        if self.stat(key) is None:  # not a pipe either, which would never end
            raise self.missing(key)
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            raise self.missing(key) from None
        except (MemoryError, OverflowError):
            raise self.corrupt(key, f"has {self.size(key):,} bytes, for which there is no memory") from None

    def read_ranges(self, key: str, record: FileRecord, starts: Sequence[int], stops: Sequence[int]) -> Sequence[Bytes]:
        """Bytes [start, stop) of the file, mapped."""
        whole = self.map_committed(key, record)
        return [whole[start:stop] for start, stop in zip(starts, stops, strict=True)]

    @reading
    def map(self, key: str) -> Bytes:
        """The file's bytes, mapped copy-on-write: nothing the caller does reaches the disk."""
        if self.size(key) == 0:
            return np.empty(0, np.uint8)
        return np.memmap(self._folder / key, np.uint8, mode="c")

    def map_committed(self, key: str, record: FileRecord) -> Bytes:
        """As `map`; CorruptStoreError when the file has another size than was committed."""
        found = self.map(key)
        if len(found) != record.size:
            raise self.other_size(key, len(found), record)
        return found

    def record(self, key: str) -> FileRecord | None:
        """Size and CRC32C of the file; None where there is none."""
        return FileRecord.of(self.map(key)) if self.exists(key) else None

    def local(self, key: str) -> Path:
        """The file itself."""
        return self._path(key)

    @reading
    def open(self, key: str) -> BinaryIO:
        """The file itself, opened."""
        return self._path(key).open("rb")

    def write(self, key: str, *buffers: Buffer) -> None:
        """Write a temporary file, fsync it, rename it over `key`, fsync the folder."""
        self._check_write(key)
        with self._partial(key) as partial:
            write_file(partial, buffers)
            partial.replace(self._folder / key)
            sync_folder(partial.parent)

    def put_if_absent(self, key: str, *buffers: Buffer) -> bool:
        """Write a temporary file and give it the name `key`, which fails where `key` exists."""
        self._check_write(key)
        with self._partial(key) as partial:
            write_file(partial, buffers)
            self._check_write(key)
            created = create(partial, self._folder / key)
            sync_folder(partial.parent)
        return created

    def delete(self, key: str) -> None:
        """Remove the file, and the folders that this leaves empty."""
        self._check_write(key)
        path = self._path(key, links=False)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise unwritable(path, error) from error
        for folder in path.parents:
            if folder == self._folder:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def put_file(self, key: str, path: Path) -> None:
        """Fsync `path` and rename it to `key`, by way of the store's own disk where they differ."""
        self._check_write(key)
        with self._partial(key) as partial:
            shutil.move(path, partial)
            sync_file(partial)
            partial.replace(self._folder / key)
            sync_folder(partial.parent)

    @contextlib.contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """A temporary name beside `key`; the next writer removes the file, should this process be killed."""
        partial = self._path(key, links=False)
        partial = partial.with_name(f".{partial.name}{PARTIAL}")
        if partial.is_symlink():
            partial.unlink()
        try:
            yield partial
        finally:
            self.delete(partial.relative_to(self._folder).as_posix())

    @reading
    def free_bytes(self) -> int:
        """Bytes that are free on the disk where the folder is or would be."""
        folder = next(above for above in (self._folder, *self._folder.parents) if above.exists())
        return shutil.disk_usage(folder).free

    @reading
    def check_vacant(self, own: Sequence[str]) -> None:
        """StoreExistsError where something is at the root that no extraction left there."""
        if self._folder.is_file():
            raise StoreExistsError(f"{self._folder} is a file; give the store another path")
        if not self._folder.is_dir() or any((self._folder / key).exists() for key in own):
            return
        held = (path for path in self._folder.iterdir() if not path.is_dir() or any(path.iterdir()))
        others = sorted(path.name for path in itertools.islice(held, 5))
        if others:
            raise StoreExistsError(
                f"{self._folder} is not empty and no hubstore store (it holds {', '.join(others)}); give the store "
                "another path"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an advisory lock on the folder; the kernel lets go of it when the process ends."""
        with self._flocked(fcntl.LOCK_EX):
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    @contextlib.contextmanager
    def share(self) -> Iterator[None]:
        """Hold the lock with others that share it. What was left half written stays, since it may be theirs."""
        with self._flocked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _flocked(self, kind: int) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(
                f"{self._folder} cannot be made a store ({error.strerror}); choose a folder that may be written"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreLockedError(
                    f"{self._folder} is being written by another process; wait until it ends, then try again"
                ) from None
            except OSError as error:
                raise StoreError(
                    f"{self._folder} cannot be locked ({error.strerror}): its file system has no locks, which keep two "
                    "writers apart; write the store on another disk, and copy it when it is complete"
                ) from error
            try:
                sync_folder(self._folder)
            except OSError as error:
                raise unwritable(self._folder, error) from error
            found = os.fstat(descriptor)
            self._locked = (platform.node(), found.st_dev, found.st_ino)
            try:
                yield
            finally:
                self._locked = None
        finally:
            os.close(descriptor)

    def _check_write(self, key: str) -> None:
        """StoreError where the folder that was locked is no longer here: what is here is another's."""
        self.before_write(key)
        if self._locked is None or self._locked[0] != platform.node():
            return
        try:
            found = self._folder.stat()
            same = self._locked[1:] == (found.st_dev, found.st_ino)
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise unwritable(self._folder / key, error) from error
        if not same:
            raise StoreError(
                f"{self._folder} was moved or removed while it was written to; move it back and run the same command "
                "again: what was committed to it stays, and what is in its place now was left as it is"
            )

    def _sweep(self) -> None:
        """Remove what writers left behind that were killed: an earlier run, or workers of this one."""
        with contextlib.suppress(OSError):  # it is ignored where it cannot be removed
            self._remove_partials()

    def _remove_partials(self) -> None:
        for folder in ("hidden", "items", "previews", "commits", "log", "plan", "lens"):
            for path in _partials_below(self._folder / folder):
                path.unlink(missing_ok=True)
        for path in self._folder.glob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)
        for folder in ("indexes", "analyses"):  # made without the lock: what is young may be under way
            for path in _partials_below(self._folder / folder):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > ABANDONED_S:
                        path.unlink()

    @contextlib.contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        """A temporary name beside `key`, of which nothing is left at the end."""
        target = self._path(key, links=False)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")  # process ids are not one host's
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
        except HubstoreError:
            raise
        except OSError as error:
            raise unwritable(target, error) from error
        finally:
            with contextlib.suppress(OSError):  # the next writer removes it
                partial.unlink(missing_ok=True)


def _partials_below(folder: Path) -> Iterator[Path]:
    if not folder.is_symlink():
        yield from folder.rglob(f"*{PARTIAL}")


def _entries_below(folder: Path | str, *, refused: bool) -> Iterator[os.DirEntry[str]]:
    """Every file in a folder; what may not be read in it is an error where it is `refused`, and else left out."""
    left_out = (FileNotFoundError, NotADirectoryError, *(() if refused else (PermissionError,)))
    with contextlib.suppress(*left_out), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries_below(entry.path, refused=refused)
            elif entry.is_file() and not entry.name.endswith(PARTIAL):
                yield entry
