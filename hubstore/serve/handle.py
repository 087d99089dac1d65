"""A store that is served: its newest snapshot, swapped whole when the store has changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hubstore.serve.fingerprint import Fingerprint, fingerprint
from hubstore.serve.metrics import Metrics
from hubstore.storage.location import Location

if TYPE_CHECKING:
    from hubstore.serve.snapshot import Snapshot

log = logging.getLogger("hubstore.serve")

PATIENCE_S = 0.5
"""A request that finds a store changed waits so long for the new snapshot before it is answered from the old one."""


class StoreHandle:
    """One store and its newest snapshot.

    An answer keeps the snapshot that it is computed from; an old one is gone when its last answer is.

    Args:
        path: the store's folder or URL.
        name: what clients call it.
        open_snapshot: opens the store, with what has not changed since the snapshot before, if any.
        check_s: seconds between two looks at the store, which are taken when a request comes.
        metrics: counts reloads.
        opener: the thread that opens snapshots, shared by all stores.
    """

    def __init__(
        self,
        path: Location,
        name: str,
        open_snapshot: Callable[[Snapshot | None], Snapshot],
        *,
        check_s: float,
        metrics: Metrics,
        opener: ThreadPoolExecutor,
    ) -> None:
        self.path = path
        self.name = name
        self.current: Snapshot | None = None
        self._open_snapshot = open_snapshot
        self._check_s = check_s
        self._metrics = metrics
        self._opener = opener
        self._fingerprint: Fingerprint = ()
        self._checked = 0.0
        self._task: asyncio.Task[None] | None = None

    async def snapshot(self) -> Snapshot:
        """The newest snapshot; the first call opens the store.

        Raises:
            HubstoreError: it cannot be opened.
        """
        if self.current is None:
            if self._task is None:
                self._task = asyncio.create_task(self._refresh())
            await asyncio.shield(self._task)
        elif self._task is None and time.monotonic() - self._checked > self._check_s:
            self._task = asyncio.create_task(self._refresh())
            await asyncio.wait({self._task}, timeout=PATIENCE_S)
        assert self.current is not None
        return self.current

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.run_in_executor(self._opener, self._newer)
            if opened is not None:
                if self.current is not None:
                    self._metrics.reload(self.name, "done")
                self._fingerprint, self.current = opened
        except Exception:
            if self.current is None:
                raise
            self._metrics.reload(self.name, "failed")
            log.exception("%s has changed and could not be opened anew; the old snapshot is served", self.name)
        finally:
            self._checked = time.monotonic()
            self._task = None

    def _newer(self) -> tuple[Fingerprint, Snapshot] | None:
        """The store's fingerprint, and the snapshot to go with it; None where it has not changed."""
        found = fingerprint(self.path)
        if self.current is not None and found == self._fingerprint:
            return None
        return found, self._open_snapshot(self.current)
