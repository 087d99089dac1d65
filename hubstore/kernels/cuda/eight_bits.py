"""Rows in 8 bits, whose products choose candidates at twice the rate of 16 bits where they lose none.

With c what unit rows have in common (their mean, or nothing where that is short) the cosine is

    x̂·ŷ = (x̂ - c)·(ŷ - c) + c·(ŷ - c) + c·x̂.

Of the first term both sides are rounded to 8 bits, each row in steps of its own; the second, a number for each row, is
computed in float64; the third is one and the same for all rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.candidates import TopCandidates
from hubstore.kernels.cuda.rows import Direction, Ready
from hubstore.kernels.rows import unit_rows

WIDEST = 8192  # elements of a row that a program can hold
LEAST_WORK, LEAST_WIDTH = 1 << 43, 1024
"""Products of a search, and columns, from which on 8 bits gain. On an H200, for 4,096 queries among 1M rows: of width
4096 40 ms in place of 50; of width 1024 13.5 either way; of width 384 10 in place of 7. The trial is 3 of these."""
ASKED, SEARCHED, PIECE = 256, 1 << 15, 1024  # queries and rows of the trial; rows side by side


@triton.jit
def _quantize(
    rows,
    stride,
    n,
    width,
    center,
    values,
    values_stride,
    scale,
    along,
    bad,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Unit rows less the center, in steps of a 127th of each one's largest element."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = column < width
    valid = (number < n)[:, None] & inside[None, :]
    value = tl.load(rows + number[:, None] * stride + column[None, :], valid, other=0.0).to(tl.float64)
    square = tl.sum(value * value, 1)
    rest = value * tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)[:, None]
    if center is not None:
        common = tl.load(center + column, inside, other=0.0).to(tl.float64)[None, :]
        rest -= common
        tl.store(along + number, tl.sum(rest * common, 1).to(tl.float32), number < n)
    # A norm that is none stays none.
    fits = square < float("inf")
    short = tl.where(fits[:, None], rest, 0.0).to(tl.float32)
    largest = tl.max(tl.abs(short), 1)
    steps = short * tl.where(largest > 0, 127 / tl.where(largest > 0, largest, 1.0), 0.0)[:, None]
    tl.store(values + number[:, None] * values_stride + column[None, :], tl.floor(steps + 0.5).to(tl.int8), valid)
    tl.store(scale + number, tl.where(fits, largest / 127, float("nan")), number < n)
    if tl.max(((number < n) & (fits == 0)).to(tl.int32), 0) > 0:
        tl.store(bad, 1)


def quantized(rows: Tensor, direction: Direction) -> Ready:
    """Rows [n, width] of any dtype as int8: a copy.

    Args:
        rows: of width WIDEST at most.
        direction: c is its unit times its level.

    Returns:
        values[i] * scale[i] is the unit row less c, but for rounding; along is float32, c times that, and empty where
        there is no direction.
    """
    n, width = rows.shape
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    values = torch.empty(n, -(-width // 16) * 16, dtype=torch.int8, device=rows.device)[:, :width]
    scale = torch.empty(n, dtype=torch.float32, device=rows.device)
    along = torch.empty(n if direction.nonzero else 0, dtype=torch.float32, device=rows.device)
    bad = torch.zeros(1, dtype=torch.int32, device=rows.device)
    center = (direction.unit.to(torch.float64) * direction.level).to(torch.float32) if direction.nonzero else None
    block = max(16, triton.next_power_of_2(width))
    at_once = max(1, 2048 // block)
    _quantize[(triton.cdiv(n, at_once),)](
        rows,
        rows.stride(0),
        n,
        width,
        center,
        values,
        values.stride(0),
        scale,
        along,
        bad,
        at_once,
        block,
        num_warps=min(16, max(4, at_once * block // 512)),
    )
    return Ready(values, scale, along, bad)


def worth_a_trial(queries: Tensor, rows: Tensor, k: int, most: int) -> bool:
    """Whether a search of `rows` for `queries` may take 8 bits, and is long enough to find out whether it does.

    Args:
        queries: [q, width].
        rows: [n, width].
        k: neighbors.
        most: candidates that are chosen quickly.
    """
    width = rows.shape[1]
    long = LEAST_WIDTH <= width <= WIDEST and len(queries) * len(rows) * width >= LEAST_WORK
    return long and candidates_of(k) <= most and len(queries) > ASKED


def candidates_of(k: int) -> int:
    """Candidates for the k nearest. Of 32, int8 products hold the nearest ten."""
    return 3 * k + 2 if k > 10 else 32


def lost(queries: Tensor, rows: Tensor, k: int, leading: TopCandidates) -> int:
    """How many queries have a nearer row in float64 than candidates let them find.

    Candidates lie closer together among more rows: three quarters of them have to do. No row is nearer by less than
    1e-12, so that equal ones stand for one another.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    few = leading.found.shape[1] * 3 // 4
    few_leading = TopCandidates(leading.found[:, :few], leading.seconds[:, :few])
    everyone = torch.arange(len(queries), device=queries.device)
    candidates = torch.cat([few_leading.rows, few_leading.neighbors(everyone, 0)], 1)
    cosines = unit_rows(queries) @ unit_rows(rows).T
    known = cosines.gather(1, candidates.clamp(0, len(rows) - 1)).masked_fill_(
        (candidates < 0) | (candidates >= len(rows)), -torch.inf
    )
    k = min(k, len(rows))
    return int((cosines.topk(k).values > known.topk(k).values + 1e-12).any(1).sum())


def spread(rows: Tensor, count: int, piece: int) -> Tensor:
    """About `count` of the rows, in pieces of rows side by side that are evenly apart; all where there are fewer."""
    pieces = max(1, count // piece)
    if len(rows) <= count:
        return rows
    starts = [number * (len(rows) - piece) // max(1, pieces - 1) for number in range(pieces)]
    return torch.cat([rows[start : start + piece] for start in starts])
