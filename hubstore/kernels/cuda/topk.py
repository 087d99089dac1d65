"""The nearest rows by cosine: a sweep in 16 bits that keeps a few candidates, and exact scores of those."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.checks import check_count
from hubstore.errors import NonFiniteError
from hubstore.kernels.cuda import eight_bits
from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.candidates import FEW as QUICKLY_CHOSEN
from hubstore.kernels.cuda.candidates import GROUP, MOST_TILES, TileCandidates, TopCandidates, keep_best, ordered
from hubstore.kernels.cuda.pairs import best, join_tie_groups, pair_cosine
from hubstore.kernels.cuda.rows import Direction, Ready, common_direction, converted, readable, ready
from hubstore.kernels.cuda.small_batch import FEW, small_batch_topk
from hubstore.kernels.cuda.stream import Block, blocks
from hubstore.kernels.rows import check_widths, in_range, refuse_non_finite

QUERIES = 16384  # queries of a sweep, at most
CHOSEN = 1 << 19  # candidates that are chosen at once
CANDIDATE_BYTES = 1 << 30  # that a sweep writes
BLOCK_BYTES = 1 << 30  # of rows that are copied, to the device or to 16 bits
SLACK = {torch.float16: 6, torch.bfloat16: 22}  # candidates beyond k, for what 16-bit products may misorder

logger = logging.getLogger(__name__)


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
        queries: [q, width].
        ready: the same across the direction.
        over: float32 [q], their parts along the direction in units of those across it, which a sweep's scores are
            in; None where there is no direction.
    """

    start: int
    queries: Tensor
    ready: Ready
    over: Tensor | None

    @property
    def span(self) -> slice:
        """Their place among all queries."""
        return slice(self.start, self.start + len(self.queries))

    @classmethod
    def of(cls, queries: Tensor, start: int, direction: Direction, dtype: torch.dtype) -> _Queries:
        """Queries of which the first is query `start`, for rows in `dtype`."""
        if dtype == torch.int8:
            prepared = eight_bits.quantized(queries, direction)
            over = 1 / prepared.scale.masked_fill(prepared.scale == 0, 1.0) if direction.nonzero else None
            return cls(start, queries, prepared, over)
        prepared = converted(queries, direction, dtype)
        if not direction.nonzero:
            return cls(start, queries, prepared, None)
        over = (prepared.along + direction.level) / prepared.scale.masked_fill(prepared.scale == 0, 1.0)
        return cls(start, queries, prepared, over.to(torch.float32))


Prepare = Callable[[Tensor, Direction], Ready]


