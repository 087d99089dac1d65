"""Extraction by a Ray cluster: actors hold one model each, and take shards as they become free.

An actor reads its shards' items from the store and writes their states there; what goes through Ray is which shard is
whose, receipts and progress. The process that runs the command holds the store's lock and deals the shards out:

- There are as many actors as the cluster has room for, and one more that waits for room: a node that joins gets it,
  and an autoscaler sees that it is wanted.
- The shards of an actor that is lost, with its node or alone, go to the others.
- When all are dealt out, an actor that is free takes over the shard that is out the longest, if that takes far longer
  than others did. The first commit wins.
"""

from __future__ import annotations

import platform
import queue
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hubstore.engines.cluster import Needs, connected, first_line
from hubstore.errors import EngineError, HubstoreError, StoreError
from hubstore.extraction.capture import Capture
from hubstore.extraction.pipeline import Progress, Work, run_shards
from hubstore.extraction.plan import PLAN, PlannedShard
from hubstore.extraction.workers import Task, sendable, summed
from hubstore.models import Model
from hubstore.store import Storage, open_storage
from hubstore.store.commit import Commit
from hubstore.store.layout import commit_key
from hubstore.store.shardfile import crc32c
from hubstore.store.verify import file_problem

BEAT_S = 0.5
"""An actor that has nothing to say says so as often."""

HIRE_S = 2.0
"""Seconds between two looks at which nodes there are."""

PATIENCE_S = 300.0
"""How long a cluster may have no room for a single actor: an autoscaler takes minutes to start a node."""

SECONDS_TO_END = 10.0
"""That actors have to end when they are no longer needed."""

MOST_LOSSES = 3
"""How often one shard may be lost, and so many times in a row every actor, before it has loaded its model."""

STRAGGLING = 2.0
"""A shard that is out for so many times as long as is usual is given to a second actor."""

Order = PlannedShard | Literal["pause"] | None
"""A shard to do; to finish what is under way, since there is no more for now; or only to tell how it goes."""


