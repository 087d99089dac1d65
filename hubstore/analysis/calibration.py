"""Measures of alignment of two sides' items, each beside what shuffled items give and calibrated by it.

Raw values depend on width and on the number of items: 32 independent states of 60 dimensions have a CKA above .5. What
counts is how far a value is above that of the same states with items shuffled (arXiv 2602.14486). All measures are of
matrices that are made once for a layer (`View`): Gram matrices, ranks, neighbors and principal components, of which
shuffling only permutes rows and columns. Expectations in closed form stand in for the mean over permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hubstore.analysis.results import Row
from hubstore.kernels import Edges, neighbor_weights
from hubstore.kernels.rows import unit_rows

COMPONENTS = 32
"""Most principal components of Procrustes, SVCCA and linear maps."""
ITEMS_PER_COMPONENT = 4
RIDGE = 1e-3  # of the mean variance of a component


@dataclass(frozen=True)
class View:
    """A layer's states of n items, as the measures need them; float64.

    Args:
        unit: [n, width], unit rows.
        gram: [n, n], centered, of Frobenius norm 1.
        unit_gram: the same of unit rows.
        ranks: [n, n], ranks of the cosines of different items, of mean 0 and norm 1; 0 on the diagonal.
        near: [n, n], weights of each item's k neighbors by cosine.
        cosines: [n, n].
        basis: [n, d], orthonormal: the items' leading principal components.
        components: [n, d], the same with their lengths, of Frobenius norm 1.
        k: neighbors.
    """

    unit: Tensor
    gram: Tensor
    unit_gram: Tensor
    ranks: Tensor
    near: Tensor
    cosines: Tensor
    basis: Tensor
    components: Tensor
    k: int

    def __len__(self) -> int:
        return len(self.unit)


def view(rows: Tensor, k: int, seed: int = 0) -> View:
    """A layer's states [n, width] as `compare` needs them, with k neighbors; `seed` draws among many tied ones."""
    unit = unit_rows(rows)
    n = len(unit)
    cosines = unit @ unit.T
    left, lengths, _ = torch.linalg.svd(_centered(rows.to(torch.float64)), full_matrices=False)
    basis = left[:, : max(1, min(COMPONENTS, n // ITEMS_PER_COMPONENT, left.shape[1]))]
    components = basis * lengths[: basis.shape[1]]
    grams = (_centered(side) for side in (rows.to(torch.float64), unit))
    gram, unit_gram = (_normalized(side @ side.T) for side in grams)
    near = dense(neighbor_weights(rows, k, seed=seed).edges, n)
    return View(unit, gram, unit_gram, _ranks(cosines), near, cosines, basis, _normalized(components), k)


def compare(x: View, y: View, orders: Tensor) -> Iterator[Row]:
    """A row of each measure: value, null_mean, calibrated and p_value.

    Args:
        x: of n items.
        y: of the same items.
        orders: int64 [R, n], permutations of y's items.
    """
    for (metric, variant), measure in measures(x, y).items():
        value = measure(torch.arange(len(x)))
        drawn = np.array([measure(order) for order in orders])
        known = expected(metric, variant, x, y)
        null = known if known is not None else (float(drawn.mean()) if len(drawn) else float("nan"))
        as_large = int((drawn >= value - 1e-12).sum())
        yield {
            "metric": metric,
            "variant": variant,
            "value": value,
            "null_mean": null,
            "calibrated": (value - null) / (1 - null) if null < 1 else float("nan"),
            "p_value": (1 + as_large) / (1 + len(drawn)) if len(drawn) else float("nan"),
        }


Measure = Callable[[Tensor], float]


def measures(x: View, y: View) -> dict[tuple[str, str], Measure]:
    """Each measure by name and variant, of an order of y's items int64 [n].

    "cka": linear CKA (Kornblith et al., 2019), biased as platonic-rep has it, of states and of unit rows. "rsa":
    Spearman correlation of cosines of different items (Kriegeskorte et al., 2008). "mutual_knn" and "cknna" (Huh et
    al., 2024). "procrustes": nuclear norm of the product of the sides' components (Williams et al., 2021). "svcca":
    mean canonical correlation of components (Raghu et al., 2017). "linear_r2": share of the variance of y's components
    that x's explain. "mapped_recall@1": of a half of the items, found by a ridge map fitted on the other. "mexa", where
    widths are the same: share of items that find one another first (Kargaran et al., 2024).
    """

    def permuted(matrix: Tensor, order: Tensor) -> Tensor:
        return matrix[order[:, None], order]

    def products(one: Tensor, other: Tensor) -> Measure:
        return lambda order: float((one * permuted(other, order)).sum())

    n, k = len(x), x.k
    own = [max(float(unbiased_hsic(side.near * side.cosines, side.near * side.cosines)), 0.0) for side in (x, y)]
    rows, columns = x.near.nonzero(as_tuple=True)  # what is no neighbor on x's side counts nowhere
    weights = x.near[rows, columns]

    def knn(order: Tensor) -> float:
        return float(weights @ y.near[order[rows], order[columns]]) / (n * k)

    def cknna(order: Tensor) -> float:
        near = y.near[order[rows], order[columns]]
        some = near > 0
        mask = torch.zeros_like(x.near)
        mask[rows[some], columns[some]] = weights[some] * near[some]
        i, j = rows[some], columns[some]
        both = _edge_hsic(mask, i, j, x.cosines[i, j], y.cosines[order[i], order[j]])
        return both / (float(np.sqrt(own[0] * own[1])) + 1e-6)

    found: dict[tuple[str, str], Measure] = {
        ("cka", "raw"): products(x.gram, y.gram),
        ("cka", "unit"): products(x.unit_gram, y.unit_gram),
        ("rsa", "raw"): products(x.ranks, y.ranks),
        ("mutual_knn", "raw"): knn,
        ("cknna", "raw"): cknna,
        ("procrustes", "raw"): lambda order: float(_singular(x.components, y.components[order]).sum()),
        ("svcca", "raw"): lambda order: float(_singular(x.basis, y.basis[order]).mean()),
        ("linear_r2", "raw"): lambda order: float((x.basis.T @ y.components[order]).square().sum()),
        ("mapped_recall@1", "raw"): lambda order: mapped_recall(x.components, y.components[order]),
    }
    if x.unit.shape[1] == y.unit.shape[1]:
        cosines = x.unit @ y.unit.T
        found["mexa", "raw"] = lambda order: mexa(cosines[:, order])
    return found


def expected(metric: str, variant: str, x: View, y: View) -> float | None:
    """A measure's mean over all permutations where it is known in closed form.

    Of two matrices the diagonals and what is off them are permuted among themselves: with rows that sum to 0 the mean
    of Σ Kᵢⱼ Lᵢⱼ is tr K tr L / (n - 1); with a diagonal of 0 it is ΣK ΣL / (n (n - 1)).
    """
    n = len(x)
    if metric == "cka":
        sides = (x.gram, y.gram) if variant == "raw" else (x.unit_gram, y.unit_gram)
        return float(sides[0].trace() * sides[1].trace()) / (n - 1)
    return {"rsa": 0.0, "mutual_knn": x.k / (n - 1), "linear_r2": x.basis.shape[1] / (n - 1)}.get(metric)


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Song et al. (2012), equation 5, of matrices [n, n] that need not be symmetric, as platonic-rep has it."""
    n = len(k)
    k, l = (side - torch.diag(side.diagonal()) for side in (k, l))  # noqa: E741
    crossed = k.sum(0) @ l.sum(1)
    whole = (k * l.T).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)
    return whole / (n * (n - 3))


def _edge_hsic(mask: Tensor, i: Tensor, j: Tensor, x: Tensor, y: Tensor) -> float:
    """`unbiased_hsic` of two symmetric matrices under a mask [n, n] that is 0 but at i, j, where they are x and y."""
    n, weights = len(mask), mask[i, j]
    k, l = weights * x, weights * y  # noqa: E741
    crossed = torch.bincount(j, k, n) @ torch.bincount(i, l, n)
    whole = k @ (mask[j, i] * y) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)
    return float(whole) / (n * (n - 3))


def mapped_recall(x: Tensor, y: Tensor) -> float:
    """recall@1 of every second item by a ridge map from x [n, d] to y [n, e] that is fitted on the others."""
    fitted, tested = slice(0, None, 2), slice(1, None, 2)
    gram = x[fitted].T @ x[fitted]
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    mapped = x[tested] @ torch.linalg.solve(gram + ridge, x[fitted].T @ y[fitted])
    cosines = unit_rows(mapped) @ unit_rows(y[tested]).T
    best = cosines.argmax(1)
    return float((best == torch.arange(len(best), device=best.device)).to(torch.float64).mean())


def mexa(cosines: Tensor) -> float:
    """Share of items whose match is nearer than any other both ways, of cosines [n, n]; a tie is not nearer."""
    others = cosines.clone().fill_diagonal_(-torch.inf)
    nearest = torch.maximum(others.amax(0), others.amax(1))
    return float((cosines.diagonal() > nearest).to(torch.float64).mean())


def dense(edges: Edges, n: int) -> Tensor:
    """Edges' weights as a matrix float64 [n, n]."""
    weights = torch.zeros(n, n, dtype=torch.float64, device=edges.weights.device)
    weights[edges.rows, edges.columns] = edges.weights
    return weights


def permutations(n: int, count: int, seed: int) -> Tensor:
    """int64 [count, n], the same for all layers and pairs of as many items."""
    rng = np.random.default_rng([seed, n])
    drawn = [rng.permutation(n) for _ in range(count)]
    return torch.from_numpy(np.stack(drawn) if drawn else np.empty((0, n), np.int64))


def _centered(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def _normalized(matrix: Tensor) -> Tensor:
    """Of Frobenius norm 1; NaN where it is 0, so that nothing is said of states that do not vary."""
    scaled: Tensor = matrix / torch.linalg.matrix_norm(matrix)
    return scaled


def _singular(x: Tensor, y: Tensor) -> Tensor:
    product = x.T @ y
    if not bool(torch.isfinite(product).all()):
        return torch.full((1,), torch.nan, dtype=x.dtype)
    values: Tensor = torch.linalg.svdvals(product)
    return values


def _ranks(cosines: Tensor) -> Tensor:
    """Ranks of the pairs of items, ties sharing theirs, of mean 0 and norm 1 over both triangles."""
    n = len(cosines)
    rows, columns = torch.triu_indices(n, n, 1, device=cosines.device)
    # Cosines that differ by less are those of equal rows.
    values = (cosines[rows, columns] * 1e12).round()
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    ranks = (last - (counts - 1) / 2)[group]
    matrix = torch.zeros_like(cosines)
    matrix[rows, columns] = ranks - ranks.mean()
    return _normalized(matrix + matrix.T)
