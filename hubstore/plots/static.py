"""Sections as PNGs, drawn by Matplotlib without a display."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from hubstore.errors import MissingDependencyError
from hubstore.plots.fonts import set_fonts
from hubstore.plots.interactive import name_ticks, ticks_of
from hubstore.plots.panels import STYLES, Curve, Grid, Panel, Points, Section, Shown
from hubstore.plots.points import draw_points
from hubstore.plots.text import in_matplotlib, layer_label
from hubstore.quiet import ignored_warnings

DPI = 150
PANEL_INCHES = (5.2, 4.0)
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^"}
MOST_WRITTEN = 16  # rows and columns of a grid whose cells have their numbers written in them


def require_matplotlib() -> None:
    """MissingDependencyError, naming the extra to install, where Matplotlib is not installed."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError('the report needs Matplotlib: `pip install "hubstore[report]"`') from error


def png(section: Section) -> bytes:
    """A section as it is shown at first, all of its panels in one image."""
    return panels_png([view.first for view in section.views])


def panels_png(shown: Sequence[Shown]) -> bytes:
    """Panels, grids and maps in one image."""
    columns = 1 if len(shown) == 1 else 3 if len(shown) > 4 else 2
    draws = [partial(_DRAWS[type(one)], one) for one in shown]
    return axes_png(draws, columns, _inches(shown))


def axes_png(
    draws: Sequence[Callable[[Any], None]],
    columns: int,
    inches: tuple[float, float],
    *,
    margin: tuple[float, float] = (0.0, 0.0),
    title: str = "",
    caption: str = "",
) -> bytes:
    """Some Matplotlib axes in one PNG, each drawn by a function of its own.

    Args:
        draws: take the axes.
        columns: axes across.
        inches: width and height of each.
        margin: inches beside all of them.
        title: above them.
        caption: below them.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(draws) // columns)
    size = (inches[0] * columns + margin[0], inches[1] * rows + margin[1])
    target = io.BytesIO()
    with ignored_warnings("Glyph .* missing from"):  # what is missing is said once, of all of the figure
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for place, draw in zip(axes, draws, strict=False):
            draw(place)
        for place in axes[len(draws) :]:
            place.set_axis_off()
        if title:
            figure.suptitle(in_matplotlib(title), fontsize=12)
        if caption:
            figure.supxlabel(in_matplotlib(caption), fontsize=8)
        set_fonts(figure)
        figure.savefig(target, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return target.getvalue()


def _inches(shown: Sequence[Shown]) -> tuple[float, float]:
    width, height = PANEL_INCHES
    for panel in shown:
        if isinstance(panel, Grid):
            width = max(width, min(14.0, 2.4 + 0.45 * len(panel.columns)))
            height = max(height, min(12.0, 1.4 + 0.34 * len(panel.rows)))
        elif isinstance(panel, Points):
            width, height = max(width, 8.0), max(height, 5.5)
    return width, height


def draw_panel(panel: Panel, axes: Any) -> None:
    """Curves with their bands, on axes."""
    from matplotlib.ticker import LogFormatter

    places = np.arange(len(panel.layers))
    for curve in panel.curves:
        _draw_curve(axes, places, curve)
    ticks = ticks_of(panel.layers)
    axes.set_xticks(ticks, [_label(panel.layers[place]) for place in ticks])
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("layer")
    axes.set_ylabel(in_matplotlib(panel.y_label))
    axes.set_title(in_matplotlib(panel.title), fontsize=11)
    if panel.log and any((curve.values > 0).any() for curve in panel.curves):
        axes.set_yscale("log")
        for part in ("major", "minor"):  # 2 and 5, not powers of ten
            getattr(axes.yaxis, f"set_{part}_formatter")(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    elif panel.limits is not None:
        spread = panel.limits[1] - panel.limits[0]
        axes.set_ylim(panel.limits[0] - 0.03 * spread, panel.limits[1] + 0.03 * spread)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "frameon": False}
    axes.legend(fontsize=8, ncols=min(3, len(panel.curves)), **below)


def _draw_curve(axes: Any, places: Any, curve: Curve) -> None:
    style = STYLES[curve.style]
    if curve.low is not None:
        axes.fill_between(places, curve.low, curve.high, color=style.color, alpha=0.18, linewidth=0)
    marker = MARKERS.get(style.marker, "")
    axes.plot(
        places,
        curve.values,
        color=style.color,
        linestyle=DASHES[style.dash],
        linewidth=1.6,
        marker=marker,
        markersize=4.5,
        label=in_matplotlib(curve.name),
    )
    if curve.hollow is not None and curve.hollow.any():
        axes.plot(
            places[curve.hollow],
            curve.values[curve.hollow],
            color=style.color,
            linestyle="",
            marker=marker,
            markersize=6.5,
            markerfacecolor="white",
            label="not resolved by the dtype",
        )


def draw_grid(grid: Grid, axes: Any) -> None:
    """A heat map on Matplotlib axes."""
    low, high = grid.limits
    image = axes.imshow(grid.values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    down, across = name_ticks(grid.rows), name_ticks(grid.columns)
    axes.set_yticks(down, [in_matplotlib(grid.rows[place]) for place in down], fontsize=8)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(across, [in_matplotlib(grid.columns[place]) for place in across], fontsize=8, **turned)
    axes.set_xlabel(in_matplotlib(grid.column_label))
    axes.set_ylabel(in_matplotlib(grid.row_label))
    axes.set_title(in_matplotlib(grid.title), fontsize=11)
    axes.figure.colorbar(image, ax=axes, label=in_matplotlib(grid.value_label))
    if max(grid.values.shape) > MOST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(grid.values):
        if np.isfinite(value):
            bright = high > low and (value - low) / (high - low) > 0.6
            text = f"{value:.2f}".replace("0.", ".", 1)
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if bright else "white")


_DRAWS: Mapping[type, Callable[[Any, Any], None]] = {Panel: draw_panel, Grid: draw_grid, Points: draw_points}


def _label(layer: str) -> str:
    return in_matplotlib(layer_label(layer)).replace(" (", "\n(")
