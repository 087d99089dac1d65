"""A long table of results as arrays: what was measured for two partitions, along the layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.quiet import ignored_warnings

Floats = npt.NDArray[np.float64]
Pair = tuple[str, str]
AXES = ("x", "y", "variant", "metric")


class Cube:
    """The numbers of one analysis by x, y, variant, metric and layer; NaN where the table has none.

    Args:
        table: of an analysis, in long form.
        layers: their order.
        columns: the numeric columns that are wanted beside value, low and high.
    """

    def __init__(self, table: pa.Table, layers: Sequence[str], columns: Sequence[str] = ()) -> None:
        encoded = [table[axis].combine_chunks().dictionary_encode() for axis in AXES]
        names = [column.dictionary.to_pylist() for column in encoded]
        self._places = [{name: place for place, name in enumerate(found)} for found in names]
        codes = [column.indices.to_numpy(zero_copy_only=False) for column in encoded]
        codes.append(pc.index_in(table["layer"], value_set=pa.array(layers)).to_numpy())
        self._values: dict[str, Floats] = {}
        for column in ("value", "low", "high", "n", *columns):
            self._values[column] = np.full([*map(len, names), len(layers)], np.nan)
            self._values[column][tuple(codes)] = table[column].cast(pa.float64()).to_numpy()
        self.layers = tuple(layers)
        self.pairs: tuple[Pair, ...] = tuple(
            dict.fromkeys(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))
        )

    def lines(self, column: str, pairs: Sequence[Pair], variant: str, metric: str) -> Floats:
        """float64 [pairs, layers] of a column."""
        xs, ys, variants, metrics = self._places
        out = np.full((len(pairs), len(self.layers)), np.nan)
        if variant in variants and metric in metrics:
            for row, (x, y) in enumerate(pairs):
                if x in xs and y in ys:
                    out[row] = self._values[column][xs[x], ys[y], variants[variant], metrics[metric]]
        return out

    def mean(self, column: str, pairs: Sequence[Pair], variant: str, metric: str) -> Floats:
        """float64 [layers]: the mean over the pairs that have the number.

        Of the bounds of intervals it is an interval of the mean: resamples are shared by the pairs, and the
        spread of a mean is no larger than the mean of the spreads, so that it covers at least as often.
        """
        return mean_over(self.lines(column, pairs, variant, metric))


def mean_over(lines: Floats) -> Floats:
    """Mean over the first axis of the numbers that are there; NaN where none is."""
    with ignored_warnings():  # numpy warns of a mean of nothing
        return np.asarray(np.nanmean(lines, axis=0))
