"""The nearest rows of each query: cheap products choose a few candidates, which are scored exactly.

For any means p of the queries and m of the rows, q̂·r̂ = (q̂ - p)·(r̂ - m) + p·(r̂ - m) + q̂·m. The first term is a product
of small numbers, whose error is small too, so that bfloat16 can take it; the second is one number for a row and the
third one for a query. What the error of the first two may be is known, and every row that could belong to the best in
spite of it is a candidate: nothing is missed.

Rows are moved in float32 where its error is small beside that of the product, else in float64. Where so many rows lie
within the error of bfloat16 that scoring them would cost more than better products, float32 takes its place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.checks import check_count
from hubstore.kernels.cpu import tiles
from hubstore.kernels.cpu.bits import as_stored, stored, value
from hubstore.kernels.cpu.candidates import Doubles, Floats, merge, search_tile
from hubstore.kernels.cpu.threads import in_threads
from hubstore.kernels.rows import check_floating, check_widths, in_range, unit_rows

BLOCK_ROWS = 4096
"""Rows of a tile."""

QUERIES = 1024
"""Queries that meet a tile in one product."""

SAMPLE = 128
"""Rows whose mean stands for a segment's."""

ANCHORED = 8192
"""Rows that are moved by one mean at least."""

ROUNDING = 2.0**-24
HALF_ROUNDING = 2.0**-9
"""The relative error of float32's rounding, and of bfloat16's."""

Some = slice | Tensor


def topk_cosine(
    queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    check_count("k", k)
    check_floating(queries=queries)
    prepared = _Queries.of(queries)
    segments = [(0, rows)] if isinstance(rows, Tensor) else rows
    workers = [_Worker.of(prepared, k) for _ in range(torch.get_num_threads())]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)
    bound = np.full(len(queries), -np.inf)

    def search(tile: _Tile) -> None:
        worker = idle.get()
        try:
            worker.search(prepared, tile, bound)
        finally:
            idle.put(worker)

    in_threads(search, _tiles(prepared, segments))
    first, *others = workers
    for other in others:
        merge(first.scores, first.indices, other.scores, other.indices)
    return torch.from_numpy(first.scores).to(dtype), torch.from_numpy(first.indices)


@dataclass(frozen=True)
class _Queries:
    """The queries of a search.

    Args:
        unit: float64 [q, width].
        mean: float64 [width], the mean of `unit`.
        moved: float32 [q, width], `unit` less `mean`.
        coarse: `moved` in bfloat16, or float32 where that is no slower.
        norms: float64 [q], of `moved`.
        lost: float64 [q], norms of what `coarse` lacks of `moved`.
    """

    unit: Tensor
    mean: Tensor
    moved: Tensor
    coarse: Tensor
    norms: Tensor
    lost: Tensor

    @classmethod
    def of(cls, queries: Tensor) -> _Queries:
        unit = unit_rows(queries.detach(), "queries")
        mean = unit.mean(0) if len(unit) else unit.new_zeros(unit.shape[1])
        rest = unit - mean
        coarse = rest.to(torch.bfloat16 if _bfloat16_is_fast() else torch.float32)
        return cls(
            unit=unit,
            mean=mean,
            moved=rest.to(torch.float32),
            coarse=coarse,
            norms=torch.linalg.vector_norm(rest, dim=1),
            lost=torch.linalg.vector_norm(rest.sub_(coarse), dim=1),
        )

    @property
    def alone(self) -> bool:
        """Whether the mean is the query itself, and no product but that with the mean is needed."""
        return len(self.unit) == 1


@dataclass(frozen=True)
class _Anchor:
    """What rows are moved by.

    Args:
        mean: float64 [width], near the mean of the unit rows; float32 holds it.
        shift: float64 [q], the products of the unit queries with it.
        careful: whether the moved rows are so short that they need float64.
    """

    mean: Tensor
    shift: Tensor
    careful: bool


@dataclass(frozen=True)
class _Tile:
    """Rows as they came, [t, width], the first of which is row `first`."""

    first: int
    rows: Tensor
    anchor: _Anchor


def _tiles(queries: _Queries, segments: Iterable[tuple[int, Tensor]]) -> Iterator[_Tile]:
    """The segments in tiles, and a new anchor after some."""
    since = 0
    anchor = None
    for start, segment in segments:
        check_widths(queries.unit, segment)
        if anchor is None or since >= ANCHORED:
            anchor, since = _anchor(queries, segment), 0
        since += len(segment)
        for first, stop in tiles.spans(len(segment), BLOCK_ROWS):
            yield _Tile(start + first, segment[first:stop].detach(), anchor)


