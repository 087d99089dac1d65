"""The plan: which item goes to which shard. Made once, kept in the store until its last shard is committed.

A plan holds one generation of the corpus: the items, spooled as they came, and their order by
partition and then by corpus order. What is in memory is a few bytes per item, never its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs

from hubstore.corpus import ITEM_SCHEMA
from hubstore.decoding import one_line
from hubstore.errors import CorpusError, CorruptStoreError
from hubstore.extraction.spool import Count, Hashes, ItemStream, KnownIds, Spooled, spool
from hubstore.storage import Storage, crc32c
from hubstore.store import Layout
from hubstore.store.columns import named_types, stored_columns, with_columns
from hubstore.store.dtypes import itemsize
from hubstore.store.layout import PLAN
from hubstore.store.records import PlanFileJson, decode_record, sealed

SPOOL = "plan/items.arrow"
ORDER = "plan/order.npy"
TOKENS = "plan/tokens.npy"
"""Tokens of each item, in the plan's order; there where every token becomes a row."""

GENERATION_ITEMS = 4_000_000
"""Items ordered at once; a larger corpus is planned in generations, and its partitions are a few ranges each."""

GENERATION_BYTES = 32 << 30
"""Bytes of images and audio that travel with their items and are spooled at once."""


class NoItemsError(CorpusError):
    """What is left of a corpus has no item that can be read."""

    def __init__(self, skipped: int) -> None:
        super().__init__(
            f"none of {skipped} items can be read; look at one of them"
            if skipped
            else "the corpus has fewer items than when its extraction was begun; run again with the corpus as it was"
        )
        self.skipped = skipped


class AlreadyAppended(Exception):  # noqa: N818 - no error: the run has nothing to do
    """The corpus was appended before, whole: a run of it was killed when its last shard was committed, or ended."""


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
    """One generation of a corpus, divided into shards.

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
        columns: further columns that the items keep, [name, type] each.
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
    columns: Sequence[Sequence[str]] = ()

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
            "shards": [self.shards[0].shard, self.shards[-1].shard + 1],
        }


class PlannedItems:
    """The items of a plan, read shard by shard from its memory-mapped spool."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._order: npt.NDArray[np.int64] = storage.map(ORDER).view(np.int64)
        reader = pa.ipc.open_file(pa.py_buffer(storage.map(SPOOL)))
        self._columns = [name for name in reader.schema.names if name != "data"]
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._sizes: dict[str, npt.NDArray[np.int64]] = {}

    def read(self, start: int, stop: int, *, media: bool = False) -> pa.Table:
        """Items [start, stop) of the plan's order: without the bytes of media, or without the columns that are kept."""
        positions = self._order[start:stop]
        columns = ITEM_SCHEMA.names if media else self._columns
        if len(positions) and (np.diff(positions) == 1).all():  # as they lie: nothing is copied
            number = int(np.searchsorted(self._starts, positions[0], side="right")) - 1
            if positions[-1] < self._starts[number + 1]:
                lying = self._batches[number].slice(positions[0] - self._starts[number], len(positions))
                return pa.Table.from_batches([lying.select(columns)])
        ascending = np.argsort(positions, kind="stable")
        rows = positions[ascending]
        bounds = np.searchsorted(rows, self._starts)
        parts = [
            self._batches[i].select(columns).take(pa.array(rows[bounds[i] : bounds[i + 1]] - self._starts[i]))
            for i in np.flatnonzero(np.diff(bounds))
        ]
        table = pa.Table.from_batches(parts).combine_chunks()
        return table.take(pa.array(np.argsort(ascending, kind="stable")))

    def bytes_of(self, column: str) -> npt.NDArray[np.int64]:
        """int64 [items]: bytes of every item's "text" or "data", in the plan's order; 0 where it has none."""
        if column not in self._sizes:
            spooled = [pc.fill_null(pc.binary_length(batch.column(column)), 0) for batch in self._batches]
            sizes = np.concatenate([of_batch.to_numpy(zero_copy_only=False) for of_batch in spooled])
            self._sizes[column] = sizes.astype(np.int64)[self._order]
        return self._sizes[column]

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """int32: tokens of items [start, stop), where the plan counted them."""
        return self._storage.map(TOKENS).view(np.int32)[start:stop]


