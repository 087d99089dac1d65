"""The kernels' definitions: plain torch in float64, one query at a time, to hold the fast ones against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.checks import check_count
from hubstore.kernels.neighbors import TIED
from hubstore.kernels.rows import (
    capped,
    check_bias,
    check_lens,
    check_pair,
    check_widths,
    refuse_non_finite,
    unit_rows,
)


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
        target_ranks: int64 [n, t], 0 for the most probable token; [n, 0] where none were asked for.
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
    check_count("k", k)
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


def neighbor_weights(rows: Tensor, k: int) -> Tensor:
    """See `hubstore.kernels.neighbor_weights`: float64 [n, n], the weight of each row for each, however many tie."""
    unit = unit_rows(rows)
    weights = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, row in enumerate(unit):
        cosines = (unit * row).sum(-1)
        others = [j for j in range(len(rows)) if j != i]
        last = sorted((float(cosines[j]) for j in others), reverse=True)[k - 1]
        above = [j for j in others if cosines[j] > last + TIED]
        level = [j for j in others if abs(float(cosines[j]) - last) <= TIED]
        weights[i, above] = 1.0
        weights[i, level] = (k - len(above)) / len(level)
    return weights


def match_rank(
    x: Tensor, y: Tensor, *, bias_x: Tensor | None = None, bias_y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    check_bias(bias_x, x, "bias_x")
    check_bias(bias_y, y, "bias_y")
    unit_x, unit_y = unit_rows(x, "x"), unit_rows(y, "y")
    return _ranks(unit_x, unit_y, bias_y), _ranks(unit_y, unit_x, bias_x)


def _ranks(queries: Tensor, candidates: Tensor, bias: Tensor | None) -> Tensor:
    """int64 [n]: the rank of candidate i for query i, both float64 [n, width]."""
    biases = torch.zeros(len(candidates)) if bias is None else bias
    ranks = torch.empty(len(queries), dtype=torch.int64)
    for i, query in enumerate(queries):
        scores = (candidates * query).sum(-1) - biases.to(torch.float64)
        ranks[i] = (scores > scores[i]).sum() + (scores[:i] == scores[i]).sum()
    return ranks


def match_ranks(x: Tensor, y: Tensor, *, neighbors: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    check_count("neighbors", neighbors)
    near_x, near_y = _neighbor_means(x, y, neighbors), _neighbor_means(y, x, neighbors)
    return MatchRanks(*match_rank(x, y), *match_rank(x, y, bias_x=near_x / 2, bias_y=near_y / 2))


def _neighbor_means(x: Tensor, y: Tensor, k: int) -> Tensor:
    """float64 [n]: mean cosine of each row of x to its k nearest of y."""
    unit_y = unit_rows(y, "y")
    means = [(unit_y * row).sum(-1).topk(min(k, len(y))).values.mean() for row in unit_rows(x, "x")]
    return torch.stack(means)


def lens_sweep(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    targets: Tensor | None = None,
    k: int = 0,
    groups: Tensor | None = None,
    softcap: float | None = None,
    ranks: bool = True,
) -> LensSweep:
    """See `hubstore.kernels.lens_sweep`."""
    check_lens(hidden, unembedding, targets, k, groups, softcap)
    states, vectors = hidden.to(torch.float64), unembedding.to(torch.float64)
    refuse_non_finite(torch.linalg.vector_norm(states, dim=-1), "hidden")
    refuse_non_finite(torch.linalg.vector_norm(vectors, dim=-1), "unembedding")
    target_tokens = torch.empty(len(hidden), 0, dtype=torch.int64) if targets is None else targets.to(torch.int64)
    weights = torch.empty(len(unembedding), 0) if groups is None else groups
    n, t, g = len(hidden), target_tokens.shape[1], weights.shape[1]
    swept = LensSweep(
        log_partition=torch.empty(n),
        entropy=torch.empty(n),
        target_log_probabilities=torch.empty(n, t),
        target_ranks=torch.empty(n, t if ranks else 0, dtype=torch.int64),
        top_log_probabilities=torch.empty(n, k),
        top_tokens=torch.empty(n, k, dtype=torch.int64),
        group_mass=torch.empty(n, g),
    )
    for i, state in enumerate(states):
        logits = capped((vectors * state).sum(-1), softcap)
        log_probabilities = logits.log_softmax(-1)
        order = logits.argsort(descending=True, stable=True)
        swept.log_partition[i] = logits.logsumexp(-1)
        swept.entropy[i] = -(log_probabilities.exp() * log_probabilities).sum()
        swept.target_log_probabilities[i] = log_probabilities[target_tokens[i]]
        swept.target_ranks[i] = order.argsort()[target_tokens[i, : t if ranks else 0]]
        swept.top_log_probabilities[i] = log_probabilities[order[:k]]
        swept.top_tokens[i] = order[:k]
        swept.group_mass[i] = log_probabilities.exp() @ weights.to(torch.float64)
    return swept
