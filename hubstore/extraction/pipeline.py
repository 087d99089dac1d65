"""Tokenise, run, copy, assemble and write, all at the same time: bounded queues between three threads.

prepare thread: items -> token ids -> length-sorted batches
this thread:    batches -> the model -> pooled states, copied off the device
write thread:   pooled states -> shard -> disk -> commit
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.extraction.capture import Capture
from hubstore.extraction.plan import Plan, PlannedItems, PlannedShard
from hubstore.extraction.settings import Settings
from hubstore.models import Batch, make_batch, tokenize
from hubstore.store import DTYPES, Layout, Storage, write_shard

T = TypeVar("T")

BATCHES_AHEAD = 8
"""Batches that may wait on either side of the model."""

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
        model_ms: milliseconds this thread spent in the model.
        copy_ms: waiting for states to leave the device.
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
    lengths: npt.NDArray[np.int32]
    batches: int


@dataclass(frozen=True)
class _PreparedBatch:
    members: npt.NDArray[np.int64]
    batch: Batch


@dataclass(frozen=True)
class _Copied:
    """States of one batch on their way to the host; ready when `event` says so."""

    members: npt.NDArray[np.int64]
    states: dict[str, torch.Tensor]
    event: torch.cuda.Event | None


@dataclass
class _Clock:
    """Milliseconds by activity, one writer each."""

    started: float = field(default_factory=time.perf_counter)
    model_ms: float = 0.0
    copy_ms: float = 0.0
    write_ms: float = 0.0


class _StoppedError(Exception):
    """Another thread of the pipeline failed; its error is the one to raise."""


def run_shards(
    storage: Storage,
    layout: Layout,
    settings: Settings,
    capture: Capture,
    plan: Plan,
    shards: Sequence[PlannedShard],
    *,
    explicit_positions: bool,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Extract and commit `shards` of a plan.

    Args:
        storage: the store, locked by the caller.
        layout: its shapes.
        settings: resolved settings.
        capture: the model with its hooks.
        plan: the plan that the shards are of.
        shards: those that have no commit yet.
        explicit_positions: as the self-check found.
        progress: called after every batch and every commit.

    Raises:
        NonFiniteError, StoreError, CorpusError: whatever stopped it; shards committed before stay.
    """
    run = _Run(storage, layout, settings, capture, plan, shards, explicit_positions, progress)
    return run.run()


