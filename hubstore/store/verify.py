"""Reading a store back against its commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hubstore.errors import CorruptStoreError
from hubstore.store.commit import Commit
from hubstore.store.layout import ROOT, Layout, array_key, commit_key, items_key, shard_key
from hubstore.store.reader import read_attributes
from hubstore.store.shardfile import crc32c, decode_shard
from hubstore.store.storage import Storage

BLOCK = 1 << 24


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a store: the file, and what."""

    key: str
    what: str


def verify(storage: Storage, progress: Callable[[str], None] | None = None) -> list[Problem]:
    """Check every committed file's size and CRC32C, every shard index, and that every layer is there.

    Args:
        storage: the store.
        progress: called with each key before it is read.

    Returns:
        What is wrong; empty when the store is as it was written.

    Raises:
        StoreNotFoundError, StoreFormatError, CorruptStoreError: the root metadata itself cannot be read.
    """
    layout = Layout.from_json(read_attributes(storage))
    return list(_problems(storage, layout, progress or (lambda key: None)))


def _problems(storage: Storage, layout: Layout, progress: Callable[[str], None]) -> Iterator[Problem]:
    for pooling in layout.poolings:
        for layer in layout.layers:
            key = f"{array_key(pooling, layer)}/{ROOT}"
            if not storage.exists(key):
                yield Problem(key, "missing")
    for key in storage.list("commits"):
        progress(key)
        try:
            commit = Commit.decode(storage.read(key), key)
        except CorruptStoreError as error:
            yield Problem(key, str(error))
            continue
        if key != commit_key(commit.shard):
            yield Problem(key, f"holds the commit of shard {commit.shard}")
        yield from _shard_problems(storage, layout, commit, progress)


def _shard_problems(
    storage: Storage, layout: Layout, commit: Commit, progress: Callable[[str], None]
) -> Iterator[Problem]:
    expected = {items_key(commit.shard)}
    for pooling in layout.poolings:
        rows = commit.tokens if pooling == "tokens" else commit.items
        first = commit.first_token_shard if pooling == "tokens" else commit.shard
        for layer in layout.layers:
            expected |= {shard_key(pooling, layer, first + offset) for offset in range(-(-rows // layout.shard_rows))}
    for key in sorted(expected - set(commit.files)):
        yield Problem(key, f"the commit of shard {commit.shard} does not list it")
    for key, record in commit.files.items():
        progress(key)
        if not storage.exists(key):
            yield Problem(key, "missing")
            continue
        mapped = storage.map(key)
        if len(mapped) != record.size:
            yield Problem(key, f"{len(mapped)} bytes, {record.size} were committed")
        elif _checksum(mapped) != record.crc32c:
            yield Problem(key, "its bytes do not match the checksum of its commit")
        elif key.startswith("hidden/"):
            try:
                decode_shard(mapped, 1, layout, key)
            except CorruptStoreError as error:
                yield Problem(key, str(error))


def _checksum(mapped: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> int:
    return crc32c(*(mapped[i : i + BLOCK].data for i in range(0, len(mapped), BLOCK)))
