"""Matched cosines and sums of unit rows, for all layers in one pass over the rows.

Arithmetic in float64 takes longer than reading 16-bit rows. Their products are exact in float32; what is added up
in it are eight of them, and the few hundred unit rows of a program. float32 rows, whose products are not exact,
are taken in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.sweep import processors
from hubstore.kernels.reference import PairedCosine
from hubstore.kernels.rows import check_pair, refuse_non_finite, unit_rows

WIDEST = 8192  # elements of a row that a program can hold
PROGRAMS = 8  # for each multiprocessor
ROWS, WARPS, STAGES = 1, 4, 3


@triton.jit
def _paired(
    x,
    x_layer,
    x_row,
    y,
    y_layer,
    y_row,
    n,
    width,
    cosines,
    norms_x,
    norms_y,
    sum_x,
    sum_y,
    NUMBER: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Some rows of a layer: a row is read once, and stays in registers until it is added, divided by its norm."""
    program, layer = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    total_x = tl.zeros((WIDTH,), NUMBER)
    total_y = tl.zeros((WIDTH,), NUMBER)
    for first in tl.range(program * ROWS, n, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = first + tl.arange(0, ROWS)
        there = (row < n)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None]
        a = tl.load(x + layer * x_layer + at * x_row + column[None, :], there, other=0.0).to(NUMBER)
        b = tl.load(y + layer * y_layer + at * y_row + column[None, :], there, other=0.0).to(NUMBER)
        norm_a, norm_b = tl.sqrt(_row_sums(a * a, ROWS, WIDTH)), tl.sqrt(_row_sums(b * b, ROWS, WIDTH))
        inverse_a = tl.where(norm_a > 0, 1 / tl.where(norm_a > 0, norm_a, 1.0), 0.0)
        inverse_b = tl.where(norm_b > 0, 1 / tl.where(norm_b > 0, norm_b, 1.0), 0.0)
        cosine = _row_sums(a * b, ROWS, WIDTH) * inverse_a * inverse_b
        fits = (norm_a < float("inf")) & (norm_b < float("inf"))
        tl.store(cosines + layer * n + row, tl.where(fits, cosine, float("nan")), row < n)
        tl.store(norms_x + layer * n + row, norm_a, row < n)
        tl.store(norms_y + layer * n + row, norm_b, row < n)
        total_x += tl.sum(a * inverse_a.to(NUMBER)[:, None], 0)
        total_y += tl.sum(b * inverse_b.to(NUMBER)[:, None], 0)
    at = (layer * tl.num_programs(0) + program) * width + column
    tl.store(sum_x + at, total_x.to(tl.float64), inside)
    tl.store(sum_y + at, total_y.to(tl.float64), inside)


@triton.jit
def _row_sums(values, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """float64 [ROWS]: sums of eight neighbours as they are, and of those in float64, an eighth of the conversions."""
    eights = tl.sum(tl.reshape(values, (ROWS, WIDTH // 8, 8)), 2)
    return tl.sum(eights.to(tl.float64), 1)


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """See `hubstore.kernels.paired_cosine`."""
    check_pair(x, y)
    if x.ndim != 3:
        found = paired_cosine(x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]))
        lead = x.shape[:-2]
        return PairedCosine(
            found.cosines.reshape(*lead, x.shape[-2]),
            found.sum_x.reshape(*lead, x.shape[-1]),
            found.sum_y.reshape(*lead, x.shape[-1]),
        )
    if x.shape[2] > WIDEST:
        return _by_layer(x, y)
    x, y = (part if part.stride(2) == 1 else part.contiguous() for part in (x, y))
    layers, n, width = x.shape
    programs = max(1, min(triton.cdiv(n, ROWS), triton.cdiv(PROGRAMS * processors(x.device), max(layers, 1))))
    cosines, norms_x, norms_y = (torch.empty(layers, n, dtype=torch.float64, device=x.device) for _ in range(3))
    sums = [torch.empty(layers, programs, width, dtype=torch.float64, device=x.device) for _ in range(2)]
    if not layers or not n:
        return PairedCosine(cosines, *(torch.zeros(layers, width, dtype=torch.float64, device=x.device) for _ in sums))
    arguments = (x, x.stride(0), x.stride(1), y, y.stride(0), y.stride(1), n, width, cosines, norms_x, norms_y, *sums)
    block = max(16, triton.next_power_of_2(width))
    if x.dtype == y.dtype and x.dtype in (torch.float16, torch.bfloat16):
        _paired[(programs, layers)](*arguments, tl.float32, ROWS, block, STAGES, num_warps=WARPS)
        found = PairedCosine(cosines, sums[0].sum(1), sums[1].sum(1))
        if bool(torch.isfinite(cosines.sum())):  # last, since it waits
            return found
    # Norms that leave float32, or products that float32 would round.
    _paired[(programs, layers)](*arguments, tl.float64, ROWS, block, 1, num_warps=max(1, min(16, block // 256)))
    one = layers == 1  # a single layer is not named in errors
    refuse_non_finite(norms_x[0] if one else norms_x, "x")
    refuse_non_finite(norms_y[0] if one else norms_y, "y")
    return PairedCosine(cosines, sums[0].sum(1), sums[1].sum(1))


def _by_layer(x: Tensor, y: Tensor) -> PairedCosine:
    """Rows too wide for a program's registers, a layer at a time."""
    parts = []
    for layer in range(len(x)):
        unit_x, unit_y = unit_rows(x[layer], "x"), unit_rows(y[layer], "y")
        parts.append(((unit_x * unit_y).sum(1), unit_x.sum(0), unit_y.sum(0)))
    return PairedCosine(*(torch.stack(part) for part in zip(*parts, strict=True)))
