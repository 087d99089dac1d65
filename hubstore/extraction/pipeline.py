"""Tokenise, run, copy and write, all at the same time: bounded queues between three threads.

prepare thread: items -> token ids, or media as other processes have read them -> batches, on their way to the device
this thread:    batches -> the model -> pooled states, each at its place in the shard, on the device
write thread:   a finished shard, copied off the device -> disk -> commit

On a GPU no thread waits for a batch: this one runs ahead of the device by as many as are staged.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.errors import CorpusError, HubstoreError
from hubstore.extraction.capture import Capture
from hubstore.extraction.compiled import compiled_blocks
from hubstore.extraction.media import CHUNK, MediaFeed, media_task, processes_for
from hubstore.extraction.members import batch_members, media_members, runs_of
from hubstore.extraction.memory import ShardMemory, Slot, Staging
from hubstore.extraction.plan import Plan, PlannedItems, PlannedShard
from hubstore.extraction.settings import Settings
from hubstore.models import Batch, Batching, HostBatch, MediaInputs, collate, tokenize
from hubstore.models.batch import Integers
from hubstore.store import Layout, Storage, write_shard

T = TypeVar("T")

BATCHES_AHEAD = 8
"""Batches that may wait for the model."""

SWITCH_SECONDS = 2e-4
"""How long a Python thread keeps another waiting."""

TOKENIZED = 512
"""Texts given to the tokenizer at once."""

WINDOW_ITEMS = 512
WINDOW_BYTES = 256 << 20
"""Pictures or sounds that are held to be put into batches of like length."""

TOLD = 100
"""Broken items that are named."""


@dataclass(frozen=True)
class Progress:
    """Where an extraction is.

    Args:
        items: items committed or on their way through, in this run.
        total: items this run will do.
        shards: shards committed in this run.
        tokens: tokens the model read.
        padded: tokens it was given, padding included.
        truncated: texts and sounds cut to the longest that the model takes.
        skipped: pictures and sounds left out because they cannot be read.
        broken: why, the first `TOLD` of them.
        seconds: since the run began.
        model_ms: milliseconds this thread spent in the model; on a GPU, in giving it work.
        copy_ms: waiting for shards to be computed and to leave the device.
        write_ms: writing shards, on the write thread.
        workers: models that are at work.
    """

    items: int = 0
    total: int = 0
    shards: int = 0
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    skipped: int = 0
    broken: tuple[str, ...] = ()
    seconds: float = 0.0
    model_ms: float = 0.0
    copy_ms: float = 0.0
    write_ms: float = 0.0
    workers: int = 1

    @property
    def useful(self) -> float:
        """Share of the tokens given to the model that are no padding."""
        return self.tokens / self.padded if self.padded else 1.0

    @classmethod
    def joined(cls, every: Sequence[Progress], **apart: Any) -> Progress:
        """Several as one: all is summed but what stands `apart`."""
        names = {field.name for field in fields(cls)} - {"broken", *apart}
        sums: dict[str, Any] = {name: sum(getattr(progress, name) for progress in every) for name in names}
        broken = tuple(message for progress in every for message in progress.broken)[:TOLD]
        return cls(**sums, **apart, broken=broken)

    def then(self, later: Progress) -> Progress:
        """This and what was done after it, as one."""
        return self.joined((self, later), workers=max(self.workers, later.workers))


@dataclass(frozen=True)
class _ShardStart:
    """Heads a shard's batches in the queue; by pooling, the rows that are prepared for it."""

    planned: PlannedShard
    rows: dict[str, int]


@dataclass(frozen=True)
class _ShardEnd:
    """Follows a shard's batches: its item table, and which of its planned items are in it, where not all are."""

    items: pa.Table
    kept: torch.Tensor | None
    previews: pa.Table | None
    skipped: int = 0
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class _PreparedBatch:
    items: int
    tokens: int
    given: int
    batch: Batch


@dataclass(frozen=True)
class _Assembled:
    """A shard's states on their way to the host; there when `event` says so."""

    start: _ShardStart
    end: _ShardEnd
    slot: Slot
    event: torch.cuda.Event | None
    model_ms: float