@dataclass(frozen=True)
class RayEngine:
    """Deals shards out over a Ray cluster.

    Args:
        load: gives the model on "cuda" or "cpu", on whatever node; it can be pickled.
        address: see `hubstore.engines.cluster.connected`.
    """

    load: Callable[[str], Model]
    address: str | None = None

    def run_shards(
        self,
        work: Work,
        capture: Capture,
        shards: Sequence[PlannedShard],
        *,
        total: int,
        progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """As `pipeline.run_shards`, on a cluster.

        The model in `capture` is the one that was checked; every actor loads its own, on a device of the same type.

        Returns:
            What all actors did. Tokens and times are of lost work too, items of commits alone.

        Raises:
            EngineError: no cluster is there, it has no room, or it loses one shard again and again.
            MissingDependencyError: Ray is not installed.
            HubstoreError: whatever stopped an actor that another would meet too; committed shards stay.
        """
        if not shards:
            return Progress(total=total)
        reachable = replace(work, storage=_anywhere(work.storage))
        task = Task.of(reachable, self.load, capture)
        with connected(self.address) as ray:
            return _Dealing(ray, task, capture.model.device, shards, total, progress).run()


def _anywhere(storage: Storage) -> Storage:
    """The storage under a name that does not depend on the folder that a process works in."""
    return open_storage(storage.root.absolute()) if isinstance(storage.root, Path) else storage  # with its lease


@dataclass(frozen=True)
class Report:
    """What an actor tells.

    Args:
        place: its node.
        loaded: whether it has its model.
        running: whether shards are under way.
        wants: whether it waits for another one.
        committed: shards committed since it told last.
        progress: all that it did.
        error: what stopped it, and would stop others.
        failed: what stopped it, and may not stop others.
    """

    place: str = ""
    loaded: bool = False
    running: bool = False
    wants: bool = False
    committed: tuple[int, ...] = ()
    progress: Progress = field(default_factory=Progress)
    error: HubstoreError | None = None
    failed: str | None = None


class Extractor:
    """The actor: a thread extracts, while `turn` takes orders and tells how it goes."""

    def __init__(self, task: Task, plan: int, device: str) -> None:
        self._orders: queue.SimpleQueue[PlannedShard | Literal["pause"]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._news = False
        self._report = Report(place=platform.node())
        self._under_way: deque[int] = deque()
        threading.Thread(target=self._guarded, args=(task, plan, device), daemon=True).start()

    def turn(self, order: Order) -> Report:
        """Take an order, and answer when there is something new, or after a beat."""
        with self._changed:
            if order is not None:
                self._report = replace(self._report, wants=False)
                self._orders.put(order)
            self._changed.wait_for(lambda: self._news, BEAT_S)
            self._news = False
            told, self._report = self._report, replace(self._report, committed=())
            return told

    def _guarded(self, task: Task, plan: int, device: str) -> None:
        try:
            self._work(task, plan, device)
        except HubstoreError as error:
            self._tell(error=sendable(error, f"the actor on {platform.node()}"))
        except BaseException as error:  # told, and the actor is given up
            self._tell(failed=f"{type(error).__name__}: {first_line(error)}")

    def _work(self, task: Task, plan: int, device: str) -> None:
        _require_plan(task.work.storage, plan)
        capture = task.capture(device)
        self._tell(loaded=True)
        done = Progress()
        while True:
            self._tell(running=False, wants=True, progress=done)
            first = self._orders.get()
            assert first != "pause"
            before = done
            now = run_shards(
                task.work,
                capture,
                self._shards(first),
                total=0,
                progress=lambda now, before=before: self._advanced(before, now),  # type: ignore[misc]
            )
            done = summed([before, now], 0)

    def _shards(self, first: PlannedShard) -> Iterator[PlannedShard]:
        shard: PlannedShard | Literal["pause"] = first
        while shard != "pause":
            with self._changed:
                self._under_way.append(shard.shard)
            yield shard
            self._tell(running=True, wants=True)
            shard = self._orders.get()

    def _advanced(self, before: Progress, now: Progress) -> None:
        with self._changed:
            # Two threads tell of progress, and the later may be heard first: shards are only ever counted up.
            new = before.shards + now.shards - self._report.progress.shards
            if new < 0:
                return
            committed = tuple(self._under_way.popleft() for _ in range(new))
            progress = summed([before, now], 0)
            self._report = replace(self._report, committed=self._report.committed + committed, progress=progress)

    def _tell(self, **changes: Any) -> None:
        with self._changed:
            self._report = replace(self._report, **changes)
            self._news = True
            self._changed.notify_all()


def _require_plan(storage: Storage, plan: int) -> None:
    """StoreError unless this node sees the store that is being written."""
    if not storage.exists(PLAN) or crc32c(storage.read(PLAN)) != plan:
        raise StoreError(
            f"the node {platform.node()} does not see the store {storage.root} that is being written; put the store "
            "where every node reaches it: an object store (s3://bucket/x.hub), or a file system that they share"
        )


@dataclass(eq=False)
class _Worker:
    """An actor as its employer knows it: what it told last, which shards it has and since when."""

    actor: Any
    call: Any
    told: Report = field(default_factory=Report)
    out: dict[int, float] = field(default_factory=dict)
    committed: list[int] = field(default_factory=list)


class _Dealing:
    """Who has which shard."""

    def __init__(
        self,
        ray: Any,
        task: Task,
        device: Any,
        shards: Sequence[PlannedShard],
        total: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._ray = ray
        self._storage = task.work.storage
        self._shards = {shard.shard: shard for shard in shards}
        self._open = set(self._shards)  # not committed
        self._left = deque(self._shards)  # dealt to nobody
        self._total = total
        self._tell = progress or (lambda done: None)
        self._needs = Needs.of(device)
        plan = crc32c(self._storage.read(PLAN))
        actors = ray.remote(Extractor).options(**self._needs.options(), max_restarts=0)
        told = ray.put(task)
        self._start: Callable[[], Any] = lambda: actors.remote(told, plan, device.type)
        self._workers: list[_Worker] = []
        self._gone: list[Progress] = []
        self._losses: Counter[int] = Counter()
        self._room = 1
        self._unloaded = 0  # lost in a row before they had their model
        self._twice: set[int] = set()  # dealt more than once
        self._seconds: list[float] = []  # that shards were out
        self._started = self._roomy = time.monotonic()
        self._look = 0.0

    def run(self) -> Progress:
        """Deal out until every shard is committed."""
        while True:
            try:
                while self._open:
                    self._hire()
                    self._listen()
                    self._tell(self._sum())
            finally:
                gone = self._dismiss()
            self._gone += map(self._settled, gone)
            self._reopen_spoiled()
            if not self._open:
                return self._sum()

    def _sum(self) -> Progress:
        """What was done by all, as one."""
        every = [Progress(), *self._gone, *(worker.told.progress for worker in self._workers)]
        ready = sum(worker.told.loaded for worker in self._workers)
        done = summed(every, self._total)
        items = min(done.items, self._total)  # while two have the same shard
        return replace(done, items=items, seconds=time.monotonic() - self._started, workers=ready)

    def _hire(self) -> None:
        """An actor for all the room that there is, and one that waits for more."""
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + HIRE_S
        room = self._needs.room(self._ray.nodes())
        if room:
            self._roomy = now
        elif now - self._roomy > PATIENCE_S:
            raise EngineError(
                f"no node of the Ray cluster has had room for a worker ({self._needs}) for {PATIENCE_S:.0f} s; "
                f"add one that has, or choose another --device. {self._goes_on()}"
            )
        self._room = max(room, 1)
        for _ in range(min(room + 1, len(self._open)) - len(self._workers)):
            actor = self._start()
            self._workers.append(_Worker(actor, actor.turn.remote(None)))

    def _listen(self) -> None:
        calls = {worker.call: worker for worker in self._workers}
        self._ray.wait(list(calls), num_returns=1, timeout=BEAT_S)
        ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            if calls[call] in self._workers:  # an earlier one's commit may have sent it away
                self._hear(calls[call])

    def _hear(self, worker: _Worker) -> None:
        try:
            worker.told = self._ray.get(worker.call)
        except self._ray.exceptions.RayError as error:
            self._lose(worker, first_line(error))
            return
        if worker.told.loaded:
            self._unloaded = 0
        for number in worker.told.committed:
            self._commit(worker, number)
        if worker.told.error is not None and not self._beaten(worker):
            raise worker.told.error
        if worker.told.error is not None or worker.told.failed is not None:
            self._lose(worker, worker.told.failed or str(worker.told.error))
            return
        worker.call = worker.actor.turn.remote(self._order(worker))

    def _commit(self, worker: _Worker, number: int) -> None:
        self._seconds.append(time.monotonic() - worker.out.pop(number))
        worker.committed.append(number)
        self._open.discard(number)
        for other in [other for other in self._workers if number in other.out]:
            self._lose(other, "another worker was first")

    def _beaten(self, worker: _Worker) -> bool:
        """Whether it failed because another had committed its shard, which is no failure."""
        return any(number in self._twice and self._storage.exists(commit_key(number)) for number in worker.out)

    def _order(self, worker: _Worker) -> Order:
        if not worker.told.wants:
            return None
        if self._left:
            number = self._left.popleft()
        elif worker.told.running:
            return "pause"
        else:
            late = self._straggler()
            if late is None:
                return None
            number = late
        worker.out[number] = time.monotonic()
        return self._shards[number]

    def _straggler(self) -> int | None:
        """The shard that one worker alone has, and for far longer than is usual."""
        since = [(when, number) for worker in self._workers for number, when in worker.out.items()]
        copies = Counter(number for _, number in since)
        alone = [(when, number) for when, number in since if copies[number] == 1]
        if not alone or not self._seconds:
            return None
        when, number = min(alone)
        if time.monotonic() - when < STRAGGLING * statistics.median(self._seconds) + BEAT_S:
            return None
        self._twice.add(number)
        return number

    def _lose(self, worker: _Worker, why: str) -> None:
        """Give up a worker: what it has not committed goes to others."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        self._unloaded += not worker.told.loaded
        if self._unloaded > MOST_LOSSES * self._room:
            raise EngineError(
                f"every worker was lost before it had its model, the last to this: {why}. {self._goes_on()}"
            )
        for number in worker.out.keys() & self._open:
            if self._storage.exists(commit_key(number)):  # committed, and lost before it could tell
                worker.committed.append(number)
                self._open.discard(number)
            elif not any(number in other.out for other in self._workers):
                self._losses[number] += 1
                if self._losses[number] >= MOST_LOSSES:
                    raise EngineError(
                        f"shard {number} was lost with its worker {MOST_LOSSES} times, at last on "
                        f"{worker.told.place or 'a node that is gone'}: {why}. {self._goes_on()}"
                    )
                self._twice.add(number)
                self._left.appendleft(number)
        self._gone.append(self._settled(worker))

    def _settled(self, worker: _Worker) -> Progress:
        """What a worker did that is gone: of shards that it had not committed, no items."""
        done = worker.told.progress
        if worker.out:
            keys = map(commit_key, worker.committed)
            items = sum(Commit.decode(self._storage.read(key), key).items for key in keys)
            done = replace(done, items=items, shards=len(worker.committed))
        return done

    def _dismiss(self) -> Sequence[_Worker]:
        """End all actors, and wait until none can write any more."""
        gone, self._workers = self._workers, []
        for worker in gone:
            self._ray.kill(worker.actor)
        calls = [worker.call for worker in gone]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_END)
        return gone

    def _reopen_spoiled(self) -> None:
        """Read back what two workers had, and do it again where the one wrote over what the other committed."""
        for number in sorted(self._twice):
            key = commit_key(number)
            if self._storage.exists(key):  # else it was taken back by a worker that ended before it did it again
                commit = Commit.decode(self._storage.read(key), key)
                if not any(file_problem(self._storage, name, record) for name, record in commit.files.items()):
                    continue
                self._storage.delete(key)
            self._open.add(number)
            self._left.append(number)
        self._twice.clear()

    def _goes_on(self) -> str:
        done = len(self._shards) - len(self._open)
        return (
            f"{done} of {len(self._shards)} shards of {self._storage.root} are committed and stay; "
            "the same command goes on from there"
        )
