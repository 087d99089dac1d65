"""Two stores' layers against one another as heat maps: how alike each is to each, beyond chance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.analysis.between import BEST
from hubstore.plots.panels import Grid
from hubstore.plots.static import axes_png, draw_grid

INCHES, ACROSS = (6.2, 4.6), 2


def compare_grids(table: pa.Table, metric: str, variant: str = "raw") -> list[Grid]:
    """A heat map for every two stores of a table of `hubstore.compare`: means over partitions, calibrated.

    Args:
        table: of `hubstore.compare`.
        metric: a measure in it.
        variant: of that measure.
    """
    chosen = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["variant"], variant))
    return list(_grids(table.filter(pc.and_(chosen, pc.not_equal(table["layer"], BEST))), metric))


def _grids(table: pa.Table, metric: str) -> Iterator[Grid]:
    rows = table.select(["store_x", "store_y", "layer", "layer_y", "calibrated"]).to_pylist()
    for x, y in dict.fromkeys((row["store_x"], row["store_y"]) for row in rows):
        own = [row for row in rows if (row["store_x"], row["store_y"]) == (x, y)]
        down, across = (list(dict.fromkeys(row[side] for row in own)) for side in ("layer", "layer_y"))
        sums, counts = np.zeros((2, len(down), len(across)))
        for row in own:
            if row["calibrated"] is not None:
                place = down.index(row["layer"]), across.index(row["layer_y"])
                sums[place] += row["calibrated"]
                counts[place] += 1
        values = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        yield Grid(
            f"{x} and {y}",
            tuple(down),
            tuple(across),
            f"layer of {x}",
            f"layer of {y}",
            values,
            f"{metric.replace('_', ' ')}, calibrated: 0 by chance",
            (0.0, 1.0),
        )


def compare_png(table: pa.Table, metric: str, variant: str = "raw") -> bytes:
    """The heat maps in one image; MissingDependencyError where Matplotlib is not installed."""
    grids = compare_grids(table, metric, variant)
    return axes_png([partial(draw_grid, grid) for grid in grids], min(len(grids), ACROSS), INCHES)
