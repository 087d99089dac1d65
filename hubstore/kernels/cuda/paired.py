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
from hubstore.kernels.rows import check_pair, in_range, refuse_non_finite, unit_rows

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
    norms,
    sums,
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
        valid = (row < n)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None]
        a = tl.load(x + layer * x_layer + at * x_row + column[None, :], valid, other=0.0).to(NUMBER)
        b = tl.load(y + layer * y_layer + at * y_row + column[None, :], valid, other=0.0).to(NUMBER)
        square_a, square_b, product = _row_sums(a * a, b * b, a * b, ROWS, WIDTH)
        norm_a, norm_b = tl.sqrt(square_a), tl.sqrt(square_b)
        inverse_a = tl.where(norm_a > 0, 1 / tl.where(norm_a > 0, norm_a, 1.0), 0.0)
        inverse_b = tl.where(norm_b > 0, 1 / tl.where(norm_b > 0, norm_b, 1.0), 0.0)
        cosine = product * inverse_a * inverse_b
        fits = (norm_a < float("inf")) & (norm_b < float("inf"))
        if tl.float32 == NUMBER and x.dtype.element_ty != tl.float16:  # of small elements float32 holds no squares
            fits = fits & ((norm_a > 1e-15) | (tl.max(tl.abs(a), 1) == 0))
            fits = fits & ((norm_b > 1e-15) | (tl.max(tl.abs(b), 1) == 0))
        tl.store(cosines + layer * n + row, tl.where(fits, cosine, float("nan")), row < n)
        if norms is not None:
            tl.store(norms + layer * n + row, norm_a, row < n)
            tl.store(norms + (tl.num_programs(1) + layer) * n + row, norm_b, row < n)
        total_x += tl.sum(a * inverse_a.to(NUMBER)[:, None], 0)
        total_y += tl.sum(b * inverse_b.to(NUMBER)[:, None], 0)
    at = (layer * tl.num_programs(0) + program) * width + column
    tl.store(sums + at, total_x.to(tl.float64), inside)
    tl.store(sums + tl.num_programs(0) * tl.num_programs(1) * width + at, total_y.to(tl.float64), inside)


@triton.jit
def _row_sums(a, b, c, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """float64 [ROWS] of each: sums of eight neighbors as they are, and of those in float64, an eighth of the
    conversions; threads meet once for all three."""
    a = tl.sum(tl.reshape(a, (ROWS, WIDTH // 8, 8)), 2).to(tl.float64)
    b = tl.sum(tl.reshape(b, (ROWS, WIDTH // 8, 8)), 2).to(tl.float64)
    c = tl.sum(tl.reshape(c, (ROWS, WIDTH // 8, 8)), 2).to(tl.float64)
    return tl.reduce((a, b, c), 1, _add)


@triton.jit
def _add(a, b, c, d, e, f):
    return a + d, b + e, c + f


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
    x, y = (part if part.stride(2) == 1 else part.contiguous() for part in (in_range(x), in_range(y)))
    layers, n, width = x.shape
    programs = max(1, min(triton.cdiv(n, ROWS), triton.cdiv(PROGRAMS * processors(x.device), max(layers, 1))))
    cosines = torch.empty(layers, n, dtype=torch.float64, device=x.device)
    if not layers or not n:
        return PairedCosine(cosines, *torch.zeros(2, layers, width, dtype=torch.float64, device=x.device))
    sums = torch.empty(2, layers, programs, width, dtype=torch.float64, device=x.device)
    both = (x, x.stride(0), x.stride(1), y, y.stride(0), y.stride(1), n, width, cosines)
    block = max(16, triton.next_power_of_2(width))
    if x.dtype == y.dtype and x.dtype in (torch.float16, torch.bfloat16):
        _paired[(programs, layers)](*both, None, sums, tl.float32, ROWS, block, STAGES, num_warps=WARPS)
        found = PairedCosine(cosines, *sums.sum(2))
        if bool(torch.isfinite(cosines.sum())):  # last, since it waits
            return found
    # Norms that leave float32, or products that float32 would round.
    norms = torch.empty(2, layers, n, dtype=torch.float64, device=x.device)
    warps = max(1, min(16, block // 256))
    _paired[(programs, layers)](*both, norms, sums, tl.float64, ROWS, block, 1, num_warps=warps)
    for name, of_rows in zip(("x", "y"), norms, strict=True):
        refuse_non_finite(of_rows[0] if layers == 1 else of_rows, name)  # a single layer is not named in errors
    return PairedCosine(cosines, *sums.sum(2))


def _by_layer(x: Tensor, y: Tensor) -> PairedCosine:
    """Rows too wide for a program's registers, a layer at a time."""
    parts = []
    for layer in range(len(x)):
        unit_x, unit_y = unit_rows(x[layer], "x"), unit_rows(y[layer], "y")
        parts.append(((unit_x * unit_y).sum(1), unit_x.sum(0), unit_y.sum(0)))
    return PairedCosine(*(torch.stack(part) for part in zip(*parts, strict=True)))
