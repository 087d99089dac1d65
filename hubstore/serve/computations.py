"""Long computations: each done once, whoever asks, and kept for a while where the store cannot keep it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from hubstore.serve.limits import MIB
from hubstore.serve.pools import Pool, in_time

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = 64 * MIB


class Computations:
    """Tables that take long.

    A request that runs out of time leaves its computation running; asked again, it waits for the same one.

    Args:
        pool: where they are made; it has no time limit of its own.
        timeout_s: seconds that a request waits.
    """

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout = timeout_s
        self._running: dict[Hashable, asyncio.Task[pa.Table]] = {}
        self._kept: OrderedDict[Hashable, pa.Table] = OrderedDict()

    async def table(self, key: Hashable, make: Callable[[], pa.Table]) -> pa.Table:
        """What `make` returns or raises; `key` is all that it depends on, the snapshot's revision among it."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._made(key, make))
        return await in_time(asyncio.shield(task), None, self._timeout)

    async def _made(self, key: Hashable, make: Callable[[], pa.Table]) -> pa.Table:
        try:
            table = await self._pool.run(make)
        finally:
            del self._running[key]
        if table.nbytes <= KEPT:
            self._kept[key] = table
        while sum(kept.nbytes for kept in self._kept.values()) > KEPT:
            self._kept.popitem(last=False)
        return table