class _About:
    """What becomes known of a shard's items while they are prepared."""

    def __init__(self, count: int, tokens: npt.NDArray[np.int32] | None) -> None:
        self.tokens = np.zeros(count, np.int32)
        self.truncated = np.zeros(count, bool)
        self.media: list[list[int] | None] = [None] * count
        self.previews: list[bytes | None] = [None] * count
        self.broken: dict[int, HubstoreError] = {}
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

    def end(self, table: pa.Table, previews: bool) -> _ShardEnd:
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
            return _ShardEnd(table, None, _there(shown))
        kept = np.setdiff1d(np.arange(len(table)), list(self.broken))
        shown = None if shown is None else shown.take(pa.array(kept))
        why = tuple(str(error) for _, error in sorted(self.broken.items()))[:TOLD]
        return _ShardEnd(table.take(pa.array(kept)), torch.from_numpy(kept), _there(shown), len(self.broken), why)


def _there(previews: pa.Table | None) -> pa.Table | None:
    """Those items that have a preview."""
    return None if previews is None else previews.filter(pc.is_valid(previews["data"]))


@dataclass
class _Clock:
    """Milliseconds by activity, one writer each."""

    started: float = field(default_factory=time.perf_counter)
    model_ms: float = 0.0
    copy_ms: float = 0.0
    write_ms: float = 0.0


class _StoppedError(Exception):
    """Another thread of the pipeline failed; its error is the one to raise."""


@dataclass(frozen=True)
class Work:
    """What extracting needs to know beside the model.

    Args:
        storage: the store, locked by the caller.
        layout: its shapes.
        settings: resolved settings.
        plan: the plan that the shards are of.
        how: by modality, how batches are made, as the self-check found.
        skip_broken: whether pictures and sounds that cannot be read are left out; else they stop the run.
        processes: that read pictures and sounds; None to choose by the device.
    """

    storage: Storage
    layout: Layout
    settings: Settings
    plan: Plan
    how: Mapping[str, Batching]
    skip_broken: bool = False
    processes: int | None = None

    @property
    def media_tokens(self) -> int:
        """Tokens of a full batch of pictures or sounds."""
        assert self.settings.media_tokens is not None
        return self.settings.media_tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens of a full batch."""
        assert self.settings.batch_tokens is not None
        return self.settings.batch_tokens


def run_shards(
    work: Work,
    capture: Capture,
    shards: Iterable[PlannedShard],
    *,
    total: int,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Extract and commit shards of a plan.

    Args:
        work: store, plan and settings.
        capture: the model with its hooks.
        shards: those to do; the next is taken when the one before is prepared.
        total: items that are in them, or that others do beside.
        progress: called after every batch and every commit.

    Raises:
        NonFiniteError, StoreError, CorpusError: whatever stopped it; shards committed before stay.
    """
    compiled: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if "text" in work.how and work.how["text"].compiled:
        compiled = compiled_blocks(capture.model, work.batch_tokens)
    with compiled, _quick_switching(), _device_of(capture):
        return _Run(work, capture, shards, total, progress).run()


