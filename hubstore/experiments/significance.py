"""Where a difference is clearest, and whether that is more than chance, corrected for having picked the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubstore.errors import AnalysisError
from hubstore.experiments.result import Row
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.verdicts import NO, TOO_FEW, YES, MaxTest, Verdict, sign_flip_test

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClusterValues:
    """What each cluster adds to a row's value, which is their mean; under "clusters" of a row, and not in a table.

    Args:
        ids: int64 [clusters], which they are: the same text or concept has one number at every layer.
        values: float64 [clusters].
    """

    ids: Ints
    values: Floats


@dataclass(frozen=True, eq=False)
class BestLayer:
    """The layer where some differences are most clearly above zero, all of them at once.

    Args:
        rows: of the table, one for each difference, at that layer: value, low and high (95 %, of this layer alone), n.
        test: of all layers and differences, by which the best of them was picked; see `best_layer`.
        place: of that layer among those tested.
        greatest: for each difference alone, its row at the layer where it is greatest.
    """

    rows: tuple[Row, ...]
    test: MaxTest
    place: int
    greatest: tuple[Row, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether all differences are above zero there, more clearly than the best layer is by chance."""
        return self.test.verdict

    @property
    def shown(self) -> bool:
        """Whether the verdict is "yes"."""
        return self.verdict == YES

    @property
    def n(self) -> int:
        """Items that the first difference is over."""
        return int(self.rows[0]["n"])

    def words(self, depth: int | None = None) -> str:
        """The differences and their intervals as a headline, with the model's depth beside the layer where given."""
        found = "; ".join(map(difference_words, self.rows))
        of_depth = "" if depth is None else f" of {depth}"
        p, clusters = self.test.p_by_layer[self.place], self.test.clusters
        of_clusters = "" if clusters == self.n else f" in {clusters:,} clusters"
        too_few = f"; {TOO_FEW}" if self.verdict == TOO_FEW else ""
        at = f"{found} at layer {self.rows[0]['layer']}{of_depth}"
        return f"{at}, n = {self.n:,}{of_clusters}, p = {p:.2g} over {len(self.test.p)} layers{too_few}"


def best_layer(rows: Sequence[Row], quantities: Sequence[str], layers: Sequence[str], seed: int = 0) -> BestLayer:
    """Where among `layers` some differences are all most clearly above zero, and whether that is more than chance.

    The test is `sign_flip_test` over all layers and differences at once, with the rows' clusters as observations: a
    layer counts where every difference has a family-wise p of 2.5 % at most.

    Args:
        rows: of `mean_rows`, or others that say under "clusters" what each cluster adds.
        quantities: the differences.
        layers: to pick from.
        seed: of the draws.

    Raises:
        AnalysisError: a difference has no value at any of the layers.
    """
    cells = {(row["layer"], row["quantity"]): row for row in rows}
    among = [layer for layer in layers if all((layer, quantity) in cells for quantity in quantities)]
    if not among:
        raise AnalysisError(
            f"{', '.join(quantities)}: no value at layers {', '.join(layers) or 'between the first and the last'}; "
            "a claim about intermediate layers needs a model of two blocks or more"
        )
    found = [tuple(cells[layer, quantity] for quantity in quantities) for layer in among]
    test = sign_flip_test(stacked_clusters(found), seed=seed)
    greatest = tuple(max(rows, key=lambda row: row["value"]) for rows in zip(*found, strict=True))
    return BestLayer(found[test.best], test, test.best, greatest)


def difference_words(row: Row) -> str:
    """A difference and its interval."""
    return f"{row['quantity']} {row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def stacked_clusters(rows: Sequence[Sequence[Row]]) -> Floats:
    """float64 [clusters, layers, quantities] of rows by layer and quantity; NaN where a cluster has no value."""
    every: list[list[ClusterValues]] = [[row["clusters"] for row in at_layer] for at_layer in rows]
    known = np.unique(np.concatenate([one.ids for at_layer in every for one in at_layer]))
    stacked = np.full((len(known), len(every), len(every[0])), np.nan)
    for layer, at_layer in enumerate(every):
        for quantity, one in enumerate(at_layer):
            stacked[np.searchsorted(known, one.ids), layer, quantity] = one.values
    return stacked


