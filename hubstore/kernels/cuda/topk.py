"""The nearest rows by cosine: a sweep in 16 bits that keeps a few candidates, and exact scores of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.candidates import GROUP, MOST_TILES, Kept, Leading, keep_best, ordered
from hubstore.kernels.cuda.few import FEW, few_topk
from hubstore.kernels.cuda.pairs import best, pair_cosine
from hubstore.kernels.cuda.rows import Direction, Ready, common_direction, converted, ready, refuse_rows
from hubstore.kernels.cuda.stream import Block, blocks
from hubstore.kernels.rows import check_widths, refuse_non_finite

QUERIES = 4096  # queries of a sweep, at most
CHOSEN = 1 << 19  # candidates that are chosen at once
KEPT_BYTES = 256 << 20  # that a sweep writes
BLOCK_BYTES = 1 << 30  # of rows that are copied, to the device or to 16 bits
SLACK = {torch.float16: 6, torch.bfloat16: 22}  # candidates beyond k, for what 16-bit products may misorder


@triton.jit
def _scores(products, first_m, first_n, m, n, over, scale, along, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    scores = products * tl.load(scale + columns, columns < n, other=0.0)[None, :]
    if over is not None:
        common = tl.load(along + columns, columns < n, other=0.0)
        scores += tl.load(over + rows, rows < m, other=0.0)[:, None] * common[None, :]
    return scores


@triton.jit
def _positive(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """Keys that are in order where scores are positive, which the bits of floats are by themselves."""
    over, scale, along, best, second, top, groups, tiles = arguments
    scores = _scores(products, first_m, first_n, m, n, over, scale, along, TILE_M, TILE_N)
    keys = scores.to(tl.int32, bitcast=True)
    keep_best(keys, first_m, first_n, m, best, second, top, groups, tiles, TILE_M, TILE_N)


@triton.jit
def _any_sign(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    over, scale, along, best, second, top, groups, tiles = arguments
    scores = _scores(products, first_m, first_n, m, n, over, scale, along, TILE_M, TILE_N)
    columns = first_n + tl.arange(0, TILE_N)
    keys = tl.where((columns < n)[None, :], ordered(scores), -2147483648)
    keep_best(keys, first_m, first_n, m, best, second, top, groups, tiles, TILE_M, TILE_N)


@dataclass(frozen=True)
class _Queries:
    """Some queries, as they came and for the sweep.

    Args:
        start: the first of them.
        given: [q, width].
        ready: the same across the direction.
        over: float32 [q], their parts along the direction in units of those across it, which a sweep's scores are
            in; None where there is no direction.
    """

    start: int
    given: Tensor
    ready: Ready
    over: Tensor | None

    @classmethod
    def of(cls, given: Tensor, start: int, direction: Direction, dtype: torch.dtype) -> _Queries:
        """Queries of which the first is query `start`, for rows in `dtype`."""
        prepared = converted(given, direction, dtype)
        if not direction.there:
            return cls(start, given, prepared, None)
        over = (prepared.along + direction.level) / prepared.scale.masked_fill(prepared.scale == 0, 1.0)
        return cls(start, given, prepared, over.to(torch.float32))


Prepare = Callable[[Tensor, Direction], Ready]


@dataclass
class _Search:
    """A search for the k nearest rows."""

    queries: Tensor
    k: int
    direction: Direction
    dtype: torch.dtype
    parts: list[_Queries]
    scores: list[Tensor]
    indices: list[Tensor]

    @classmethod
    def over(cls, queries: Tensor, k: int, block: Block) -> _Search:
        """A search whose first rows are those of `block`."""
        direction = common_direction(block.rows, "rows", block.runs[0][1])
        search = cls(queries, k, direction, torch.float16, [], [], [])
        for start in range(0, len(queries), _queries_at_once(k)):
            nothing = empty(len(queries[start : start + _queries_at_once(k)]), k, queries.device)
            search.scores.append(nothing[0])
            search.indices.append(nothing[1])
        return search

    def add(self, block: Block) -> None:
        """Search one more block, of which the sweep takes as many rows at a time as their candidates allow."""
        if not self._swept(block, ready, _positive) and not self._swept(block, ready, _any_sign):
            self._swept(block, lambda rows, direction: converted(rows, direction, torch.float16), _any_sign)

    def _swept(self, block: Block, prepare: Prepare, epilogue: Any) -> bool:
        """Whether what was found holds: not where rows must be converted, or some scores are not positive."""
        step = _rows_at_once(min(len(self.queries), _queries_at_once(self.k)), block.rows)
        spans = [(start, min(start + step, len(block.rows))) for start in range(0, len(block.rows), step)]
        leading: list[Leading] = []
        finite = torch.ones((), dtype=torch.bool, device=self.queries.device)
        for start, stop in spans:
            rows = prepare(block.rows[start:stop], self.direction)
            finite &= torch.isfinite(rows.scale).all()
            self._prepare(rows.values.dtype)
            count = self.k + SLACK[self.dtype]
            leading = leading or [Leading.none(len(part.given), count, self.queries.device) for part in self.parts]
            for part, ahead in zip(self.parts, leading, strict=True):
                kept = Kept(len(part.given), stop - start, self.queries.device, engine.tile_of(self.dtype).n)
                arguments = (part.over, rows.scale, rows.along.to(torch.float32), *kept.arguments())
                engine.sweep(part.ready.values, rows.values, epilogue, arguments)
                ahead.merge(kept, start)
        found = [(ahead.positive, ahead.crowded.any(1)) for ahead in leading]
        if not bool(finite):
            for start, stop in spans:
                rows = ready(block.rows[start:stop], self.direction)
                refuse_rows(block.rows[start:stop], rows, "rows", block.number(start))
            if prepare is ready:
                return False
        if epilogue is _positive and not all(bool(positive) for positive, _ in found):
            return False
        for number, (ahead, (_, crowded)) in enumerate(zip(leading, found, strict=True)):
            self._score(number, block, ahead, torch.nonzero(crowded)[:, 0])
        return True

    def _prepare(self, dtype: torch.dtype) -> None:
        if self.parts and self.dtype == dtype:
            return
        step = _queries_at_once(self.k)
        self.dtype = dtype
        self.parts = [
            _Queries.of(self.queries[start : start + step], start, self.direction, dtype)
            for start in range(0, len(self.queries), step)
        ]
        for part in self.parts:
            refuse_rows(part.given, part.ready, "queries", part.start)

    def _score(self, number: int, block: Block, ahead: Leading, crowded: Tensor) -> None:
        """Merge the exact scores of a block's candidates into those of one part of the queries."""
        given = self.parts[number].given
        self._merge(number, slice(None), given, block, ahead.rows)
        if len(crowded):
            companions = ahead.companions(crowded, 0)
            companions = torch.where(companions < len(block.rows), companions, -1)
            self._merge(number, crowded, given[crowded], block, companions)

    def _merge(self, number: int, which: slice | Tensor, given: Tensor, block: Block, rows: Tensor) -> None:
        scores = pair_cosine(given, block.rows, rows)
        numbers = torch.where(rows < 0, -1, block.numbers(rows))
        scores = torch.cat([self.scores[number][which], scores], 1)
        numbers = torch.cat([self.indices[number][which], numbers], 1)
        self.scores[number][which], self.indices[number][which] = best(scores, numbers, self.k)


