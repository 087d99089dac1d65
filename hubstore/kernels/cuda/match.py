"""Where matches rank: a sweep that counts, in both directions, the candidates that stand before each match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.rows import (
    Direction,
    Ready,
    as_stored,
    common_direction,
    converted,
    readable,
    refuse_rows,
)
from hubstore.kernels.cuda.sweep import just_below, own
from hubstore.kernels.cuda.topk import topk
from hubstore.kernels.reference import MatchRanks
from hubstore.kernels.rows import check_bias, check_pair

COPIED_BYTES = 96 << 20  # of each side's rows that are copied at a time


@triton.jit
def _scores(products, rows, columns, m, n, side_m, side_n):
    """Cosines but for what is common to a row, less y's bias; and the same less x's, in which all are comparable.

    The multiply-add is written out, so that every kernel rounds alike and equal rows tie.
    """
    stretch, along_m, bias_m = side_m
    scale, along_n, bias_n = side_n
    common = tl.load(along_m + rows, rows < m, other=0.0)[:, None] * tl.load(along_n + columns, columns < n, other=0.0)[None, :]
    scaled = products * tl.load(scale + columns, columns < n, other=0.0)[None, :]
    scores = tl.fma(scaled, tl.load(stretch + rows, rows < m, other=0.0)[:, None] + tl.zeros_like(scaled), common)
    # Beyond the last row and column there is nothing that could stand before a match.
    forward = scores - tl.load(bias_n + columns, columns < n, other=float("inf"))[None, :]
    backward = scores - tl.load(bias_m + rows, rows < m, other=float("inf"))[:, None]
    return forward, backward


@triton.jit
def _matches(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """Write the matches' own scores."""
    side_m, side_n, forward_out, backward_out = arguments
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    forward, backward = _scores(products, rows, columns, m, n, side_m, side_n)
    tl.store(forward_out + rows, own(tl.where((columns < n)[None, :], forward, 0.0), first_m - first_n, TILE_M, TILE_N), rows < m)
    tl.store(backward_out + rows, own(tl.where((columns < n)[None, :], backward, 0.0), first_m - first_n, TILE_M, TILE_N), rows < m)