def joint(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim that holds where several do: no where one does not."""
    if all(one == YES for one in verdicts):
        return YES
    return NO if NO in verdicts else TOO_FEW


def with_differences(values: Mapping[str, Floats], headlines: Sequence[str]) -> dict[str, Floats]:
    """The values, and under each headline "a - b" the difference of those two."""
    pairs = {headline: headline.split(" - ") for headline in headlines}
    return {**values, **{headline: values[more] - values[less] for headline, (more, less) in pairs.items()}}


def mean_rows(layer: str, values: Mapping[str, Floats], resampling: Bootstrap, groups: Ints | None = None) -> list[Row]:
    """Rows of means over items with their intervals.

    Args:
        layer: a layer's name.
        values: quantity to float64 [n].
        resampling: of the items.
        groups: int [n], the text or program that each item is from; whole groups are resampled, since positions of
            one text resemble one another. None where items are independent.
    """
    columns = np.stack(list(values.values()), axis=1)
    if groups is None:
        bounds, ids, means = resampling.of_means(columns), np.arange(len(columns)), columns
    else:
        ids, group = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(ids), columns.shape[1]))
        np.add.at(sums, group, columns)
        counts = np.repeat(np.bincount(group)[:, None], columns.shape[1], axis=1).astype(np.float64)
        bounds, means = resampling.of_ratios(sums, counts), sums * (len(ids) / len(columns))
    rows = interval_rows(layer, list(values), columns.mean(0), bounds, len(columns))
    return with_clusters(rows, means, ids)


def with_clusters(rows: Sequence[Row], values: Floats, ids: Ints | None = None) -> list[Row]:
    """The rows with what each cluster adds to them, for `best_layer`.

    Args:
        rows: of one layer, m quantities.
        values: float64 [clusters, m], whose means are the rows' values: for an estimate with Hájek projections
            `shares`, value + shares - shares.mean(0).
        ids: int64 [clusters], the same at every layer; by default clusters are numbered.
    """
    numbers = np.arange(len(values)) if ids is None else ids
    return [{**row, "clusters": ClusterValues(numbers, column)} for row, column in zip(rows, values.T, strict=True)]


def of_clusters(rows: Sequence[Row], ids: Ints) -> list[Row]:
    """The rows of some clusters alone, under their own numbers: the k-th of them is cluster ids[k] of all.

    Rows of all clusters and of some are stacked and led one by one, and a number stands for one text in all of them.
    """
    return [{**row, "clusters": ClusterValues(ids[row["clusters"].ids], row["clusters"].values)} for row in rows]


def estimate_rows(
    layer: str,
    quantities: Sequence[str],
    values: Floats,
    shares: Floats,
    resampling: Bootstrap,
    n: int | Sequence[int],
) -> list[Row]:
    """Rows of m estimates, with intervals and clusters from each cluster's Hájek projection.

    Args:
        layer: its name.
        quantities: m names.
        values: float64 [m].
        shares: float64 [clusters, m], each cluster's first-order share in the values.
        resampling: of the clusters.
        n: items that each is over.
    """
    rows = interval_rows(layer, quantities, values, resampling.of_estimates(values, shares), n)
    return with_clusters(rows, values + shares - shares.mean(0))


def interval_rows(
    layer: str, quantities: Sequence[str], values: Floats, bounds: Floats, n: int | Sequence[int]
) -> list[Row]:
    """Rows of a layer's m quantities.

    Args:
        layer: its name.
        quantities: m names.
        values: float64 [m].
        bounds: float64 [2, m], low and high.
        n: items that each is over.
    """
    counts = [n] * len(quantities) if isinstance(n, int) else n
    return [
        {"layer": layer, "quantity": name, "value": value, "low": low, "high": high, "n": count}
        for name, value, low, high, count in zip(
            quantities, values.tolist(), *np.asarray(bounds).tolist(), counts, strict=True
        )
    ]
