"""The plan: which item goes to which shard. Made once, kept in the store until its last shard is committed.

A plan holds one generation of the corpus: the items, spooled as they came, and their order by
partition and then by corpus order. What is in memory is a few bytes per item, never its text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hubstore.corpus import ITEM_SCHEMA
from hubstore.errors import CorpusError, CorruptStoreError, StoreError
from hubstore.store import Layout, LocalStorage, Storage
from hubstore.store.layout import encode_json
from hubstore.store.shardfile import crc32c
from hubstore.store.storage import PARTIAL

PLAN = "plan/plan.json"
SPOOL = "plan/items.arrow"
ORDER = "plan/order.npy"
TOKENS = "plan/tokens.npy"
"""Tokens of each item, in the plan's order; there where every token becomes a row."""

GENERATION_ITEMS = 4_000_000
"""Items ordered at once; a larger corpus is planned in generations, and its partitions are a few ranges each."""

GENERATION_BYTES = 32 << 30
"""Bytes of pictures and sounds that travel with their items and are spooled at once."""

Count = Callable[[pa.RecordBatch], list[int | None]]
"""Tokens of each item; None for one that cannot be read and is left out."""


@dataclass(frozen=True)
class PlannedShard:
    """One shard: its number, its slice of the plan's order, and where its token rows go."""

    shard: int
    start: int
    stop: int
    first_token_shard: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """One generation of a corpus, dealt out into shards.

    Args:
        generation: its number in the store.
        corpus_offset: items of the corpus in earlier generations.
        items: items in this one.
        skipped: items of the corpus that were left out because they cannot be read.
        last: whether the corpus ends with it.
        fingerprint: SHA-256 of these items' content.
        partitions: (modality, language, items) in order.
        single_concepts: concepts that have one item only, here.
        no_concept: items without a concept.
        shards: the shards, in order.
        identity: what was asked for: settings, model and corpus; a resumed run must ask for the same.
    """

    generation: int
    corpus_offset: int
    items: int
    skipped: int
    last: bool
    fingerprint: str
    partitions: tuple[tuple[str, str, int], ...]
    single_concepts: int
    no_concept: int
    shards: tuple[PlannedShard, ...]
    identity: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """What the store keeps of the plan when it is done."""
        return {
            "generation": self.generation,
            "items": self.items,
            "skipped": self.skipped,
            "fingerprint": self.fingerprint,
            "partitions": [list(partition) for partition in self.partitions],
            "single_concepts": self.single_concepts,
            "no_concept": self.no_concept,
        }


class PlannedItems:
    """The items of a plan, read shard by shard from its memory-mapped spool."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._order: npt.NDArray[np.int64] = storage.map(ORDER).view(np.int64)
        reader = pa.ipc.open_file(pa.py_buffer(storage.map(SPOOL)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def read(self, start: int, stop: int, *, media: bool = False) -> pa.Table:
        """Items [start, stop) of the plan's order: ITEM_SCHEMA, the bytes of media where asked for."""
        wanted = self._order[start:stop]
        columns = ITEM_SCHEMA.names if media else [name for name in ITEM_SCHEMA.names if name != "data"]
        if len(wanted) and (np.diff(wanted) == 1).all():  # as they lie: nothing is copied
            number = int(np.searchsorted(self._starts, wanted[0], side="right")) - 1
            if wanted[-1] < self._starts[number + 1]:
                lying = self._batches[number].slice(wanted[0] - self._starts[number], len(wanted))
                return pa.Table.from_batches([lying.select(columns)])
        ascending = np.argsort(wanted, kind="stable")
        rows = wanted[ascending]
        bounds = np.searchsorted(rows, self._starts)
        parts = [
            self._batches[i].select(columns).take(pa.array(rows[bounds[i] : bounds[i + 1]] - self._starts[i]))
            for i in np.flatnonzero(np.diff(bounds))
        ]
        table = pa.Table.from_batches(parts).combine_chunks()
        return table.take(pa.array(np.argsort(ascending, kind="stable")))

    def bytes_of(self, column: str) -> npt.NDArray[np.int64]:
        """int64 [items]: bytes of every item's "text" or "data", in the plan's order; 0 where it has none."""
        spooled = [pc.fill_null(pc.binary_length(batch.column(column)), 0) for batch in self._batches]
        return np.concatenate([of_batch.to_numpy(zero_copy_only=False) for of_batch in spooled]).astype(np.int64)[
            self._order
        ]

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """int32: tokens of items [start, stop), where the plan counted them."""
        return self._storage.map(TOKENS).view(np.int32)[start:stop]


