"""Tokenize, run, copy and write, all at the same time: bounded queues between a few threads.

prepare thread: items, as other processes have tokenized or read them -> batches, on their way to the device
this thread:    batches -> the model -> pooled states, each at its place in the shard, on the device
write threads:  a finished shard, copied off the device -> disk -> commit

On a GPU no thread waits for a batch: they are copied beside what is computed, and this thread runs ahead of the
device as far as its queue is long.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch

from hubstore.errors import ShardCommittedError
from hubstore.extraction.plan import PlannedShard
from hubstore.extraction.prepare import BROKEN_SHOWN, Preparation, ShardEnd, ShardStart, Work
from hubstore.extraction.readers import processes_for, reading_processes, start_for
from hubstore.forward import HostBatch
from hubstore.forward.capture import Capture, States
from hubstore.forward.compiled import compiled_blocks
from hubstore.forward.memory import SentShard, ShardMemory, StagedBatch, Staging, is_out_of_memory, run_in_halves
from hubstore.models import Model
from hubstore.reading.layout import Integers
from hubstore.reading.processes import ReadingProcesses
from hubstore.store import write_shard
from hubstore.store.writer import WRITE_THREADS

T = TypeVar("T")

BATCHES_AHEAD = 8
"""Batches that may wait for the model."""

WRITERS = 2
"""Threads that write a shard each. They share those that write files: the second begins where the first leaves some
idle, as it waits for the disk to have the last of its own."""

SWITCH_SECONDS = 2e-4
"""How long a Python thread keeps another waiting."""


@dataclass(frozen=True)
class Progress:
    """Where an extraction is.

    Args:
        items: items committed or on their way through, in this run.
        total: items this run will do.
        shards: shards committed in this run.
        tokens: tokens the model read.
        padded: tokens it was given, padding included.
        truncated: texts and audio clips cut to the longest that the model takes.
        skipped: items left out because they cannot be read.
        broken: why, the first `BROKEN_SHOWN` of them.
        seconds: since the run began.
        model_ms: milliseconds this thread spent in the model; on a GPU, in giving it work.
        copy_ms: waiting for shards to be computed and to leave the device.
        write_ms: writing shards, of all write threads.
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
    def combine(cls, every: Sequence[Progress], **apart: Any) -> Progress:
        """Several as one: all is summed but what stands `apart`."""
        names = {field.name for field in fields(cls)} - {"broken", *apart}
        sums: dict[str, Any] = {name: sum(getattr(progress, name) for progress in every) for name in names}
        broken = tuple(message for progress in every for message in progress.broken)[:BROKEN_SHOWN]
        return cls(**sums, **apart, broken=broken)

    def then(self, later: Progress) -> Progress:
        """This and what was done after it, as one."""
        return self.combine((self, later), workers=max(self.workers, later.workers))


@dataclass(frozen=True)
class _PreparedBatch:
    items: int
    tokens: int
    padded_tokens: int
    lengths: Integers
    part: Callable[[Integers], HostBatch]
    sent: StagedBatch | None


@dataclass(frozen=True)
class _Assembled:
    """A shard whose states are on their way to where they are written from."""

    start: ShardStart
    end: ShardEnd
    sent: SentShard
    model_ms: float


class _Cancelled(Exception):  # noqa: N818 - no error of its own
    """Another thread of the pipeline failed; its error is the one to raise."""


def run_shards(
    work: Work,
    capture: Capture,
    shards: Iterable[PlannedShard],
    *,
    total: int,
    progress: Callable[[Progress], None] | None = None,
    readers: ReadingProcesses | None = None,
    stop: Callable[[], bool] | None = None,
) -> Progress:
    """Extract and commit shards of a plan.

    Args:
        work: store, plan and settings.
        capture: the model with its hooks.
        shards: those to do; the next is taken when what comes before it has been read.
        total: items that are in them, or that others do beside.
        progress: called after every batch and every commit.
        readers: read the plan's items; None for processes of its own.
        stop: says, whenever a shard is through the model, whether to end with it.

    Raises:
        NonFiniteError, StoreError, CorpusError: whatever stopped it; shards committed before stay.
    """
    compiled: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if "text" in work.batching and work.batching["text"].compiled:
        compiled = compiled_blocks(capture.model, work.batch_tokens)
    with contextlib.ExitStack() as stack:
        if readers is None:
            readers = stack.enter_context(_own_readers(work, capture.model))
        for context in (compiled, _quick_switching(), _device_of(capture), capture.hooked()):
            stack.enter_context(context)
        return _Run(work, capture, shards, total, progress, readers, stop).run()


