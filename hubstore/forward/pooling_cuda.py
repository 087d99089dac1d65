"""Pooling as Triton kernels: states are read once, in their own dtype, and rows are put where they go in the store's.

`hubstore.forward.pooling` has the same in torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

from hubstore.devices import current
from hubstore.forward.batch import Batch

ROWS = 16
"""Tokens that a program reads at once."""

COLUMNS = 256
"""Of a hidden state, pooled by one program."""

KINDS = ("mean", "first", "last")
"""Poolings that one launch makes together of the same tokens."""


def pool_into(outs: Mapping[str, torch.Tensor], hidden: torch.Tensor, batch: Batch) -> None:
    """As `pooling.pool_into`: one launch for the poolings of whole items, and one for each other.

    Args:
        outs: by pooling, [rows, width] of one layer, the columns of a row side by side.
        hidden: [items, length, width]; of a packed batch [1, tokens, width].
        batch: the batch it came from.
    """
    whole = []
    for pooling, out in outs.items():
        spans = batch.spans_of(pooling)
        if pooling == "tokens":
            _place(out, hidden, batch.token_rows, batch.token_places)
        elif spans is not None:
            bounds = spans.bounds
            _pool({"mean": out}, batch.item_places, hidden, bounds[:-1], bounds[1:], spans.rows)
        else:
            whole.append((pooling if pooling in KINDS else "mean", out))
    for kinds in _apart(whole):
        _pool(kinds, batch.item_places, hidden, batch.first, batch.stops)


def _apart(kinds: Sequence[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    """The outputs by kind; one more time for a kind that stands there again."""
    while kinds:
        firsts = dict(reversed(kinds))
        yield firsts
        kinds = [(kind, out) for kind, out in kinds if out is not firsts[kind]]


def segment_mean(hidden: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor) -> torch.Tensor:
    """As `pooling.segment_mean`; every sum has one order, so the same bits every time."""
    out = torch.empty((len(starts), hidden.shape[-1]), dtype=torch.float32, device=hidden.device)
    _pool({"mean": out}, None, hidden, starts, stops)
    return out


def _pool(
    outs: Mapping[str, torch.Tensor],
    places: torch.Tensor | None,
    hidden: torch.Tensor,
    starts: torch.Tensor,
    stops: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> None:
    """Pool rows [start, stop) of each item.

    States are read as they lie: those of an encoder that begins with convolutions have the tokens of a column, not
    the columns of a token, side by side.

    Args:
        outs: by kind, [rows, width], all with the same step from row to row.
        places: int64 [items], the row of each item in `outs`; None for their own order.
        hidden: [batch, length, width].
        starts: int64 [items].
        stops: int64 [items].
        rows: int64, the rows that `starts` and `stops` count; None for those of the flattened states themselves.
    """
    _, length, width = hidden.shape
    turned = hidden.stride(1) < hidden.stride(2)
    at_once, columns = (ROWS * 8, COLUMNS // 8) if turned else (ROWS, COLUMNS)
    one = next(iter(outs.values()))
    with current(hidden.device):
        _pool_rows[(len(starts), triton.cdiv(width, columns))](
            hidden,
            *hidden.stride(),
            starts,
            stops,
            starts if rows is None else rows,
            starts if places is None else places,
            *(outs.get(kind, one) for kind in KINDS),
            one.stride(0),
            length,
            width,
            CHOSEN=rows is not None,
            PLACED=places is not None,
            MEAN="mean" in outs,
            FIRST="first" in outs,
            LAST="last" in outs,
            ROWS=at_once,
            COLUMNS=columns,
        )


def _place(out: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> None:
    """Put rows of the flattened states [batch, length, width] at places of `out` [rows, width], in its dtype."""
    _, length, width = hidden.shape
    with current(hidden.device):
        _place_rows[(triton.cdiv(len(rows), ROWS), triton.cdiv(width, COLUMNS))](
            hidden,
            *hidden.stride(),
            rows,
            places,
            out,
            out.stride(0),
            len(rows),
            length,
            width,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
        )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pool_rows(  # type: ignore[no-untyped-def]
    hidden,
    sequence_step,
    row_step,
    column_step,
    starts,
    stops,
    rows,
    places,
    means,
    firsts,
    lasts,
    out_step,
    length,
    width,
    CHOSEN: tl.constexpr,
    PLACED: tl.constexpr,
    MEAN: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    item = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    start = tl.load(starts + item)
    stop = tl.load(stops + item)
    own_row = item.to(tl.int64)
    if PLACED:
        own_row = tl.load(places + item)
    out = own_row * out_step + columns
    # An item lies in one sequence: only rows that are chosen one by one are divided one by one.
    sequence = 0 if CHOSEN else start // length
    skipped = sequence * length
    states = hidden + sequence * sequence_step + columns * column_step
    if MEAN:
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for at in range(start - skipped, stop - skipped, ROWS):
            row = at + tl.arange(0, ROWS)
            known = row < stop - skipped
            place = row * row_step
            if CHOSEN:
                row = tl.load(rows + row, mask=known, other=0)
                place = (row // length) * sequence_step + (row % length) * row_step
            read = tl.load(states[None, :] + place[:, None], mask=known[:, None] & inside[None, :], other=0.0)
            total += read.to(tl.float32)
        mean = tl.sum(total, axis=0) / (stop - start).to(tl.float32)
        tl.store(means + out, mean.to(means.dtype.element_ty), mask=inside)
    if FIRST:
        state = tl.load(states + (start - skipped) * row_step, mask=inside)
        tl.store(firsts + out, state.to(firsts.dtype.element_ty), mask=inside)
    if LAST:
        state = tl.load(states + (stop - 1 - skipped) * row_step, mask=inside)
        tl.store(lasts + out, state.to(lasts.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _place_rows(  # type: ignore[no-untyped-def]
    hidden,
    sequence_step,
    row_step,
    column_step,
    rows,
    places,
    out,
    out_step,
    count,
    length,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = at < count
    row = tl.load(rows + at, mask=known, other=0)
    place = tl.load(places + at, mask=known, other=0)
    inside = known[:, None] & (columns < width)[None, :]
    source = (row // length) * sequence_step + (row % length) * row_step
    states = tl.load(hidden + source[:, None] + columns[None, :] * column_step, mask=inside)
    tl.store(out + place[:, None] * out_step + columns[None, :], states.to(out.dtype.element_ty), mask=inside)
