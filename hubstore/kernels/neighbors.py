"""Nearest rows among themselves with fractional credit for ties: one path for every device, over its search.

Where several rows are as near as the last of the k, each gets an equal share of the places left, which is what it gets
on average where ties are broken at random. Rows are tied where their cosines differ by less than `TIED`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.checks import check_count
from hubstore.kernels.rows import unit_rows

TIED = 1e-12
"""Cosines nearer one another are equal: equal rows' may differ by the rounding of float64."""
MOST_TIED = 256
"""Of more that are tied for a row's last places, so many are drawn at random: the same credit on average."""
BLOCK = 1 << 23  # cosines that are held at a time where rows are tied

Search = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Edges:
    """Weighted edges from rows to rows, m of them, in the order of rows.

    Args:
        rows: int64 [m].
        columns: int64 [m].
        weights: float64 [m].
    """

    rows: Tensor
    columns: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Neighbors:
    """The nearest of n rows to each of them, itself excluded.

    Args:
        edges: to each row's k nearest, whose weights sum to k.
        heirs: to those that would take the place of a neighbor that went, whose weights sum to 1; none where there
            is no other row.
    """

    edges: Edges
    heirs: Edges


def neighbor_weights(search: Search, rows: Tensor, k: int, most_tied: int, seed: int) -> Neighbors:
    """See `hubstore.kernels.neighbor_weights`; `search` is the device's `topk_cosine`."""
    n = len(rows)
    check_count("k", k, most=n - 1)
    scores, found = _others(*search(rows, rows, min(k + 2, n), torch.float64))
    if k == n - 1:
        return Neighbors(_edges(found), _none(rows.device))
    tied = scores[:, k - 1] - scores[:, k] <= TIED
    apart = (~tied).nonzero()[:, 0]
    parts = [Neighbors(_edges(found[apart, :k], apart), _edges(found[apart, k : k + 1], apart))]
    if bool(tied.any()):
        unit = unit_rows(rows)
        generator = torch.Generator().manual_seed(seed)
        places = tied.nonzero()[:, 0]
        parts += [_among_tied(unit, some, k, most_tied, generator) for some in torch.split(places, max(1, BLOCK // n))]
    return Neighbors(_joined([part.edges for part in parts]), _joined([part.heirs for part in parts]))


def _others(scores: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The same [n, m - 1] without the row itself; where equal rows have pushed it out, without the last."""
    n, m = found.shape
    itself = found == torch.arange(n, device=found.device)[:, None]
    itself[:, -1] |= ~itself.any(1)
    return scores[~itself].reshape(n, m - 1), found[~itself].reshape(n, m - 1)


def _among_tied(unit: Tensor, places: Tensor, k: int, most_tied: int, generator: torch.Generator) -> Neighbors:
    """Neighbors of some of the unit rows float64 [n, width], by all their cosines."""
    cosines = unit[places] @ unit.T
    cosines[torch.arange(len(places), device=unit.device), places] = -torch.inf
    last = cosines.topk(k, dim=1).values[:, -1:]
    above = cosines > last + TIED
    level = (cosines >= last - TIED) & ~above
    left = k - above.sum(1, keepdim=True)
    beyond = cosines.masked_fill(above | level, -torch.inf).amax(1, keepdim=True)
    following = (cosines >= beyond - TIED) & ~above & ~level & (beyond > -torch.inf)
    level = _drawn(level, torch.maximum(left, torch.full_like(left, most_tied)), generator)
    size = level.sum(1, keepdim=True)
    weights = above + level * (left.to(torch.float64) / size)
    heirs = torch.where(left < size, level, _drawn(following, torch.ones_like(left), generator))
    shares = heirs.to(torch.float64) / heirs.sum(1, keepdim=True).clamp_min(1)
    return Neighbors(_dense_edges(weights, places), _dense_edges(shares, places))


def _drawn(chosen: Tensor, most: Tensor, generator: torch.Generator) -> Tensor:
    """At most `most` [b, 1] of the chosen [b, n] of each row, drawn at random."""
    if bool((chosen.sum(1, keepdim=True) <= most).all()):
        return chosen
    # Drawn on the CPU: the same on every device.
    keys = torch.rand(chosen.shape, generator=generator).to(chosen.device).masked_fill(~chosen, 2.0)
    order = keys.argsort(1).argsort(1)
    return chosen & (order < most)


def _edges(columns: Tensor, places: Tensor | None = None) -> Edges:
    """Edges of weight 1 from each place [b] to its columns [b, k]."""
    rows = torch.arange(len(columns), device=columns.device) if places is None else places
    weights = torch.ones(columns.numel(), dtype=torch.float64, device=columns.device)
    return Edges(rows.repeat_interleave(columns.shape[1]), columns.reshape(-1), weights)


def _dense_edges(weights: Tensor, places: Tensor) -> Edges:
    row, column = weights.nonzero(as_tuple=True)
    return Edges(places[row], column, weights[row, column])


def _joined(parts: list[Edges]) -> Edges:
    order = torch.cat([part.rows for part in parts]).argsort(stable=True)
    return Edges(*(torch.cat([getattr(p, name) for p in parts])[order] for name in ("rows", "columns", "weights")))


def _none(device: torch.device) -> Edges:
    empty = torch.empty(0, dtype=torch.int64, device=device)
    return Edges(empty, empty, empty.to(torch.float64))
