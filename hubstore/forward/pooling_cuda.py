"""Means of a packed batch's items as one Triton kernel: the states are read once, in their own dtype."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

from hubstore.devices import current

ROWS = 16
"""Tokens that a program reads at once."""

COLUMNS = 256
"""Of a hidden state, summed by one program."""


def segment_mean(hidden: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor) -> torch.Tensor:
    """As `pooling.segment_mean`; every sum has one order, so the same bits every time.

    States are read as they lie: those of an encoder that begins with convolutions have the tokens of a column, not
    the columns of a token, side by side.
    """
    out = torch.empty((len(starts), hidden.shape[-1]), dtype=torch.float32, device=hidden.device)
    segment_mean_into(out, None, hidden, starts, stops)
    return out


def segment_mean_into(
    out: torch.Tensor, places: torch.Tensor | None, hidden: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor
) -> None:
    """As `segment_mean`, the means of float32 sums put into rows of `out` in its dtype, without a copy between.

    Args:
        out: [rows, width], the columns of a row side by side.
        places: int64 [items], the row of each item; None for their own order.
        hidden: [batch, length, width].
        starts: int64 [items].
        stops: int64 [items].
    """
    _, length, width = hidden.shape
    turned = hidden.stride(1) < hidden.stride(2)
    rows, columns = (ROWS * 8, COLUMNS // 8) if turned else (ROWS, COLUMNS)
    grid = (len(starts), triton.cdiv(width, columns))
    with current(hidden.device):
        _segment_mean[grid](
            hidden,
            *hidden.stride(),
            starts,
            stops,
            starts if places is None else places,
            out,
            out.stride(0),
            length,
            width,
            PLACED=places is not None,
            ROWS=rows,
            COLUMNS=columns,
        )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _segment_mean(  # type: ignore[no-untyped-def]
    hidden,
    sequence_step,
    row_step,
    column_step,
    starts,
    stops,
    places,
    out,
    out_step,
    length,
    width,
    PLACED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    item = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(starts + item)
    sequence = first // length
    start = first - sequence * length
    stop = tl.load(stops + item) - sequence * length
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in range(start, stop, ROWS):
        row = at + tl.arange(0, ROWS)
        inside = (row < stop)[:, None] & (columns < width)[None, :]
        place = sequence * sequence_step + row[:, None] * row_step + columns[None, :] * column_step
        total += tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / (stop - start).to(tl.float32)
    own_row = item.to(tl.int64)
    if PLACED:
        own_row = tl.load(places + item)
    tl.store(out + own_row * out_step + columns, mean.to(out.dtype.element_ty), mask=columns < width)
