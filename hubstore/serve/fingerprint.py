"""The fingerprint of a store, to see cheaply whether it has changed since it was opened."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hubstore.errors import StoreNotFoundError
from hubstore.storage import open_storage
from hubstore.storage.location import Location, Url
from hubstore.storage.objects import RemoteStorage

Stamp = tuple[str, int, int]
Fingerprint = tuple[Stamp, ...]


def fingerprint(path: Location) -> Fingerprint:
    """Name, time and size of the root, of every commit and index, and of the lens.

    Files of a store are put there whole, by a rename, so a file that is read later is this one or a newer one.

    Raises:
        StoreNotFoundError: there is no store at the path.
    """
    if isinstance(path, Url):
        require_store(path)
        return tuple(_objects(path).stamps(("zarr.json", "lens/lens.json"), ("commits", "indexes")))
    return tuple(_stamps(path))


def require_store(path: Location) -> None:
    """StoreNotFoundError unless there is a store at the path, without reading it."""
    there = _objects(path).exists("zarr.json") if isinstance(path, Url) else (path / "zarr.json").is_file()
    if not there:
        raise StoreNotFoundError(f"{path} is not a hubstore store: it has no zarr.json")


@cache
def _objects(url: Url) -> RemoteStorage:
    storage = open_storage(url)
    assert isinstance(storage, RemoteStorage)
    return storage


def _stamps(path: Path) -> Iterator[Stamp]:
    require_store(path)
    yield from _stamp(path / "zarr.json")
    yield from _stamp(path / "lens" / "lens.json")
    for commit in sorted((path / "commits").glob("*.json")):
        yield from _stamp(commit)
    for description in sorted((path / "indexes").glob("*/*/index.json")):
        yield from _stamp(description)


def _stamp(file: Path) -> Iterator[Stamp]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return
    yield str(file), found.st_mtime_ns, found.st_size
