"""Tasks on as many threads as torch has, each with one torch thread of its own.

Threads of Python and not numba's parallel loops: several analyses call kernels at once, which numba's default
threading layer does not allow, and a torch product on one thread wastes nothing on waiting for the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

import torch

T = TypeVar("T")


def in_threads(work: Callable[[T], None], tasks: Iterable[T]) -> None:
    """`work(task)` for every task; the first error, in the order of the tasks, is raised.

    Tasks are drawn as threads become free, a few ahead at most, so that they may hold much memory. A lone task stays
    on this thread: waking another costs more than a small one.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for task in tasks:
            work(task)
        return
    # For this one too: a product of torch's own threads beside busy ones waits for them.
    with one_thread():
        drawn = iter(tasks)
        first = list(islice(drawn, 2))
        if len(first) == 1:
            work(first[0])
        elif first:
            _in_pool(work, chain(first, drawn), threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch has one thread within it: what several sum comes out otherwise with other numbers of them."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _in_pool(work: Callable[[T], None], tasks: Iterable[T], threads: int) -> None:
    waiting: deque[Future[None]] = deque()
    inference = torch.is_inference_mode_enabled()

    def run(task: T) -> None:
        # The mode holds for a thread, and its tensors may not be written to outside of it.
        with torch.inference_mode(inference):
            work(task)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for task in tasks:
            waiting.append(pool.submit(run, task))
            if len(waiting) > threads:
                waiting.popleft().result()
        for future in waiting:
            future.result()