@dataclass(frozen=True)
class PlanStart:
    """Where a generation begins: in its corpus and in its store.

    Args:
        generation: its number in the store.
        corpus_offset: rows of the corpus in earlier generations.
        shard: its first shard.
        token_shard: where its token rows start, in Zarr shards.
        rows: of the corpus, in a generation that was planned before and whose plan is gone; else None.
        fingerprint: of the items that were planned then.
        appended: fingerprints of corpora that are in the store, each planned in one generation.
    """

    generation: int
    corpus_offset: int
    shard: int
    token_shard: int
    rows: int | None = None
    fingerprint: str | None = None
    appended: frozenset[str] = frozenset()


def make_plan(  # noqa: PLR0913
    storage: Storage,
    layout: Layout,
    batches: Iterator[pa.RecordBatch],
    start: PlanStart,
    identity: Mapping[str, Any],
    *,
    known_ids: KnownIds | Hashes,
    count: Count | None = None,
    memory_budget: int,
    generation_items: int = GENERATION_ITEMS,
    generation_bytes: int = GENERATION_BYTES,
    columns: Mapping[str, pa.DataType] | None = None,
) -> Plan:
    """Spool and order the next generation of a corpus, and put the plan into the store.

    Args:
        storage: the store.
        layout: its shapes.
        batches: what is left of the corpus; an `ItemStream` keeps what belongs to the generation after this one.
        start: where the generation begins.
        identity: what was asked for.
        known_ids: those that the store has already; a `KnownIds` has the plan's beside them afterward.
        count: needed where every token becomes a row: how many each item has.
        memory_budget: bytes of one shard's token rows over all layers.
        generation_items: most rows to order at once.
        generation_bytes: most bytes of media to spool at once.
        columns: that the items keep, with their types.

    Raises:
        AlreadyAppended: the corpus is one of those that `start` says were appended.
        CorpusError: no item can be read; an id stands twice in the corpus, or is in the store already; or what reading
            it raises.
        StoreError: the disk does not take the plan.
    """
    known = known_ids if isinstance(known_ids, KnownIds) else KnownIds(known_ids)
    stream = batches if isinstance(batches, ItemStream) else ItemStream(batches)
    schema = with_columns(ITEM_SCHEMA, columns or {})
    most, most_bytes = (generation_items, generation_bytes) if start.rows is None else (start.rows, np.inf)
    with storage.scratch(SPOOL) as path:
        spooled = spool(path, storage, stream, count, most, most_bytes, schema)
        if not spooled.items:  # an empty corpus raises by itself
            raise NoItemsError(spooled.skipped)
        if start.fingerprint not in (None, spooled.fingerprint):
            raise CorpusError(
                f"items {start.corpus_offset + 1} to {start.corpus_offset + spooled.items} of the corpus are not those "
                f"that {storage.root} was planned with; run again with the corpus as it was, or extract it elsewhere"
            )
        if spooled.ended and spooled.fingerprint in start.appended:
            raise AlreadyAppended
        _refuse_duplicates(path, spooled, known, start.corpus_offset)
        files = {SPOOL: crc32c(np.memmap(path, np.uint8, mode="r").data)}
        storage.put_file(SPOOL, path)
    order = np.argsort(spooled.codes, kind="stable").astype(np.int64)
    arrays = {ORDER: order}
    if spooled.tokens is not None:
        arrays[TOKENS] = np.ascontiguousarray(spooled.tokens[order])
    for key, array in arrays.items():
        content = array.data.cast("B")
        storage.write(key, content)
        files[key] = crc32c(content)
    shards = assign_shards(order, spooled.tokens, layout, start, memory_budget)
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
        columns=named_types(columns or {}),
    )
    storage.write(PLAN, _encode(plan, files))
    known.planned = spooled.ids
    return plan


