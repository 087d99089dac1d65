"""Maps that take the language out of states: fitted on some items, applied to any.

Each removes a few directions and leaves all else: x - (x - mean) right left, of rank at most the number of languages
less one for LSAR and LEACE, and of any for INLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.stats.ridge import fit_ridge, indicators

ROUNDS = 12
"""Most classifiers of INLP."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of a direction
TOLERANCE = 1e-10
"""Of the greatest eigenvalue, below which a direction is taken for one that does not vary."""


@dataclass(frozen=True)
class Eraser:
    """A projection, oblique where left and right differ.

    Args:
        right: float64 [width, r], what is read.
        left: float64 [r, width], what is taken away.
        mean: float64 [width], which stays where it is.
    """

    right: Tensor
    left: Tensor
    mean: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """The rows [..., width] without the directions."""
        return rows - (rows - self.mean) @ self.right @ self.left

    def to(self, device: torch.device, dtype: torch.dtype) -> Eraser:
        """The same on a device, in a dtype."""
        return Eraser(self.right.to(device, dtype), self.left.to(device, dtype), self.mean.to(device, dtype))

    @property
    def directions(self) -> int:
        """How many are removed."""
        return self.right.shape[1]


def orthogonal(basis: Tensor) -> Eraser:
    """The eraser of the directions in the columns of an orthonormal basis [width, r]."""
    return Eraser(basis, basis.T, torch.zeros(len(basis), dtype=basis.dtype, device=basis.device))


def lsar(means: Tensor, k: int) -> Eraser:
    """Low-rank subtraction (Xie et al., 2022, algorithm 1): the k directions along which languages' means differ most.

    The means are approximated by one common vector and k directions; the common vector is then taken orthogonal to
    these, so that removing the directions leaves it.

    Args:
        means: float64 [languages, width], of each language's fitted items.
        k: at most languages - 1; fewer where the means do not span as many.
    """
    first = means.mean(0)
    left, values, right = torch.linalg.svd(means - first, full_matrices=False)
    rank = min(k, int((values > values[0] * TOLERANCE).sum()))
    low = first + left[:, :rank] * values[:rank] @ right[:rank]
    # The vector with which every language's mean has one product: differences of means are orthogonal to it.
    inverse = torch.linalg.pinv(low, rtol=TOLERANCE).sum(1)
    common = inverse / inverse.square().sum()
    _, _, right = torch.linalg.svd(low - common, full_matrices=False)
    return orthogonal(right[:rank].T)


def leace(rows: Tensor, labels: Tensor, classes: int) -> Eraser:
    """Least-squares concept erasure (Belrose et al., 2023, theorem 4.3): no linear map finds the label any more.

    r(x) = x - W⁺ P W (x - E x), with W = (Σ_xx^½)⁺ and P the orthogonal projection on the columns of W Σ_xz.

    Args:
        rows: float64 [n, width].
        labels: int64 [n].
        classes: how many there are.
    """
    mean = rows.mean(0)
    centered = rows - mean
    z = indicators(labels, classes)
    covariance, crossed = centered.T @ centered / len(rows), centered.T @ (z - z.mean(0)) / len(rows)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * TOLERANCE
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    whitened = vectors @ ((vectors.T @ crossed) / roots[:, None])
    left, sizes, _ = torch.linalg.svd(whitened, full_matrices=False)
    basis = left[:, sizes > max(float(sizes[0]) * TOLERANCE**0.5, torch.finfo(sizes.dtype).tiny)]
    rotated = vectors.T @ basis
    return Eraser(vectors @ (rotated / roots[:, None]), (vectors @ (rotated * roots[:, None])).T, mean)


def inlp(rows: Tensor, labels: Tensor, classes: int, held: Tensor) -> Eraser:
    """Iterative nullspace projection (Ravfogel et al., 2020): what one linear classifier after another reads.

    Classifiers are ridge regressions on class indicators. It ends where one is no better on held rows than chance by
    two standard errors, or after ROUNDS.

    Args:
        rows: float64 [n, width].
        labels: int64 [n].
        classes: how many there are.
        held: bool [n], rows that no classifier is fitted on.
    """
    basis = torch.zeros(rows.shape[1], 0, dtype=rows.dtype, device=rows.device)
    count = int(held.sum())
    enough = 1 / classes + 2 * (1 / classes * (1 - 1 / classes) / max(count, 1)) ** 0.5
    inner = torch.arange(int((~held).sum()), device=held.device) % 4 == 3
    for _ in range(ROUNDS):
        left = rows - rows @ basis @ basis.T
        found = fit_ridge(left[~held], indicators(labels[~held], classes), inner, PENALTIES, scaled=False)
        if float((found(left[held]).argmax(1) == labels[held]).to(torch.float64).mean()) <= enough:
            break
        spanned, sizes, _ = torch.linalg.svd(
            torch.cat([basis, found.weights / found.weights.norm()], 1), full_matrices=False
        )
        grown = spanned[:, sizes > float(sizes[0]) * TOLERANCE**0.5]
        if grown.shape[1] == basis.shape[1]:
            break
        basis = grown
    return orthogonal(basis)
