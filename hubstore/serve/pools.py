"""Bounded work off the event loop: as many threads, as many waiting, and no longer than a request may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from hubstore.serve.failures import BusyError, TimedOutError

T = TypeVar("T")


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
        future.add_done_callback(lambda _: on(loop, self._release))
        return await in_time(asyncio.wrap_future(future), future, self._timeout)

    def close(self) -> None:
        """Start no waiting work any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release(self) -> None:
        self.taken -= 1


async def in_time(answer: asyncio.Future[T], work: Future[Any] | None, seconds: float | None) -> T:
    """The answer, or TimedOutError; `work` is then not started any more, if it has not been."""
    done, _ = await asyncio.wait({answer}, timeout=seconds)
    if not done:
        if work is None or work.cancel():
            answer.cancel()
        answer.add_done_callback(_heard)
        raise TimedOutError(
            f"the answer took longer than {seconds:g} s; ask for less, or again: it may be kept by then"
        )
    return answer.result()


def busy(name: str, count: int) -> BusyError:
    """What is said of a full queue."""
    return BusyError(f"{count} requests are before this one ({name}); try again in a second")


def on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call from another thread on the event loop, unless that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _heard(answer: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is not worth a warning."""
    if not answer.cancelled():
        answer.exception()