def topk_cosine(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    scores, indices = topk(queries, rows, k)
    return scores.to(torch.float32), indices


def topk(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """`topk_cosine` with its scores in float64."""
    if isinstance(rows, Tensor):
        check_widths(queries, rows)
        if 0 < len(queries) <= FEW and rows.device == queries.device and len(rows) >= k:
            found = few_topk(queries, rows, k)
            if found is not None:
                return found
    search: _Search | None = None
    for block in blocks(queries, rows, BLOCK_BYTES):
        search = search or _Search.over(queries, k, block)
        search.add(block)
    if search is None or not len(queries):
        refuse_non_finite(torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64), "queries")
        return empty(len(queries), k, queries.device)
    return torch.cat(search.scores), torch.cat(search.indices)


def empty(q: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores float64 and indices int64 [q, k] of no row at all."""
    scores = torch.full((q, k), -torch.inf, dtype=torch.float64, device=device)
    return scores, torch.full((q, k), -1, dtype=torch.int64, device=device)


def _queries_at_once(k: int) -> int:
    """Queries of a sweep: fewer where each has many candidates."""
    return max(64, min(QUERIES, CHOSEN // (k + max(SLACK.values()))))


def _rows_at_once(queries: int, rows: Tensor) -> int:
    """Rows of a sweep, in whole tiles: what KEPT_BYTES of candidates and BLOCK_BYTES of copies allow."""
    most = min(KEPT_BYTES * GROUP // (8 * max(queries, 64)), BLOCK_BYTES // (2 * rows.shape[1]))
    return max(1, min(most // engine.TILE_N, MOST_TILES)) * engine.TILE_N