@dataclass
class _Search:
    """A search for the k nearest rows.

    Args:
        queries: [q, width].
        k: how many.
        direction: what the rows of the first block have in common.
        scores: float64 [q, k], the best so far.
        indices: int64 [q, k].
    """

    queries: Tensor
    k: int
    direction: Direction
    scores: Tensor
    indices: Tensor

    def add(self, block: Block) -> None:
        """Search one more block, in 8 bits where a trial loses no neighbor to them."""
        narrow = eight_bits.worth_a_trial(self.queries, block.rows, self.k, QUICKLY_CHOSEN) and not self._lost(block)
        self._add_by(EIGHT_BITS if narrow else SIXTEEN_BITS, block)

    def _lost(self, block: Block) -> int:
        """Of some queries and some of the rows, how many queries lose a neighbor by 8 bits."""
        queries = eight_bits.spread(self.queries, eight_bits.ASKED, 1)
        sample = Block(eight_bits.spread(block.rows, eight_bits.SEARCHED, eight_bits.PIECE), ((0, 0),))
        trial = _Search(queries, self.k, self.direction, *empty(len(queries), 0, queries.device))
        try:
            leading = trial._sweep(sample, eight_bits.quantized, _any_sign)
            assert leading is not None
            lost = eight_bits.lost(queries, sample.rows, self.k, leading)
        except NonFiniteError:  # of a row or query that the whole search names by its number
            return len(queries)
        if lost:
            logger.info("the search stays at 16 bits: of %d queries %d lose a neighbor by 8", len(queries), lost)
        return lost

    def _add_by(self, ways: Iterable[tuple[Prepare, Any]], block: Block) -> None:
        for prepare, epilogue in ways:
            leading = self._sweep(block, prepare, epilogue)
            if leading is not None:
                self._score(block, leading)
                return
        raise AssertionError("a row of finite norm is finite in float16 across the direction")

    def _sweep(self, block: Block, prepare: Prepare, epilogue: Any) -> TopCandidates | None:
        """The leading candidates; None where they do not hold: scores are not positive, or a norm leaves float32."""
        parts: list[_Queries] = []
        step = _queries_at_once(self.k)
        copied = 1 if prepare is eight_bits.quantized else 0 if readable(block.rows) else 2
        spans = _spans(min(len(self.queries), step), block.rows, copied)
        bad: list[Tensor] = []
        leading: TopCandidates | None = None
        for start, stop in spans:
            rows = prepare(block.rows[start:stop], self.direction)
            bad.append(rows.bad)
            dtype = rows.values.dtype
            parts = parts or [
                _Queries.of(self.queries[first : first + step], first, self.direction, dtype)
                for first in range(0, len(self.queries), step)
            ]
            if leading is None:
                count = eight_bits.candidates_of(self.k) if dtype == torch.int8 else self.k + SLACK[dtype]
                leading = TopCandidates.none(len(self.queries), count, self.queries.device)
            along = rows.along.to(torch.float32) if self.direction.nonzero else None
            for part in parts:
                swept = TileCandidates(len(part.queries), stop - start, self.queries.device, engine.tile_of(dtype).n)
                engine.sweep(
                    part.ready.values, rows.values, epilogue, (part.over, rows.scale, along, *swept.arguments())
                )
                leading.part(part.span).merge(swept, start)
        assert leading is not None
        of_queries = torch.stack([part.ready.bad for part in parts]).any()
        flags = torch.stack([torch.stack(bad).any(), of_queries, leading.positive])
        rows_are_bad, queries_are_bad, positive = flags.tolist()  # the one wait for the device
        if queries_are_bad:
            refuse_non_finite(torch.linalg.vector_norm(self.queries, dim=1, dtype=torch.float64), "queries")
        if rows_are_bad:
            for start, stop in spans:
                norms = torch.linalg.vector_norm(block.rows[start:stop], dim=1, dtype=torch.float64)
                block.refuse_non_finite(norms, start)
        return leading if not rows_are_bad and (positive or epilogue is _any_sign) else None

    def _score(self, block: Block, leading: TopCandidates) -> None:
        """Merge the exact scores of a block's candidates into the best so far."""
        rows = leading.rows
        scores, places = best(pair_cosine(self.queries, block.rows, rows), rows, self.k)
        join_tie_groups(self.queries, block.rows, leading, scores, places, cosine=True)
        numbers = block.numbers(places)
        if self.scores.shape[1]:
            both = torch.cat([self.scores, scores], 1), torch.cat([self.indices, numbers], 1)
            scores, numbers = best(*both, self.k)
        self.scores, self.indices = scores, numbers


def _to_float16(rows: Tensor, direction: Direction) -> Ready:
    return converted(rows, direction, torch.float16)


SIXTEEN_BITS: tuple[tuple[Prepare, Any], ...] = ((ready, _positive), (ready, _any_sign), (_to_float16, _any_sign))
EIGHT_BITS: tuple[tuple[Prepare, Any], ...] = ((eight_bits.quantized, _positive), (eight_bits.quantized, _any_sign))


def topk_cosine(
    queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    scores, indices = topk(queries, rows, k, dtype)
    return scores.to(dtype), indices


def topk(
    queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """`topk_cosine` with its scores in float64, or in `dtype`."""
    check_count("k", k)
    queries = in_range(queries)
    if isinstance(rows, Tensor):
        check_widths(queries, rows)
        rows = in_range(rows)
        if 0 < len(queries) <= FEW and rows.device == queries.device and len(rows) >= k:
            found = small_batch_topk(queries, rows, k, dtype)
            if found is not None:
                return found
    search: _Search | None = None
    for block in blocks(queries, rows, BLOCK_BYTES):
        if search is None:
            direction = common_direction(block.rows)
            search = _Search(queries, k, direction, *empty(len(queries), 0, queries.device))
        if len(queries):
            search.add(block)
    if search is None or not len(queries):
        refuse_non_finite(torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64), "queries")
        return empty(len(queries), k, queries.device)
    return search.scores, search.indices


def empty(q: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores float64 and indices int64 [q, k] of no row at all."""
    scores = torch.full((q, k), -torch.inf, dtype=torch.float64, device=device)
    return scores, torch.full((q, k), -1, dtype=torch.int64, device=device)


def _queries_at_once(k: int) -> int:
    """Queries of a sweep: fewer where each has many candidates."""
    return max(64, min(QUERIES, CHOSEN // (k + max(SLACK.values()))))


def _spans(queries: int, rows: Tensor, copied: int) -> list[tuple[int, int]]:
    """Rows of each sweep, in whole tiles: what CANDIDATE_BYTES of candidates and BLOCK_BYTES of copies allow.

    `copied` are the bytes of an element's copy.
    """
    most = CANDIDATE_BYTES * GROUP // (8 * max(queries, 64))
    if copied:
        most = min(most, BLOCK_BYTES // (copied * rows.shape[1]))
    step = max(1, min(most // engine.TILE_N, MOST_TILES)) * engine.TILE_N
    return [(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]
