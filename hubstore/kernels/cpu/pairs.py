"""Cosines of matched pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from hubstore.kernels.cpu import tiles
from hubstore.kernels.reference import PairedCosine
from hubstore.kernels.rows import check_pair, unit_rows


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """See `hubstore.kernels.paired_cosine`."""
    check_pair(x, y)
    cosines = torch.empty(x.shape[:-1], dtype=torch.float64)
    sum_x = torch.zeros((*x.shape[:-2], x.shape[-1]), dtype=torch.float64)
    sum_y = torch.zeros_like(sum_x)
    for start, stop in tiles.spans(x.shape[-2], max(1, tiles.BLOCK * x.shape[-2] // max(1, x.numel()))):
        unit_x = unit_rows(x[..., start:stop, :], "x", start)
        unit_y = unit_rows(y[..., start:stop, :], "y", start)
        cosines[..., start:stop] = (unit_x * unit_y).sum(-1)
        sum_x += unit_x.sum(-2)
        sum_y += unit_y.sum(-2)
    return PairedCosine(cosines, sum_x, sum_y)
