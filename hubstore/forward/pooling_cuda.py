"""Means of a packed batch's items as one Triton kernel: the states are read once, in their own dtype."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

ROW_FIELDS = 16
"""Tokens that a program reads at once."""

COLUMNS = 256
"""Of a hidden state, summed by one program."""


def segment_mean(hidden: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor) -> torch.Tensor:
    """As `pooling.segment_mean`; every sum has one order, so the same bits every time.

    States are read as they lie: those of an encoder that begins with convolutions have the tokens of a column, not
    the columns of a token, side by side.
    """
    _, length, width = hidden.shape
    out = torch.empty((len(starts), width), dtype=torch.float32, device=hidden.device)
    turned = hidden.stride(1) < hidden.stride(2)
    rows, columns = (ROW_FIELDS * 8, COLUMNS // 8) if turned else (ROW_FIELDS, COLUMNS)
    grid = (len(starts), triton.cdiv(width, columns))
    with torch.cuda.device(hidden.device):
        _segment_mean[grid](
            hidden, *hidden.stride(), starts, stops, out, length, width, ROW_FIELDS=rows, COLUMNS=columns
        )
    return out


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _segment_mean(  # type: ignore[no-untyped-def]
    hidden,
    sequence_step,
    row_step,
    column_step,
    starts,
    stops,
    out,
    length,
    width,
    ROW_FIELDS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    item = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(starts + item)
    sequence = first // length
    start = first - sequence * length
    stop = tl.load(stops + item) - sequence * length
    total = tl.zeros((ROW_FIELDS, COLUMNS), tl.float32)
    for at in range(start, stop, ROW_FIELDS):
        row = at + tl.arange(0, ROW_FIELDS)
        inside = (row < stop)[:, None] & (columns < width)[None, :]
        place = sequence * sequence_step + row[:, None] * row_step + columns[None, :] * column_step
        total += tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / (stop - start).to(tl.float32)
    tl.store(out + item * width + columns, mean, mask=columns < width)
