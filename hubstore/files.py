"""Writing a file whole or not at all, outside of a store, whose storage has its own way."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ABANDONED_S = 86_400.0
"""Age of a partial file whose writer was killed."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`; the file that is written there takes its place, synced, and a failure leaves it.

    Raises:
        OSError: the folder is not there or cannot be written to, or the disk is full.
    """
    for abandoned in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - abandoned.stat().st_mtime > ABANDONED_S:
                abandoned.unlink()
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.partial")  # several may write one file at once
    try:
        yield partial
        sync_file(partial)
        partial.replace(path)
        with contextlib.suppress(OSError):  # not every file system syncs folders
            sync_file(path.parent)
    finally:
        partial.unlink(missing_ok=True)


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
