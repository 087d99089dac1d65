"""From a plan's shards to batches in host memory: texts are tokenized, images and audio are read ahead."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.corpus import ITEM_SCHEMA
from hubstore.errors import CorpusError
from hubstore.extraction.plan import Plan, PlannedItems, PlannedShard
from hubstore.extraction.readers import LAY_OUT, submit_items
from hubstore.extraction.settings import ResolvedSettings
from hubstore.forward import Batching, HostBatch, collate_media
from hubstore.forward.batch import host_batch
from hubstore.forward.members import batch_members, media_members, runs_of
from hubstore.media import MediaInputs
from hubstore.models import Model
from hubstore.reading.layout import Integers, TextArrays, TextItems, TextLayout, lay_out
from hubstore.reading.processes import Job, ReadingProcesses
from hubstore.reading.texts import TokenizedTexts, positions_of
from hubstore.storage import Storage
from hubstore.store import Layout

LAID_OUT_TOKENS: Final = 1 << 17
LAID_OUT_BATCHES: Final = 256
"""Texts whose batches are laid out at once: tokens, and batches at most; a token takes some 50 bytes then."""

WINDOW_ITEMS = 512
WINDOW_BYTES = 256 << 20
"""Images or audio that are held to be put into batches of like length."""

BROKEN_SHOWN: Final = 100
"""Broken items that messages name."""


@dataclass(frozen=True)
class Work:
    """What extracting needs to know beside the model.

    Args:
        storage: the store, locked by the caller.
        layout: its shapes.
        settings: resolved settings.
        plan: the plan that the shards are of.
        batching: by modality, how batches are made, as the self-check found.
        skip_broken: whether images and audio that cannot be read are left out; else they stop the run.
        processes: that read items; None to choose by the device.
        shared: whether other writers commit shards of the plan too.
    """

    storage: Storage
    layout: Layout
    settings: ResolvedSettings
    plan: Plan
    batching: Mapping[str, Batching]
    skip_broken: bool = False
    processes: int | None = None
    shared: bool = False

    @property
    def media_tokens(self) -> int:
        """Tokens of a full batch of images or audio."""
        return self.settings.media_tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens of a full batch."""
        return self.settings.batch_tokens


@dataclass(frozen=True)
class ShardStart:
    """Heads a shard's batches; by pooling, the rows that are prepared for it."""

    planned: PlannedShard
    rows: dict[str, int]


@dataclass(frozen=True)
class ShardEnd:
    """Follows a shard's batches: its item table, and which of its planned items are in it, where not all are."""

    items: pa.Table
    included: torch.Tensor | None
    previews: pa.Table | None
    skipped: int = 0
    broken: tuple[str, ...] = ()


class _ShardMetadata:
    """What becomes known of a shard's items while they are prepared."""

    def __init__(self, count: int, tokens: npt.NDArray[np.int32] | None) -> None:
        self.tokens = np.zeros(count, np.int32)
        self.truncated = np.zeros(count, bool)
        self.media: list[list[int] | None] = [None] * count
        self.previews: list[bytes | None] = [None] * count
        self.broken: dict[int, CorpusError] = {}
        self._planned = tokens
        self._ends = None if tokens is None else np.cumsum(tokens, dtype=np.int64)

    def places(self, members: Integers) -> tuple[Integers, Integers | None]:
        """Where pooled rows of these items go, and where the rows of their tokens begin; None where they go nowhere."""
        if self._ends is None or self._planned is None:
            return members, None
        return members, self._ends[members] - self._planned[members]

    def changed(self, start: int, stop: int) -> int | None:
        """The first item whose tokens are not as many as when it was planned."""
        if self._planned is None:
            return None
        differ = np.flatnonzero(self._planned[start:stop] != self.tokens[start:stop])
        return start + int(differ[0]) if len(differ) else None

    def end(self, table: pa.Table, previews: bool) -> ShardEnd:
        """The shard's item table, without what is broken."""
        columns = {
            "tokens": pa.array(self.tokens),
            "truncated": pa.array(self.truncated),
            "media_ranges": pa.array(self.media, pa.list_(pa.int32())),
        }
        shown = table.select(["id"]).append_column("data", pa.array(self.previews, pa.binary())) if previews else None
        kept = table.drop_columns([name for name in ITEM_SCHEMA.names if name in table.column_names])
        table = table.drop_columns(kept.column_names)
        for name, column in (*columns.items(), *zip(kept.column_names, kept.columns, strict=True)):
            table = table.append_column(name, column)
        if not self.broken:
            return ShardEnd(table, None, _with_previews(shown))
        included = np.setdiff1d(np.arange(len(table)), list(self.broken))
        shown = None if shown is None else shown.take(pa.array(included))
        why = tuple(str(error) for _, error in sorted(self.broken.items()))[:BROKEN_SHOWN]
        return ShardEnd(
            table.take(pa.array(included)), torch.from_numpy(included), _with_previews(shown), len(self.broken), why
        )


