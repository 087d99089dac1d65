"""The true answers, in float64 by plain torch, for as many queries as one can wait for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

PIECE = 1 << 16
"""Rows that are float64 at a time."""


def nearest(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """int64 [q, k]: the rows of largest cosine."""
    unit = _unit(queries)
    scores, indices = [], []
    for number, piece in enumerate(rows.split(PIECE)):
        best = (unit @ _unit(piece).T).topk(min(k, len(piece)))
        scores.append(best.values)
        indices.append(best.indices + number * PIECE)
    best = torch.cat(scores, 1).topk(k).indices
    return torch.cat(indices, 1).gather(1, best)


def recall(found: Tensor, true: Tensor) -> float:
    """Share of `true` [t, k] that is in the first t rows of `found` [q, k]."""
    hits = found[: len(true), :, None].to(true.device) == true[:, None, :]
    return float(hits.any(1).double().mean())


def match_ranks(x: Tensor, y: Tensor, count: int) -> Tensor:
    """int64 [count]: rank of y[i] among y for the first x[i]; of equal ones the smaller index is first."""
    unit = _unit(x[:count])
    ranks = torch.zeros(count, dtype=torch.int64, device=x.device)
    own = torch.arange(count, device=x.device)[:, None]
    match = torch.empty(0)
    for number, piece in enumerate(y.split(PIECE)):
        scores = unit @ _unit(piece).T
        if number == 0:
            match = scores.diagonal()[:, None].clone()
        columns = torch.arange(len(piece), device=x.device) + number * PIECE
        ranks += ((scores > match) | ((scores == match) & (columns < own))).sum(1)
    return ranks


def log_probabilities(hidden: Tensor, unembedding: Tensor) -> Tensor:
    """float64 [n, vocabulary]."""
    wide = hidden.double()
    logits = torch.cat([wide @ piece.double().T for piece in unembedding.split(PIECE)], 1)
    return logits.log_softmax(-1)


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows.double(), dim=-1)