class _Run:
    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        settings: Settings,
        capture: Capture,
        plan: Plan,
        shards: Sequence[PlannedShard],
        explicit_positions: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._storage = storage
        self._layout = layout
        self._settings = settings
        self._capture = capture
        self._plan = plan
        self._shards = shards
        self._explicit_positions = explicit_positions
        self._report = progress or (lambda done: None)
        self._cuda = capture.model.device.type == "cuda"
        self._copies = torch.cuda.Stream() if self._cuda else None  # type: ignore[no-untyped-call]
        self._prepared: queue.Queue[_PreparedShard | _PreparedBatch | None] = queue.Queue(BATCHES_AHEAD)
        self._finished: queue.Queue[_PreparedShard | _Copied | None] = queue.Queue(BATCHES_AHEAD)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._clock = _Clock()
        self._done = Progress(total=sum(shard.stop - shard.start for shard in shards))
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
        items = PlannedItems(self._storage)
        for planned in self._shards:
            self._prepare_shard(planned, items.read(planned.start, planned.stop))
        self._put(self._prepared, None)

    def _prepare_shard(self, planned: PlannedShard, table: pa.Table) -> None:
        token_ids, cut = self._tokenize(table["text"].to_pylist())
        lengths = np.array([len(ids) for ids in token_ids], np.int32)
        table = table.append_column("tokens", pa.array(lengths))
        table = table.append_column("truncated", pa.array(cut))
        members = list(batch_members(lengths, self._settings.batch_tokens or 0))
        self._put(self._prepared, _PreparedShard(planned, table, lengths, len(members)))
        for member in members:
            batch = make_batch(
                self._capture.model,
                [token_ids[i] for i in member],
                self._settings.padding,
                explicit_positions=self._explicit_positions,
                pin=self._cuda,
            )
            self._put(self._prepared, _PreparedBatch(member, batch))

    def _tokenize(self, texts: list[str]) -> tuple[list[Sequence[int]], list[bool]]:
        """A few texts at a time, and their ids as plain numbers: a tokenizer's own output is many times as large."""
        assert self._settings.max_tokens is not None
        token_ids: list[Sequence[int]] = []
        cut: list[bool] = []
        for start in range(0, len(texts), TOKENIZED):
            part = [self._settings.template.replace("{text}", text) for text in texts[start : start + TOKENIZED]]
            ids, cut_here = tokenize(self._capture.model, part, self._settings.max_tokens)
            token_ids += [array("i", of_text) for of_text in ids]
            cut += cut_here
        return token_ids, cut

    def _model(self) -> None:
        while (work := self._get(self._prepared)) is not None:
            if isinstance(work, _PreparedShard):
                self._put(self._finished, work)
                truncated = self._done.truncated + sum(work.items["truncated"].to_pylist())
                self._advance(truncated=truncated)
                continue
            started = time.perf_counter()
            states = self._capture.run(work.batch)
            self._clock.model_ms += 1e3 * (time.perf_counter() - started)
            self._put(self._finished, self._copy(work.members, states))
            self._advance(
                items=self._done.items + len(work.members),
                tokens=self._done.tokens + len(work.batch.token_rows),
                padded=self._done.padded + work.batch.input_ids.numel(),
            )
        self._put(self._finished, None)

    def _copy(self, members: npt.NDArray[np.int64], states: dict[str, torch.Tensor]) -> _Copied:
        if self._copies is None:
            return _Copied(members, states, None)
        computed = torch.cuda.current_stream().record_event()
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(computed)
            host = {}
            for pooling, rows in states.items():
                host[pooling] = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
                host[pooling].copy_(rows, non_blocking=True)
                rows.record_stream(self._copies)
            return _Copied(members, host, self._copies.record_event())

    def _write(self) -> None:
        while (head := self._get(self._finished)) is not None:
            assert isinstance(head, _PreparedShard)
            before = replace(self._done)
            shard = self._assemble(head)
            started = time.perf_counter()
            write_shard(
                self._storage,
                self._layout,
                head.planned.shard,
                head.items,
                shard,
                generation=self._plan.generation,
                first_token_shard=head.planned.first_token_shard,
                times={"model_ms": round(self._clock.model_ms - before.model_ms, 3)},
            )
            self._clock.write_ms += 1e3 * (time.perf_counter() - started)
            self._advance(shards=self._done.shards + 1)

    def _assemble(self, head: _PreparedShard) -> dict[str, torch.Tensor]:
        ends = np.cumsum(head.lengths, dtype=np.int64)
        counts = {"tokens": int(ends[-1])}
        states = {
            pooling: torch.empty(
                (len(self._layout.layers), counts.get(pooling, len(head.lengths)), self._layout.width),
                dtype=DTYPES[self._layout.dtype],
            )
            for pooling in self._layout.poolings
        }
        for _ in range(head.batches):
            copied = self._get(self._finished)
            assert isinstance(copied, _Copied)
            if copied.event is not None:
                started = time.perf_counter()
                copied.event.synchronize()
                self._clock.copy_ms += 1e3 * (time.perf_counter() - started)
            for pooling, rows in copied.states.items():
                where = copied.members
                if pooling == "tokens":
                    where = np.concatenate([np.arange(ends[i] - head.lengths[i], ends[i]) for i in copied.members])
                states[pooling].index_copy_(1, torch.from_numpy(where), rows)
        return states

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


def batch_members(lengths: npt.NDArray[np.int32], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of items of like length, longest first, each of at most `batch_tokens` tokens with its padding.

    Longest first, so that memory that does not suffice shows at once.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(batch_tokens // int(lengths[order[start]]), 1)
        yield order[start : start + count]
        start += count