@dataclass(frozen=True)
class PlanStart:
    """Where a new generation begins in its store."""

    generation: int
    corpus_offset: int
    shard: int
    token_shard: int


def make_plan(
    storage: Storage,
    layout: Layout,
    batches: Iterator[pa.RecordBatch],
    start: PlanStart,
    identity: Mapping[str, Any],
    *,
    known_ids: npt.NDArray[np.uint64],
    count: Count | None = None,
    memory_budget: int,
    generation_items: int = GENERATION_ITEMS,
    generation_bytes: int = GENERATION_BYTES,
) -> Plan:
    """Spool and order the next generation of a corpus, and keep the plan in the store.

    Args:
        storage: the store.
        layout: its shapes.
        batches: what is left of the corpus.
        start: where the generation begins.
        identity: what was asked for.
        known_ids: `id_hashes` of the items that the store has already.
        count: needed where every token becomes a row: how many each item has.
        memory_budget: bytes of one shard's token rows over all layers.
        generation_items: most items to order at once.
        generation_bytes: most bytes of media to spool at once.

    Raises:
        CorpusError: no item can be read; an id stands twice in the corpus, or is in the store already; or what reading
            it raises.
        StoreError: the disk does not take the plan.
    """
    with _spool_path(storage) as spool:
        spooled = _spool(spool, storage, batches, count, generation_items, generation_bytes)
        if not spooled.items:  # an empty corpus raises by itself
            raise CorpusError(f"none of {spooled.skipped} items can be read; look at one of them")
        _refuse_duplicates(spool, spooled, known_ids)
        files = {SPOOL: crc32c(np.memmap(spool, np.uint8, mode="r").data)}
        storage.put_file(SPOOL, spool)
    order = np.argsort(spooled.codes, kind="stable").astype(np.int64)
    arrays = {ORDER: order}
    if spooled.tokens is not None:
        arrays[TOKENS] = np.ascontiguousarray(spooled.tokens[order])
    for key, array in arrays.items():
        content = array.data.cast("B")
        storage.write(key, content)
        files[key] = crc32c(content)
    shards = deal(order, spooled.tokens, layout, start, memory_budget)
    counts = np.bincount(spooled.codes)
    single, without = _concept_counts(spooled.concepts)
    plan = Plan(
        generation=start.generation,
        corpus_offset=start.corpus_offset,
        items=spooled.items,
        skipped=spooled.skipped,
        last=spooled.ended,
        fingerprint=spooled.fingerprint,
        partitions=tuple((*key, int(n)) for key, n in zip(spooled.partitions, counts, strict=True)),
        single_concepts=single,
        no_concept=without,
        shards=tuple(shards),
        identity=identity,
    )
    storage.write(PLAN, _encode(plan, files))
    return plan


def load_plan(storage: Storage) -> Plan | None:
    """The plan that an unfinished extraction left, or None."""
    if not storage.exists(PLAN):
        return None
    data = json.loads(storage.read(PLAN))
    for key, checksum in data["files"].items():
        if crc32c(storage.map(key).data) != checksum:
            raise CorruptStoreError(
                f"{storage.root / key} was changed after it was planned; remove {storage.root / 'plan'} and run again"
            )
    content = data["plan"]
    content["partitions"] = tuple((m, language, n) for m, language, n in content["partitions"])
    content["shards"] = tuple(PlannedShard(*shard) for shard in content["shards"])
    return Plan(**{"skipped": 0, **content})