def load_plan(storage: Storage) -> Plan | None:
    """The plan that an unfinished extraction left, or None."""
    if not storage.exists(PLAN):
        return None
    remedy = f"remove {storage.root / 'plan'} and run the same command again: what was committed stays"
    data = decode_record(storage.read(PLAN), PlanFileJson, storage.root / PLAN, remedy)
    said = {**structs.asdict(data.plan), "partitions": tuple(data.plan.partitions)}
    plan = Plan(**{**said, "shards": tuple(PlannedShard(*shard) for shard in data.plan.shards)})
    problem = next(_problems(plan, data.files), None)
    if problem:
        raise CorruptStoreError(f"{storage.root / PLAN} is not as it was written: {problem}; {remedy}")
    for key, checksum in data.files.items():
        size = {ORDER: 8, TOKENS: 4}.get(key, 0) * plan.items
        if not storage.exists(key) or (size and storage.size(key) != size) or crc32c(storage.map(key).data) != checksum:
            raise CorruptStoreError(f"{storage.root / key} was changed after it was planned; {remedy}")
    problem = _items_problem(storage, plan)
    if problem:
        raise CorruptStoreError(f"{storage.root / SPOOL} is not as it was written: {problem}; {remedy}")
    return plan


def _items_problem(storage: Storage, plan: Plan) -> str | None:
    """What shows that a plan's files, which a stranger signs too, do not hold its items."""
    rows = 0
    try:
        reader = pa.ipc.open_file(pa.py_buffer(storage.map(SPOOL)))
        if reader.schema != with_columns(ITEM_SCHEMA, stored_columns(plan.columns)):
            return "it has other columns than its items"
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            rows += len(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        return one_line(error)
    order = np.sort(storage.map(ORDER).view(np.int64))
    whole = rows == plan.items and np.array_equal(order, np.arange(rows))
    return None if whole else f"it holds {rows} items, and {plan.items} were planned in an order"


def _problems(plan: Plan, files: Mapping[str, int]) -> Iterator[str]:
    """What shows that a plan is none of its own files."""
    if not {SPOOL, ORDER} <= files.keys() <= {SPOOL, ORDER, TOKENS}:
        yield "its files are not those of a plan"
    ends = [0, *(shard.stop for shard in plan.shards)]
    if [shard.start for shard in plan.shards] != ends[:-1] or ends[-1] != plan.items or ends != sorted(ends):
        yield "its shards do not hold its items one after the other"
    if [shard.shard for shard in plan.shards] != list(
        range(plan.shards[0].shard, plan.shards[0].shard + len(ends) - 1)
    ):
        yield "its shards are not numbered one after the other"


def discard_plan(storage: Storage) -> None:
    """Remove the plan; plan.json first, since without it there is none."""
    for key in (PLAN, ORDER, SPOOL, TOKENS):
        storage.delete(key)


def _refuse_duplicates(path: Path, spooled: Spooled, known: KnownIds, offset: int) -> None:
    order = np.argsort(spooled.ids, kind="stable")
    ascending = spooled.ids[order]
    twice = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(twice):
        first, second = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
        raise CorpusError(
            f"id {_id_at(path, first)!r} stands twice in the corpus, as items {offset + first + 1} and "
            f"{offset + second + 1} ({len(twice)} such pairs in all); give every item an id of its own"
        )
    known_items = np.sort(order[known.among(ascending)])
    if len(known_items):
        first = int(known_items[0])
        earlier = f" or earlier in the corpus, whose item {offset + first + 1} has it again" if offset else ""
        raise CorpusError(
            f"id {_id_at(path, first)!r} is in the store already{earlier} ({len(known_items)} such items in all); "
            "leave out what the store has, or give the new items ids of their own"
        )


def _id_at(path: Path, row: int) -> str:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if row < len(batch):
                return str(batch.column("id")[row].as_py())
            row -= len(batch)
    raise IndexError(row)


def assign_shards(
    order: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int32] | None,
    layout: Layout,
    start: PlanStart,
    memory_budget: int,
) -> Iterator[PlannedShard]:
    """Shards of at most shard_rows items, and of no more token rows than the memory budget holds."""
    ends = None if tokens is None else np.cumsum(tokens[order], dtype=np.int64)
    row_bytes = layout.width * len(layout.layers) * itemsize(layout.dtype)
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
        **({"columns": plan.columns} if plan.columns else {}),
    }
    return sealed({"plan": content, "files": dict(files)})
