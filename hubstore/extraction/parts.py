"""Several processes that extract one corpus into one store, each its own part of the shards, without one that leads.

Whoever needs a plan and finds none makes it, alone; then all of them write shards, of which each is there when its
commit is. Any of them may end at any moment and be started again, and so may the same part twice.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hubstore.errors import CorruptStoreError, StoreError, StoreLockedError
from hubstore.extraction.job import Extraction, Job
from hubstore.extraction.pipeline import Progress
from hubstore.extraction.plan import Plan, PlannedShard
from hubstore.extraction.resume import Begun, is_described, is_whole, joined
from hubstore.store.layout import commit_key

POLL_S = 0.5
"""Between looks at a lock that another part holds."""

PATIENCE_S = 6 * 3600.0
"""How long another may take to plan a generation: it reads millions of items."""


@dataclass(frozen=True)
class Part:
    """One of several parts of a run, from 1.

    Args:
        number: of the part.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Part:
        """Of "3/16"; StoreError where it is none."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise StoreError(f"part {text!r} is not one of several, such as 3/16, the third of sixteen")
        return cls(int(found[1]), int(found[2]))

    def shards(self, plan: Plan) -> Sequence[PlannedShard]:
        """What the part does of a generation: every so many-th shard.

        Before the last generation, then also the other parts' shards, the last of them first, that nobody has done by
        then: the next generation begins when all of this one are committed, and parts may run a few at a time.
        """
        own = [shard for shard in plan.shards if shard.shard % self.count == self.number - 1]
        others = [] if plan.last else [shard for shard in plan.shards if shard.shard % self.count != self.number - 1]
        return [*own, *reversed(others)]


def run_part(job: Job, part: Part, begin: Callable[[], Begun]) -> Extraction:
    """Extract a part of what is left, and plan or close generations where that is to be done.

    Args:
        job: what is asked for.
        part: the part.
        begin: looks at the store, and makes room for what is asked for; called with the store locked.

    Raises:
        StoppedError: it was asked to end.
        StoreLockedError: another process writes there that is no part of the run.
    """
    done, last, planned = Progress(), None, False
    while True:
        job.check_stopped()
        with _patiently(job, job.storage.share):
            begun = joined(job.storage, job.identity)
            if begun is not None and begun.plan is not None:
                last = begun.plan
                with _closed_meanwhile(job, last):
                    done = done.then(job.run_planned(begun, part.shards(last)))
        if last is not None:
            left = [shard for shard in last.shards if not job.storage.exists(commit_key(shard.shard))]
            if left:
                job.check_stopped()
                return job.ended(done, last, resumed=not planned, missing=len(left))
            if not last.last:
                job.check_stopped()
        with _patiently(job, job.storage.lock):
            begun = begin()
            if begun.plan and begun.attributes and is_described(begun.attributes, begun.plan.generation):
                continue  # another part has planned it meanwhile
            planned = planned or begun.attributes is None
            if is_whole(begun, job.identity) or job.plan_next(begun) is None:  # others may have done all
                return job.ended(done, last, resumed=not planned)


@contextlib.contextmanager
def _closed_meanwhile(job: Job, plan: Plan) -> Iterator[None]:
    """A plan whose files are gone since other parts have done all of it is no error: a bucket is not locked."""
    try:
        yield
    except CorruptStoreError:
        now = joined(job.storage, job.identity)
        if now is not None and now.plan is not None and now.plan.generation == plan.generation:
            raise


@contextlib.contextmanager
def _patiently(job: Job, lock: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """Hold the store's lock, or a share of it, when the parts that hold it let it go."""
    until = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock())
                break
            except StoreLockedError:
                if time.monotonic() > until:
                    raise
            job.check_stopped()
            time.sleep(POLL_S)
        yield
