"""From hidden states of tokens to one row per item."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

import torch

from hubstore.forward.batch import Batch

HAS_TRITON: Final = find_spec("triton") is not None


def pool_into(outs: Mapping[str, torch.Tensor], hidden: torch.Tensor, batch: Batch) -> None:
    """Put the rows of several poolings of a layer at the batch's places; see `pool`.

    On a GPU all poolings of whole items are one launch, in which the states are read once.

    Args:
        outs: by pooling, [rows, width] in one dtype, whichever, the columns of a row side by side.
        hidden: [items, length, width]; of a packed batch [1, tokens, width].
        batch: the batch it came from.
    """
    if hidden.is_cuda and HAS_TRITON:
        from hubstore.forward import pooling_cuda

        pooling_cuda.pool_into(outs, hidden, batch)
        return
    for pooling, out in outs.items():
        if pooling == "tokens":  # in the store's dtype before rows are chosen: less is copied
            out.index_copy_(0, batch.token_places, pool(hidden.to(out.dtype), batch, pooling))
        else:
            out.index_copy_(0, batch.item_places, pool(hidden, batch, pooling).to(out.dtype))


def pool(hidden: torch.Tensor, batch: Batch, pooling: str) -> torch.Tensor:
    """One row per item, or per token.

    Args:
        hidden: [items, length, width]; of a packed batch [1, tokens, width].
        batch: the batch it came from.
        pooling: "last" or "first" token, "mean" over tokens (float32 sums), "tokens" for all of them; "media" for the
            mean over an image's or audio clip's tokens, "text" for that over the tokens beside it. Where an item has no
            such tokens, as a text has none of a medium, these two are "mean".
            A causal model's BOS has one state for every item: "first" and "mean" pass over it.

    Returns:
        [items, width], or [tokens, width].
    """
    spans = batch.spans_of(pooling)
    if spans is not None:
        return segment_mean(_rows(hidden, spans.rows)[None], spans.bounds[:-1], spans.bounds[1:])
    if pooling == "tokens" and batch.packing is not None:
        return hidden[0, : len(batch.token_rows)]  # fillers come last
    chosen = {"tokens": batch.token_rows, "last": batch.last, "first": batch.first}.get(pooling)
    if chosen is not None:
        return _rows(hidden, chosen)
    if batch.packing is not None or hidden.is_cuda:
        return segment_mean(hidden, batch.first, batch.stops)
    return _padded_mean(hidden, batch.first, batch.last)


def _rows(hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Rows of the flattened states; those that lie otherwise, as behind a convolution, are not copied for it."""
    if hidden.is_contiguous():
        return hidden.flatten(0, 1).index_select(0, chosen)
    return hidden[chosen // hidden.shape[1], chosen % hidden.shape[1]]


def segment_mean(hidden: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor) -> torch.Tensor:
    """Means of rows [start, stop), in float32; the same bits every time.

    Args:
        hidden: [batch, length, width], whose rows are counted from one sequence to the next.
        starts: int64 [items], ascending.
        stops: int64 [items]; none is beyond the next item's start, nor beyond its own sequence.

    Returns:
        float32 [items, width].
    """
    if hidden.is_cuda and HAS_TRITON:
        from hubstore.forward import pooling_cuda

        return pooling_cuda.segment_mean(hidden, starts, stops)
    rows = hidden.flatten(0, 1)
    # Every second segment is the gap between two items.
    offsets = torch.stack([starts, stops], dim=1).flatten()
    sums = torch.segment_reduce(rows.float(), "sum", offsets=offsets, axis=0, unsafe=True)[::2]
    return sums / (stops - starts)[:, None]


def _padded_mean(hidden: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    items, length, _ = hidden.shape
    rows = torch.arange(items * length, device=hidden.device).view(items, length)
    counted = (rows >= first[:, None]) & (rows <= last[:, None])
    # Masked, not multiplied by zero: a fully masked row may hold NaN.
    total = hidden.masked_fill(~counted[..., None], 0).sum(dim=1, dtype=torch.float32)
    return total / counted.sum(dim=1, dtype=torch.float32)[:, None]
