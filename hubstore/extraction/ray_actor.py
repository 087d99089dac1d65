"""The actor of a Ray cluster that holds one model and extracts the shards that it is given."""

from __future__ import annotations

import os
import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hubstore.errors import HubstoreError, StoreError
from hubstore.extraction.cluster import first_line, ray
from hubstore.extraction.pipeline import Progress, run_shards
from hubstore.extraction.plan import PlannedShard
from hubstore.extraction.workers import ExtractionTask, sendable, sum_progress
from hubstore.storage import Storage, crc32c
from hubstore.store.layout import PLAN

BEAT_S = 0.5
"""An actor that has nothing to say says so as often."""

SILENCE_S = 30.0
"""An actor that gets no call for so long ends itself: who took its shards over cannot end it, cut off as it is."""

Order = PlannedShard | Literal["pause"] | None
"""A shard to do; to finish what is under way, since there is no more for now; or only to report."""


@dataclass(frozen=True)
class Report:
    """What an actor reports.

    Args:
        place: its node's name.
        node: what Ray knows its node by.
        loaded: whether it has its model.
        running: whether shards are under way.
        wants: whether it waits for another one.
        committed: shards committed since its last report.
        progress: all that it did.
        error: what stopped it, and would stop others.
        failed: what stopped it, and may not stop others.
    """

    place: str = ""
    node: str = ""
    loaded: bool = False
    running: bool = False
    wants: bool = False
    committed: tuple[int, ...] = ()
    progress: Progress = field(default_factory=Progress)
    error: HubstoreError | None = None
    failed: str | None = None


class Extractor:
    """The actor: a thread extracts, while `turn` takes orders and returns reports."""

    def __init__(self, task: ExtractionTask, plan: int, device: str) -> None:
        self._orders: queue.SimpleQueue[PlannedShard | Literal["pause"]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._news = False
        self._report = Report(platform.node(), _node())
        self._under_way: deque[int] = deque()
        self._last_turn = time.monotonic()
        threading.Thread(target=self._end_when_forgotten, daemon=True).start()
        threading.Thread(target=self._guarded, args=(task, plan, device), daemon=True).start()

    def turn(self, order: Order) -> Report:
        """Take an order, and answer when there is something new, or after a beat."""
        self._last_turn = time.monotonic()
        with self._changed:
            if order is not None:
                self._report = replace(self._report, wants=False)
                self._orders.put(order)
            self._changed.wait_for(lambda: self._news, BEAT_S)
            self._news = False
            report, self._report = self._report, replace(self._report, committed=())
            return report

    def _end_when_forgotten(self) -> None:
        while time.monotonic() - self._last_turn < SILENCE_S:
            time.sleep(BEAT_S)
        os._exit(1)

    def _guarded(self, task: ExtractionTask, plan: int, device: str) -> None:
        try:
            self._work(task, plan, device)
        except HubstoreError as error:
            self._update_report(error=sendable(error, f"the actor on {platform.node()}"))
        except BaseException as error:  # reported, and the actor is given up
            self._update_report(failed=f"{type(error).__name__}: {first_line(error)}")

    def _work(self, task: ExtractionTask, plan: int, device: str) -> None:
        _require_plan(task.work.storage, plan)
        capture = task.capture(device)
        self._update_report(loaded=True)
        done = Progress()
        while True:
            self._update_report(running=False, wants=True, progress=done)
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
            done = sum_progress([before, now], 0)

    def _shards(self, first: PlannedShard) -> Iterator[PlannedShard]:
        shard: PlannedShard | Literal["pause"] = first
        while shard != "pause":
            with self._changed:
                self._under_way.append(shard.shard)
            yield shard
            self._update_report(running=True, wants=True)
            shard = self._orders.get()

    def _advanced(self, before: Progress, now: Progress) -> None:
        with self._changed:
            # Two threads report progress, and the later report may arrive first: shards are only ever counted up.
            new = before.shards + now.shards - self._report.progress.shards
            if new < 0:
                return
            committed = tuple(self._under_way.popleft() for _ in range(new))
            progress = sum_progress([before, now], 0)
            self._report = replace(self._report, committed=self._report.committed + committed, progress=progress)

    def _update_report(self, **changes: Any) -> None:
        with self._changed:
            self._report = replace(self._report, **changes)
            self._news = True
            self._changed.notify_all()


def _node() -> str:
    """What Ray knows this process's node by; "" outside of a cluster."""
    library = ray()
    return str(library.get_runtime_context().get_node_id()) if library.is_initialized() else ""


def _require_plan(storage: Storage, plan: int) -> None:
    """StoreError unless this node sees the store that is being written."""
    if not storage.exists(PLAN) or crc32c(storage.read(PLAN)) != plan:
        raise StoreError(
            f"the node {platform.node()} does not see the store {storage.root} that is being written; put the store "
            "where every node reaches it: an object store (s3://bucket/x.hub), or a file system that they share"
        )
