"""From a plan's shards to batches in host memory: texts are tokenized, images and audio are read ahead."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.errors import CorpusError
from hubstore.extraction.plan import Plan, PlannedItems, PlannedShard
from hubstore.extraction.settings import ResolvedSettings, media_task
from hubstore.forward import Batching, HostBatch, collate, collate_media, tokenize
from hubstore.forward.batch import Integers
from hubstore.forward.members import batch_members, media_members, runs_of
from hubstore.media import MediaInputs
from hubstore.media.reading import CHUNK, MediaFeed, ReadItem, processes_for
from hubstore.models import Model
from hubstore.storage import Storage
from hubstore.store import Layout

TOKENIZED: Final = 512
"""Texts given to the tokenizer at once."""

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
        processes: that read images and audio; None to choose by the device.
    """

    storage: Storage
    layout: Layout
    settings: ResolvedSettings
    plan: Plan
    batching: Mapping[str, Batching]
    skip_broken: bool = False
    processes: int | None = None

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

    def places(self, members: Integers) -> tuple[Integers, Integers]:
        """Where pooled rows of these items go, and rows of their tokens."""
        if self._ends is None or self._planned is None:
            return members, np.arange(self.tokens[members].sum(), dtype=np.int64)
        ends, lengths = self._ends[members], self._planned[members]
        return members, np.concatenate([np.arange(a - n, a) for a, n in zip(ends, lengths, strict=True)])

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
        for name, column in columns.items():
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


def tokenized(
    model: Model, settings: ResolvedSettings, texts: Sequence[str]
) -> tuple[list[Sequence[int]], list[bool], dict[int, str]]:
    """What the model reads of each text, in its template; whether it was cut; and what is wrong with those of no ids.

    A few texts are tokenized at a time, and their ids held as plain numbers: a tokenizer's own output is many times as
    large.
    """
    token_ids: list[Sequence[int]] = []
    cut: list[bool] = []
    problems: dict[int, str] = {}
    for start in range(0, len(texts), TOKENIZED):
        part = [settings.template.replace("{text}", text) for text in texts[start : start + TOKENIZED]]
        wrong: dict[int, str] = {}
        ids, were_cut = tokenize(model, part, settings.max_tokens, problems=wrong)
        token_ids += [array("i", of_text) for of_text in ids]
        cut += were_cut
        problems |= {start + number: problem for number, problem in wrong.items()}
    return token_ids, cut, problems


def left_out(name: str, problem: object, *, skip: bool) -> CorpusError:
    """What says that an item is left out because it cannot be read; where such stop the run, it is raised."""
    named = f"item {name!r}: {problem}"
    if not skip:
        raise CorpusError(f"{named}; or leave out what cannot be read, with --on-error skip")
    return CorpusError(named)


@dataclass
class _Shard:
    """A shard that is being prepared.

    Args:
        planned: of the plan.
        table: its items, without the bytes of media.
        metadata: what is known of them by now.
        pending: images or audio that were read and are in no batch yet, by their place in the shard.
        pending_bytes: of their tensors.
    """

    planned: PlannedShard
    table: pa.Table
    metadata: _ShardMetadata
    pending: dict[int, MediaInputs] = field(default_factory=dict)
    pending_bytes: int = 0


@dataclass(frozen=True)
class _Step:
    """One step through a plan: into a shard, to items [start, stop) of one modality or past them, and out."""

    shard: _Shard
    kind: Literal["start", "read", "run", "end"]
    modality: str = ""
    start: int = 0
    stop: int = 0