def _with_previews(previews: pa.Table | None) -> pa.Table | None:
    """The rows of items that have a preview."""
    return None if previews is None else previews.filter(pc.is_valid(previews["data"]))


def left_out(name: str, problem: object, *, skip: bool) -> CorpusError:
    """What says that an item is left out because it cannot be read; where such stop the run, it is raised."""
    named = f"item {name!r}: {problem}"
    if not skip:
        raise CorpusError(f"{named}; or leave out what cannot be read, with --on-error skip")
    return CorpusError(named)


@dataclass
class _Run:
    """Items [start, stop) of a shard, of one modality, that are being read.

    Args:
        modality: of all of them.
        start: the first, in the shard.
        stop: after the last.
        jobs: what they are read by, in order; of texts, in the end what lays out their batches.
        problems: of texts that the model cannot read, by their place in the run.
    """

    modality: str
    start: int
    stop: int
    jobs: list[Job]
    problems: Mapping[int, str] = field(default_factory=dict)


@dataclass
class _Shard:
    """A shard that is being prepared.

    Args:
        planned: of the plan.
        table: its items, without the bytes of media.
        metadata: what is known of them by now.
        runs: its items, in order.
        pending: images or audio that were read and are in no batch yet, by their place in the shard.
        pending_bytes: of their tensors.
    """

    planned: PlannedShard
    table: pa.Table
    metadata: _ShardMetadata
    runs: list[_Run] = field(default_factory=list)
    pending: dict[int, MediaInputs] = field(default_factory=dict)
    pending_bytes: int = 0

    def name(self, number: int) -> str:
        """The id of an item."""
        return str(self.table["id"][number].as_py())


