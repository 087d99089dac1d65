"""Searches that repeat over the same rows, as CUDA graphs: the host launches one instead of five kernels.

A graph holds the addresses of what it reads. It is run only for rows at that address, of that shape and dtype, and
reads of them what is there then; queries are copied to it, and answers from it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
import triton
from torch import Tensor

KEPT = 8  # graphs, those used last; each holds what its kernels leave one another, 50 MB at most

Enqueue = Callable[[Tensor, Tensor, int, torch.dtype], tuple[Tensor, Tensor, Tensor]]
"""Of queries, rows, k and a dtype: scores, indices and whether they are sure; the host waits for nothing."""


class _Graph:
    """A search over certain rows, for one caller at a time."""

    def __init__(self, enqueue: Enqueue, queries: Tensor, rows: Tensor, k: int, dtype: torch.dtype) -> None:
        shape = triton.next_power_of_2(len(queries)), queries.shape[1]
        self.queries = torch.zeros(shape, dtype=queries.dtype, device=queries.device)
        self.lock = threading.Lock()
        self.graph = torch.cuda.CUDAGraph()
        enqueue(self.queries, rows, k, dtype)  # compiles what is not yet, which a capture does not allow
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                self.graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self.found = enqueue(self.queries, rows, k, dtype)
                finally:
                    self.graph.capture_end()
        except RuntimeError:  # a full device has no memory for it: nobody gets the lock, and all launch kernels
            self.lock.acquire()

    def run(self, queries: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Scores, indices and whether each query's are sure. Waits for the device, so that the next may begin."""
        q = len(queries)
        self.queries[:q].copy_(queries)
        self.graph.replay()
        scores, indices, sure = self.found
        return scores[:q].clone(), indices[:q].clone(), sure[:q].tolist()


class Replay:
    """Runs a search; from its second time on over the same rows as a graph."""

    def __init__(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue
        self._lock = threading.Lock()
        self._graphs: OrderedDict[tuple[object, ...], _Graph | None] = OrderedDict()

    def __call__(self, queries: Tensor, rows: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[int]]:
        """Scores and indices [q, k], and whether each query's are sure; queries are on the device of the rows."""
        graph = self._graph(queries, rows, k, dtype) if rows.is_cuda and KEPT else None
        if graph is not None and graph.lock.acquire(blocking=False):
            try:
                return graph.run(queries)
            finally:
                graph.lock.release()
        scores, indices, sure = self._enqueue(queries, rows, k, dtype)
        return scores, indices, sure.tolist()

    def _graph(self, queries: Tensor, rows: Tensor, k: int, dtype: torch.dtype) -> _Graph | None:
        of_rows = rows.device, rows.data_ptr(), rows.shape, rows.stride(), rows.dtype
        key = (*of_rows, triton.next_power_of_2(len(queries)), queries.dtype, k, dtype)
        with self._lock:
            known = key in self._graphs
            graph = self._graphs.pop(key, None)
            if known and graph is None:
                graph = _Graph(self._enqueue, queries, rows, k, dtype)
            self._graphs[key] = graph
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
            return graph