@contextlib.contextmanager
def _quick_switching() -> Iterator[None]:
    """A Python thread hands over after 5 ms: as long would the one that feeds the GPU wait for it, every time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _device_of(capture: Capture) -> contextlib.AbstractContextManager[object]:
    device = capture.model.device
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class _Run:
    def __init__(
        self,
        work: Work,
        capture: Capture,
        shards: Iterable[PlannedShard],
        total: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._work = work
        self._capture = capture
        self._shards = shards
        self._report = progress or (lambda done: None)
        self._memory = ShardMemory(work.layout, _most_rows(work), capture.model.device)
        self._staging = Staging(capture.model.device, work.batch_tokens)
        self._prepared: queue.Queue[_ShardStart | _PreparedBatch | _ShardEnd | None] = queue.Queue(BATCHES_AHEAD)
        self._finished: queue.Queue[_Assembled | None] = queue.Queue()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._clock = _Clock()
        self._done = Progress(total=total)
        self._lock = threading.Lock()

    def run(self) -> Progress:
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True)
            for work in (self._prepare, self._write)
        ]
        for thread in threads:
            thread.start()
        try:
            self._guarded(self._model)
        finally:
            self._stop_if_failed()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        return self._done

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _StoppedError:
            pass
        except BaseException as error:  # raised again by run()
            self._errors.append(error)
            self._stop.set()

    def _stop_if_failed(self) -> None:
        if self._errors:
            self._stop.set()

    def _prepare(self) -> None:
        work, model = self._work, self._capture.model
        items = PlannedItems(work.storage)
        feed = MediaFeed(media_task(model, work.settings), processes_for(model.device, work.processes))
        with feed:
            for planned in self._shards:
                self._prepare_shard(planned, items, feed)
        self._put(self._prepared, None)

    def _prepare_shard(self, planned: PlannedShard, items: PlannedItems, feed: MediaFeed) -> None:
        work = self._work
        table = items.read(planned.start, planned.stop)
        tokens = items.tokens(planned.start, planned.stop) if "tokens" in work.layout.poolings else None
        about = _About(len(table), tokens)
        rows = {pooling: planned.tokens if pooling == "tokens" else len(table) for pooling in work.layout.poolings}
        self._put(self._prepared, _ShardStart(planned, rows))
        for modality, start, stop in runs_of(table["modality"]):
            if modality == "text":
                self._prepare_texts(table["text"], start, stop, about)
            else:
                self._prepare_media(items, planned.start, modality, (start, stop), about, feed)
            changed = about.changed(start, stop)
            if changed is not None:
                raise CorpusError(
                    f"item {table['id'][changed].as_py()!r} has {about.tokens[changed]} tokens, and another number "
                    f"when it was planned; it was changed since. Remove {work.storage.root} and run again"
                )
        if len(about.broken) == len(table):
            raise CorpusError(f"none of {len(table)} items can be read; the first: {about.broken[0]}")
        self._put(self._prepared, about.end(table, work.settings.previews))

    def _prepare_texts(self, texts: pa.ChunkedArray, start: int, stop: int, about: _About) -> None:
        work = self._work
        how = work.how["text"]
        token_ids, about.truncated[start:stop] = self._tokenize(texts.slice(start, stop - start).to_pylist())
        lengths = np.array([len(ids) for ids in token_ids], np.int32)
        about.tokens[start:stop] = lengths
        for member in batch_members(lengths, work.batch_tokens, how):
            batch = collate(self._capture.model, [token_ids[i] for i in member], how, work.batch_tokens)
            self._send(batch.placed(*about.places(member + start)))

    def _prepare_media(
        self, items: PlannedItems, first: int, modality: str, run: tuple[int, int], about: _About, feed: MediaFeed
    ) -> None:
        start, stop = run
        held: dict[int, MediaInputs] = {}
        size = 0
        chunks = (items.read(first + i, first + min(i + CHUNK, stop), media=True) for i in range(start, stop, CHUNK))
        for number, read in enumerate(feed.read(chunks, stop - start), start=start):
            if read.error is not None:
                if not self._work.skip_broken:
                    raise CorpusError(f"{read.error}; or leave out what cannot be read, with --on-error skip")
                about.broken[number] = read.error
                continue
            assert read.inputs is not None
            held[number] = read.inputs
            about.previews[number] = read.preview
            about.tokens[number] = self._capture.model.adapters[modality].length_of(read.inputs)
            about.truncated[number] = read.inputs.truncated
            about.media[number] = [edge for span in read.inputs.media for edge in span]
            size += read.inputs.nbytes
            if len(held) >= WINDOW_ITEMS or size >= WINDOW_BYTES:
                held = self._send_media(modality, held, about)
                size = sum(inputs.nbytes for inputs in held.values())
        self._send_media(modality, held, about, last=True)

    def _send_media(
        self, modality: str, held: Mapping[int, MediaInputs], about: _About, *, last: bool = False
    ) -> dict[int, MediaInputs]:
        """Send what is held in batches, and give back what fills none, unless it is the last: a GPU takes as long for
        a batch of two as for one of twenty. Where most would be given back, as of many shapes, it goes all the same.
        """
        work, model = self._work, self._capture.model
        numbers, inputs = np.array(list(held), np.int64), list(held.values())
        lengths = about.tokens[numbers]
        members = list(media_members(inputs, lengths, work.media_tokens, work.how[modality]))
        rest = [member for member in members if (len(member) + 1) * lengths[member].max() <= work.media_tokens]
        if last or 2 * sum(map(len, rest)) > len(held):
            rest = []
        left = {int(number) for member in rest for number in numbers[member]}
        for member in members:
            if int(numbers[member[0]]) not in left:
                batch = model.collate_media(modality, [inputs[i] for i in member])
                self._send(batch.placed(*about.places(numbers[member])))
        return {number: held[number] for number in sorted(left)}

    def _send(self, batch: HostBatch) -> None:
        sent = self._staging.send(batch)
        self._put(self._prepared, _PreparedBatch(batch.items, batch.tokens, batch.given, sent))

    def _tokenize(self, texts: list[str]) -> tuple[list[Sequence[int]], list[bool]]:
        """A few texts at a time, and their ids as plain numbers: a tokenizer's own output is many times as large."""
        assert self._work.settings.max_tokens is not None
        template = self._work.settings.template
        token_ids: list[Sequence[int]] = []
        cut: list[bool] = []
        for start in range(0, len(texts), TOKENIZED):
            part = [template.replace("{text}", text) for text in texts[start : start + TOKENIZED]]
            ids, cut_here = tokenize(self._capture.model, part, self._work.settings.max_tokens)
            token_ids += [array("i", of_text) for of_text in ids]
            cut += cut_here
        return token_ids, cut

    def _model(self) -> None:
        while (start := self._get(self._prepared)) is not None:
            assert isinstance(start, _ShardStart)
            self._assemble(start)
        self._put(self._finished, None)

    def _assemble(self, start: _ShardStart) -> None:
        slot = self._get(self._memory.free)
        states = self._memory.shaped(slot.assembled, start.rows)
        before = self._clock.model_ms
        while isinstance(work := self._get(self._prepared), _PreparedBatch):
            started = time.perf_counter()
            self._capture.run_into(states, work.batch)
            self._clock.model_ms += 1e3 * (time.perf_counter() - started)
            self._advance(
                items=self._done.items + work.items,
                tokens=self._done.tokens + work.tokens,
                padded=self._done.padded + work.given,
            )
        assert isinstance(work, _ShardEnd)
        self._advance(
            truncated=self._done.truncated + pc.sum(work.items["truncated"]).as_py(),
            skipped=self._done.skipped + work.skipped,
            broken=(self._done.broken + work.broken)[:TOLD],
        )
        event = self._memory.send(slot, start.rows)
        self._put(self._finished, _Assembled(start, work, slot, event, self._clock.model_ms - before))

    def _write(self) -> None:
        work = self._work
        while (done := self._get(self._finished)) is not None:
            if done.event is not None:
                started = time.perf_counter()
                done.event.synchronize()
                self._clock.copy_ms += 1e3 * (time.perf_counter() - started)
            started = time.perf_counter()
            states = self._memory.shaped(done.slot.written, done.start.rows)
            if done.end.kept is not None:
                states = {pooling: of_all[:, done.end.kept] for pooling, of_all in states.items()}
            write_shard(
                work.storage,
                work.layout,
                done.start.planned.shard,
                done.end.items,
                states,
                generation=work.plan.generation,
                first_token_shard=done.start.planned.first_token_shard,
                times={"model_ms": round(done.model_ms, 3)},
                previews=done.end.previews,
            )
            self._clock.write_ms += 1e3 * (time.perf_counter() - started)
            self._memory.free.put(done.slot)
            self._advance(shards=self._done.shards + 1)

    def _advance(self, **changes: Any) -> None:
        with self._lock:
            clock = self._clock
            self._done = replace(
                self._done,
                **changes,
                seconds=time.perf_counter() - clock.started,
                model_ms=clock.model_ms,
                copy_ms=clock.copy_ms,
                write_ms=clock.write_ms,
            )
        self._report(self._done)

    def _put(self, to: queue.Queue[T], work: T) -> None:
        while True:
            if self._stop.is_set():
                raise _StoppedError
            try:
                return to.put(work, timeout=0.1)
            except queue.Full:
                continue

    def _get(self, source: queue.Queue[T]) -> T:
        while True:
            if self._stop.is_set():
                raise _StoppedError
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue


def _most_rows(work: Work) -> dict[str, int]:
    """By pooling, rows of the plan's largest shard."""
    items = max(shard.stop - shard.start for shard in work.plan.shards)
    tokens = max(shard.tokens for shard in work.plan.shards)
    return {pooling: tokens if pooling == "tokens" else items for pooling in work.layout.poolings}