def _own_readers(work: Work, model: Model) -> ReadingProcesses:
    """Processes for the items of a plan, on their way."""
    partitions = work.plan.partitions
    processes = processes_for(model.device, work.processes)
    readers = reading_processes(model, work.settings, (modality for modality, _, _ in partitions), processes)
    start_for(readers, ((modality, items) for modality, _, items in partitions))
    return readers


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
        readers: ReadingProcesses,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self._wanted = stop or (lambda: False)
        self._enough = threading.Event()
        self._work = work
        self._readers = readers
        self._capture = capture
        if any(batching.restores for batching in work.batching.values()):
            capture.isolate_batches()
        self._shards = shards
        self._report = progress or (lambda done: None)
        self._memory = ShardMemory(work.layout, _most_rows(work), capture.model.device)
        self._staging = Staging(capture.model.device, work.batch_tokens)
        self._prepared: queue.Queue[ShardStart | _PreparedBatch | ShardEnd | None] = queue.Queue(BATCHES_AHEAD)
        self._finished: queue.Queue[_Assembled | None] = queue.Queue()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._began = time.perf_counter()
        self._done = Progress(total=total)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(WRITE_THREADS)

    def run(self) -> Progress:
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True)
            for work in (self._prepare, *[self._write] * WRITERS)
        ]
        for thread in threads:
            thread.start()
        try:
            self._guarded(self._model)
        finally:
            self._stop_if_failed()
            for thread in threads:
                thread.join()
            self._threads.shutdown()
        if self._errors:
            raise self._errors[0]
        return self._done

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Cancelled:
            pass
        except BaseException as error:  # raised again by run()
            self._errors.append(error)
            self._stop.set()

    def _stop_if_failed(self) -> None:
        if self._errors:
            self._stop.set()

    def _prepare(self) -> None:
        preparation = Preparation(self._work, self._capture.model, self._readers)
        with contextlib.closing(preparation.parts(self._shards)) as parts:
            for part in parts:
                self._put(self._prepared, self._sent(part) if isinstance(part, HostBatch) else part)
        self._put(self._prepared, None)

    def _sent(self, batch: HostBatch) -> _PreparedBatch:
        lengths = batch.arrays["last"] - batch.arrays["first"] + 1
        try:
            sent = self._staging.send(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sent = None  # sent in parts, when the model has let go of what it holds now
        return _PreparedBatch(batch.items, batch.tokens, batch.padded_tokens, lengths, batch.part, sent)

    def _model(self) -> None:
        while not self._enough.is_set() and (start := self._get(self._prepared)) is not None:
            assert isinstance(start, ShardStart)
            self._assemble(start)
            if self._wanted():
                self._enough.set()  # what is prepared beyond this shard is let go
        self._put(self._finished, None)

    def _assemble(self, start: ShardStart) -> None:
        slot = self._get(self._memory.free)
        states = self._memory.begin(slot, start.rows)
        before = self._done.model_ms
        while isinstance(work := self._get(self._prepared), _PreparedBatch):
            started = time.perf_counter()
            self._run_batch(states, work)
            self._advance(items=work.items, tokens=work.tokens, padded=work.padded_tokens, model_ms=_ms_since(started))
        assert isinstance(work, ShardEnd)
        truncated = pc.sum(work.items["truncated"]).as_py() or 0
        self._advance(truncated=truncated, skipped=work.skipped, broken=work.broken)
        sent = self._memory.send(slot, start.rows, self._get)
        self._put(self._finished, _Assembled(start, work, sent, self._done.model_ms - before))

    def _run_batch(self, states: States, work: _PreparedBatch) -> None:
        def run(members: Integers) -> None:
            if work.sent is not None and len(members) == work.items:
                batch = work.sent.wait()
            else:
                batch = work.part(members).to(self._capture.model.device)
            self._capture.capture_into(states, batch)

        run_in_halves(np.arange(work.items), run, work.lengths, self._capture.model)

    def _write(self) -> None:
        work = self._work
        while (done := self._get(self._finished)) is not None:
            started = time.perf_counter()
            done.sent.wait()
            copy_ms, started = _ms_since(started), time.perf_counter()
            states = done.sent.states
            if done.end.included is not None:
                states = {pooling: of_all[:, done.end.included] for pooling, of_all in states.items()}
            with self._shared():
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
                    finite=done.sent.finite,
                    threads=self._threads,
                )
            self._memory.release(done.sent)
            self._advance(shards=1, copy_ms=copy_ms, write_ms=_ms_since(started))
        self._put(self._finished, None)  # for the other one

    def _shared(self) -> contextlib.AbstractContextManager[None]:
        """A shard that another writer of this plan has committed meanwhile is as good."""
        return contextlib.suppress(*((ShardCommittedError,) if self._work.shared else ()))

    def _advance(self, *, broken: Sequence[str] = (), **more: float) -> None:
        """Report that so much more is done."""
        with self._lock:
            sums = {name: getattr(self._done, name) + value for name, value in more.items()}
            broken = (*self._done.broken, *broken)[:BROKEN_SHOWN]
            self._done = replace(self._done, broken=broken, seconds=time.perf_counter() - self._began, **sums)
        self._report(self._done)

    def _put(self, to: queue.Queue[T], work: T) -> None:
        while True:
            if self._stop.is_set() or (self._enough.is_set() and to is self._prepared):
                raise _Cancelled
            try:
                return to.put(work, timeout=0.1)
            except queue.Full:
                continue

    def _get(self, source: queue.Queue[T]) -> T:
        while True:
            if self._stop.is_set():
                raise _Cancelled
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue


def _ms_since(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)


def _most_rows(work: Work) -> dict[str, int]:
    """By pooling, rows of the plan's largest shard."""
    items = max(shard.stop - shard.start for shard in work.plan.shards)
    tokens = max(shard.tokens for shard in work.plan.shards)
    return {pooling: tokens if pooling == "tokens" else items for pooling in work.layout.poolings}
