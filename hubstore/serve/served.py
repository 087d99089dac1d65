"""A store that is served: its newest snapshot, swapped whole when the store has changed."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hubstore.serve.metrics import Metrics
from hubstore.serve.state import State, state_of
from hubstore.storage.location import Location

if TYPE_CHECKING:
    from hubstore.query.ray import Searchers
    from hubstore.serve.snapshot import Snapshot

log = logging.getLogger("hubstore.serve")

PATIENCE_S = 0.5
"""A request that finds a store changed waits so long for the new snapshot before it is answered from the old one."""


class ServedStore:
    """One store and its newest snapshot.

    An answer keeps the snapshot that it is computed from; an old one is gone when its last answer is.

    Args:
        path: the store's folder or URL.
        name: what clients call it.
        device, allow_stale, results, searchers: of `Snapshot`.
        check_s: seconds between two looks at the store, which are taken when a request comes.
        metrics: told of reloads.
        opener: the thread that opens snapshots, shared by all stores.
    """

    def __init__(
        self,
        path: Location,
        name: str,
        *,
        device: str,
        allow_stale: bool,
        results: int,
        searchers: Searchers | None,
        check_s: float,
        metrics: Metrics,
        opener: ThreadPoolExecutor,
    ) -> None:
        self.path = path
        self.name = name
        self.current: Snapshot | None = None
        self._options = {"device": device, "allow_stale": allow_stale, "results": results, "searchers": searchers}
        self._check_s = check_s
        self._metrics = metrics
        self._opener = opener
        self._state: State = ()
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
            opened = await loop.run_in_executor(self._opener, self._newer())
            if opened is not None:
                if self.current is not None:
                    self._metrics.reload(self.name, "done")
                self._state, self.current = opened
        except Exception:
            if self.current is None:
                raise
            self._metrics.reload(self.name, "failed")
            log.exception("%s has changed and could not be opened anew; the old snapshot is served", self.name)
        finally:
            self._checked = time.monotonic()
            self._task = None

    def _newer(self) -> Callable[[], tuple[State, Snapshot] | None]:
        return functools.partial(_newer, self.path, self.name, self._state, self.current, self._options)


def _newer(
    path: Location, name: str, state: State, current: Snapshot | None, options: dict[str, object]
) -> tuple[State, Snapshot] | None:
    """The folder's state, and the snapshot to go with it; None where the state is the old one."""
    found = state_of(path)
    if current is not None and found == state:
        return None
    from hubstore.serve.snapshot import Snapshot

    return found, Snapshot(path, name, previous=current, **options)  # type: ignore[arg-type]
