"""Ranks of matches: each tile of products is counted in both directions while it is in the cache.

Threads take bands of rows, each with one torch thread, so that ranks do not depend on how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.checks import check_count
from hubstore.kernels.cpu import tiles
from hubstore.kernels.cpu.threads import in_threads, one_thread
from hubstore.kernels.reference import MatchRanks
from hubstore.kernels.rows import check_bias, check_pair, unit_rows

SIDE = 1024
"""Rows and columns of a tile of products."""

Span = tuple[int, int]


def match_rank(
    x: Tensor, y: Tensor, *, bias_x: Tensor | None = None, bias_y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    check_bias(bias_x, x, "bias_x")
    check_bias(bias_y, y, "bias_y")
    return _Pair.of(x, y).ranks([(bias_x, bias_y)])[0]


def match_ranks(x: Tensor, y: Tensor, *, neighbors: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    check_pair(x, y)
    check_count("neighbors", neighbors)
    pair = _Pair.of(x, y)
    near_x, near_y = pair.neighbor_means(neighbors)
    plain, csls = pair.ranks([(None, None), (near_x / 2, near_y / 2)])
    return MatchRanks(*plain, *csls)


@dataclass(frozen=True)
class _Pair:
    """Two sides of n unit rows, each less its mean, and what makes cosines of their products.

    x̂ᵢ·ŷⱼ = (x̂ᵢ - mx)·(ŷⱼ - my) + (x̂ᵢ - mx)·my + (ŷⱼ - my)·mx + mx·my.

    Args:
        n: rows of each side.
        x: x̂ᵢ - mx, float32 [n, width], in whole panels.
        y: ŷⱼ - my, float32 [n, width], in whole panels.
        of_x: (x̂ᵢ - mx)·my, float32 [n].
        of_y: (ŷⱼ - my)·mx, float32 [n].
        constant: mx·my.
        whole: all products of x and y where they are one tile.
    """

    n: int
    x: Tensor
    y: Tensor
    of_x: Tensor
    of_y: Tensor
    constant: float
    whole: Tensor | None

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Pair:
        with one_thread():
            return cls._of(x, y)

    @classmethod
    def _of(cls, x: Tensor, y: Tensor) -> _Pair:
        mean_x, mean_y = _mean(x, "x"), _mean(y, "y")
        moved_x, of_x = _moved(x, mean_x, mean_y)
        moved_y, of_y = _moved(y, mean_y, mean_x)
        n = len(x)
        return cls(
            n=n,
            x=moved_x,
            y=moved_y,
            of_x=of_x,
            of_y=of_y,
            constant=float(mean_x @ mean_y),
            whole=(moved_x @ moved_y.T)[:n, :n] if n <= SIDE else None,
        )

    def products(self, rows: Span, columns: Span) -> Tensor:
        """float32 [rows, columns], computed over whole panels."""
        if self.whole is not None:
            return self.whole
        left = self.x[rows[0] : tiles.panelled(rows[1])]
        right = self.y[columns[0] : tiles.panelled(columns[1])]
        return (left @ right.T)[: rows[1] - rows[0], : columns[1] - columns[0]]

    def in_bands(self, work: Callable[[Span, Span, Tensor], None]) -> None:
        """`work` of the rows, columns and products of every tile; those of the same rows are one thread's."""

        def band(rows: Span) -> None:
            for columns in tiles.spans(self.n, SIDE):
                work(rows, columns, self.products(rows, columns))

        in_threads(band, tiles.spans(self.n, SIDE))

    def ranks(self, biases: list[tuple[Tensor | None, Tensor | None]]) -> list[tuple[Tensor, Tensor]]:
        """Both int64 [n] ranks under each of `biases` of x's and of y's rows, from one sweep over the products."""
        matches = torch.empty(self.n)

        def matched(span: Span) -> None:
            matches[slice(*span)] = self.products(span, span).diagonal()

        in_threads(matched, tiles.spans(self.n, SIDE))
        counts = [
            _Counts.empty(matches, _subtracted(of_x, self.of_x), _subtracted(of_y, self.of_y)) for of_x, of_y in biases
        ]

        def count_all(rows: Span, columns: Span, products: Tensor) -> None:
            for count in counts:
                count.add(products, rows, columns)

        self.in_bands(count_all)
        return [(count.forward, count.backward) for count in counts]

    def neighbor_means(self, k: int) -> tuple[Tensor, Tensor]:
        """Two float64 [n]: mean cosine of each row of x to its k nearest of y, and of y to x."""
        k = min(k, self.n)
        near_x = torch.full((self.n, k), -torch.inf)
        near_y = torch.full((self.n, k), -torch.inf)
        sharing = threading.Lock()

        def keep(rows: Span, columns: Span, products: Tensor) -> None:
            _keep_largest(near_x[slice(*rows)], products + self.of_y[slice(*columns)])
            from_y = (products + self.of_x[slice(*rows), None]).T
            with sharing:  # which of the largest come first makes no difference
                _keep_largest(near_y[slice(*columns)], from_y)

        self.in_bands(keep)
        mean_x, mean_y = near_x.mean(1, dtype=torch.float64), near_y.mean(1, dtype=torch.float64)
        return mean_x + self.of_x + self.constant, mean_y + self.of_y + self.constant


