"""The state of a store's folder, to see cheaply whether it has changed since it was opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubstore.errors import StoreNotFoundError

Stamp = tuple[str, int, int]
State = tuple[Stamp, ...]


def state_of(path: Path) -> State:
    """Name, time and size of the root, of every commit and index, and of the lens.

    Files of a store are put there whole, by a rename, so a file that is read later is this one or a newer one.

    Raises:
        StoreNotFoundError: there is no store at the path.
    """
    return tuple(_stamps(path))


def require_store(path: Path) -> None:
    """StoreNotFoundError unless there is a store at the path, without reading it."""
    if not (path / "zarr.json").is_file():
        raise StoreNotFoundError(f"{path} is not a hubstore store: it has no zarr.json")


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
