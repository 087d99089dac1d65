"""How many threads torch computes on, and tasks on as many, each with one torch thread of its own.

The count of the process is the user's: `torch.set_num_threads`, OMP_NUM_THREADS. Nothing here changes it. A limit holds
for the thread that sets it, so that one that is born or computes meanwhile has the count of the process, and keeps it.

Tasks run on threads of Python and not in numba's parallel loops: several analyses call kernels at once, which numba's
default threading layer does not allow, and a torch product on one thread wastes nothing on waiting for the others.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
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
    with limited(1):
        yield


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Torch computes on `count` threads what this thread asks for within it."""
    before = torch.get_num_threads()  # first: it gives a new thread the count of the process
    outer = getattr(_of_thread, "mkl", 0)  # 0: as many as the process has
    _limit(count, count)
    try:
        yield
    finally:
        _limit(before, outer)


def single_threads(count: int) -> ThreadPoolExecutor:
    """A pool of `count` threads, in each of which torch has one thread."""
    return ThreadPoolExecutor(count, initializer=_begin_alone)


def _in_pool(work: Callable[[T], None], tasks: Iterable[T], threads: int) -> None:
    waiting: deque[Future[None]] = deque()
    inference = torch.is_inference_mode_enabled()

    def run(task: T) -> None:
        # The mode holds for a thread, and its tensors may not be written to outside of it.
        with torch.inference_mode(inference):
            work(task)

    with single_threads(threads) as pool:
        for task in tasks:
            waiting.append(pool.submit(run, task))
            if len(waiting) > threads:
                waiting.popleft().result()
        for future in waiting:
            future.result()


_of_thread = threading.local()
"""`mkl`: the limit of this thread's products."""


def _begin_alone() -> None:
    torch.get_num_threads()
    _limit(1, 1)


def _limit(openmp: int, mkl: int) -> None:
    """Set this thread's limits: torch's own loops go by OpenMP's, products by MKL's where torch has it."""
    library = _library()
    library.omp_set_num_threads(openmp)
    if hasattr(library, "MKL_Set_Num_Threads_Local"):
        library.MKL_Set_Num_Threads_Local(mkl)
    _of_thread.mkl = mkl


@functools.cache
def _library() -> ctypes.CDLL:
    """Torch's library, through which its OpenMP and MKL are found. `torch.set_num_threads` is of the whole process."""
    (path,) = (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")
    return ctypes.CDLL(str(path))
