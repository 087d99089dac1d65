"""Where matches rank: a sweep that counts, in both directions, the candidates that stand before each match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.checks import check_count
from hubstore.kernels.cpu import tiles
from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.rows import (
    Direction,
    Ready,
    as_stored,
    common_direction,
    converted,
    readable,
)
from hubstore.kernels.cuda.sweep import just_below, own
from hubstore.kernels.cuda.topk import topk
from hubstore.kernels.reference import MatchRanks
from hubstore.kernels.rows import check_bias, check_pair, in_range, refuse_non_finite

COPIED_BYTES = 96 << 20  # of each side's rows that are copied at a time
STORED_ROWS = 1 << 18  # of the queries' side that a sweep reads where they are: it numbers its tiles with 31 bits


@triton.jit
def _scores(products, rows, columns, m, n, side_m, side_n):
    """Cosines but for what is common to a row, less y's bias; and the same less x's, in which all are comparable.

    The multiply-add is written out, so that every kernel rounds alike and equal rows tie.
    """
    stretch, along_m, bias_m = side_m
    scale, along_n, bias_n = side_n
    common = (
        tl.load(along_m + rows, rows < m, other=0.0)[:, None]
        * tl.load(along_n + columns, columns < n, other=0.0)[None, :]
    )
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
    tl.store(
        forward_out + rows,
        own(tl.where((columns < n)[None, :], forward, 0.0), first_m - first_n, TILE_M, TILE_N),
        rows < m,
    )
    tl.store(
        backward_out + rows,
        own(tl.where((columns < n)[None, :], backward, 0.0), first_m - first_n, TILE_M, TILE_N),
        rows < m,
    )


@triton.jit
def _column_sums(counted, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """int32 [TILE_N] of bool [TILE_M, TILE_N]; two columns in one number, which halves what threads exchange."""
    even, odd = tl.split(tl.reshape(tl.where(counted, 1.0, 0.0), (TILE_M, TILE_N // 2, 2)))
    both = tl.sum(even + odd * 65536.0, 0).to(tl.int32)  # exact: below 2^24
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
    counted_m = tl.sum(tl.where(forward > match_m[:, None], 1.0, 0.0), 1).to(tl.int32)
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
    def span(self) -> slice:
        """Their place among all."""
        return slice(self.start, self.start + len(self.values))

    def part(self, start: int, stop: int) -> _Side:
        """Those from row `start` of all to row `stop`."""
        part = slice(start - self.start, stop - self.start)
        scale, along, bias = self.factors
        return _Side(start, self.values[part], (scale[part], along[part], bias[part]))


def match_rank(
    x: Tensor, y: Tensor, *, bias_x: Tensor | None = None, bias_y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    check_bias(bias_x, x, "bias_x")
    check_bias(bias_y, y, "bias_y")
    x, y, n = in_range(x), in_range(y), len(x)
    if not n:
        return (torch.zeros(0, dtype=torch.int64, device=x.device),) * 2
    direction = common_direction(y)
    found = None
    if readable(y):
        found = _Matching(x, y, bias_x, bias_y, direction, stored=True).ranks()
    if found is None:  # not to be read as it is, or a norm leaves float32
        found = _Matching(x, y, bias_x, bias_y, direction, stored=False).ranks()
    assert found is not None
    return found


@dataclass(frozen=True)
class _Matching:
    """One count of what stands before each match, in both directions.

    Args:
        x: [n, width].
        y: [n, width].
        bias_x: [n] or None.
        bias_y: [n] or None.
        direction: what y's rows have in common.
        stored: whether rows are read where they are stored, where that can be.
    """

    x: Tensor
    y: Tensor
    bias_x: Tensor | None
    bias_y: Tensor | None
    direction: Direction
    stored: bool

    def ranks(self) -> tuple[Tensor, Tensor] | None:
        """int64 [n] twice; None where stored rows must be converted."""
        n, device = len(self.x), self.x.device
        ahead_x, ahead_y = (torch.zeros(n, dtype=torch.int32, device=device) for _ in range(2))
        matches_x, matches_y = (torch.empty(n, dtype=torch.float32, device=device) for _ in range(2))
        bad: list[Tensor] = []
        for right in self._right(bad):
            for left in self._left(right.span, right.values.dtype, bad):
                facing = right.part(left.start, left.span.stop)
                matches = matches_x[left.span], matches_y[left.span]
                engine.diagonal(left.values, facing.values, _matches, (left.factors, facing.factors, *matches))
                ahead = ahead_x[left.span], ahead_y[left.span]
                arguments = (left.factors, facing.factors, *matches, *ahead)
                engine.diagonal(left.values, facing.values, _count_among, arguments)
        for right in self._right(bad):
            for left in self._left(slice(0, n), right.values.dtype, bad):
                matches = matches_x[left.span], matches_y[right.span]
                ahead = ahead_x[left.span], ahead_y[right.span]
                offsets = left.start, right.start
                engine.sweep(
                    left.values, right.values, _count, (left.factors, right.factors, *matches, *ahead, *offsets)
                )
        if bool(torch.stack(bad).any()):
            for rows, name in ((self.x, "x"), (self.y, "y")):
                for start, stop in _spans(rows):
                    norms = torch.linalg.vector_norm(rows[start:stop], dim=1, dtype=torch.float64)
                    refuse_non_finite(norms, name, start)
            return None
        return ahead_x.to(torch.int64), ahead_y.to(torch.int64)

    def _right(self, bad: list[Tensor]) -> Iterator[_Side]:
        """The candidates' side: as it is stored, or copied block by block."""
        for start, stop in [(0, len(self.y))] if self.stored else _spans(self.y):
            rows = self.y[start:stop]
            prepared = (
                as_stored(rows, self.direction) if self.stored else converted(rows, self.direction, torch.float32)
            )
            bad.append(prepared.bad)
            along = prepared.along.to(torch.float32) if self.direction.nonzero else torch.zeros_like(prepared.scale)
            yield _Side(start, prepared.values, (prepared.scale, along, _bias(self.bias_y, prepared, start)))

    def _left(self, span: slice, dtype: torch.dtype, bad: list[Tensor]) -> Iterator[_Side]:
        """The queries' side: its part across the direction block by block, or all as it is where there is none."""
        rows = self.x[span]
        whole = self.stored and not self.direction.nonzero and rows.dtype == dtype and readable(rows)
        for start, stop in tiles.spans(len(rows), STORED_ROWS) if whole else _spans(rows):
            some, first = rows[start:stop], span.start + start
            prepared = as_stored(some, self.direction) if whole else converted(some, self.direction, dtype)
            bad.append(prepared.bad)
            along, common = torch.zeros_like(prepared.scale), _bias(self.bias_x, prepared, first)
            if self.direction.nonzero:
                along = (prepared.along + self.direction.level).to(torch.float32)
                # What is common to a row's scores tells its columns' matches apart.
                common = (common - prepared.along * self.direction.level).to(torch.float32)
            yield _Side(first, prepared.values, (prepared.scale, along, common))


def match_ranks(x: Tensor, y: Tensor, *, neighbors: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    check_pair(x, y)
    k = min(check_count("neighbors", neighbors), max(len(x), 1))
    x, y = in_range(x), in_range(y)
    near_x, near_y = topk(x, y, k)[0].mean(1), topk(y, x, k)[0].mean(1)
    forward, backward = match_rank(x, y)
    csls_forward, csls_backward = match_rank(x, y, bias_x=near_x / 2, bias_y=near_y / 2)
    return MatchRanks(forward, backward, csls_forward, csls_backward)


def _bias(bias: Tensor | None, rows: Ready, start: int) -> Tensor:
    if bias is None:
        return torch.zeros_like(rows.scale)
    return bias[start : start + len(rows.scale)].to(rows.scale.device, torch.float64).to(torch.float32)


def _spans(rows: Tensor) -> Iterator[tuple[int, int]]:
    step = COPIED_BYTES // (4 * rows.shape[1]) // engine.TILE_N * engine.TILE_N
    step = max(engine.TILE_N, step)
    return ((start, min(start + step, len(rows))) for start in range(0, len(rows), step))