@triton.jit
def _column_sums(counted, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """int32 [TILE_N] of bool [TILE_M, TILE_N]; two columns in one number, which halves what threads exchange."""
    even, odd = tl.split(tl.reshape(counted.to(tl.int32), (TILE_M, TILE_N // 2, 2)))
    both = tl.sum(even + odd * 65536, 0)
    return tl.reshape(tl.join(both & 65535, both >> 16), (TILE_N,))


@triton.jit
def _count(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """Add up what stands before each match, in tiles that hold none."""
    side_m, side_n, matches_m, matches_n, ahead_m, ahead_n, offset_m, offset_n = arguments
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    left_of = offset_n + first_n + TILE_N <= offset_m + first_m
    right_of = offset_n + first_n >= offset_m + first_m + TILE_M
    match_m = tl.load(matches_m + rows, rows < m, other=float("inf"))
    match_n = tl.load(matches_n + columns, columns < n, other=float("inf"))
    # Equal is ahead where the index is smaller: greater than the number just below. A tile that holds matches is
    # another kernel's: nothing is greater than infinity.
    among = not (left_of | right_of)
    match_m = tl.where(among, float("inf"), tl.where(left_of, just_below(match_m), match_m))
    match_n = tl.where(among, float("inf"), tl.where(right_of, just_below(match_n), match_n))
    forward, backward = _scores(products, rows, columns, m, n, side_m, side_n)
    counted_m = tl.sum((forward > match_m[:, None]).to(tl.int32), 1)
    counted_n = _column_sums(backward > match_n[None, :], TILE_M, TILE_N)
    tl.atomic_add(ahead_m + rows, counted_m, rows < m, sem="relaxed")
    tl.atomic_add(ahead_n + columns, counted_n, columns < n, sem="relaxed")


@triton.jit
def _count_among(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """The same in tiles that hold matches: of equal scores those of the smaller index."""
    side_m, side_n, matches_m, matches_n, ahead_m, ahead_n = arguments
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    match_m = tl.load(matches_m + rows, rows < m, other=float("inf"))
    match_n = tl.load(matches_n + columns, columns < n, other=float("inf"))
    forward, backward = _scores(products, rows, columns, m, n, side_m, side_n)
    before = (forward == match_m[:, None]) & (columns[None, :] < rows[:, None])
    counted_m = tl.sum(((forward > match_m[:, None]) | before).to(tl.int32), 1)
    before = (backward == match_n[None, :]) & (columns[None, :] > rows[:, None])
    counted_n = _column_sums((backward > match_n[None, :]) | before, TILE_M, TILE_N)
    tl.atomic_add(ahead_m + rows, counted_m, rows < m, sem="relaxed")
    tl.atomic_add(ahead_n + columns, counted_n, columns < n, sem="relaxed")


@dataclass(frozen=True)
class _Side:
    """Some rows of one side, ready for the sweep.

    Args:
        start: the first of them.
        values: 16-bit [n, width].
        factors: what `_scores` takes of them, float32 [n] each.
    """

    start: int
    values: Tensor
    factors: tuple[Tensor, Tensor, Tensor]

    @property
    def here(self) -> slice:
        """Their place among all."""
        return slice(self.start, self.start + len(self.values))

    def part(self, start: int, stop: int) -> _Side:
        """Those from row `start` of all to row `stop`."""
        there = slice(start - self.start, stop - self.start)
        scale, along, bias = self.factors
        return _Side(start, self.values[there], (scale[there], along[there], bias[there]))


def match_rank(
    x: Tensor, y: Tensor, *, bias_x: Tensor | None = None, bias_y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    check_bias(bias_x, x, "bias_x")
    check_bias(bias_y, y, "bias_y")
    n = len(x)
    ahead_x, ahead_y = (torch.zeros(n, dtype=torch.int32, device=x.device) for _ in range(2))
    if n:
        direction = common_direction(y, "y")
        matches_x, matches_y = (torch.empty(n, dtype=torch.float32, device=x.device) for _ in range(2))
        for right in _right(y, direction, bias_y):
            for left, there in _beside(x, right, direction, bias_x):
                arguments = (left.factors, there.factors, matches_x[left.here], matches_y[left.here])
                engine.diagonal(left.values, there.values, _matches, arguments)
                arguments = (*arguments, ahead_x[left.here], ahead_y[left.here])
                engine.diagonal(left.values, there.values, _count_among, arguments)
        for right in _right(y, direction, bias_y):
            for left in _left(x, right.values.dtype, direction, bias_x, 0):
                matches = matches_x[left.here], matches_y[right.here]
                ahead = ahead_x[left.here], ahead_y[right.here]
                arguments = (left.factors, right.factors, *matches, *ahead, left.start, right.start)
                engine.sweep(left.values, right.values, _count, arguments)
    return ahead_x.to(torch.int64), ahead_y.to(torch.int64)


def match_ranks(x: Tensor, y: Tensor, *, neighbours: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    check_pair(x, y)
    k = min(neighbours, len(x))
    near_x, near_y = topk(x, y, k)[0].mean(1), topk(y, x, k)[0].mean(1)
    forward, backward = match_rank(x, y)
    csls_forward, csls_backward = match_rank(x, y, bias_x=near_x / 2, bias_y=near_y / 2)
    return MatchRanks(forward, backward, csls_forward, csls_backward)


def _right(y: Tensor, direction: Direction, bias: Tensor | None) -> Iterator[_Side]:
    """The candidates' side: as it is stored where the sweep can read it, else copied block by block."""
    stored = readable(y)
    if stored:
        prepared = as_stored(y, direction)
        stored = not refuse_rows(y, prepared, "y")
        if stored:
            yield _right_side(0, prepared, bias)
    for start, stop in () if stored else _spans(y):
        prepared = converted(y[start:stop], direction, torch.float16)
        refuse_rows(y[start:stop], prepared, "y", start)
        yield _right_side(start, prepared, bias)


def _right_side(start: int, prepared: Ready, bias: Tensor | None) -> _Side:
    factors = (prepared.scale, prepared.along.to(torch.float32), _bias(bias, prepared, start))
    return _Side(start, prepared.values, factors)


def _left(x: Tensor, dtype: torch.dtype, direction: Direction, bias: Tensor | None, first: int) -> Iterator[_Side]:
    """The queries' side, of which x[0] is row `first`: its part across the direction, block by block."""
    for start, stop in _spans(x):
        prepared = converted(x[start:stop], direction, dtype)
        refuse_rows(x[start:stop], prepared, "x", first + start)
        along = (prepared.along + direction.level).to(torch.float32)
        # What is common to a row's scores tells its columns' matches apart.
        common = _bias(bias, prepared, first + start) - prepared.along * direction.level
        yield _Side(first + start, prepared.values, (prepared.scale, along, common.to(torch.float32)))


def _beside(
    x: Tensor, right: _Side, direction: Direction, bias: Tensor | None
) -> Iterator[tuple[_Side, _Side]]:
    """The queries whose matches are in `right`, and these."""
    for left in _left(x[right.here], right.values.dtype, direction, bias, right.start):
        yield left, right.part(left.start, left.here.stop)


def _bias(bias: Tensor | None, rows: Ready, start: int) -> Tensor:
    if bias is None:
        return torch.zeros_like(rows.scale)
    return bias[start : start + len(rows.scale)].to(rows.scale.device, torch.float64).to(torch.float32)


def _spans(rows: Tensor) -> Iterator[tuple[int, int]]:
    step = COPIED_BYTES // (2 * rows.shape[1]) // engine.TILE_N * engine.TILE_N
    step = max(engine.TILE_N, step)
    return ((start, min(start + step, len(rows))) for start in range(0, len(rows), step))
