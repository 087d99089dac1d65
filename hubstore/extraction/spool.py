"""The items of a generation on their way into its plan: spooled as they come, a few bytes of each in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hubstore.corpus import ITEM_SCHEMA
from hubstore.errors import StoreError
from hubstore.storage import Storage

Hashes = npt.NDArray[np.uint64]

Count = Callable[[pa.RecordBatch], list[int | None]]
"""Tokens of each item; None for one that cannot be read and is left out."""


class ItemStream(Iterator[pa.RecordBatch]):
    """One pass over a corpus: a generation takes its items, and the next goes on where that ended.

    Args:
        batches: of the corpus's schema, in corpus order.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.RecordBatch | None = None

    def __next__(self) -> pa.RecordBatch:
        batch, self._left = self._left, None
        return next(self._batches) if batch is None else batch

    def put_back(self, batch: pa.RecordBatch) -> None:
        """Give back what was taken and belongs to the next generation."""
        self._left = batch

    def close(self) -> None:
        """End the pass, and close the files that it has open."""
        if isinstance(self._batches, Generator):
            self._batches.close()


class KnownIds:
    """Hashes of the ids that a store has, in sorted runs: the short ones are merged, so that there are few.

    Args:
        hashes: uint64, as `id_hashes` makes them.

    Attributes:
        planned: uint64, of the generation that was planned last; they are known when they are added.
    """

    def __init__(self, hashes: Hashes | None = None) -> None:
        self._runs: list[Hashes] = []
        self.planned = np.empty(0, np.uint64)
        if hashes is not None:
            self.add(hashes)

    def add(self, hashes: Hashes) -> None:
        """Add ids; a hash is moved as often as the number of runs doubles."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # which merges what is sorted
        if len(run):
            self._runs.append(run)

    def among(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """bool [hashes]: which of them are known."""
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            found |= run[places] == hashes
        return found


@dataclass(frozen=True)
class Spooled:
    """A generation's items as they were spooled, in corpus order.

    Args:
        items: how many.
        skipped: rows that were left out because they cannot be read.
        ended: whether the corpus ends with them.
        fingerprint: SHA-256 of their content.
        partitions: (modality, language) in the order of first appearance.
        codes: int32 [items], each item's partition.
        ids: uint64 [items], hashes.
        concepts: uint64 [items], hashes; 0 for none.
        tokens: int32 [items], where they were counted.
    """

    items: int
    skipped: int
    ended: bool
    fingerprint: str
    partitions: list[tuple[str, str]]
    codes: npt.NDArray[np.int32]
    ids: Hashes
    concepts: Hashes
    tokens: npt.NDArray[np.int32] | None


def id_hashes(ids: Any) -> Hashes:
    """64-bit hashes of ids: of a hundred million different ones, two are the same with a chance of 1 in 3,700."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, ids.cast(pa.binary()).to_pylist()), np.uint64, len(ids))


def spool(
    path: Path,
    storage: Storage,
    stream: ItemStream,
    count: Count | None,
    most: int,
    most_bytes: float,
    schema: pa.Schema = ITEM_SCHEMA,
) -> Spooled:
    """Take a generation's items from a stream, and spool them.

    A generation ends after `most` rows, or before the bytes of its media are more than `most_bytes`, wherever the
    stream's batches end. One of which no item can be read goes on for as many rows again.

    Args:
        path: the file to write.
        storage: whose plan it is.
        stream: what is left of the corpus; what belongs to the next generation is put back.
        count: see `Count`; None where tokens are not counted.
        most: rows.
        most_bytes: of media that travel with their items.
        schema: of the stream: ITEM_SCHEMA, and the columns that items keep.
    """
    taken = _Taken()
    read, size, limit = 0, 0, most
    with _spool_writer(path, storage, schema) as write:
        while (batch := next(stream, None)) is not None:
            sizes = _media_sizes(batch)
            fitting = len(batch) if sizes is None else int(np.searchsorted(size + sizes, most_bytes, side="right"))
            room = min(limit - read, max(fitting, not read), len(batch))
            if room < len(batch):
                stream.put_back(batch.slice(room))
            if not room and taken.items:
                return taken.spooled(read, ended=False)
            if not room:
                limit, size = read + most, 0
                continue
            batch = batch.slice(0, room)
            read += room
            size += 0 if sizes is None else int(sizes[room - 1])
            if count:
                batch = taken.counted(batch, count(batch))
            write(batch)
            taken.add(batch)
    return taken.spooled(read, ended=True)