def discard_plan(storage: Storage) -> None:
    """Remove the plan; plan.json first, since without it there is none."""
    for key in (PLAN, ORDER, SPOOL, TOKENS):
        storage.delete(key)


def id_hashes(ids: Any) -> npt.NDArray[np.uint64]:
    """64-bit hashes of ids: of a hundred million different ones, two are the same with a chance of 1 in 3,700."""
    return np.fromiter((xxhash.xxh3_64_intdigest(i.encode()) for i in ids.to_pylist()), np.uint64, len(ids))


@dataclass(frozen=True)
class _Spooled:
    items: int
    skipped: int
    ended: bool
    fingerprint: str
    partitions: list[tuple[str, str]]
    codes: npt.NDArray[np.int32]
    ids: npt.NDArray[np.uint64]
    concepts: npt.NDArray[np.uint64]
    tokens: npt.NDArray[np.int32] | None


@contextlib.contextmanager
def _spool_path(storage: Storage) -> Iterator[Path]:
    """Where items are spooled until they are put into the store: on its own disk, if it has one, to be renamed."""
    if isinstance(storage, LocalStorage):
        key = f"plan/.items.arrow{PARTIAL}"  # the store's next writer removes it, should this one be killed
        try:
            yield storage.local(key)
        finally:
            storage.delete(key)
        return
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:
        raise StoreError(
            f"{storage.root}: no folder takes the items while they are planned ({error}); set TMPDIR to one that does"
        ) from error
    with temporary as folder:
        yield Path(folder) / "items.arrow"


@contextlib.contextmanager
def _spool_writer(path: Path, storage: Storage) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """What writes a batch to the spool. What reading the batches raises stays as it is."""

    @contextlib.contextmanager
    def refusing() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            elsewhere = "write the store elsewhere" if isinstance(storage, LocalStorage) else "set TMPDIR to another"
            raise StoreError(
                f"{path.parent}: the plan's items could not be written there "
                f"({os.strerror(error.errno) if error.errno else error}); free space in that folder, or {elsewhere}"
            ) from error

    with refusing():
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.OSFile(str(path), "wb")
        writer = pa.ipc.new_file(sink, ITEM_SCHEMA)

    def write(batch: pa.RecordBatch) -> None:
        with refusing():
            writer.write_batch(batch)

    try:
        yield write
    finally:
        with refusing(), sink:
            writer.close()


def _spool(
    path: Path,
    storage: Storage,
    batches: Iterator[pa.RecordBatch],
    count: Count | None,
    most: int,
    most_bytes: int,
) -> _Spooled:
    digest = hashlib.sha256()
    partitions: dict[tuple[str, str], int] = {}
    codes: list[npt.NDArray[np.int32]] = []
    ids: list[npt.NDArray[np.uint64]] = []
    concepts: list[npt.NDArray[np.uint64]] = []
    tokens: list[npt.NDArray[np.int32]] = []
    read, items, size, ended = 0, 0, 0, True
    with _spool_writer(path, storage) as write:
        for whole in batches:
            size += whole.column("data").nbytes
            ended = read + len(whole) <= most and (size <= most_bytes or not read)
            batch = whole if ended else whole.slice(0, most - read if size <= most_bytes else 0)
            read += len(batch)
            if count:
                counted = count(batch)
                batch = batch.filter(pa.array([number is not None for number in counted], pa.bool_()))
                tokens.append(np.array([number for number in counted if number is not None], np.int32))
            write(batch)
            columns = {name: batch.column(name).to_pylist() for name in ITEM_SCHEMA.names}
            for row in zip(*columns.values(), strict=True):
                digest.update(_content(*row))
            pairs = zip(columns["modality"], columns["language"], strict=True)
            codes.append(
                np.fromiter((partitions.setdefault(pair, len(partitions)) for pair in pairs), np.int32, len(batch))
            )
            ids.append(id_hashes(batch.column("id")))
            concepts.append(
                np.fromiter((xxhash.xxh3_64_intdigest(c.encode()) if c else 0 for c in columns["concept"]), np.uint64)
            )
            items += len(batch)
            if not ended:
                break
    return _Spooled(
        items=items,
        skipped=read - items,
        ended=ended,
        fingerprint=digest.hexdigest(),
        partitions=list(partitions),
        codes=np.concatenate(codes) if codes else np.empty(0, np.int32),
        ids=np.concatenate(ids) if ids else np.empty(0, np.uint64),
        concepts=np.concatenate(concepts) if concepts else np.empty(0, np.uint64),
        tokens=np.concatenate(tokens) if tokens else None,
    )


