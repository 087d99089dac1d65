"""Rows made ready for `sweep`: what turns a product with a row, as it is stored, into a cosine.

Hidden states crowd around their mean: cosines may differ by 1e-6 on a value near 1, which no 16-bit product
resolves. So one direction u, that of the mean, is treated apart. With x' = x̂ - (x̂·u) u,

    x̂·ŷ = x'·y / |y| + (x̂·u) (ŷ·u - l) + (x̂·u) l.

x' holds no part along u, so that the product in 16 bits is a small number with a small error. l is what ŷ·u is on
average: computed in float64, the difference from it, a number for each row, is small too, and the last term is
one and the same for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.sweep import aligned

SAMPLE = 512  # rows whose mean is the direction
COMMON = 0.05  # length of the mean unit row from which on it is worth a term of its own
MEASURED_ROWS, MEASURED_WIDTH = 16, 256
CONVERTED_ROWS, CONVERTED_WIDTH = 4, 512


@dataclass(frozen=True)
class Ready:
    """Rows that `sweep` can read, and what makes cosines of its products.

    Args:
        values: 16-bit [n, width].
        scale: float32 [n]; values[i] * scale[i] is the unit row, or its part across the direction. NaN where the
            row holds NaN or infinity, or where its squares leave float32.
        along: float64 [n], the unit row's part along the direction, less the direction's level.
        bad: int32 [1], not 0 where a scale is NaN.
    """

    values: Tensor
    scale: Tensor
    along: Tensor
    bad: Tensor


@triton.jit
def _measure(rows, stride, n, width, direction, level, scale, along, bad, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Inverse norms, and parts along the direction where there is one."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = number < n
    # With a direction, cosines differ in digits that float32 does not have.
    exact: tl.constexpr = tl.float32 if direction is None else tl.float64
    squares = tl.zeros((ROWS, WIDTH), exact)
    parts = tl.zeros((ROWS, WIDTH), exact)
    largest = tl.zeros((ROWS, WIDTH), exact)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], valid[:, None] & inside[None, :], other=0.0)
        value = value.to(exact)
        squares += value * value
        if direction is None:
            largest = tl.maximum(largest, tl.abs(value))
        if direction is not None:
            parts += value * tl.load(direction + column, inside, other=0.0).to(exact)[None, :]
    square = tl.sum(squares, 1)
    inverse = tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    fits = square < 1e38
    if direction is None:  # only a row of zeros has no square that float32 holds
        fits = fits & ((square > 1e-30) | (tl.max(largest, 1) == 0))
    tl.store(scale + number, tl.where(fits, inverse, float("nan")).to(tl.float32), valid)
    if tl.max((valid & (fits == 0)).to(tl.int32), 0) > 0:
        tl.store(bad, 1)
    if direction is not None:
        tl.store(along + number, tl.sum(parts, 1) * inverse - tl.load(level), valid)


@triton.jit
def _convert(
    rows,
    stride,
    n,
    width,
    direction,
    level,
    values,
    values_stride,
    scale,
    along,
    bad,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The same, and the part across the direction as 16-bit rows of unit length."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = number < n
    squares = tl.zeros((ROWS, WIDTH), tl.float64)
    parts = tl.zeros((ROWS, WIDTH), tl.float64)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], valid[:, None] & inside[None, :], other=0.0)
        value = value.to(tl.float64)
        squares += value * value
        parts += value * tl.load(direction + column, inside, other=0.0).to(tl.float64)[None, :]
    norm = tl.sqrt(tl.sum(squares, 1))
    inverse = tl.where(norm > 0, 1 / tl.where(norm > 0, norm, 1.0), 0.0)
    part = tl.sum(parts, 1) * inverse
    across = tl.zeros((ROWS, WIDTH), tl.float64)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], valid[:, None] & inside[None, :], other=0.0)
        common = tl.load(direction + column, inside, other=0.0).to(tl.float64)
        rest = value.to(tl.float64) * inverse[:, None] - part[:, None] * common[None, :]
        across += rest * rest
    length = tl.sqrt(tl.sum(across, 1))
    stretch = tl.where(length > 0, 1 / tl.where(length > 0, length, 1.0), 0.0)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], valid[:, None] & inside[None, :], other=0.0)
        common = tl.load(direction + column, inside, other=0.0).to(tl.float64)
        rest = (value.to(tl.float64) * inverse[:, None] - part[:, None] * common[None, :]) * stretch[:, None]
        tl.store(
            values + number[:, None] * values_stride + column[None, :],
            rest.to(tl.float32).to(values.dtype.element_ty),
            valid[:, None] & inside[None, :],
        )
    # A norm that is none stays none: NaN times anything, and what is left of infinity less infinity.
    fits = norm < float("inf")
    tl.store(scale + number, tl.where(fits, length, float("nan")).to(tl.float32), valid)
    if tl.max((valid & (fits == 0)).to(tl.int32), 0) > 0:
        tl.store(bad, 1)
    tl.store(along + number, part - tl.load(level), valid)


def as_stored(rows: Tensor, direction: Direction) -> Ready:
    """Rows [n, width] that `sweep` reads where they are, one pass for their norms."""
    n, width = rows.shape
    scale = torch.empty(n, dtype=torch.float32, device=rows.device)
    along = torch.zeros(n if direction.nonzero else 0, dtype=torch.float64, device=rows.device)
    bad = torch.zeros(1, dtype=torch.int32, device=rows.device)
    unit = direction.unit if direction.nonzero else None
    block = min(MEASURED_WIDTH, max(16, triton.next_power_of_2(width)))
    grid = (triton.cdiv(n, MEASURED_ROWS),)
    _measure[grid](
        rows, rows.stride(0), n, width, unit, direction.level, scale, along, bad, MEASURED_ROWS, block, num_warps=4
    )
    return Ready(rows, scale, along, bad)


def converted(rows: Tensor, direction: Direction, dtype: torch.dtype) -> Ready:
    """Rows [n, width] of any dtype, as unit rows across the direction in `dtype`: a copy."""
    n, width = rows.shape
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    values = torch.empty(n, -(-width // 8) * 8, dtype=dtype, device=rows.device)[:, :width]
    bad = torch.zeros(1, dtype=torch.int32, device=rows.device)
    scale = torch.empty(n, dtype=torch.float32, device=rows.device)
    along = torch.empty(n, dtype=torch.float64, device=rows.device)
    block = min(CONVERTED_WIDTH, max(16, triton.next_power_of_2(width)))
    _convert[(triton.cdiv(n, CONVERTED_ROWS),)](
        rows,
        rows.stride(0),
        n,
        width,
        direction.unit,
        direction.level,
        values,
        values.stride(0),
        scale,
        along,
        bad,
        CONVERTED_ROWS,
        block,
        num_warps=4,
    )
    return Ready(values, scale, along, bad)


def ready(rows: Tensor, direction: Direction) -> Ready:
    """`as_stored` where `sweep` can read the rows and they are 16-bit, else `converted` to float16."""
    return as_stored(rows, direction) if readable(rows) else converted(rows, direction, torch.float16)


def readable(rows: Tensor) -> bool:
    """Whether rows are swept where they are stored."""
    return rows.dtype in (torch.float16, torch.bfloat16) and aligned(rows)


@dataclass(frozen=True)
class Direction:
    """What rows have in common.

    Args:
        unit: float32 [width], of unit length, or zeros.
        level: float64 [], about the mean of the unit rows' parts along it.
        nonzero: whether it is not zeros.
    """

    unit: Tensor
    level: Tensor
    nonzero: bool


def common_direction(rows: Tensor) -> Direction:
    """The direction of the mean of a sample of rows [n, width]; none where they have too little in common."""
    sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE].to(torch.float64)
    mean = torch.nn.functional.normalize(sample, dim=1, eps=1e-300).mean(0)
    length = torch.linalg.vector_norm(mean)
    nonzero = bool(length > COMMON)  # nor where the sample holds NaN, which is found when all rows are read
    unit = mean / length if nonzero else torch.zeros_like(mean)
    return Direction(unit.to(torch.float32), length, nonzero)
