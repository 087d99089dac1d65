"""Extraction by a Ray cluster: actors hold one model each, and take shards as they become free.

An actor reads its shards' items from the store and writes their states there; what goes through Ray is which shard is
whose, receipts and progress. The process that runs the command holds the store's lock and assigns the shards:

- There are as many actors as the cluster has room for, and one more that waits for room: a node that joins gets it,
  and an autoscaler sees that it is wanted.
- The shards of an actor that is lost, with its node or alone, go to the others.
- A node where actors fail before they have their model, while others work, is left out after a few.
- When all are assigned, an actor that is free takes over the shard that is out the longest, if that takes far longer
  than others did. The first commit wins.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hubstore.errors import EngineError, HubstoreError
from hubstore.extraction.cluster import POLL_S, ClusterCapacity, Needs, connected, first_line, unanswered
from hubstore.extraction.pipeline import Progress
from hubstore.extraction.plan import PlannedShard
from hubstore.extraction.prepare import Work
from hubstore.extraction.ray_actor import BEAT_S, Extractor, Order, Report
from hubstore.extraction.workers import ExtractionTask, sum_progress
from hubstore.forward.capture import Capture
from hubstore.models import Model
from hubstore.storage import crc32c
from hubstore.store.commit import Commit
from hubstore.store.layout import PLAN, commit_key
from hubstore.store.verification import corrupt_file

BUSY_S = 60.0
"""A warning says when no worker has begun for so long, since others hold the cluster's resources."""

HEAD_S = 20.0
"""How long the head of a cluster may not answer: after 60 s Ray ends this process without a word."""

SECONDS_TO_END = 10.0
"""That actors have to end when they are no longer needed."""

SETTLE_S = 0.2
"""An actor is said to have ended a little before its process has."""

MOST_LOSSES = 3
"""How often one shard may be lost; before they have their model, how many actors of one node, and of all in a row."""

STRAGGLING = 2.0
"""A shard that is out for so many times as long as is usual is given to a second actor."""


@dataclass(frozen=True)
class RayEngine:
    """Assigns shards to the actors of a Ray cluster.

    Args:
        load: gives the model on "cuda" or "cpu", on whatever node; it can be pickled.
        address: see `hubstore.extraction.cluster.connected`.
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
        stop: Callable[[], bool] | None = None,
    ) -> Progress:
        """As `pipeline.run_shards`, on a cluster, where `stop` is not asked: whoever ends it ends it at once.

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
        task = ExtractionTask.of(work, self.load, capture)
        device = capture.model.device
        with _set_aside(capture.model), connected(self.address) as library:
            return _Scheduler(library, task, device, shards, total, progress).run()


@contextlib.contextmanager
def _set_aside(model: Model) -> Iterator[None]:
    """Within it a model that is on a GPU leaves it to the actor that gets the same one."""
    device = model.device
    if device.type != "cuda":
        yield
        return
    model.trunk.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.trunk.to(device)


@dataclass(eq=False)
class _Worker:
    """The scheduler's view of an actor: its last report, which shards it has and since when."""

    actor: Any
    call: Any
    report: Report = field(default_factory=Report)
    out: dict[int, float] = field(default_factory=dict)
    committed: list[int] = field(default_factory=list)


