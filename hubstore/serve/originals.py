"""Items' own files: those below one folder, and no other. A store names them, and may be a stranger's."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

from hubstore.corpus.item import MEMBER
from hubstore.errors import Parameter, ServeError

READ = 1 << 20
"""Bytes that are read of an archive at once, at most: its own headers may claim any."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Originals:
    """The regular files below a folder, and the members of uncompressed tar archives there.

    A symbolic link counts as what it leads to: out of the folder it is not followed. URLs, devices, pipes and larger
    files are not opened.

    Args:
        folder: the folder.
        most: bytes of a file; larger ones are not read.

    Raises:
        ServeError: there is no such folder.
    """

    def __init__(self, folder: str | Path, most: int) -> None:
        if not isinstance(folder, str | os.PathLike) or not Path(folder).is_dir():
            raise ServeError(
                Parameter("originals"),
                f" is {str(folder)!r}, which is no folder; name the one whose files may be given: ",
                Parameter("originals", "FOLDER"),
            )
        self.decoding = threading.Lock()
        """Held while a file is decoded: one at a time bounds the memory."""
        self._named = Path(os.path.abspath(folder))
        self._root = Path(os.path.realpath(folder))
        self._most = most

    def read(self, name: str) -> bytes | None:
        """The bytes of a file as an item names it: its path, or ARCHIVE!MEMBER; None for what is not given."""
        archive, separator, member = name.partition(MEMBER)
        try:
            if separator and (opened := self._opened(archive)) is not None:
                with opened:
                    return self._member(opened, member)
            opened = self._opened(name)
            if opened is None:
                return None
            with opened:
                return _exactly(opened, os.fstat(opened.fileno()).st_size, self._most)
        except (OSError, ValueError, EOFError, tarfile.TarError):
            return None

    def _opened(self, name: str) -> _BoundedFile | None:
        """A regular file below the folder; None where it is none. No component of its path is followed elsewhere."""
        parts = self._parts(name)
        if not parts:
            return None
        folder = os.open(self._root, _FOLDER)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            # Opening a device may do something by itself, so it is looked at first; and again, should it have changed.
            if not stat.S_ISREG(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                return None
            file = _BoundedFile(os.open(parts[-1], _FILE, dir_fd=folder))
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            return None
        return file

    def _parts(self, name: str) -> tuple[str, ...]:
        """The components of a path below the folder, its links resolved; () for one elsewhere."""
        path = Path(os.path.normpath(self._named / name))
        if not path.is_relative_to(self._named) and not path.is_relative_to(self._root):
            return ()
        resolved = Path(os.path.realpath(path))
        return resolved.relative_to(self._root).parts if resolved.is_relative_to(self._root) else ()

    def _member(self, archive: _BoundedFile, name: str) -> bytes | None:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which would keep the headers of all
                if info.name == name:
                    file = None if not info.isreg() or info.issparse() else tar.extractfile(info)
                    return None if file is None else _exactly(file, info.size, self._most)
        return None


class _BoundedFile(io.FileIO):
    """A file that is read by small portions, whatever an archive's header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; OSError for more than READ."""
        if size is None or not 0 <= size <= READ:
            raise OSError(f"{size} bytes at once")
        return super().read(size)


def _exactly(file: Any, size: int, most: int) -> bytes | None:
    """`size` bytes of a file; None where it has fewer, or may not have so many."""
    if size > most:
        return None
    parts, left = [], size
    while left and (part := file.read(min(left, READ))):
        parts.append(part)
        left -= len(part)
    return None if left else b"".join(parts)
