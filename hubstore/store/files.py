"""The storage of a store, and which keys a store has where a server lists nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from hubstore.storage import Storage, Url, open_storage
from hubstore.store.attributes import read_attributes
from hubstore.store.commit import decode_commits
from hubstore.store.layout import CENTERED, FAISS, INDEX, LENS, ROOT, Layout, array_key, commit_key, group_keys
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.log import FOLDER, log_key

PROBED = 32
"""Commits that are asked for at once."""


def store_files(where: str | os.PathLike[str] | Url) -> Storage:
    """The storage of the store at a path or a URL; nothing is read or made yet.

    Raises:
        StoreError: the URL is not one that hubstore takes.
        StoreAccessError: no credentials are found for an object store.
        MissingDependencyError: the URL needs the extra "remote".
    """
    return open_storage(where, stored_keys)


def stored_keys(storage: Storage, prefix: str) -> Iterable[str]:
    """The keys below `prefix` that a store's commits and metadata name.

    Results of analyses, which only a listing would name, are not found.
    """
    if prefix == "commits":
        return _numbered(storage, commit_key)
    if prefix == FOLDER:
        return _numbered(storage, log_key)
    return (key for key in _named(storage) if not prefix or key.startswith(f"{prefix}/"))


def _numbered(storage: Storage, key_of: Callable[[int], str]) -> Iterator[str]:
    """Files by number, until a whole batch of numbers has none: shards that are still to come leave few gaps."""
    first = 0
    while found := storage.stat_many([key_of(first + i) for i in range(PROBED)]):
        yield from (one.key for one in found)
        first += PROBED


def _named(storage: Storage) -> set[str]:
    layout = Layout.from_json(read_attributes(storage))
    keys = {ROOT, *group_keys(layout.poolings), *_numbered(storage, log_key)}
    for commit in decode_commits(storage, layout, list(_numbered(storage, commit_key))):
        keys |= {commit_key(commit.shard), *commit.files}
    if storage.exists(LENS):
        keys |= {LENS, *read_lens_record(storage).files}
    likely = []
    for pooling in layout.poolings:
        for layer in layout.layers:
            keys.add(f"{array_key(pooling, layer)}/{ROOT}")
            folders = (f"indexes/{pooling}/{layer}{rows}" for rows in ("", CENTERED))
            likely += [f"{folder}/{name}" for folder in folders for name in (INDEX, FAISS)]
    return keys | {found.key for found in storage.stat_many(likely)}