class _Scheduler:
    """Assigns shards to workers, and those of lost workers to others."""

    def __init__(
        self,
        library: Any,
        task: ExtractionTask,
        device: torch.device,
        shards: Sequence[PlannedShard],
        total: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._ray = library
        self._storage = task.work.storage
        self._shards = {shard.shard: shard for shard in shards}
        self._open = set(self._shards)  # not committed
        self._left = deque(self._shards)  # assigned to nobody
        self._total = total
        self._report_progress = progress or (lambda done: None)
        needs = Needs.of(device)
        self._head = getattr(library.get_runtime_context(), "gcs_address", None)  # a client of ray:// knows none
        self._nodes = ClusterCapacity(library, needs, "a worker")
        self._kind = library.remote(Extractor)
        self._options: dict[str, Any] = {**needs.options(), "max_restarts": 0}
        self._actor_arguments = library.put(task), crc32c(self._storage.read(PLAN)), device.type
        self._workers: list[_Worker] = []
        self._ending: list[Any] = []  # calls of workers that were lost, which may not have ended
        self._failed: Counter[str] = Counter()  # by node, before they had their model
        self._left_out: dict[str, str] = {}  # nodes, and why
        self._gone: list[Progress] = []
        self._losses: Counter[int] = Counter()
        self._capacity = 1
        self._unloaded = 0  # lost in a row before they had their model
        self._twice: set[int] = set()  # assigned more than once
        self._seconds: list[float] = []  # that shards were out
        self._started = self._busy = self._answered = time.monotonic()
        self._next_poll = 0.0

    def run(self) -> Progress:
        """Assign shards until every one is committed."""
        while self._open:
            try:
                while self._open:
                    self._add_workers()
                    self._listen()
                    self._report_progress(self._sum())
            except BaseException:
                self._end_workers()
                with contextlib.suppress(HubstoreError):  # what stopped the run is raised
                    self._revoke_corrupt_commits()
                raise
            self._gone += map(self._settled, self._end_workers())
            self._revoke_corrupt_commits()
            self._reopen()
        return self._sum()

    def _sum(self) -> Progress:
        """What was done by all, as one."""
        every = [Progress(), *self._gone, *(worker.report.progress for worker in self._workers)]
        ready = sum(worker.report.loaded for worker in self._workers)
        done = sum_progress(every, self._total)
        items = min(done.items, self._total)  # while two have the same shard
        return replace(done, items=items, seconds=time.monotonic() - self._started, workers=ready)

    def _add_workers(self) -> None:
        """An actor for all the room that there is, and one that waits for more."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_S
        if not self._head_answers(now):
            return
        capacity = self._nodes.poll(self._goes_on(), but=self._left_out)
        self._capacity = max(capacity, 1)
        for _ in range(min(capacity + 1, len(self._open)) - len(self._workers)):
            actor = self._kind.options(**self._options).remote(*self._actor_arguments)
            self._workers.append(_Worker(actor, actor.turn.remote(None)))
        if any(worker.report.place for worker in self._workers) or not capacity:
            self._busy = now
        elif now - self._busy > BUSY_S:
            self._busy = math.inf
            warnings.warn(
                f"no worker has begun on the Ray cluster for {BUSY_S:.0f} s, since others may hold its room; "
                f"{self._storage.root} goes on when there is some",
                stacklevel=2,
            )

    def _head_answers(self, now: float) -> bool:
        problem = self._head and unanswered(self._head)
        if not problem:
            self._answered = now
        elif now - self._answered > HEAD_S:
            raise EngineError(
                f"the head of the Ray cluster at {self._head} has not answered for {HEAD_S:.0f} s: {problem}; start "
                f"the cluster again. {self._goes_on()}"
            )
        return not problem

    def _listen(self) -> None:
        calls = {worker.call: worker for worker in self._workers}
        self._ray.wait(list(calls), num_returns=1, timeout=BEAT_S)
        ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            if calls[call] in self._workers:  # an earlier one's commit may have sent it away
                self._hear(calls[call])

    def _hear(self, worker: _Worker) -> None:
        try:
            worker.report = self._ray.get(worker.call)
        except self._ray.exceptions.RayError as error:
            self._lose(worker, first_line(error))
            return
        if worker.report.loaded:
            self._unloaded = 0
        for number in worker.report.committed:
            self._commit(worker, number)
        if worker.report.error is not None and not self._beaten(worker) and not self._alone_in_failing(worker):
            raise worker.report.error
        if worker.report.error is not None or worker.report.failed is not None:
            self._lose(worker, worker.report.failed or str(worker.report.error))
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

    def _alone_in_failing(self, worker: _Worker) -> bool:
        """Whether it has failed before it had its model, while another has it: its node may be at fault."""
        return not worker.report.loaded and any(other.report.loaded for other in self._workers)

    def _order(self, worker: _Worker) -> Order:
        if not worker.report.wants:
            return None
        if self._left:
            number = self._left.popleft()
        elif worker.report.running:
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
        self._ending.append(worker.call)
        if self._alone_in_failing(worker):
            self._suspect(worker.report, why)
        self._unloaded += not worker.report.loaded
        if self._unloaded > MOST_LOSSES * self._capacity:
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
                        f"{worker.report.place or 'a node that is gone'}: {why}. {self._goes_on()}"
                    )
                self._twice.add(number)
                self._left.appendleft(number)
        self._gone.append(self._settled(worker))

    def _suspect(self, report: Report, why: str) -> None:
        """Leave a node out where workers fail again and again."""
        self._failed[report.node] += 1
        if report.node and self._failed[report.node] >= MOST_LOSSES and report.node not in self._left_out:
            self._left_out[report.node] = f"the node {report.place} is left out: {why}"
            self._options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._left_out)})"}
            warnings.warn(self._left_out[report.node], stacklevel=2)

    def _settled(self, worker: _Worker) -> Progress:
        """What a worker did that is gone: of shards that it had not committed, no items."""
        done = worker.report.progress
        if worker.out:
            keys = map(commit_key, worker.committed)
            items = sum(Commit.decode(self._storage.read(key), str(self._storage.root / key)).items for key in keys)
            done = replace(done, items=items, shards=len(worker.committed))
        return done

    def _end_workers(self) -> Sequence[_Worker]:
        """End all actors, and wait until none can write any more."""
        gone, self._workers = self._workers, []
        for worker in gone:
            self._ray.kill(worker.actor)
        calls = [*self._ending, *(worker.call for worker in gone)]
        self._ending.clear()
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_END)
            time.sleep(SETTLE_S)
        return gone

    def _revoke_corrupt_commits(self) -> None:
        """Read back what two workers had, and take back the commit where one wrote over what the other committed."""
        for number in sorted(self._twice):
            key = commit_key(number)
            if self._storage.exists(key) and corrupt_file(self._storage, number) is not None:
                self._storage.delete(key)

    def _reopen(self) -> None:
        """Reopen shards that two workers had and nobody has committed: the commit was revoked, here or by one."""
        reopened = [number for number in sorted(self._twice) if not self._storage.exists(commit_key(number))]
        self._open.update(reopened)
        self._left.extend(reopened)
        self._twice.clear()

    def _goes_on(self) -> str:
        done = len(self._shards) - len(self._open)
        return (
            f"{done} of {len(self._shards)} shards of {self._storage.root} are committed and stay; "
            f"the same command goes on from there{''.join(f'; {why}' for why in self._left_out.values())}"
        )