class _Taken:
    """What is held in memory of the items that were spooled so far."""

    def __init__(self) -> None:
        self.items = 0
        self._digest = hashlib.sha256()
        self._partitions: dict[str, int] = {}
        self._codes = [np.empty(0, np.int32)]
        self._ids = [np.empty(0, np.uint64)]
        self._concepts = [np.empty(0, np.uint64)]
        self._tokens: list[npt.NDArray[np.int32]] = []

    def counted(self, batch: pa.RecordBatch, tokens: list[int | None]) -> pa.RecordBatch:
        """The items of a batch that have tokens."""
        self._tokens.append(np.array([number for number in tokens if number is not None], np.int32))
        return batch.filter(pa.array([number is not None for number in tokens], pa.bool_()))

    def add(self, batch: pa.RecordBatch) -> None:
        self.items += len(batch)
        for content in _contents(batch):
            self._digest.update(content)
        names = pc.binary_join_element_wise(batch.column("modality"), batch.column("language"), "\x1f")
        found = names.dictionary_encode()
        codes = [self._partitions.setdefault(name, len(self._partitions)) for name in found.dictionary.to_pylist()]
        self._codes.append(np.array(codes, np.int32)[found.indices.to_numpy()])
        self._ids.append(id_hashes(batch.column("id")))
        concepts = batch.column("concept").cast(pa.binary()).to_pylist()
        self._concepts.append(
            np.fromiter((xxhash.xxh3_64_intdigest(one) if one else 0 for one in concepts), np.uint64, len(concepts))
        )

    def spooled(self, read: int, *, ended: bool) -> Spooled:
        partitions = [(modality, language) for modality, _, language in (p.partition("\x1f") for p in self._partitions)]
        return Spooled(
            items=self.items,
            skipped=read - self.items,
            ended=ended,
            fingerprint=self._digest.hexdigest(),
            partitions=partitions,
            codes=np.concatenate(self._codes),
            ids=np.concatenate(self._ids),
            concepts=np.concatenate(self._concepts),
            tokens=np.concatenate(self._tokens) if self._tokens else None,
        )


def _media_sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64] | None:
    """int64 [rows]: bytes of media up to each row and with it; None where there are none."""
    data = batch.column("data")
    if data.null_count == len(data):
        return None
    return np.cumsum(pc.fill_null(pc.binary_length(data), 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _contents(batch: pa.RecordBatch) -> Iterator[Any]:
    """What the fingerprint is of, in portions: an item's fields and the columns that it keeps, each value behind "=";
    and beside them the name and digest of a medium.

    Fields are separated by 1F and items ended by 1E, whatever the portions: stores keep the fingerprint.
    """
    columns = [batch.column(name).cast(pa.large_binary()) for name in ("id", "concept", "language", "modality", "text")]
    between, after, nothing, valued = (pa.scalar(value, pa.large_binary()) for value in (b"\x1f", b"\x1e", b"", b"="))
    for column in batch.columns[len(ITEM_SCHEMA) :]:
        value = column.cast(pa.string()).cast(pa.large_binary())
        columns.append(pc.binary_join_element_wise(valued, value, nothing))
    identity = pc.binary_join_element_wise(*columns, between, null_handling="replace")
    if batch.column("media").null_count == len(batch):
        yield _bytes_of(pc.binary_join_element_wise(identity, nothing, after))
        return
    media = zip(batch.column("media").to_pylist(), batch.column("data"), strict=True)
    for content, (name, data) in zip(identity.to_pylist(), media, strict=True):
        digest = hashlib.sha256(data.as_buffer() or b"").digest()
        suffix = b"" if name is None else b"\x1f" + name.encode() + b"\x1f" + digest
        yield content + suffix + b"\x1e"


def _bytes_of(column: Any) -> memoryview:
    """The bytes of a binary column's values, end to end."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)
    return memoryview(data)[int(ends[column.offset]) : int(ends[column.offset + len(column)])]


@contextlib.contextmanager
def _spool_writer(path: Path, storage: Storage, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """What writes a batch to the spool. What reading the batches raises stays as it is."""

    @contextlib.contextmanager
    def refusing() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            elsewhere = "write the store elsewhere" if storage.is_local else "set TMPDIR to another"
            raise StoreError(
                f"{path.parent}: the plan's items could not be written there "
                f"({os.strerror(error.errno) if error.errno else error}); free space in that folder, or {elsewhere}"
            ) from error

    with refusing():
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.OSFile(str(path), "wb")
        writer = pa.ipc.new_file(sink, schema)

    def write(batch: pa.RecordBatch) -> None:
        with refusing():
            writer.write_batch(batch)

    try:
        yield write
    finally:
        with refusing(), sink:
            writer.close()
