"""The kernels' definitions: plain torch in float64, one query at a time, to hold the fast ones against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.kernels.rows import check_pair, check_widths, unit_rows


@dataclass(frozen=True)
class PairedCosine:
    """What Equation 1 needs of n pairs, without the n x n cosines.

    Args:
        cosines: float64 [..., n], the cosine of each pair.
        sum_x: float64 [..., width], the sum of x's unit rows.
        sum_y: float64 [..., width], the sum of y's unit rows.
    """

    cosines: Tensor
    sum_x: Tensor
    sum_y: Tensor


@dataclass(frozen=True)
class MatchRanks:
    """Ranks of n matches, 0 where the match is first, each int64 [n].

    Args:
        forward: of y[i] among y for x[i], by cosine.
        backward: of x[i] among x for y[i].
        csls_forward: as forward, by CSLS.
        csls_backward: as backward, by CSLS.
    """

    forward: Tensor
    backward: Tensor
    csls_forward: Tensor
    csls_backward: Tensor


@dataclass(frozen=True)
class LensSweep:
    """What a logit lens reads in n hidden states; log-probabilities are natural logarithms.

    Args:
        log_partition: float32 [n], log Σ exp(logit) over the vocabulary.
        entropy: float32 [n], of the distribution over the vocabulary, in nats.
        target_log_probabilities: float32 [n, t].
        target_ranks: int64 [n, t], 0 for the most probable token.
        top_log_probabilities: float32 [n, k], descending.
        top_tokens: int64 [n, k].
        group_mass: float32 [n, g], Σ p(token) weight(token, group).
    """

    log_partition: Tensor
    entropy: Tensor
    target_log_probabilities: Tensor
    target_ranks: Tensor
    top_log_probabilities: Tensor
    top_tokens: Tensor
    group_mass: Tensor


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """See `hubstore.kernels.paired_cosine`."""
    check_pair(x, y)
    unit_x, unit_y = unit_rows(x, "x"), unit_rows(y, "y")
    return PairedCosine((unit_x * unit_y).sum(-1), unit_x.sum(-2), unit_y.sum(-2))


def topk_cosine(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    segments = [(0, rows)] if isinstance(rows, Tensor) else list(rows)
    for _, segment in segments:
        check_widths(queries, segment)
    scores = torch.full((len(queries), k), -torch.inf, dtype=torch.float32)
    indices = torch.full((len(queries), k), -1, dtype=torch.int64)
    if segments:
        numbers = torch.cat([torch.arange(start, start + len(segment)) for start, segment in segments])
        ascending = numbers.argsort()
        unit = torch.cat([unit_rows(segment, "rows", start) for start, segment in segments])[ascending]
        for query, row in enumerate(unit_rows(queries, "queries")):
            cosines = (unit * row).sum(-1)
            best = cosines.argsort(descending=True, stable=True)[:k]
            scores[query, : len(best)] = cosines[best].to(torch.float32)
            indices[query, : len(best)] = numbers[ascending][best]
    return scores, indices


def match_rank(x: Tensor, y: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    unit_x, unit_y = unit_rows(x, "x"), unit_rows(y, "y")
    biases = torch.zeros(len(y)) if bias is None else bias
    biases = biases.to(torch.float64)
    ranks = torch.empty((*biases.shape[:-1], len(x)), dtype=torch.int64)
    for i in range(len(x)):
        scores = (unit_y * unit_x[i]).sum(-1) - biases
        match = scores[..., i : i + 1]
        ranks[..., i] = (scores > match).sum(-1) + (scores[..., :i] == match).sum(-1)
    return ranks


def match_ranks(x: Tensor, y: Tensor, *, neighbours: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    near_x, near_y = _neighbour_means(x, y, neighbours), _neighbour_means(y, x, neighbours)
    return MatchRanks(
        forward=match_rank(x, y),
        backward=match_rank(y, x),
        csls_forward=match_rank(x, y, bias=near_y / 2),
        csls_backward=match_rank(y, x, bias=near_x / 2),
    )


def _neighbour_means(x: Tensor, y: Tensor, k: int) -> Tensor:
    """float64 [n]: mean cosine of each row of x to its k nearest of y."""
    unit_y = unit_rows(y, "y")
    means = [(unit_y * row).sum(-1).topk(min(k, len(y))).values.mean() for row in unit_rows(x, "x")]
    return torch.stack(means)
