"""Opening the file of an index: FAISS reads what was checked, and of a file of lists only the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hubstore.errors import CorruptStoreError
from hubstore.index.description import IndexDescription, check_file, rebuild_of
from hubstore.index.library import faiss
from hubstore.index.listfile import ChangedListError, ListFile
from hubstore.index.validate import RefusedIndexError, check_index, read_head, tail_bytes
from hubstore.storage import FileRecord, Storage
from hubstore.store import StoreReader
from hubstore.store.layout import FAISS, INDEX


def read_faiss(store: StoreReader, description: IndexDescription, *, mapped: bool = False) -> Any:
    """The FAISS index of a description, wrapped as in its file.

    `mapped`, it is to be searched only: its rows and links stay in the file, and are read where a search goes.

    Raises:
        CorruptStoreError: the file is not as it was written.
        RefusedIndexError: it is no index that hubstore writes, or none that this FAISS reads.
    """
    check_file(store, description)
    key = description.faiss_key
    check_index(store.storage.map(key), description)
    path = store.storage.local(key)
    try:
        return faiss().read_index(str(path), faiss().IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise RefusedIndexError(f"this FAISS does not read it: {error}") from error


def open_lists(store: StoreReader, description: IndexDescription) -> ListFile:
    """The lists of a description's file, of which the head and the tail are read and checked.

    Raises:
        CorruptStoreError: they are not as they were written, or the file has another size.
        RefusedIndexError: it is no index that hubstore writes.
    """
    key = description.faiss_key
    if not store.storage.exists(key):
        check_file(store, description)
    try:
        return open_list_file(store.storage.local(key), description)
    except ChangedListError as error:
        raise changed(store, description, error) from error


def changed(store: StoreReader, description: IndexDescription, error: ChangedListError) -> CorruptStoreError:
    """The error of a file that is not as it was written."""
    key = description.faiss_key
    remedy = rebuild_of(store, description)
    return CorruptStoreError(f"{store.path / key} is not as it was written: {error}; build it again: {remedy}")


def open_list_file(path: Path, description: IndexDescription) -> ListFile:
    """As `open_lists`, of a file anywhere; ChangedListError where it is not as it was written."""
    if description.head is None or description.file is None:
        raise RefusedIndexError("its description has no checksum of its head")
    lists = (description.parameters or {}).get("nlist", 0)
    tail = tail_bytes(lists, description) if type(lists) is int and lists > 0 else 0
    if not 0 < tail < description.head.size <= description.file.size:
        raise RefusedIndexError(f"its head of {description.head.size} bytes holds no checksums of {lists} lists")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size != description.file.size:
            raise ChangedListError(f"it has {size} bytes, {description.file.size} were written")
        file.seek(0)
        head = np.frombuffer(file.read(description.head.size - tail), np.uint8)
        file.seek(-tail, 2)
        end = np.frombuffer(file.read(tail), np.uint8)
    if FileRecord.of(head, end) != description.head:
        raise ChangedListError("its head does not match its checksum")
    return ListFile(path, read_head(head, end, description), description.rows)


def index_problem(storage: Storage, folder: str) -> str | None:
    """What shows that the FAISS file in a folder of a store, whose checksum matches, is none that hubstore writes."""
    key, description = f"{folder}/{FAISS}", IndexDescription.decode(storage.read(f"{folder}/{INDEX}"))
    try:
        if description.head is None:
            check_index(storage.map(key), description)
        else:
            open_list_file(storage.local(key), description).check_all()
    except (RefusedIndexError, ChangedListError) as error:
        return f"is no index that hubstore writes, and is not searched: {error}"
    return None
