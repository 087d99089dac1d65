"""Tokenise, run, copy and write, all at the same time: bounded queues between three threads.

prepare thread: items -> token ids -> batches, on their way to the device
this thread:    batches -> the model -> pooled states, each at its place in the shard, on the device
write thread:   a finished shard, copied off the device -> disk -> commit

On a GPU no thread waits for a batch: this one runs ahead of the device by as many as are staged.
"""

from __future__ import annotations

import bisect
import contextlib
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.extraction.capture import Capture
from hubstore.extraction.compiled import compiled_blocks
from hubstore.extraction.memory import ShardMemory, Slot, Staging
from hubstore.extraction.plan import Plan, PlannedItems, PlannedShard
from hubstore.extraction.settings import Settings
from hubstore.models import Batch, Batching, collate, tokenize
from hubstore.store import Layout, Storage, write_shard

T = TypeVar("T")

BATCHES_AHEAD = 8
"""Batches that may wait for the model."""

SWITCH_SECONDS = 2e-4
"""How long a Python thread keeps another waiting."""

TOKENIZED = 512
"""Texts given to the tokenizer at once."""


@dataclass(frozen=True)
class Progress:
    """Where an extraction is.

    Args:
        items: items committed or on their way through, in this run.
        total: items this run will do.
        shards: shards committed in this run.
        tokens: tokens the model read.
        padded: tokens it was given, padding included.
        truncated: texts cut to the longest sequence.
        seconds: since the run began.
        model_ms: milliseconds this thread spent in the model; on a GPU, in giving it work.
        copy_ms: waiting for shards to be computed and to leave the device.
        write_ms: writing shards, on the write thread.
    """

    items: int = 0
    total: int = 0
    shards: int = 0
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    seconds: float = 0.0
    model_ms: float = 0.0
    copy_ms: float = 0.0
    write_ms: float = 0.0

    @property
    def useful(self) -> float:
        """Share of the tokens given to the model that are no padding."""
        return self.tokens / self.padded if self.padded else 1.0


@dataclass(frozen=True)
class _PreparedShard:
    """A shard's items, tokenised: one of these heads its batches in the queue."""

    planned: PlannedShard
    items: pa.Table
    rows: dict[str, int]
    batches: int


@dataclass(frozen=True)
class _PreparedBatch:
    items: int
    tokens: int
    given: int
    batch: Batch


@dataclass(frozen=True)
class _Assembled:
    """A shard's states on their way to the host; there when `event` says so."""

    shard: _PreparedShard
    slot: Slot
    event: torch.cuda.Event | None
    model_ms: float


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
        how: how batches are made, as the self-check found.
    """

    storage: Storage
    layout: Layout
    settings: Settings
    plan: Plan
    how: Batching

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
    if work.how.compiled:
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
        self._prepared: queue.Queue[_PreparedShard | _PreparedBatch | None] = queue.Queue(BATCHES_AHEAD)
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
        items = PlannedItems(self._work.storage)
        for planned in self._shards:
            self._prepare_shard(planned, items.read(planned.start, planned.stop))
        self._put(self._prepared, None)

    def _prepare_shard(self, planned: PlannedShard, table: pa.Table) -> None:
        work = self._work
        token_ids, cut = self._tokenize(table["text"].to_pylist())
        lengths = np.array([len(ids) for ids in token_ids], np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        table = table.append_column("tokens", pa.array(lengths))
        table = table.append_column("truncated", pa.array(cut))
        rows = {pooling: int(ends[-1]) if pooling == "tokens" else len(ends) for pooling in work.layout.poolings}
        members = list(batch_members(lengths, work.batch_tokens, work.how))
        self._put(self._prepared, _PreparedShard(planned, table, rows, len(members)))
        for member in members:
            batch = collate(self._capture.model, [token_ids[i] for i in member], work.how, work.batch_tokens)
            places = np.concatenate([np.arange(ends[i] - lengths[i], ends[i]) for i in member])
            sent = self._staging.send(batch.placed(member, places))
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
        while (head := self._get(self._prepared)) is not None:
            assert isinstance(head, _PreparedShard)
            self._assemble(head)
        self._put(self._finished, None)

    def _assemble(self, head: _PreparedShard) -> None:
        self._advance(truncated=self._done.truncated + pc.sum(head.items["truncated"]).as_py())
        slot = self._get(self._memory.free)
        states = self._memory.shaped(slot.assembled, head.rows)
        before = self._clock.model_ms
        for _ in range(head.batches):
            work = self._get(self._prepared)
            assert isinstance(work, _PreparedBatch)
            started = time.perf_counter()
            self._capture.run_into(states, work.batch)
            self._clock.model_ms += 1e3 * (time.perf_counter() - started)
            self._advance(
                items=self._done.items + work.items,
                tokens=self._done.tokens + work.tokens,
                padded=self._done.padded + work.given,
            )
        event = self._memory.send(slot, head.rows)
        self._put(self._finished, _Assembled(head, slot, event, self._clock.model_ms - before))

    def _write(self) -> None:
        work = self._work
        while (done := self._get(self._finished)) is not None:
            if done.event is not None:
                started = time.perf_counter()
                done.event.synchronize()
                self._clock.copy_ms += 1e3 * (time.perf_counter() - started)
            started = time.perf_counter()
            write_shard(
                work.storage,
                work.layout,
                done.shard.planned.shard,
                done.shard.items,
                self._memory.shaped(done.slot.written, done.shard.rows),
                generation=work.plan.generation,
                first_token_shard=done.shard.planned.first_token_shard,
                times={"model_ms": round(done.model_ms, 3)},
            )
            self._clock.write_ms += 1e3 * (time.perf_counter() - started)
            self._memory.free.put(done.slot)
            self._advance(shards=self._done.shards + 1)

    def _advance(self, **changes: int) -> None:
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


def batch_members(
    lengths: npt.NDArray[np.int32], batch_tokens: int, how: Batching | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Which items go into one batch, longest first, so that memory that does not suffice shows at once.

    Args:
        lengths: [items], in tokens.
        batch_tokens: of a batch, with its padding where it has any. A longer item goes alone.
        how: padded batches by default: items of like length.
    """
    if how is not None and how.kind == "packed":
        yield from _packed_members(lengths, batch_tokens)
        return
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(batch_tokens // int(lengths[order[start]]), 1)
        yield order[start : start + count]
        start += count


def _packed_members(lengths: npt.NDArray[np.int32], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """The longest item that is left, and while there is room the longest that fits."""
    left = np.argsort(lengths, kind="stable").tolist()
    ascending = lengths[left].tolist()
    while left:
        members = [left.pop()]
        room = batch_tokens - ascending.pop()
        while (fits := bisect.bisect_right(ascending, room)) > 0:
            members.append(left.pop(fits - 1))
            room -= ascending.pop(fits - 1)
        yield np.array(members, np.int64)


def _most_rows(work: Work) -> dict[str, int]:
    """By pooling, rows of the plan's largest shard."""
    items = max(shard.stop - shard.start for shard in work.plan.shards)
    tokens = max(shard.tokens for shard in work.plan.shards)
    return {pooling: tokens if pooling == "tokens" else items for pooling in work.layout.poolings}
