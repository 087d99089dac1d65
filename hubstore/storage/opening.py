"""From where a store is to the storage that reads and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from hubstore.storage.interface import Storage
from hubstore.storage.local import LocalStorage
from hubstore.storage.location import WEB, Url, location


def open_storage(
    where: str | os.PathLike[str] | Url, listing: Callable[[Storage, str], Iterable[str]] | None = None
) -> Storage:
    """The storage at a path or a URL; nothing is read or made yet.

    Args:
        where: the path or URL.
        listing: gives the keys below a prefix where the server lists nothing.

    Raises:
        StoreError: the URL is not one that hubstore takes.
        StoreAccessError: no credentials are found for an object store.
        MissingDependencyError: the URL needs the extra "remote".
    """
    found = location(where)
    if isinstance(found, Path):
        return LocalStorage(found)
    from hubstore.storage.objects import RemoteStorage
    from hubstore.storage.web import WebStorage

    return WebStorage.at(found, listing=listing) if found.scheme in WEB else RemoteStorage.at(found)