def _mean(rows: Tensor, name: str) -> Tensor:
    """The mean of the unit rows, float64 [width]."""
    mean = torch.zeros(rows.shape[1], dtype=torch.float64)
    for start, stop in _blocks(rows):
        mean += unit_rows(rows[start:stop], name, start).sum(0) / len(rows)
    return mean


def _moved(rows: Tensor, mean: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows less their mean, float32 [n, width] in whole panels, and their products with `other`, float32 [n]."""
    moved = torch.zeros(tiles.panelled(len(rows)), rows.shape[1])
    products = torch.empty(len(rows))
    for start, stop in _blocks(rows):
        block = unit_rows(rows[start:stop]) - mean
        moved[start:stop] = block
        products[start:stop] = (block * other).sum(-1)  # in one order whatever the row, so that equal rows tie
    return moved, products


def _blocks(rows: Tensor) -> Iterator[Span]:
    return tiles.spans(len(rows), max(1, tiles.BLOCK // max(1, rows.shape[1])))


def _subtracted(bias: Tensor | None, common: Tensor) -> Tensor:
    """float32 [n]: what is taken off the products for a candidate; what is common to all moves no rank."""
    wide = torch.zeros(len(common)) if bias is None else bias
    wide = wide.to(torch.float64)
    return (wide - (wide.mean() if len(wide) else 0) - common).to(torch.float32)


def _keep_largest(best: Tensor, scores: Tensor) -> None:
    """Put the largest of `best` [q, k] and `scores` [q, t] into `best`."""
    k = best.shape[1]
    best.copy_(torch.cat([best, scores.topk(min(k, scores.shape[1]), sorted=False).values], 1).topk(k).values)


@dataclass(frozen=True)
class _Counts:
    """How many candidates stand before each match, so far, in both directions, int64 [n]. Threads share it."""

    matches: Tensor
    less_x: Tensor
    less_y: Tensor
    forward: Tensor
    backward: Tensor
    sharing: threading.Lock

    @classmethod
    def empty(cls, matches: Tensor, less_x: Tensor, less_y: Tensor) -> _Counts:
        forward, backward = torch.zeros(2, len(matches), dtype=torch.int64)
        return cls(matches, less_x, less_y, forward, backward, threading.Lock())

    def add(self, products: Tensor, rows: Span, columns: Span) -> None:
        """Count the candidates of a tile."""
        x, y = slice(*rows), slice(*columns)
        backward = torch.zeros(columns[1] - columns[0], dtype=torch.int64)
        _count(
            products.numpy(),
            columns[0] - rows[0],
            (self.matches[x] - self.less_y[x]).numpy(),
            (self.matches[y] - self.less_x[y]).numpy(),
            self.less_x[x].numpy(),
            self.less_y[y].numpy(),
            self.forward[x].numpy(),
            backward.numpy(),
        )
        with self.sharing:  # other rows have the same columns
            self.backward[y] += backward


Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(
    products: Any,
    offset: int,
    match_of_row: Floats,
    match_of_column: Floats,
    less_x: Floats,
    less_y: Floats,
    forward: Integers,
    backward: Integers,
) -> None:
    """Add to `forward` [rows] and `backward` [columns] the candidates ahead; column j is row j + offset of y."""
    ahead_of_columns = np.zeros(len(less_y), np.int32)
    for i in range(len(less_x)):
        row, match, less = products[i], match_of_row[i], less_x[i]
        ahead = np.int32(0)
        for j in range(len(less_y)):
            score = row[j] - less_y[j]
            ahead += np.int32((score > match) | ((score == match) & (j + offset < i)))
            score = row[j] - less
            match_score = match_of_column[j]
            ahead_of_columns[j] += np.int32((score > match_score) | ((score == match_score) & (i < j + offset)))
        forward[i] += ahead
    for j in range(len(less_y)):
        backward[j] += ahead_of_columns[j]
