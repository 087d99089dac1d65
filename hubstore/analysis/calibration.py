"""Measures of alignment of two sides' items, each beside what shuffled items give and calibrated by it.

Raw values depend on width and on the number of items: 32 independent states of 60 dimensions have a CKA above .5. What
counts is how far a value is above that of the same states with items shuffled (arXiv 2602.14486). All measures are of
matrices that are made once for a layer (`View`): Gram matrices, ranks, neighbors and principal components, of which
shuffling only permutes rows and columns. Expectations in closed form stand in for the mean over permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hubstore.analysis.results import Row
from hubstore.errors import AnalysisError
from hubstore.kernels import Edges, neighbor_weights
from hubstore.kernels.rows import unit_rows

COMPONENTS = 32
"""Most principal components of Procrustes, SVCCA and linear maps."""
ITEMS_PER_COMPONENT = 4
RIDGE = 1e-3  # of the mean variance of a component
ROUNDING = 1e-12  # values as large but for it count as large
BLOCK = 1 << 22  # elements of permuted matrices at a time

Measure = tuple[str, str]


@dataclass(frozen=True, eq=False)
class View:
    """A layer's states of n items, and what the measures need of them, float64 and made when it is first asked for.

    Args:
        rows: [n, width], the states.
        k: neighbors.
        seed: draws among many tied ones.
    """

    rows: Tensor
    k: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def unit(self) -> Tensor:
        """[n, width], unit rows."""
        return unit_rows(self.rows)

    @cached_property
    def gram(self) -> Tensor:
        """[n, n], centered, of Frobenius norm 1."""
        return _gram(self.rows.to(torch.float64))

    @cached_property
    def unit_gram(self) -> Tensor:
        """The same of unit rows."""
        return _gram(self.unit)

    @cached_property
    def cosines(self) -> Tensor:
        """[n, n]."""
        return self.unit @ self.unit.T

    @cached_property
    def ranks(self) -> Tensor:
        """[n, n], ranks of the cosines of different items, of mean 0 and norm 1; 0 on the diagonal."""
        return _ranks(self.cosines)

    @cached_property
    def near(self) -> Tensor:
        """[n, n], weights of each item's k neighbors by cosine."""
        return dense(neighbor_weights(self.rows, self.k, seed=self.seed).edges, len(self))

    @cached_property
    def basis(self) -> Tensor:
        """[n, d], orthonormal: the items' leading principal components."""
        return self._leading[0]

    @cached_property
    def components(self) -> Tensor:
        """[n, d], the same with their lengths, of Frobenius norm 1."""
        basis, lengths = self._leading
        return _normalized(basis * lengths)

    @cached_property
    def _leading(self) -> tuple[Tensor, Tensor]:
        left, lengths, _ = torch.linalg.svd(_centered(self.rows.to(torch.float64)), full_matrices=False)
        count = max(1, min(COMPONENTS, len(self) // ITEMS_PER_COMPONENT, left.shape[1]))
        return left[:, :count], lengths[:count]


def compare(x: View, y: View, orders: Tensor, names: Sequence[Measure] | None = None) -> Iterator[Row]:
    """A row of each measure of two layers: value, null_mean, calibrated and p_value.

    Args:
        x: of n items.
        y: of the same items.
        orders: int64 [R, n], permutations of y's items.
        names: some of `MEASURES`; None for all that the two allow.
    """
    for name, values in permuted_values([x], [y], orders, names).items():
        yield row_of(name, values[0, 0], expected(*name, x, y))


def row_of(name: Measure, values: Tensor, known: float | None) -> Row:
    """A measure and its null as a row of results.

    Args:
        name: metric and variant.
        values: float64 [1 + R], as it is and in each permutation.
        known: its mean over all permutations, where there is a closed form; else it is that of those drawn.
    """
    value, drawn = float(values[0]), values[1:]
    null = known if known is not None else (float(drawn.mean()) if len(drawn) else float("nan"))
    as_large = int((drawn >= value - ROUNDING).sum())
    return {
        "metric": name[0],
        "variant": name[1],
        "value": value,
        "null_mean": null,
        "calibrated": (value - null) / (1 - null) if null < 1 else float("nan"),
        "p_value": (1 + as_large) / (1 + len(drawn)) if len(drawn) else float("nan"),
    }


def permuted_values(
    xs: Sequence[View], ys: Sequence[View], orders: Tensor, names: Sequence[Measure] | None = None
) -> dict[Measure, Tensor]:
    """Every measure of all pairs of layers, as the items are and in each permutation of y's.

    A permuted matrix of y is made once for all layers of x, and what is small is done for many permutations at once.

    Args:
        xs: layers, of the same n items.
        ys: layers of another side, of the same items.
        orders: int64 [R, n].
        names: some of `MEASURES`; None for all that the sides allow.

    Returns:
        By measure float64 [len(xs), len(ys), 1 + R]; MEXA's is left out where widths differ.
    """
    every = torch.cat([torch.arange(len(xs[0]))[None], orders]).to(xs[0].unit.device)
    found = {}
    for name in MEASURES if names is None else names:
        if name in PRODUCTS:
            own = torch.stack([getattr(x, PRODUCTS[name]).ravel() for x in xs])
            found[name] = torch.stack([_products(own, getattr(y, PRODUCTS[name]), every) for y in ys], 1)
        elif name[0] != "mexa" or xs[0].unit.shape[1] == ys[0].unit.shape[1]:
            measure = BY_PAIR[name]
            found[name] = torch.stack([torch.stack([measure(x, y, every) for y in ys]) for x in xs])
    return {name: values.cpu() for name, values in found.items()}


def expected(metric: str, variant: str, x: View, y: View) -> float | None:
    """A measure's mean over all permutations where it is known in closed form.

    Of two matrices the diagonals and what is off them are permuted among themselves: with rows that sum to 0 the mean
    of Σ Kᵢⱼ Lᵢⱼ is tr K tr L / (n - 1); with a diagonal of 0 it is ΣK ΣL / (n (n - 1)).
    """
    n = len(x)
    if metric == "cka":
        sides = (x.gram, y.gram) if variant == "raw" else (x.unit_gram, y.unit_gram)
        return float(sides[0].trace() * sides[1].trace()) / (n - 1)
    if metric == "linear_r2":
        return x.basis.shape[1] / (n - 1)
    return {"rsa": 0.0, "mutual_knn": x.k / (n - 1)}.get(metric)


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Song et al. (2012), equation 5, of matrices [n, n] that need not be symmetric, as platonic-rep has it."""
    n = len(k)
    k, l = (side - torch.diag(side.diagonal()) for side in (k, l))  # noqa: E741
    crossed = k.sum(0) @ l.sum(1)
    whole = (k * l.T).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)
    return whole / (n * (n - 3))


def _products(own: Tensor, other: Tensor, orders: Tensor) -> Tensor:
    """Σᵢⱼ Kᵢⱼ L[oᵢ, oⱼ] of matrices K, `own` [m, n²], and L, `other` [n, n], for each of R orders: [m, R]."""
    sums = [
        own @ torch.stack([other[order][:, order].ravel() for order in some]).T
        for some in torch.split(orders, max(1, BLOCK // own.shape[1]))
    ]
    return torch.cat(sums, 1)


def _in_blocks(measure: Callable[[Tensor], Tensor], orders: Tensor, elements: int) -> Tensor:
    """A measure [R] of some orders at a time, each of which takes so many elements."""
    return torch.cat([measure(some) for some in torch.split(orders, max(1, BLOCK // max(1, elements)))])


def mutual_knn(x: View, y: View, orders: Tensor) -> Tensor:
    """The share of neighbors that both sides have: [R]."""
    rows, columns = x.near.nonzero(as_tuple=True)  # what is no neighbor on x's side counts nowhere
    weights = x.near[rows, columns] / (len(x) * x.k)
    return _in_blocks(lambda some: y.near[some[:, rows], some[:, columns]] @ weights, orders, len(rows))


def cknna(x: View, y: View, orders: Tensor) -> Tensor:
    """`unbiased_hsic` of cosines under the mask of what is a neighbor on both sides, normalized: [R]."""
    own = [max(float(unbiased_hsic(side.near * side.cosines, side.near * side.cosines)), 0.0) for side in (x, y)]
    edges = x.near.nonzero(as_tuple=True)
    hsic = _in_blocks(lambda some: _masked_hsic(x, y, some, edges), orders, max(len(x), len(edges[0])))
    return hsic / (float(np.sqrt(own[0] * own[1])) + 1e-6)


def _masked_hsic(x: View, y: View, orders: Tensor, edges: tuple[Tensor, ...]) -> Tensor:
    """`unbiased_hsic` of cosines where both sides have an edge, of those that x has: [R]."""
    n, (i, j) = len(x), edges
    oi, oj = orders[:, i], orders[:, j]
    mask = x.near[i, j] * y.near[oi, oj]  # [R, edges]
    k, l = mask * x.cosines[i, j], mask * y.cosines[oi, oj]  # noqa: E741
    mutual = (k * (x.near[j, i] * y.near[oj, oi] * y.cosines[oj, oi])).sum(1)
    zeros = torch.zeros(len(orders), n, dtype=k.dtype, device=k.device)
    crossed = (zeros.index_add(1, j, k) * zeros.index_add(1, i, l)).sum(1)
    whole = mutual + k.sum(1) * l.sum(1) / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)
    return whole / (n * (n - 3))


def procrustes(x: View, y: View, orders: Tensor) -> Tensor:
    """The nuclear norm of the product of the sides' components: [R]."""
    size = y.components.numel()
    return _in_blocks(lambda some: _singular(x.components.T @ y.components[some]).sum(-1), orders, size)


def svcca(x: View, y: View, orders: Tensor) -> Tensor:
    """The mean canonical correlation of the sides' components: [R]."""
    return _in_blocks(lambda some: _singular(x.basis.T @ y.basis[some]).mean(-1), orders, y.basis.numel())


def linear_r2(x: View, y: View, orders: Tensor) -> Tensor:
    """The share of the variance of y's components that x's explain: [R]."""
    size = y.components.numel()
    return _in_blocks(lambda some: (x.basis.T @ y.components[some]).square().sum((-2, -1)), orders, size)


def mapped_recall(x: View, y: View, orders: Tensor) -> Tensor:
    """recall@1 of every second item by a ridge map of components that is fitted on the others: [R]."""
    fitted, tested = slice(0, None, 2), slice(1, None, 2)
    states = x.components[fitted]
    gram = states.T @ states
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = x.components[tested] @ torch.linalg.solve(gram + ridge, states.T)  # [tested, fitted]
    own = torch.arange(len(solved), device=gram.device)

    def recall(some: Tensor) -> Tensor:
        answers = y.components[some]
        cosines = unit_rows(solved @ answers[:, fitted]) @ unit_rows(answers[:, tested]).mT
        return (cosines.argmax(-1) == own).to(torch.float64).mean(-1)

    return _in_blocks(recall, orders, max(len(solved) ** 2, y.components.numel()))


def mexa(x: View, y: View, orders: Tensor) -> Tensor:
    """Share of items whose match is nearer than any other both ways; a tie is not nearer: [R]."""
    cosines = x.unit @ y.unit.T
    items = torch.arange(len(x), device=cosines.device)
    largest = [(side.topk(2, 1).values.T, side.argmax(1)) for side in (cosines, cosines.T)]

    def share(some: Tensor) -> Tensor:
        own = cosines[items, some]  # [R, n]
        clear = torch.ones_like(own, dtype=torch.bool)
        for ((first, second), best), asking, match in zip(
            largest, (items.expand_as(some), some), (some, items), strict=True
        ):
            clear &= own > torch.where(best[asking] == match, second[asking], first[asking])
        return clear.to(torch.float64).mean(1)

    return _in_blocks(share, orders, len(x))


PRODUCTS: Mapping[Measure, str] = {("cka", "raw"): "gram", ("cka", "unit"): "unit_gram", ("rsa", "raw"): "ranks"}
"""Sums of products of two matrices of a `View`."""

BY_PAIR: Mapping[Measure, Callable[[View, View, Tensor], Tensor]] = {
    ("mutual_knn", "raw"): mutual_knn,
    ("cknna", "raw"): cknna,
    ("procrustes", "raw"): procrustes,
    ("svcca", "raw"): svcca,
    ("linear_r2", "raw"): linear_r2,
    ("mapped_recall@1", "raw"): mapped_recall,
    ("mexa", "raw"): mexa,
}

MEASURES: tuple[Measure, ...] = (*PRODUCTS, *BY_PAIR)
"""Each measure by name and variant.

"cka": linear CKA (Kornblith et al., 2019), biased as platonic-rep has it, of states and of unit rows. "rsa": Spearman
correlation of cosines of different items (Kriegeskorte et al., 2008). "mutual_knn" and "cknna" (Huh et al., 2024).
"procrustes": nuclear norm of the product of the sides' components (Williams et al., 2021). "svcca": mean canonical
correlation of components (Raghu et al., 2017). "linear_r2": share of the variance of y's components that x's explain.
"mapped_recall@1": of a half of the items, found by a ridge map fitted on the other. "mexa", where widths are the same:
share of items that find one another first (Kargaran et al., 2024).
"""


def named_measures(names: Sequence[str] | None) -> tuple[Measure, ...]:
    """The measures called `names`, with all their variants; all where it is None.

    Raises:
        AnalysisError: a name that is none.
    """
    known = list(dict.fromkeys(metric for metric, _ in MEASURES))
    for name in names or ():
        if name not in known:
            raise AnalysisError(f"there is no measure {name!r}; choose from {', '.join(known)}")
    return tuple(one for one in MEASURES if names is None or one[0] in names)


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


def _gram(rows: Tensor) -> Tensor:
    centered = _centered(rows)
    return _normalized(centered @ centered.T)


def _normalized(matrix: Tensor) -> Tensor:
    """Of Frobenius norm 1; NaN where it is 0, so that nothing is said of states that do not vary."""
    scaled: Tensor = matrix / torch.linalg.matrix_norm(matrix)
    return scaled


def _singular(products: Tensor) -> Tensor:
    """The singular values of products [R, d, e], largest first; NaN where one is not finite."""
    if not bool(torch.isfinite(products).all()):
        return torch.full((len(products), 1), torch.nan, dtype=products.dtype)
    values: Tensor = torch.linalg.svdvals(products)
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