class Preparation:
    """What a model is given of a plan.

    Args:
        work: the plan and how it is extracted.
        model: whose tokenizer and processors it is.
        readers: read the items.
    """

    def __init__(self, work: Work, model: Model, readers: ReadingProcesses) -> None:
        self._work = work
        self._model = model
        self._readers = readers
        self._items = PlannedItems(work.storage)
        self._part = functools.partial(self._lay_out_part, model.text_layout) if model.tokenizer is not None else None

    def parts(self, shards: Iterable[PlannedShard]) -> Generator[ShardStart | HostBatch | ShardEnd]:
        """Every shard's start, its batches and its end; a shard is taken when reading comes to it.

        A shard's texts are tokenized while those of the one before are laid out, and those before that run.

        Raises:
            CorpusError: media cannot be read and are not to be left out, or an item is not as it was planned.
        """
        reading = map(self._begin, shards)
        laid_out = map(self._lay_out, self._ahead(reading))
        for shard in self._ahead(laid_out):
            yield from self._finish(shard)

    def _ahead(self, shards: Iterator[_Shard]) -> Iterator[_Shard]:
        """The same shards, each taken one ahead of need where other processes work on it meanwhile."""
        taken: deque[_Shard] = deque()
        for shard in shards:
            taken.append(shard)
            if len(taken) > self._readers.started:
                yield taken.popleft()
        yield from taken

    def _begin(self, planned: PlannedShard) -> _Shard:
        """Have a shard's items read."""
        table = self._items.read(planned.start, planned.stop)
        counted = "tokens" in self._work.layout.poolings
        tokens = self._items.tokens(planned.start, planned.stop) if counted else None
        shard = _Shard(planned, table, _ShardMetadata(len(table), tokens))
        for modality, start, stop in runs_of(table["modality"]):
            jobs = self._submit(shard, modality, start, stop)
            shard.runs.append(_Run(modality, start, stop, jobs))
        return shard

    def _submit(self, shard: _Shard, modality: str, start: int, stop: int) -> list[Job]:
        texts, first = shard.table.select(["text"]).slice(start, stop - start), shard.planned.start + start

        def rows(at: int, end: int) -> pa.Table:
            return (
                texts.slice(at, end - at)
                if modality == "text"
                else self._items.read(first + at, first + end, media=True)
            )

        if modality == "text":
            sizes = pc.binary_length(texts["text"]).to_numpy().astype(np.int64)
        else:
            sizes = self._items.bytes_of("data")[first : shard.planned.start + stop]
        return submit_items(self._readers, modality, sizes, rows, lambda place: shard.name(start + place))

    def _lay_out(self, shard: _Shard) -> _Shard:
        """Have the batches of a shard's texts laid out, now that all of them have token ids."""
        for run in shard.runs:
            if run.modality == "text":
                read = TokenizedTexts.concatenated([job.result() for job in run.jobs])
                shard.metadata.tokens[run.start : run.stop] = read.lengths
                shard.metadata.truncated[run.start : run.stop] = read.cut
                run.problems, run.jobs = read.problems, list(self._layouts(shard, run, read))
        return shard

    def _layouts(self, shard: _Shard, run: _Run, read: TokenizedTexts) -> Iterator[Job]:
        """What lays out the batches of texts, a few batches each."""
        batching, batch_tokens = self._work.batching["text"], self._work.batch_tokens
        (readable,) = np.nonzero(read.lengths)
        members = [readable[member] for member in batch_members(read.lengths[readable], batch_tokens, batching)]
        ends = np.cumsum([read.lengths[member].sum() for member in members], dtype=np.int64)

        def arguments(group: Sequence[Integers]) -> tuple[Any, ...]:
            every = np.concatenate(group)
            places, starts = shard.metadata.places(every + run.start)
            items = TextItems(read.take(every), read.lengths[every], places, starts)
            return items, np.array([len(member) for member in group]), batching, batch_tokens

        def group_of(number: int) -> tuple[int, int]:
            return number // LAID_OUT_BATCHES, int(ends[number]) // LAID_OUT_TOKENS

        for _, numbers in groupby(range(len(members)), group_of):
            group = [members[number] for number in numbers]
            yield self._readers.submit(LAY_OUT, functools.partial(arguments, group), lambda: shard.name(run.start))

    def _lay_out_part(self, layout: TextLayout, items: TextItems) -> TextArrays:
        return lay_out(layout, items, self._work.batching["text"], self._work.batch_tokens)

    def _finish(self, shard: _Shard) -> Iterator[ShardStart | HostBatch | ShardEnd]:
        work, planned, count = self._work, shard.planned, len(shard.table)
        yield ShardStart(planned, {p: planned.tokens if p == "tokens" else count for p in work.layout.poolings})
        for run in shard.runs:
            if run.modality == "text":
                yield from self._texts(shard, run)
            else:
                yield from self._read_media(shard, run)
        yield shard.metadata.end(shard.table, work.settings.previews)

    def _require_as_planned(self, shard: _Shard, run: _Run) -> None:
        changed = shard.metadata.changed(run.start, run.stop)
        if changed is not None:
            raise CorpusError(
                f"item {shard.name(changed)!r} has {shard.metadata.tokens[changed]} tokens, "
                "and another number when it was planned; it was changed since. Bring it back as it was and run the "
                "same command again, or extract the corpus elsewhere: what was committed stays"
            )

    def _leave_out(self, shard: _Shard, number: int, error: CorpusError) -> None:
        """Count an item of a shard as broken; where such stop the run, raise what says so."""
        shard.metadata.broken[number] = left_out(shard.name(number), error, skip=self._work.skip_broken)

    def _texts(self, shard: _Shard, run: _Run) -> Iterator[HostBatch]:
        for place, problem in run.problems.items():
            self._leave_out(shard, run.start + place, CorpusError(problem))
        self._require_as_planned(shard, run)
        for job in run.jobs:
            for laid in job.result():
                yield host_batch(laid, self._part)

    def _read_media(self, shard: _Shard, run: _Run) -> Iterator[HostBatch]:
        metadata = shard.metadata
        read = chain.from_iterable(job.result().items() for job in run.jobs)
        for number, item in enumerate(read, start=run.start):
            if item.error is not None:
                self._leave_out(shard, number, item.error)
                continue
            assert item.inputs is not None
            shard.pending[number] = item.inputs
            shard.pending_bytes += item.inputs.nbytes
            metadata.previews[number] = item.preview
            metadata.tokens[number] = self._model.adapters[run.modality].length_of(item.inputs)
            metadata.truncated[number] = item.inputs.truncated
            metadata.media[number] = [edge for span in item.inputs.media for edge in span]
            if len(shard.pending) >= WINDOW_ITEMS or shard.pending_bytes >= WINDOW_BYTES:
                yield from self._media(shard, run.modality)
        yield from self._media(shard, run.modality, last=True)
        self._require_as_planned(shard, run)

    def _media(self, shard: _Shard, modality: str, *, last: bool = False) -> Iterator[HostBatch]:
        """Pending items in batches; those that fill none stay pending, unless they are the last.

        A GPU takes as long for a batch of two as for one of twenty. Where most would stay pending, as of many shapes,
        they go all the same.
        """
        work, metadata, pending = self._work, shard.metadata, shard.pending
        numbers, inputs = np.array(list(pending), np.int64), list(pending.values())
        lengths = metadata.tokens[numbers]
        members = list(media_members(inputs, lengths, work.media_tokens, work.batching[modality]))
        rest = [member for member in members if (len(member) + 1) * lengths[member].max() <= work.media_tokens]
        if last or 2 * sum(map(len, rest)) > len(pending):
            rest = []
        left = {int(number) for member in rest for number in numbers[member]}
        shard.pending = {number: pending[number] for number in sorted(left)}
        shard.pending_bytes = sum(pending[number].nbytes for number in left)

        def make(member: Integers) -> HostBatch:
            batch = collate_media(self._model, modality, [inputs[i] for i in member])
            places, starts = metadata.places(numbers[member])
            tokens = np.arange(batch.tokens) if starts is None else positions_of(starts, lengths[member])
            return replace(batch.placed(places, tokens), part=lambda chosen: make(member[chosen]))

        for member in members:
            if int(numbers[member[0]]) not in left:
                yield make(member)
