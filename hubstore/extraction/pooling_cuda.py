"""Means of a packed batch's items as one Triton kernel: the states are read once, in their own dtype."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

ROWS = 16
"""Tokens that a program reads at once."""

COLUMNS = 256
"""Of a hidden state, summed by one program."""


def segment_mean(rows: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor) -> torch.Tensor:
    """As `pooling.segment_mean`; every sum has one order, so the same bits every time."""
    rows = rows.contiguous()
    width = rows.shape[1]
    out = torch.empty((len(starts), width), dtype=torch.float32, device=rows.device)
    grid = (len(starts), triton.cdiv(width, COLUMNS))
    with torch.cuda.device(rows.device):
        _segment_mean[grid](rows, starts, stops, out, width, ROWS=ROWS, COLUMNS=COLUMNS)
    return out


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _segment_mean(rows, starts, stops, out, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    item = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.load(starts + item)
    stop = tl.load(stops + item)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in range(start, stop, ROWS):
        row = at + tl.arange(0, ROWS)
        inside = (row < stop)[:, None] & (columns < width)[None, :]
        part = tl.load(rows + row[:, None] * width + columns[None, :], mask=inside, other=0.0)
        total += part.to(tl.float32)
    mean = tl.sum(total, axis=0) / (stop - start).to(tl.float32)
    tl.store(out + item * width + columns, mean, mask=columns < width)
