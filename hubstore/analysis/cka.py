"""Debiased linear CKA: the unbiased HSIC of Song et al. (2012) and each item's share in it.

HSIC₁(K, L) is the mean over items of h(K, L)ᵢ = Σⱼ Ũᵢⱼ Ṽᵢⱼ / (n - 3), with Ũ and Ṽ the U-centered Gram matrices
(Székely and Rizzo, 2014): zero on the diagonal, rows summing to zero. Nguyen et al. (2021) and Murphy et al.
(2024) divide it as CKA divides HSIC. The Gram matrices are formed where they are no larger than the feature
covariances, otherwise all comes from products of features; the values are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.stats import blocks as fixed

Blocks = Callable[[], Iterator[Tensor]]
FEWEST = 4  # items that the unbiased HSIC is defined for


@dataclass(frozen=True)
class Side:
    """One side of a comparison: n items with centered states.

    Args:
        blocks: gives the states anew, float64 pieces [b, width] in order.
        gram: the U-centered Gram matrix [n, n], or None where n > width.
        diagonal: Kᵢᵢ [n].
        row_means: Σⱼ≠ᵢ Kᵢⱼ / (n - 2), [n].
        own: h(K, K) [n].
    """

    blocks: Blocks
    gram: Tensor | None
    diagonal: Tensor
    row_means: Tensor
    own: Tensor


def side(blocks: Blocks) -> Side:
    """Prepare the states that `blocks` gives for `shares`."""
    diagonal = fixed.concat_blocks(lambda block: block.square().sum(1), blocks())
    n, width = len(diagonal), next(blocks()).shape[1]
    row_means = _times(blocks, diagonal, torch.ones_like(diagonal)) / (n - 2)
    gram = None
    if n <= width:
        total = fixed.mean(row_means) * n / (n - 1)
        (products,) = fixed.map_blocks(lambda rows: rows @ rows.T, [torch.cat(list(blocks()))])
        gram = (products - row_means[:, None] - row_means + total).fill_diagonal_(0)
    bare = Side(blocks, gram, diagonal, row_means, diagonal)
    return Side(blocks, gram, diagonal, row_means, shares(bare, bare))


def shares(x: Side, y: Side) -> Tensor:
    """h(K, L) [n], float64, whose mean is the unbiased HSIC."""
    n = len(x.diagonal)
    if x.gram is not None and y.gram is not None:
        return (x.gram * y.gram).sum(1) / (n - 3)
    # A row of Ũ sums to zero, so that of Ṽᵢⱼ only Lᵢⱼ and its column's mean sⱼ count:
    # Σⱼ≠ᵢ (Kᵢⱼ - rᵢ - rⱼ + t)(Lᵢⱼ - sⱼ), multiplied out.
    covariance = fixed.sum_blocks(lambda a, b: a.T @ b, x.blocks(), y.blocks())
    products = fixed.concat_blocks(lambda a, b: ((a @ covariance) * b).sum(1), x.blocks(), y.blocks())
    r, s, t = x.row_means, y.row_means, fixed.mean(x.row_means) * n / (n - 1)
    total = (
        (products - x.diagonal * y.diagonal)
        - _times(x.blocks, x.diagonal, s)
        - _times(y.blocks, y.diagonal, r)
        + (t - r) * ((n - 2) * s - (fixed.mean(s) * n - s))
        + (fixed.mean(r * s) * n - r * s)
    )
    return total / (n - 3)


def cka(x: Side, y: Side) -> tuple[float, Tensor]:
    """Debiased linear CKA of two sides with the same n >= 4 items in the same order.

    Returns:
        The value, near 0 for independent states and 1 for equal ones, NaN where a side does not vary; and each
        item's Hájek projection up to a constant, float64 [n]: HSIC's is 2h, and centering, whose derivative is
        orthogonal to the other side's centered kernel, adds nothing.
    """
    between = shares(x, y)
    own_x, own_y = fixed.mean(x.own), fixed.mean(y.own)
    if own_x <= 0 or own_y <= 0:
        return float("nan"), torch.full_like(between, torch.nan)
    scale = (own_x * own_y) ** 0.5
    value = fixed.mean(between) / scale
    return value, 2 * between / scale - value * (x.own / own_x + y.own / own_y)


def _times(blocks: Blocks, diagonal: Tensor, vector: Tensor) -> Tensor:
    """Σⱼ≠ᵢ Kᵢⱼ vⱼ [n]."""
    pieces = torch.split(vector, [len(block) for block in blocks()])
    weighted = fixed.sum_blocks(lambda block, piece: block.T @ piece, blocks(), pieces)
    return fixed.concat_blocks(lambda block: block @ weighted, blocks()) - diagonal * vector
