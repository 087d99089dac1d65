"""Several devices of one host: this process extracts on the first, one spawned process on each of the others.

Shards go to whoever is free next. Each process commits its own; the store's lock stays with this one, and the
others end with it. A worker's task and how workers' progress adds up are the same for those of a cluster.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Protocol

import torch

from hubstore.errors import HubstoreError, ModelError, StoreError
from hubstore.extraction.pipeline import Progress, run_shards
from hubstore.extraction.plan import PlannedShard
from hubstore.extraction.prepare import Work
from hubstore.extraction.readers import processes_for
from hubstore.forward.capture import Capture
from hubstore.models import Model
from hubstore.system import starting_processes

SECONDS_TO_END = 5.0
"""Time that a worker has to end by itself before it is terminated."""


class Engine(Protocol):
    """Assigns a plan's shards to models."""

    def run_shards(
        self,
        work: Work,
        capture: Capture,
        shards: Sequence[PlannedShard],
        *,
        total: int,
        progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Progress:
        """As `hubstore.extraction.pipeline.run_shards`, by as many models as there are."""
        ...


@dataclass(frozen=True)
class Workers:
    """Devices beside the model's own, and how the model gets there.

    Args:
        load: gives the same model on a device, by the device's name; a function that can be pickled, such as
            `functools.partial(load_and_place, name)` of a function at the top of a module.
        devices: "cuda:1", "cuda:2", ...; one process each.
    """

    load: Callable[[str], Model]
    devices: tuple[str, ...]

    def run_shards(
        self,
        work: Work,
        capture: Capture,
        shards: Sequence[PlannedShard],
        *,
        total: int,
        progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Progress:
        """As `pipeline.run_shards`, with the help of workers; no more of them than there are shards to share.

        Raises:
            StoreError: a worker was killed, or failed with an error that is not hubstore's; committed shards stay.
            HubstoreError: whatever else stopped one of the processes.
        """
        devices = self.devices[: max(len(shards) - 1, 0)]
        if not devices:
            return run_shards(work, capture, shards, total=total, progress=progress, stop=stop)
        context = multiprocessing.get_context("spawn")
        own_processes = processes_for(capture.model.device, work.processes, 1 + len(devices))
        work = replace(work, processes=own_processes)
        task = ExtractionTask.of(work, self.load, capture)
        with starting_processes("extract on one device"):
            shard_queue = _SharedShardQueue(shards, context)
            workers = _WorkerPool(context, shard_queue, task, devices, total, progress)

        def stopped() -> bool:
            return stop is not None and stop() and shard_queue.close()

        with workers as pool:
            own = run_shards(work, capture, shard_queue, total=total, progress=pool.advanced, stop=stopped)
            pool.finish()
        return pool.sum(own)


@dataclass(frozen=True)
class ExtractionTask:
    """A worker's task: the work, and the model that it must have.

    Args:
        work: store, plan and settings.
        load: gives the model on a device.
        layers, poolings, dtype: what is captured.
        weights: digest of the weights of the model that was checked.
        threads: of PyTorch; sums may depend on how many there are.
    """

    work: Work
    load: Callable[[str], Model]
    layers: tuple[str, ...]
    poolings: tuple[str, ...]
    dtype: torch.dtype
    weights: str
    threads: int

    @classmethod
    def of(cls, work: Work, load: Callable[[str], Model], capture: Capture) -> ExtractionTask:
        """The task of a worker that captures as `capture` does."""
        weights = capture.model.identity["weights"]
        return cls(work, load, capture.layers, capture.poolings, capture.dtype, weights, torch.get_num_threads())

    def capture(self, device: str) -> Capture:
        """The model on a device, with its hooks; ModelError where it is another model than the one that was checked."""
        torch.set_num_threads(self.threads)
        model = self.load(device)
        if model.identity["weights"] != self.weights:
            raise ModelError(f"the model loaded on {device} has other weights than the one that was checked")
        return Capture(model, self.layers, self.poolings, self.dtype)


def sum_progress(every: Sequence[Progress], total: int) -> Progress:
    """What several workers have done, as one, of `total` items."""
    return Progress.combine(every, total=total, seconds=max(progress.seconds for progress in every))


class _SharedShardQueue:
    """Shards for several processes: each goes to the process that asks next, once."""

    def __init__(self, shards: Sequence[PlannedShard], context: SpawnContext) -> None:
        self._shards = tuple(shards)
        self._next = context.Value("q", 0)

    def close(self) -> bool:
        """Give no shard to anybody from now on; True."""
        with self._next.get_lock():
            self._next.value = len(self._shards)
        return True

    def __iter__(self) -> Iterator[PlannedShard]:
        while True:
            with self._next.get_lock():
                number = self._next.value
                self._next.value += 1
            if number >= len(self._shards):
                return
            yield self._shards[number]


@contextlib.contextmanager
def _ignore_sigint() -> Iterator[None]:
    """A process started within it ignores Ctrl-C from its first instruction on: this one handles it for all.

    Only the main thread can set that; from another thread, a worker ignores Ctrl-C once it is at work.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _WorkerPool:
    """The workers of one run, and a thread that listens to them."""

    def __init__(
        self,
        context: SpawnContext,
        shard_queue: _SharedShardQueue,
        task: ExtractionTask,
        devices: Sequence[str],
        total: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._report = progress or (lambda done: None)
        self._store = task.work.storage.root
        self._total = total
        self._own_progress = Progress(total=total)
        self._worker_progress: dict[Connection, Progress] = {}
        self._devices: dict[Connection, str] = {}
        self._processes: dict[Connection, SpawnProcess] = {}
        self._failures: list[HubstoreError] = []
        self._lock = threading.Lock()
        for device in devices:
            connection, worker_end = context.Pipe()
            process = context.Process(target=_work, args=(worker_end, shard_queue, task, device))
            with _ignore_sigint():
                process.start()
            worker_end.close()
            self._worker_progress[connection], self._devices[connection], self._processes[connection] = (
                Progress(),
                device,
                process,
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> _WorkerPool:
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for connection, process in self._processes.items():
            if kind is not None:
                process.kill()  # it does not listen to SIGTERM
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()

    def advanced(self, own: Progress) -> None:
        """Report what this process and the workers have done; raises what a worker failed with."""
        if self._failures:
            raise self._failures[0]
        with self._lock:
            self._own_progress = own
            self._report(self.sum(own))

    def sum(self, own: Progress) -> Progress:
        """This process's progress and the workers' as one."""
        return sum_progress([own, *self._worker_progress.values()], self._total)

    def finish(self) -> None:
        """Wait for the workers' last shards."""
        self._listener.join()
        if self._failures:
            raise self._failures[0]

    def _listen(self) -> None:
        open_ones = set(self._worker_progress)
        while open_ones:
            for ready in wait(list(open_ones)):
                assert isinstance(ready, Connection)
                if not self._hear(ready):
                    open_ones.discard(ready)
            with self._lock, contextlib.suppress(BaseException):  # what watching raises, its own thread raises too
                self._report(self.sum(self._own_progress))

    def _hear(self, connection: Connection) -> bool:
        """One message of a worker; False when it was its last."""
        try:
            message = connection.recv()
        except (EOFError, OSError):
            self._failures.append(self._ended(connection))
            return False
        if isinstance(message, Progress):
            self._worker_progress[connection] = message
            return True
        if isinstance(message, HubstoreError):
            self._failures.append(message)
        return False

    def _ended(self, connection: Connection) -> StoreError:
        process, device = self._processes[connection], self._devices[connection]
        process.join(SECONDS_TO_END)
        code = process.exitcode
        end = f"ended with exit code {code}"
        if code is not None and code < 0:
            end = f"was killed by {signal.Signals(-code).name}"
        return StoreError(
            f"{self._store}: the worker on {device} {end} before its shards were done; the shards that are committed "
            "stay, and the same command goes on from there"
        )


def _work(parent: Connection, shard_queue: _SharedShardQueue, task: ExtractionTask, device: str) -> None:
    """A worker process: load the model, extract and commit shards until none is left."""
    for one in (signal.SIGINT, signal.SIGTERM):  # which may reach a whole group: the parent ends its workers
        signal.signal(one, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    lock = threading.Lock()  # progress comes from more than one thread

    def advanced(done: Progress) -> None:
        with lock:
            parent.send(done)

    try:
        run_shards(task.work, task.capture(device), shard_queue, total=0, progress=advanced)
        parent.send(None)
    except BaseException as error:
        parent.send(sendable(error, f"the worker on {device}"))


def _end_with(parent: Connection) -> None:
    """The lock is the parent's: when it is gone, so are its workers, whatever they are at."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)


def sendable(error: BaseException, who: str) -> HubstoreError:
    """The error, where it is hubstore's and can be pickled; else one that says what `who` failed with."""
    if isinstance(error, HubstoreError):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return StoreError(f"{who} failed with {type(error).__name__}: {error}")