def _anchor(queries: _Queries, segment: Tensor) -> _Anchor:
    """Any is right; one near the mean of the rows keeps products small."""
    few = in_range(segment[:: max(1, len(segment) // SAMPLE)].detach()).to(torch.float64)
    norms = torch.linalg.vector_norm(few, dim=1, keepdim=True)
    unit = few / norms.masked_fill(norms == 0, 1.0)
    mean = unit.sum(0) / max(1, len(unit))
    mean = torch.where(torch.isfinite(mean), mean, 0.0).to(torch.float32).to(torch.float64)
    # One query is its own mean: there is no product, whose error could hide that of float32.
    of_products = HALF_ROUNDING * float(queries.norms.mean() * torch.linalg.vector_norm(unit - mean, dim=1).mean())
    careful = segment.dtype == torch.float64 or not 4 * _lanes(len(mean)) * ROUNDING < of_products
    return _Anchor(mean, queries.unit @ mean, careful)


def _lanes(width: int) -> float:
    """By how many roundings a float32 sum over a row may be wrong: it runs in 8 lanes or more."""
    return width / 8 + 16


@dataclass(frozen=True)
class _Rows:
    """A tile of rows, ready for products.

    Args:
        first: index of the first.
        wide: float32 or float64 [t, width], the rows as they are.
        shift: float64 [q], of the anchor.
        moved: unit rows less the anchor's mean, [t, width] in the dtype of the products; empty where none are needed.
        bias: float32 [t], the product of each with the mean query.
        longest: not less than the norm of any of `moved`.
        lost: not less than the norm of what rounding took from any of them.
        careful: whether they were moved in float64.
    """

    first: int
    wide: Tensor
    shift: Tensor
    moved: Tensor
    bias: Tensor
    longest: float
    lost: float
    careful: bool


@dataclass
class _Worker:
    """What one thread has of its own: the best rows it has seen, and room for a tile, which is costly to ask for anew.

    Args:
        scores: float64 [q, k].
        indices: int64 [q, k].
        wide: float32 elements of a tile of rows.
        moved: elements of a tile of moved rows.
        products: elements of a tile of products.
        coarse: whether the next tile is first tried in bfloat16.
    """

    scores: Doubles
    indices: npt.NDArray[np.int64]
    wide: Tensor
    moved: Tensor
    products: Tensor
    coarse: bool = True

    @classmethod
    def of(cls, queries: _Queries, k: int) -> _Worker:
        count, width = queries.coarse.shape
        return cls(
            scores=np.full((count, k), -np.inf),
            indices=np.full((count, k), -1),
            wide=torch.empty(BLOCK_ROWS * width),
            moved=queries.coarse.new_empty(BLOCK_ROWS * width),
            products=queries.coarse.new_empty(BLOCK_ROWS * min(count, QUERIES)),
        )

    def search(self, queries: _Queries, tile: _Tile, bound: Doubles) -> None:
        """Put the tile's rows that belong to the best of all queries among them."""
        left = np.arange(len(queries.unit))
        if self.coarse:
            rows = self._rows(queries, tile, queries.coarse.dtype, tile.anchor.careful)
            few = max(4 * self.scores.shape[1] + 64, BLOCK_ROWS // 32)
            left = left[self._search(queries, rows, queries.coarse, left, bound, few)]
            self.coarse = 4 * len(left) <= len(queries.unit)
        if len(left):
            rows = self._rows(queries, tile, torch.float32, careful=True)
            self._search(queries, rows, queries.moved, left, bound, len(tile.rows))

    def _rows(self, queries: _Queries, tile: _Tile, dtype: torch.dtype, careful: bool) -> _Rows:
        """The tile made ready for products in `dtype`."""
        count, width = tile.rows.shape
        wide = self._wide(tile.rows)
        needed = 0 if queries.alone else count
        buffer = self.moved if dtype == self.moved.dtype else torch.empty(needed * width)
        moved = buffer[: needed * width].view(needed, width)
        bias = torch.empty(count)
        kind = torch.float64 if careful else torch.float32
        mean, query = tile.anchor.mean.to(kind).numpy(), queries.mean.to(kind).numpy()
        longest, lost = _move(wide.numpy(), mean, query, as_stored(moved), bias.numpy())
        if not np.isfinite(longest):
            unit_rows(tile.rows, "rows", tile.first)  # refuses it where it is not finite
            return self._rows(queries, tile, dtype, careful=True)
        # The sums of squares are a little off.
        longest, lost = 1.001 * math.sqrt(longest), 1.001 * math.sqrt(lost)
        return _Rows(tile.first, wide, tile.anchor.shift, moved, bias, longest, lost, careful)

    def _wide(self, rows: Tensor) -> Tensor:
        """The rows in float32, or float64 where they are, of which numba knows what it needs."""
        if rows.dtype in (torch.float32, torch.float64):
            return in_range(rows).contiguous()
        return self.wide[: rows.numel()].view(rows.shape).copy_(rows)

    def _search(
        self,
        queries: _Queries,
        rows: _Rows,
        moved: Tensor,
        pending: npt.NDArray[np.int64],
        bound: Doubles,
        budget: int,
    ) -> npt.NDArray[np.bool_]:
        """Look for the best of `pending` queries; True for those with more candidates than `budget`, left undone."""
        failed = np.zeros(len(pending), np.bool_)
        for start, stop in tiles.spans(len(pending), QUERIES):
            part = pending[start:stop]
            # A slice where all are pending: nothing is copied.
            some = slice(start, stop) if len(pending) == len(queries.unit) else torch.from_numpy(part)
            products = torch.zeros(1, len(rows.wide)) if queries.alone else self._products(moved[some], rows)
            shift = rows.shift[some]
            errors = _errors(queries, rows, moved is queries.coarse)[some]
            relative = HALF_ROUNDING if products.dtype == torch.bfloat16 else 0.0
            search_tile(
                as_stored(products),
                16 if products.dtype == torch.bfloat16 else 0,
                rows.bias.numpy(),
                np.float32(relative),
                errors.numpy(),
                shift.numpy(),
                part,
                queries.unit.numpy(),
                rows.wide.numpy(),
                rows.first,
                True,
                budget,
                bound,
                self.scores,
                self.indices,
                failed[start:stop],
            )
        return failed

    def _products(self, queries: Tensor, rows: _Rows) -> Tensor:
        """[q, t], the products of moved queries and rows."""
        if queries.dtype != self.products.dtype:
            return queries @ rows.moved.T
        products = self.products[: len(queries) * len(rows.moved)].view(len(queries), -1)
        return torch.mm(queries, rows.moved.T, out=products)


def _errors(queries: _Queries, rows: _Rows, coarse: bool) -> Tensor:
    """float32 [q]: more than the error of a score, but for its product's own rounding."""
    lanes = _lanes(queries.unit.shape[1]) * ROUNDING
    of_queries = queries.lost if coarse else ROUNDING * queries.norms
    errors = queries.norms * rows.lost + of_queries * (rows.longest + rows.lost)
    errors += (lanes + 4 * ROUNDING) * queries.norms * rows.longest
    errors += 4 * ROUNDING * float(rows.bias.abs().amax()) + 2.0**-48
    if not rows.careful:
        errors += lanes * (1 + rows.longest)  # unit rows, their norms, and products with the mean query
    return errors.to(torch.float32)


LEAST, MOST = 2.0**-100, 2.0**100
"""Float32 sums of squares within these lost nothing to its range."""


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _move(rows: Any, mean: Any, query: Any, moved: Any, bias: Floats) -> tuple[float, float]:
    """Fill `moved` [t, width] with unit rows less `mean`, unless it is empty, and `bias` [t] with products of them.

    All is computed in the dtype of `mean` and `query`. `moved` takes the bits of float32 or, where it is int16, of
    bfloat16.

    Returns:
        The largest squares of a moved row's norm, and of that of what its rounding took from it; NaN where a row is
        not finite or leaves float32.
    """
    kind = mean.dtype.type
    careful = mean.itemsize == 8
    lacking = 16 if moved.itemsize == 2 else 0
    longest, lost, shared = kind(0), kind(0), kind(0)
    for j in range(len(mean)):
        shared += query[j] * mean[j]
    for i in range(len(rows)):
        row = rows[i]
        square, product = kind(0), kind(0)
        for j in range(len(row)):
            element = kind(row[j])
            square += element * element
            product += element * query[j]
        if not (np.isfinite(square) if careful else LEAST <= square <= MOST):
            return np.nan, np.nan
        scale = kind(1) / np.sqrt(square) if square > 0 else kind(0)
        bias[i] = product * scale - shared
        if len(moved):
            target = moved[i]
            length, missing = kind(0), kind(0)
            for j in range(len(row)):
                difference = kind(row[j]) * scale - mean[j]
                target[j] = stored(difference, lacking)
                rest = difference - kind(value(stored(difference, lacking), lacking))
                length += difference * difference
                missing += rest * rest
            longest, lost = max(longest, length), max(lost, missing)
    return float(longest), float(lost)


@functools.cache
def _bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, from a measurement of a few milliseconds."""
    import time

    def took(dtype: torch.dtype) -> float:
        left, right = torch.ones(256, 256, dtype=dtype), torch.ones(2048, 256, dtype=dtype)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            left @ right.T
            times.append(time.perf_counter() - started)
        return min(times)

    return took(torch.bfloat16) < took(torch.float32)
