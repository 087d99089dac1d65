"""Reading a store back against its commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord, Storage
from hubstore.store.attributes import read_attributes
from hubstore.store.commit import Commit
from hubstore.store.layout import LENS, ROOT, Layout, array_key, commit_key, content_digest, items_key, shard_key
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.result import decode_result
from hubstore.store.shardfile import read_index

INDEX_FIELDS = frozenset(
    [
        "format",
        "layer",
        "pooling",
        "kind",
        "requested",
        "rows",
        "width",
        "commits",
        "seed",
        "hubstore",
        "factory",
        "parameters",
        "trained_rows",
        "file",
        "faiss",
        "metric",
        "distance",
    ]
)
"""What `index.json` holds beside its digest."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a store.

    Args:
        key: the file.
        what: what is wrong, and what mends it.
        wrong: False where nothing recorded says what the file should be, so that it cannot be verified.
    """

    key: str
    what: str
    wrong: bool = True


def verify(storage: Storage, progress: Callable[[str], None] | None = None) -> list[Problem]:
    """Check every committed file's size and CRC32C, every shard index, and that every layer is there; then the lens,
    the indexes and the results of analyses that the store keeps.

    Args:
        storage: the store.
        progress: called with each key before it is read.

    Returns:
        What is wrong, and what cannot be verified; empty when the store is as it was written.

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
    yield from _lens_problems(storage, progress)
    for pooling in layout.poolings:
        for layer in layout.layers:
            yield from _index_problems(storage, f"indexes/{pooling}/{layer}", progress)
    for key in storage.list("analyses"):
        if key.endswith(".parquet"):
            progress(key)
            yield from _result_problems(storage, key)


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
        wrong = file_problem(storage, key, record)
        if wrong:
            yield Problem(key, wrong)
        elif key.startswith("hidden/"):
            try:
                read_index(partial(storage.read_ranges, key, record), record.size, 1, layout, key)
            except CorruptStoreError as error:
                yield Problem(key, str(error))


def _lens_problems(storage: Storage, progress: Callable[[str], None]) -> Iterator[Problem]:
    if not storage.exists(LENS):
        return
    try:
        _, files = read_lens_record(storage)
    except CorruptStoreError as error:
        yield Problem(LENS, str(error))
        return
    for key, record in files.items():
        progress(key)
        wrong = file_problem(storage, key, record)
        if wrong:
            yield Problem(key, wrong)


def _index_problems(storage: Storage, folder: str, progress: Callable[[str], None]) -> Iterator[Problem]:
    key, remedy = f"{folder}/index.json", "build the index again: `hubstore index --rebuild`"
    if not storage.exists(key):
        return
    progress(key)
    try:
        content = json.loads(storage.read(key))
        digest = content.pop("digest", None)
        if digest not in (None, content_digest(content)) or not set(content) <= INDEX_FIELDS:
            raise ValueError("it does not match its digest")
        said = content["file"]
        record = None if said is None else FileRecord.from_json(said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield Problem(key, f"is not as it was written: {error}; {remedy}")
        return
    if digest is None:
        yield Problem(key, f"cannot be verified: an older version wrote it without a digest; {remedy}", wrong=False)
    if record is not None:
        file = f"{folder}/index.faiss"
        progress(file)
        wrong = file_problem(storage, file, record)
        if wrong:
            yield Problem(file, f"{wrong}; {remedy}")


def _result_problems(storage: Storage, key: str) -> Iterator[Problem]:
    try:
        _, sealed = decode_result(storage.read(key), key)
    except CorruptStoreError as error:
        yield Problem(key, str(error).removeprefix(key).lstrip(": "))
        return
    if not sealed:
        what = "cannot be verified: an older version wrote it without a checksum; remove it, and it is made again"
        yield Problem(key, what, wrong=False)


def file_problem(storage: Storage, key: str, record: FileRecord) -> str | None:
    """What is wrong with a file, against its record; None where nothing is."""
    found = storage.record(key)
    if found is None:
        return "missing"
    if found.size != record.size:
        return f"{found.size} bytes, {record.size} were committed"
    return None if found == record else "its bytes do not match the checksum of its commit"


def corrupt_file(storage: Storage, shard: int) -> str | None:
    """A file of a committed shard that is not what was committed; None where all are."""
    key = commit_key(shard)
    files = Commit.decode(storage.read(key), str(storage.root / key)).files
    return next((name for name, record in files.items() if file_problem(storage, name, record)), None)
