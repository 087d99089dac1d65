"""Where a difference is clearest, and whether that is more than chance, corrected for having picked the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hubstore.errors import AnalysisError
from hubstore.experiments.outcome import Row
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.experiments.lab import Lab

LEVEL = 0.95
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """The layer where some differences are most clearly above zero, all of them at once.

    Args:
        rows: of the table, one for each difference, at that layer: value, low and high (95 %, of this layer alone), n.
        bound: of the least clear of them, corrected for picking the best of all layers; see `peak`.
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

    def words(self, lab: Lab) -> str:
        """The differences and their intervals as a headline."""
        found = "; ".join(f"{r['quantity']} {r['value']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in self.rows)
        return f"{found} at layer {self.rows[0]['layer']} of {lab.model.depth}, n = {self.n:,}"


def peak(rows: Sequence[Row], quantities: Sequence[str], layers: Sequence[str]) -> Peak:
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
    return Peak(best, min(corrected_bound(row, len(among)) for row in best))


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


def mean_rows(layer: str, values: Mapping[str, Floats], resampling: Bootstrap, groups: Ints | None = None) -> list[Row]:
    """Rows of means over items with their intervals.

    Args:
        layer: a layer's name.
        values: quantity to float64 [n].
        resampling: of the items.
        groups: int [n], the text or program that each item is from; whole groups are resampled, since positions of
            one text are alike. None where items are independent.
    """
    columns = np.stack(list(values.values()), axis=1)
    if groups is None:
        low, high = resampling.of_means(columns)
    else:
        _, group = np.unique(groups, return_inverse=True)
        sums = np.zeros((int(group.max()) + 1, columns.shape[1]))
        np.add.at(sums, group, columns)
        counts = np.repeat(np.bincount(group)[:, None], columns.shape[1], axis=1).astype(np.float64)
        low, high = resampling.of_ratios(sums, counts)
    return [
        {"layer": layer, "quantity": name, "value": float(mean), "low": float(below), "high": float(above), "n": len(v)}
        for (name, v), mean, below, above in zip(values.items(), columns.mean(0), low, high, strict=True)
    ]
