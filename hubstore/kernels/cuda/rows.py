"""Rows made ready for `sweep`: what turns a product with a row, as it is stored, into a cosine.

Hidden states crowd around their mean: cosines may differ by 1e-6 on a value near 1, which no 16-bit product
resolves. So one direction u, that of the mean, is treated apart. With x' = x̂ - (x̂·u) u,

    x̂·ŷ = x'·y / |y| + (x̂·u) (ŷ·u - l) + (x̂·u) l.

x' holds no part along u, so that the product in 16 bits is a small number with a small error. l is what ŷ·u is on
average: computed in float64, the difference from it, a number for each row, is small too, and the last term is
one and the same for all rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.sweep import aligned
from hubstore.kernels.rows import refuse_non_finite

SAMPLE = 2048  # rows whose mean is the direction
COMMON = 0.05  # length of the mean unit row from which on it is worth a term of its own
MEASURED_ROWS, MEASURED_WIDTH = 16, 256
CONVERTED_ROWS, CONVERTED_WIDTH = 4, 512


@dataclass(frozen=True)
class Ready:
    """Rows that `sweep` can read, and what makes cosines of its products.

    Args:
        values: 16-bit [n, width].
        scale: float32 [n]; values[i] * scale[i] is the unit row, or its part across the direction. NaN where the
            row holds NaN or infinity, or where its norm leaves float32.
        along: float64 [n], the unit row's part along the direction, less the direction's level.
    """

    values: Tensor
    scale: Tensor
    along: Tensor


@triton.jit
def _measure(rows, stride, n, width, direction, level, scale, along, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Inverse norms, and parts along the direction where there is one."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = number < n
    # With a direction, cosines differ in digits that float32 does not have.
    exact: tl.constexpr = tl.float32 if direction is None else tl.float64
    squares = tl.zeros((ROWS, WIDTH), exact)
    parts = tl.zeros((ROWS, WIDTH), exact)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], there[:, None] & inside[None, :], other=0.0)
        value = value.to(exact)
        squares += value * value
        if direction is not None:
            parts += value * tl.load(direction + column, inside, other=0.0).to(exact)[None, :]
    square = tl.sum(squares, 1)
    inverse = tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    tl.store(scale + number, tl.where(square < 1e38, inverse, float("nan")).to(tl.float32), there)
    if direction is not None:
        tl.store(along + number, tl.sum(parts, 1) * inverse - tl.load(level), there)


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
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The same, and the part across the direction as 16-bit rows of unit length."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = number < n
    squares = tl.zeros((ROWS, WIDTH), tl.float64)
    parts = tl.zeros((ROWS, WIDTH), tl.float64)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], there[:, None] & inside[None, :], other=0.0)
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
        value = tl.load(rows + number[:, None] * stride + column[None, :], there[:, None] & inside[None, :], other=0.0)
        common = tl.load(direction + column, inside, other=0.0).to(tl.float64)
        rest = value.to(tl.float64) * inverse[:, None] - part[:, None] * common[None, :]
        across += rest * rest
    length = tl.sqrt(tl.sum(across, 1))
    stretch = tl.where(length > 0, 1 / tl.where(length > 0, length, 1.0), 0.0)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        value = tl.load(rows + number[:, None] * stride + column[None, :], there[:, None] & inside[None, :], other=0.0)
        common = tl.load(direction + column, inside, other=0.0).to(tl.float64)
        rest = (value.to(tl.float64) * inverse[:, None] - part[:, None] * common[None, :]) * stretch[:, None]
        tl.store(
            values + number[:, None] * values_stride + column[None, :],
            rest.to(tl.float32).to(values.dtype.element_ty),
            there[:, None] & inside[None, :],
        )
    # A norm that is none stays none: NaN times anything, and what is left of infinity less infinity.
    length = tl.where(norm < float("inf"), length, float("nan"))
    tl.store(scale + number, length.to(tl.float32), there)
    tl.store(along + number, part - tl.load(level), there)


def as_stored(rows: Tensor, direction: Direction) -> Ready:
    """Rows [n, width] that `sweep` reads where they are, one pass for their norms."""
    n, width = rows.shape
    scale = torch.empty(n, dtype=torch.float32, device=rows.device)
    along = torch.zeros(n, dtype=torch.float64, device=rows.device)
    unit = direction.unit if direction.there else None
    block = min(MEASURED_WIDTH, max(16, triton.next_power_of_2(width)))
    grid = (triton.cdiv(n, MEASURED_ROWS),)
    _measure[grid](
        rows, rows.stride(0), n, width, unit, direction.level, scale, along, MEASURED_ROWS, block, num_warps=4
    )
    return Ready(rows, scale, along)


def converted(rows: Tensor, direction: Direction, dtype: torch.dtype) -> Ready:
    """Rows [n, width] of any dtype, as unit rows across the direction in `dtype`: a copy."""
    n, width = rows.shape
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    values = torch.zeros(n, -(-width // 8) * 8, dtype=dtype, device=rows.device)[:, :width]
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
        CONVERTED_ROWS,
        block,
        num_warps=4,
    )
    return Ready(values, scale, along)


def ready(rows: Tensor, direction: Direction) -> Ready:
    """`as_stored` where `sweep` can read the rows and they are 16-bit, else `converted` to float16."""
    return as_stored(rows, direction) if readable(rows) else converted(rows, direction, torch.float16)


def readable(rows: Tensor) -> bool:
    """Whether rows are swept where they are stored."""
    return rows.dtype in (torch.float16, torch.bfloat16) and aligned(rows)


def refuse_rows(rows: Tensor, prepared: Ready, name: str, first: int = 0) -> bool:
    """Whether the rows must be `converted`, since a norm of theirs leaves float32; waits for the device.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    if bool(torch.isfinite(prepared.scale).all()):
        return False
    refuse_non_finite(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64), name, first)
    return True


@dataclass(frozen=True)
class Direction:
    """What rows have in common.

    Args:
        unit: float32 [width], of unit length, or zeros.
        level: float64 [], the mean of the unit rows' parts along it.
        there: whether it is not zeros.
    """

    unit: Tensor
    level: Tensor
    there: bool


def common_direction(rows: Tensor, name: str = "rows", first: int = 0) -> Direction:
    """The direction of the mean of a sample of rows [n, width]; none where they have too little in common.

    Raises:
        NonFiniteError: a sampled row holds NaN or infinity.
    """
    sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
    norms = torch.linalg.vector_norm(sample, dim=1, dtype=torch.float64)
    mean = (sample.to(torch.float64) / norms.masked_fill(norms == 0, 1.0)[:, None]).mean(0)
    length = float(torch.linalg.vector_norm(mean))
    if not math.isfinite(length):
        refuse_non_finite(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64), name, first)
    there = length > COMMON
    unit = (mean / length if there else torch.zeros_like(mean)).to(torch.float32)
    return Direction(unit, mean @ unit.to(torch.float64), there)
