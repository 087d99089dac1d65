"""Writing an index's file piece by piece, with its checksum, durably."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c

from hubstore.errors import IndexingError
from hubstore.files import write_all
from hubstore.index.library import faiss
from hubstore.storage import FileRecord
from hubstore.system import reason, remedy

T = TypeVar("T")

Write = Callable[[bytes], object]

Writer = Callable[[Write], FileRecord | None]
"""Writes a file piece by piece; the record of its head, where its lists are searched in it."""


def faiss_writer(whole: Any) -> Writer:
    """Writes an index as FAISS does."""

    def write(write: Write) -> None:
        faiss().write_index(whole, faiss().PyCallbackIOWriter(write))

    return write


def write_durably(path: Path, make: Callable[[Write], T]) -> tuple[FileRecord, T]:
    """Write a file that `make` passes on piece by piece; its size and CRC32C, of what the disk has taken, and what
    `make` returns.

    Raises:
        IndexingError: the disk is full or broken.
    """
    size = checksum = 0

    def write(data: bytes) -> None:
        nonlocal size, checksum
        write_all(descriptor, data)
        size, checksum = size + len(data), google_crc32c.extend(checksum, data)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            made = make(write)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise IndexingError(
            f"{path.parent}: the index could not be written there ({reason(error)}); {remedy(error)} and run the same "
            "command again. An index that was there stays"
        ) from error
    return FileRecord(size, checksum), made
