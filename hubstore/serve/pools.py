"""Bounded work off the event loop: as many threads, as many waiting, and no longer than a request may take."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from hubstore.serve.http_errors import BusyError, TimedOutError
from hubstore.serve.limits import MIB
from hubstore.serve.lru import LRUCache

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

CACHED = 64 * MIB
"""Bytes of the tables that were computed last."""


class Pool:
    """Threads for one kind of work.

    Args:
        name: of the kind, for messages.
        threads: works at once.
        waiting: works that may wait for a thread; beyond them BusyError.
        timeout_s: seconds until TimedOutError, if any; a work that runs then goes on, and keeps its thread.
    """

    def __init__(self, name: str, threads: int, waiting: int, timeout_s: float | None) -> None:
        self.name = name
        self.taken = 0
        self._most = threads + waiting
        self._timeout = timeout_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"hubstore-{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        if self.taken >= self._most:
            raise busy(self.name, self.taken)
        future = self._threads.submit(work)
        self.taken += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: call_on(loop, self._release))
        return await in_time(asyncio.wrap_future(future), future, self._timeout)

    def close(self) -> None:
        """Start no waiting work any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release(self) -> None:
        self.taken -= 1


class Computations:
    """Tables that take long: each computed once, whoever asks, and kept for a while where the store cannot keep it.

    A request that runs out of time leaves its computation running; asked again, it waits for the same one.

    Args:
        pool: where they are made; it has no time limit of its own.
        timeout_s: seconds that a request waits.
    """

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout = timeout_s
        self._running: dict[Hashable, asyncio.Task[pa.Table]] = {}
        self._cache: LRUCache[Hashable, pa.Table] = LRUCache(CACHED, lambda table: int(table.nbytes))

    async def table(self, key: Hashable, make: Callable[[], pa.Table]) -> pa.Table:
        """What `make` returns or raises; `key` is all that it depends on, the snapshot's revision among it."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._made(key, make))
        return await in_time(asyncio.shield(self._running[key]), None, self._timeout)

    async def _made(self, key: Hashable, make: Callable[[], pa.Table]) -> pa.Table:
        def made() -> pa.Table:
            try:
                return make()
            finally:
                return_freed_memory()

        try:
            return self._cache.put(key, await self._pool.run(made))
        finally:
            del self._running[key]


def return_freed_memory() -> None:
    """Give the system back what was freed.

    The C library (glibc) keeps freed arrays of up to 32 MiB in as many heaps as there are threads: a server that
    computes projections grew by 7 MB with each. A lower threshold would map and unmap the buffers of every search.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


async def in_time(answer: asyncio.Future[T], work: Future[Any] | None, seconds: float | None) -> T:
    """The answer, or TimedOutError; `work` is then not started any more, if it has not been."""
    done, _ = await asyncio.wait({answer}, timeout=seconds)
    if not done:
        if work is None or work.cancel():
            answer.cancel()
        answer.add_done_callback(_retrieve)
        raise TimedOutError(
            f"the answer took longer than {seconds:g} s; ask for less, or again: it may be ready by then"
        )
    return answer.result()


def busy(name: str, count: int) -> BusyError:
    """The error of a full queue."""
    return BusyError(f"{count} requests are before this one ({name}); try again in a second")


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call from another thread on the event loop, unless that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Take an error that nobody waits for any more: it is not worth a warning."""
    if not answer.cancelled():
        answer.exception()
