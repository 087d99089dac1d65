"""Writing a file whole or not at all, outside of a store, whose storage has its own way."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ABANDONED_S = 86_400.0
"""Age of a partial file whose writer was killed."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`; the file that is written there takes its place, synced, and a failure leaves it.

    It may be read by whom the user's umask says, whatever the library that writes it thinks: safetensors gives its
    files to their owner alone.

    Raises:
        OSError: the folder is not there or cannot be written to, or the disk is full.
    """
    for abandoned in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - abandoned.stat().st_mtime > ABANDONED_S:
                abandoned.unlink()
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.partial")  # several may write one file at once
    mode = _mode_of_a_new_file(partial)
    try:
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        sync_file(partial)
        partial.replace(path)
        with contextlib.suppress(OSError):  # not every file system syncs folders
            sync_file(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _mode_of_a_new_file(path: Path) -> int:
    """What a file that is made at `path` may be used for: the umask cannot be asked for without being changed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        path.unlink()


def put(path: Path, content: bytes) -> None:
    """Write `content` at `path` by way of a file beside it; a failure leaves what was there.

    Raises:
        OSError: as of `replacing`.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte to an open file: a single write may take only some."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
