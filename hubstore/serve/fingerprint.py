"""The fingerprint of a store, to see cheaply whether it has changed since it was opened."""

from __future__ import annotations

from functools import cache

from hubstore.errors import StoreNotFoundError
from hubstore.storage import FileStat, Storage
from hubstore.storage.location import Location
from hubstore.store.files import store_files
from hubstore.store.layout import LENS, ROOT

Fingerprint = tuple[FileStat, ...]


def fingerprint(path: Location) -> Fingerprint:
    """Name, time and size of the root, of every commit and index, and of the lens.

    Files of a store are put there whole, by a rename, so a file that is read later is this one or a newer one.

    Raises:
        StoreNotFoundError: there is no store at the path.
    """
    require_store(path)
    return tuple(_storage(path).stat_many((ROOT, LENS), ("commits", "indexes")))


def require_store(path: Location) -> None:
    """StoreNotFoundError unless there is a store at the path, without reading it."""
    if not _storage(path).exists(ROOT):
        raise StoreNotFoundError(f"{path} is not a hubstore store: it has no {ROOT}")


@cache
def _storage(path: Location) -> Storage:
    return store_files(path)
