"""An experiment's figure: quantities over the layers, their intervals shaded, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.plots.interactive import ticks_of
from hubstore.plots.panels import BLUE, GOLD, GRAY, GREEN, PURPLE, RED
from hubstore.plots.static import axes_png
from hubstore.plots.text import in_matplotlib

INCHES = (6.2, 4.4)
MOST_ACROSS = 4
LOOKS = tuple(zip((BLUE, GOLD, GREEN, RED, PURPLE, GRAY), "osD^vX", strict=True))


@dataclass(frozen=True)
class Plot:
    """A panel of the figure: some quantities of the table.

    Args:
        title: above it.
        y_label: quantity and unit.
        quantities: those drawn, in order.
        x: the column across.
        x_label: what that is.
    """

    title: str
    y_label: str
    quantities: tuple[str, ...]
    x: str = "layer"
    x_label: str = "layer"


def experiment_png(table: pa.Table, plots: Sequence[Plot], title: str) -> bytes:
    """Plots of an experiment's table side by side; MissingDependencyError where Matplotlib is not installed."""
    draws = [partial(_draw, plot, table) for plot in plots]
    return axes_png(draws, min(len(plots), MOST_ACROSS), INCHES, title=title)


def _draw(plot: Plot, table: pa.Table, axes: Any) -> None:
    drawn = table.filter(pc.is_in(table["quantity"], pa.array(plot.quantities)))
    across = list(dict.fromkeys(drawn[plot.x].to_pylist()))
    for quantity, (color, marker) in zip(plot.quantities, LOOKS, strict=False):
        rows = [row for row in drawn.to_pylist() if row["quantity"] == quantity and row["value"] is not None]
        places = [across.index(row[plot.x]) for row in rows]
        values = [row["value"] for row in rows]
        bounds = [[row["value"] if row[side] is None else row[side] for row in rows] for side in ("low", "high")]
        axes.fill_between(places, *bounds, color=color, alpha=0.18, linewidth=0)
        label = in_matplotlib(quantity)
        axes.plot(places, values, color=color, marker=marker, markersize=4, linewidth=1.6, label=label)
    ticks = ticks_of(tuple(map(str, across)))
    axes.set_xticks(ticks, [in_matplotlib(str(across[place])) for place in ticks])
    axes.set_xlabel(in_matplotlib(plot.x_label))
    axes.set_ylabel(in_matplotlib(plot.y_label))
    axes.set_title(in_matplotlib(plot.title), fontsize=10)
    if axes.get_ylim()[0] < 0 < axes.get_ylim()[1]:
        axes.axhline(0, color="black", linewidth=0.6)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
