"""The rows of an index of lists that are nearest by their one-bit codes; FAISS's answers, several times as fast.

A row's code is the sign of each element of r, the row less its list's centroid, and two factors, |r|² and
f = |r| / <x, r / |r|> with x = ±1 / sqrt(width) by the signs. With q, the query less the same centroid,
|r - q|² is nearly |r|² + |q|² - 2 f <x, q> (RaBitQ, arXiv 2405.12497). Of q an element has 6 bits and its sign, so
that a group of 4 is a table of 16 bytes: for each code the sum of the elements that have the code's sign.

Lists are scanned each once for all queries that visit it, so that it is read from memory once. Which rows are found
depends on neither the number of threads nor the order of lists: of rows as near the smaller position is nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from hubstore.index.listtable import ListTable, Numbers
from hubstore.index.rows import Vectors
from hubstore.kernels.cpu.list_scan import MOST_WIDTH, scan_lists
from hubstore.kernels.cpu.shuffle import vector_bytes
from hubstore.kernels.cpu.threads import in_threads

Codes = npt.NDArray[np.uint8]

HEAP_BYTES = 1 << 26
"""Of what threads find for the queries that are searched at once."""
NEAREST = 4
"""Lists of each query that are scanned first: what they hold rules out most rows of the others."""


def scannable(bits: int, width: int) -> bool:
    """Whether rows of such codes are scanned here on this processor; else FAISS does."""
    return bits == 1 and width <= MOST_WIDTH and vector_bytes() > 0


@dataclass(frozen=True, eq=False)
class Scan:
    """A file of lists with one-bit codes.

    Args:
        content: uint8 [n], the file, from its beginning.
        table: where its lists are.
        centroids: float32 [lists, width].
    """

    content: Codes
    table: ListTable
    centroids: Vectors

    def nearest(self, queries: Vectors, lists: Numbers, count: int, allowed: Codes | None = None) -> Numbers:
        """The rows of lists nearest to queries by their codes.

        Args:
            queries: float32 [q, width], rotated as the centroids are.
            lists: int64 [q, n], which each query visits, nearest first; -1 for none.
            count: rows for each.
            allowed: uint8, a bit a row, the lowest first, of those that may be found; None for all.

        Returns:
            int64 [q, count] positions, nearest first, -1 for fewer; a row that several lists hold comes several times.
        """
        block = max(1, HEAP_BYTES // ((1 + torch.get_num_threads()) * count * _Found.BYTES))
        parts = [slice(start, start + block) for start in range(0, len(queries), block)]
        found = [self._nearest(queries[part], lists[part], count, allowed) for part in parts]
        return np.concatenate([np.empty((0, count), np.int64), *found])

    def _nearest(self, queries: Vectors, lists: Numbers, count: int, allowed: Codes | None) -> Numbers:
        """`nearest` of as many queries as heaps are held for at once."""
        threads = torch.get_num_threads()
        found = _Found.empty(1 + threads, len(queries), count)
        bits = np.empty(0, np.uint8) if allowed is None else allowed
        bounds = np.full(len(queries), np.inf, np.float32)
        first, rest = _by_list(lists[:, :NEAREST]), _by_list(lists[:, NEAREST:])

        def scan(task: tuple[int, Numbers]) -> None:
            number, pairs = task
            distances, rows = found.distances[number], found.rows[number]
            scan_lists(
                self.content,
                self.content[: len(self.content) // 4 * 4].view(np.float32),
                self.content[: len(self.content) // 8 * 8].view(np.int64),
                np.stack([self.table.offsets, self.table.sizes, self.table.capacities], axis=1),
                self.table.code_size,
                self.centroids,
                queries,
                pairs,
                bits,
                bounds,
                distances,
                rows,
            )

        # Of a query one thread scans the nearest lists, so that threads share the first heaps and meet in none.
        in_threads(
            scan, [(0, part) for number in range(threads) if len(part := first[first[:, 1] % threads == number])]
        )
        bounds[:] = found.distances[0, :, 0]
        parts = np.array_split(rest, threads)
        in_threads(scan, [(1 + number, part) for number, part in enumerate(parts) if len(part)])
        return found.best(count)


@dataclass(frozen=True, eq=False)
class _Found:
    """Heaps of the nearest rows, the farthest of them first: [heaps, q, count]."""

    BYTES: ClassVar[int] = 12
    """Of a row in a heap."""

    distances: Vectors
    rows: Numbers

    @classmethod
    def empty(cls, heaps: int, queries: int, count: int) -> _Found:
        shape = (heaps, queries, count)
        return cls(np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64))

    def best(self, count: int) -> Numbers:
        """int64 [q, count], of all heaps."""
        distances, rows = (np.concatenate(list(one), axis=1) for one in (self.distances, self.rows))
        order = np.lexsort((rows, distances), axis=-1)[:, :count]
        return np.take_along_axis(rows, order, 1)


def _by_list(lists: Numbers) -> Numbers:
    """int64 [pairs, 2], list and query, in the order of the lists."""
    queries = np.repeat(np.arange(len(lists)), lists.shape[1])
    order = np.argsort(lists.ravel(), kind="stable")
    pairs = np.stack([lists.ravel()[order], queries[order]], axis=1)
    return np.ascontiguousarray(pairs[pairs[:, 0] >= 0])
