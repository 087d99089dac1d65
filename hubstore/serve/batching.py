"""Dynamic batching: requests of one kind that come while a search runs are answered together by the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hubstore.serve.metrics import Metrics
from hubstore.serve.pools import busy, call_on, in_time

Answer = Callable[[Sequence[Any]], Sequence[Any]]
"""Questions to their answers, in order; an exception in the place of an answer is raised where it was asked for."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    question: Any
    size: int
    answer: asyncio.Future[Any]


@dataclass(frozen=True, eq=False)
class _Queue:
    answering: Answer
    waiting: deque[_Waiting]


class Batcher:
    """A few lanes, in each of which one batch after another is answered.

    A batch starts as soon as a lane is free and none of its key is in work, so that a lone request never waits; what
    arrives meanwhile becomes the next batch. Two batches of one key side by side would only be smaller, and share the
    cores. Of several keys, the one whose oldest request has waited longest is next.

    Args:
        lanes: batches at once.
        most: the most queries of a batch.
        waiting: requests that may wait; beyond them BusyError.
        timeout_s: seconds until TimedOutError.
        metrics: counts each batch's size.
    """

    def __init__(self, lanes: int, most: int, waiting: int, timeout_s: float, metrics: Metrics) -> None:
        self.waiting = 0
        self.running = 0
        self._starting = False
        self._lanes = lanes
        self._most = most
        self._room = waiting
        self._timeout = timeout_s
        self._metrics = metrics
        self._queues: dict[Hashable, _Queue] = {}
        self._keys: set[Hashable] = set()
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="hubstore-search")

    async def ask(self, key: Hashable, question: Any, size: int, answering: Answer) -> Any:
        """The answer to one question of `size` queries; those under one key are answered by the same `answering`."""
        if self.waiting >= self._room:
            raise busy("searches", self.waiting)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(key, _Queue(answering, deque()))
        queue.waiting.append(_Waiting(question, size, answer))
        self.waiting += 1
        if not self._starting:  # after what the event loop has read already, so that it goes along
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start)
        return await in_time(answer, None, self._timeout)

    def close(self) -> None:
        """Start no batch any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        self._starting = False
        while self.running < self._lanes:
            key = next((key for key in self._queues if key not in self._keys), None)
            if key is None:
                return
            queue = self._queues[key]
            batch = self._drawn(queue)
            del self._queues[key]
            if queue.waiting:
                self._queues[key] = queue  # behind the others
            if not batch:
                continue
            self.running += 1
            self._keys.add(key)
            self._metrics.batch(len(batch))
            self._run(key, queue.answering, batch)

    def _run(self, key: Hashable, answering: Answer, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        future = self._threads.submit(answering, [one.question for one in batch])
        future.add_done_callback(lambda done: call_on(loop, lambda: self._end(key, batch, done)))

    def _drawn(self, queue: _Queue) -> list[_Waiting]:
        """The next batch of a queue; requests that were given up are left out."""
        batch: list[_Waiting] = []
        size = 0
        while queue.waiting and (not batch or size + queue.waiting[0].size <= self._most):
            one = queue.waiting.popleft()
            self.waiting -= 1
            if not one.answer.done():
                batch.append(one)
                size += one.size
        return batch

    def _end(self, key: Hashable, batch: Sequence[_Waiting], done: Future[Sequence[Any]]) -> None:
        self.running -= 1
        self._keys.discard(key)
        error = done.exception()
        answers = [error] * len(batch) if error is not None else done.result()
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, BaseException):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
        self._start()
