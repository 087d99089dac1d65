"""Where a difference is clearest, and whether that is more than chance, corrected for having picked the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.errors import AnalysisError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.result import Result, Row, make_table
from hubstore.plots.experiment import Plot
from hubstore.stats.bootstrap import Bootstrap

LEVEL = 0.95
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BestLayer:
    """The layer where some differences are most clearly above zero, all of them at once.

    Args:
        rows: of the table, one for each difference, at that layer: value, low and high (95 %, of this layer alone), n.
        bound: of the least clear of them, corrected for picking the best of all layers; see `best_layer`.
    """

    rows: tuple[Row, ...]
    bound: float

    @property
    def shown(self) -> bool:
        """Whether every corrected interval lies above zero."""
        return self.bound > 0

    @property
    def n(self) -> int:
        """Items that the first difference is over."""
        return int(self.rows[0]["n"])

    def words(self, depth: int | None = None) -> str:
        """The differences and their intervals as a headline, with the model's depth beside the layer where given."""
        found = "; ".join(f"{r['quantity']} {r['value']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in self.rows)
        of_depth = "" if depth is None else f" of {depth}"
        return f"{found} at layer {self.rows[0]['layer']}{of_depth}, n = {self.n:,}"


def best_layer(rows: Sequence[Row], quantities: Sequence[str], layers: Sequence[str]) -> BestLayer:
    """Where among `layers` some differences are all most clearly above zero.

    A 95 % interval of a mean is 1.96 standard errors to either side. Over m layers the lower bound is taken at as many
    standard errors as leave 2.5 % / m below (Bonferroni), so that the best of all m is wrongly above zero 2.5 times
    in a hundred at most. Several differences must all be above zero at one layer, which needs no further correction.

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
    # In standard errors: cosines and log-probabilities spread more at some layers than at others.
    best = max(found, key=lambda at_layer: min(map(standard_errors, at_layer)))
    return BestLayer(best, min(corrected_bound(row, len(among)) for row in best))


def corrected_bound(row: Row, places: int) -> float:
    """The lower bound of a row's value when the best of `places` is picked."""
    tail = (1 - LEVEL) / 2
    widen = NormalDist().inv_cdf(1 - tail / places) / NormalDist().inv_cdf(1 - tail)
    return float(row["value"] - widen * (row["value"] - row["low"]))


def standard_errors(row: Row) -> float:
    """How many of them a row's value is above zero."""
    error = (row["value"] - row["low"]) / NormalDist().inv_cdf((1 + LEVEL) / 2)
    if error > 0:
        return float(row["value"] / error)
    return float(np.copysign(np.inf, row["value"])) if row["value"] else 0.0  # a share may be 0 in every resample


def judge(
    context: ExperimentContext,
    rows: Sequence[Row],
    headlines: Sequence[str],
    plots: Sequence[Plot],
    notes: Sequence[str] = (),
    columns: Mapping[str, pa.DataType] | None = None,
) -> Result:
    """The result of a claim that is shown where all headlines are above zero at one intermediate layer."""
    best = best_layer(rows, headlines, context.intermediate)
    words = best.words(context.model.depth)
    return Result(best.shown, words, best.n, make_table(rows, columns), tuple(plots), tuple(notes))


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
        bounds = resampling.of_means(columns)
    else:
        _, group = np.unique(groups, return_inverse=True)
        sums = np.zeros((int(group.max()) + 1, columns.shape[1]))
        np.add.at(sums, group, columns)
        counts = np.repeat(np.bincount(group)[:, None], columns.shape[1], axis=1).astype(np.float64)
        bounds = resampling.of_ratios(sums, counts)
    return interval_rows(layer, list(values), columns.mean(0), bounds, len(columns))


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