class Preparation:
    """What a model is given of a plan.

    Args:
        work: the plan and how it is extracted.
        model: whose tokenizer and processors it is.
    """

    def __init__(self, work: Work, model: Model) -> None:
        self._work = work
        self._model = model
        self._items = PlannedItems(work.storage)

    def parts(self, shards: Iterable[PlannedShard]) -> Generator[ShardStart | HostBatch | ShardEnd]:
        """Every shard's start, its batches and its end; a shard is taken when reading comes to it.

        Raises:
            CorpusError: media cannot be read and are not to be left out, or an item is not as it was planned.
        """
        processes = processes_for(self._model.device, self._work.processes)
        with MediaFeed(media_task(self._model, self._work.settings), processes) as feed:
            for step, read in feed.follow(self._steps(shards, feed)):
                yield from self._done(step, read)

    def _steps(self, shards: Iterable[PlannedShard], feed: MediaFeed) -> Iterator[tuple[_Step, pa.Table | None]]:
        counted = "tokens" in self._work.layout.poolings
        for planned in shards:
            table = self._items.read(planned.start, planned.stop)
            tokens = self._items.tokens(planned.start, planned.stop) if counted else None
            shard = _Shard(planned, table, _ShardMetadata(len(table), tokens))
            yield _Step(shard, "start"), None
            for modality, start, stop in runs_of(table["modality"]):
                if modality != "text":
                    feed.expect(stop - start)
                    for at in range(start, stop, CHUNK):
                        end = min(at + CHUNK, stop)
                        rows = self._items.read(planned.start + at, planned.start + end, media=True)
                        yield _Step(shard, "read", modality, at, end), rows
                yield _Step(shard, "run", modality, start, stop), None
            yield _Step(shard, "end"), None

    def _done(self, step: _Step, read: Iterable[ReadItem]) -> Iterator[ShardStart | HostBatch | ShardEnd]:
        work, shard = self._work, step.shard
        count, metadata = len(shard.table), shard.metadata
        match step.kind:
            case "start":
                tokens = shard.planned.tokens
                yield ShardStart(shard.planned, {p: tokens if p == "tokens" else count for p in work.layout.poolings})
            case "read":
                yield from self._read_media(step, read)
            case "run":
                yield from self._texts(step) if step.modality == "text" else self._media(step, last=True)
                self._require_as_planned(step)
            case "end":
                yield metadata.end(shard.table, work.settings.previews)

    def _require_as_planned(self, step: _Step) -> None:
        changed = step.shard.metadata.changed(step.start, step.stop)
        if changed is not None:
            raise CorpusError(
                f"item {step.shard.table['id'][changed].as_py()!r} has {step.shard.metadata.tokens[changed]} tokens, "
                "and another number when it was planned; it was changed since. Bring it back as it was and run the "
                "same command again, or extract the corpus elsewhere: what was committed stays"
            )

    def _texts(self, step: _Step) -> Iterator[HostBatch]:
        work, metadata = self._work, step.shard.metadata
        batching = work.batching["text"]
        texts = step.shard.table["text"].slice(step.start, step.stop - step.start).to_pylist()
        token_ids, metadata.truncated[step.start : step.stop], problems = tokenized(self._model, work.settings, texts)
        lengths = np.array([len(ids) for ids in token_ids], np.int32)
        metadata.tokens[step.start : step.stop] = lengths
        for number, problem in problems.items():
            self._leave_out(step, step.start + number, CorpusError(problem))
        (readable,) = np.nonzero(lengths)

        def make(member: Integers) -> HostBatch:
            batch = collate(self._model, [token_ids[i] for i in member], batching, work.batch_tokens)
            batch = batch.placed(*metadata.places(member + step.start))
            return replace(batch, part=lambda chosen: make(member[chosen]))

        for member in batch_members(lengths[readable], work.batch_tokens, batching):
            yield make(readable[member])

    def _leave_out(self, step: _Step, number: int, error: CorpusError) -> None:
        """Count an item of a shard as broken; where such stop the run, raise what says so."""
        name = step.shard.table["id"][number].as_py()
        step.shard.metadata.broken[number] = left_out(name, error, skip=self._work.skip_broken)

    def _read_media(self, step: _Step, read: Iterable[ReadItem]) -> Iterator[HostBatch]:
        shard, metadata = step.shard, step.shard.metadata
        for number, item in enumerate(read, start=step.start):
            if item.error is not None:
                self._leave_out(step, number, item.error)
                continue
            assert item.inputs is not None
            shard.pending[number] = item.inputs
            shard.pending_bytes += item.inputs.nbytes
            metadata.previews[number] = item.preview
            metadata.tokens[number] = self._model.adapters[step.modality].length_of(item.inputs)
            metadata.truncated[number] = item.inputs.truncated
            metadata.media[number] = [edge for span in item.inputs.media for edge in span]
            if len(shard.pending) >= WINDOW_ITEMS or shard.pending_bytes >= WINDOW_BYTES:
                yield from self._media(step)

    def _media(self, step: _Step, *, last: bool = False) -> Iterator[HostBatch]:
        """Pending items in batches; those that fill none stay pending, unless they are the last.

        A GPU takes as long for a batch of two as for one of twenty. Where most would stay pending, as of many shapes,
        they go all the same.
        """
        work, metadata, pending = self._work, step.shard.metadata, step.shard.pending
        numbers, inputs = np.array(list(pending), np.int64), list(pending.values())
        lengths = metadata.tokens[numbers]
        members = list(media_members(inputs, lengths, work.media_tokens, work.batching[step.modality]))
        rest = [member for member in members if (len(member) + 1) * lengths[member].max() <= work.media_tokens]
        if last or 2 * sum(map(len, rest)) > len(pending):
            rest = []
        left = {int(number) for member in rest for number in numbers[member]}
        step.shard.pending = {number: pending[number] for number in sorted(left)}
        step.shard.pending_bytes = sum(pending[number].nbytes for number in left)

        def make(member: Integers) -> HostBatch:
            batch = collate_media(self._model, step.modality, [inputs[i] for i in member])
            batch = batch.placed(*metadata.places(numbers[member]))
            return replace(batch, part=lambda chosen: make(member[chosen]))

        for member in members:
            if int(numbers[member[0]]) not in left:
                yield make(member)
