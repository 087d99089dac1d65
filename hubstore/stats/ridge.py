"""Ridge regression in closed form, its penalty chosen on rows that it is not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-6, 4))
"""Of the mean variance of a direction, tried in turn."""


@dataclass(frozen=True)
class Ridge:
    """An affine map: x @ weights + bias.

    Args:
        weights: float64 [width, targets].
        bias: float64 [targets].
        penalty: that was chosen, as a share of the mean variance of a direction.
    """

    weights: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, rows: Tensor) -> Tensor:
        """float64 [n, targets] of rows [n, width]."""
        return rows.to(torch.float64) @ self.weights + self.bias


def fit_ridge(
    rows: Tensor, targets: Tensor, held: Tensor, penalties: Sequence[float] = PENALTIES, *, scaled: bool = True
) -> Ridge:
    """The ridge map of least squared error: the penalty that is best on `held` rows, and then all rows.

    Columns are scaled to their standard deviations first, so that a few dimensions of great variance, which language
    models have, are penalized as all others.

    Args:
        rows: [n, width], in any dtype.
        targets: [n, t].
        held: bool [n], rows that the penalty is chosen on; of none or one penalty, nothing is chosen.
        penalties: to choose from.
        scaled: whether columns are scaled; as they are, directions of great variance are read first.
    """
    x, y = rows.to(torch.float64), targets.to(torch.float64)
    penalty = penalties[0]
    if len(penalties) > 1 and bool(held.any()) and not bool(held.all()):
        some = _Decomposed(x[~held], y[~held], scaled)
        errors = [float((some.map(one)(x[held]) - y[held]).square().mean()) for one in penalties]
        penalty = penalties[min(range(len(errors)), key=errors.__getitem__)]
    return _Decomposed(x, y, scaled).map(penalty)


class _Decomposed:
    """The principal directions of standardized rows, of which the map for any penalty is a product."""

    def __init__(self, x: Tensor, y: Tensor, scaled: bool) -> None:
        self._mean, self._target_mean = x.mean(0), y.mean(0)
        deviation = x.std(0, correction=0)
        self._scale = torch.where(deviation > 0, deviation, 1.0) if scaled else torch.ones_like(deviation)
        z, centered = (x - self._mean) / self._scale, y - self._target_mean
        wide = len(z) < z.shape[1]
        values, vectors = torch.linalg.eigh(z @ z.T if wide else z.T @ z)
        kept = values > values[-1] * max(z.shape) * torch.finfo(values.dtype).eps
        self._values, vectors = values[kept], vectors[:, kept]
        self._vectors = z.T @ vectors / self._values.sqrt() if wide else vectors  # [width, rank]
        self._products = self._vectors.T @ (z.T @ centered)
        self._unit = float(values.clamp_min(0).sum()) / z.shape[1]

    def map(self, penalty: float) -> Ridge:
        shrunk = self._products / (self._values + penalty * self._unit)[:, None]
        weights = (self._vectors @ shrunk) / self._scale[:, None]
        return Ridge(weights, self._target_mean - self._mean @ weights, penalty)


def indicators(labels: Tensor, classes: int) -> Tensor:
    """float64 [n, classes], 1 in the column of each label int64 [n]."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float64)