def _content(
    name: str, concept: str | None, language: str, modality: str, text: str, media: str | None, data: bytes | None
) -> bytes:
    """What the fingerprint is of, for one item: a text's fields, and the name and bytes of a medium."""
    content = "\x1f".join((name, concept or "", language, modality, text)).encode()
    if media is not None:
        content += b"\x1f" + media.encode() + b"\x1f" + hashlib.sha256(data or b"").digest()
    return content + b"\x1e"


def _refuse_duplicates(spool: Path, spooled: _Spooled, known: npt.NDArray[np.uint64]) -> None:
    order = np.argsort(spooled.ids, kind="stable")
    ascending = spooled.ids[order]
    twice = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(twice):
        first, second = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
        raise CorpusError(
            f"id {_id_at(spool, first)!r} stands twice in the corpus, as items {first + 1} and {second + 1} "
            f"({len(twice)} such pairs in all); give every item an id of its own"
        )
    there = np.flatnonzero(np.isin(spooled.ids, known))
    if len(there):
        raise CorpusError(
            f"id {_id_at(spool, int(there[0]))!r} is in the store already ({len(there)} such items in all); "
            "leave out what the store has, or give the new items ids of their own"
        )


def _id_at(spool: Path, row: int) -> str:
    with pa.memory_map(str(spool)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if row < len(batch):
                return str(batch.column("id")[row].as_py())
            row -= len(batch)
    raise IndexError(row)


def deal(
    order: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int32] | None,
    layout: Layout,
    start: PlanStart,
    memory_budget: int,
) -> Iterator[PlannedShard]:
    """Shards of at most shard_rows items, and of no more token rows than the memory budget holds."""
    ends = None if tokens is None else np.cumsum(tokens[order], dtype=np.int64)
    row_bytes = layout.width * len(layout.layers) * 4
    most_tokens = max(memory_budget // row_bytes, layout.shard_rows)
    first, shard, token_shard = 0, start.shard, start.token_shard
    while first < len(order):
        stop = min(first + layout.shard_rows, len(order))
        held = 0
        if ends is not None:
            before = int(ends[first - 1]) if first else 0
            fits = int(np.searchsorted(ends, before + most_tokens, side="right"))
            stop = min(stop, max(fits, first + 1))
            held = int(ends[stop - 1]) - before
        yield PlannedShard(shard, first, stop, token_shard, held)
        first, shard, token_shard = stop, shard + 1, token_shard - (-held // layout.shard_rows)


def _concept_counts(concepts: npt.NDArray[np.uint64]) -> tuple[int, int]:
    """How many concepts have one item only, and how many items have no concept."""
    named = concepts[concepts != 0]
    _, counts = np.unique(named, return_counts=True)
    return int((counts == 1).sum()), int(len(concepts) - len(named))


def _encode(plan: Plan, files: Mapping[str, int]) -> bytes:
    content = {
        "generation": plan.generation,
        "corpus_offset": plan.corpus_offset,
        "last": plan.last,
        **plan.summary(),
        "shards": [[s.shard, s.start, s.stop, s.first_token_shard, s.tokens] for s in plan.shards],
        "identity": plan.identity,
    }
    return encode_json({"plan": content, "files": dict(files)})
