"""Panels, maps, heat maps and bars as Matplotlib axes of the caller's, or as Plotly figures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hubstore.errors import MissingDependencyError, OptionError
from hubstore.plots.fonts import set_fonts
from hubstore.plots.interactive import panel_figure
from hubstore.plots.lens import HeatMap, draw_map
from hubstore.plots.panels import Panel, Points
from hubstore.plots.points import draw_points, looks, points_figure
from hubstore.plots.static import PANEL_INCHES, draw_panel, require_matplotlib
from hubstore.plots.text import in_matplotlib, in_plotly, layer_label, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Backend = Literal["matplotlib", "plotly"]
Json = dict[str, Any]

SHOWN_CHARACTERS = 44


@dataclass(frozen=True)
class Bars:
    """Numbers with names, the first on top.

    Args:
        title: above it.
        label: quantity and unit.
        names: of the bars.
        values: [bars].
        groups: what each is colored by [bars].
    """

    title: str
    label: str
    names: Sequence[str]
    values: Sequence[float]
    groups: Sequence[str]


Shown = Panel | Points | Bars | HeatMap


def figure_of(shown: Shown, ax: Axes | None, backend: str) -> Any:
    """Matplotlib axes with what is shown, new ones where `ax` is None; or a Plotly figure.

    Raises:
        OptionError: an unknown backend, or axes for Plotly.
        MissingDependencyError: the backend's library is not installed.
    """
    if backend == "plotly":
        if ax is not None:
            raise OptionError("axes are Matplotlib's, and backend is 'plotly'; leave ax out, or draw with 'matplotlib'")
        return _plotly(shown)
    if backend != "matplotlib":
        raise OptionError(f"backend is {backend!r}; draw with 'matplotlib' or 'plotly'")
    require_matplotlib()
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=_inches(shown), layout="constrained")[1]
    _DRAWN[type(shown)](shown, ax)
    set_fonts(ax.figure)
    return ax


def _inches(shown: Shown) -> tuple[float, float]:
    if isinstance(shown, HeatMap):
        return max(4.0, 1.6 + 0.78 * len(shown.pieces)), 1.4 + 0.25 * len(shown.layers)
    if isinstance(shown, Bars):
        return PANEL_INCHES[0] * 1.4, 1.2 + 0.3 * len(shown.names)
    return PANEL_INCHES


def _draw_bars(bars: Bars, axes: Axes) -> None:
    colors = looks(bars.groups)
    places = np.arange(len(bars.names))
    axes.barh(places, bars.values, color=[colors[group][0] for group in bars.groups])
    axes.set_yticks(places, [in_matplotlib(visible(name, SHOWN_CHARACTERS)) for name in bars.names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(in_matplotlib(bars.label))
    axes.set_title(in_matplotlib(visible(bars.title, 2 * SHOWN_CHARACTERS)), fontsize=11)
    low = min(bars.values, default=0.0)
    axes.set_xlim(min(0.0, low) if low < 0.5 else max(0.0, low - 2 * (1 - low)), None)
    axes.spines[["top", "right"]].set_visible(False)


_DRAWN: Mapping[type, Callable[[Any, Any], None]] = {
    Panel: draw_panel,
    Points: draw_points,
    Bars: _draw_bars,
    HeatMap: draw_map,
}


def _plotly(shown: Shown) -> Any:
    try:
        graph_objects = importlib.import_module("plotly.graph_objects")
    except ImportError as error:
        raise MissingDependencyError('figures need Plotly: `pip install "hubstore[report]"`') from error
    drawn = _FIGURES[type(shown)](shown)
    layout = {**drawn["layout"], "title": {"text": in_plotly(shown.title)}}
    layout["margin"] = {**layout.get("margin", {}), "t": 70}
    return graph_objects.Figure({"data": drawn["data"], "layout": layout})


def _bars_figure(bars: Any) -> Json:
    colors = looks(bars.groups)
    data = {
        "type": "bar",
        "orientation": "h",
        "x": list(bars.values),
        "y": [in_plotly(visible(name, SHOWN_CHARACTERS)) for name in bars.names],
        "marker": {"color": [colors[group][0] for group in bars.groups]},
    }
    axes = {"xaxis": {"title": {"text": in_plotly(bars.label)}}, "yaxis": {"autorange": "reversed", "automargin": True}}
    return {"data": [data], "layout": axes}


def _map_figure(shown: Any) -> Json:
    data = {
        "type": "heatmap",
        "z": shown.shades,
        "text": [[in_plotly(word) for word in line] for line in shown.words],
        "texttemplate": "%{text}",
        "hovertext": [[in_plotly(cell).replace("\n", "<br>") for cell in line] for line in shown.details],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorscale": "Oranges",
        "zmin": 0.0,
        "zmax": 1.25,
        "colorbar": {"title": {"text": in_plotly(shown.scale)}},
    }
    layout = {
        "xaxis": {
            "tickvals": list(range(len(shown.pieces))),
            "ticktext": [in_plotly(piece) for piece in shown.pieces],
            "side": "top",
        },
        "yaxis": {
            "tickvals": list(range(len(shown.layers))),
            "ticktext": [in_plotly(layer_label(layer)) for layer in shown.layers],
            "title": {"text": "layer"},
        },
    }
    return {"data": [data], "layout": layout}


_FIGURES: Mapping[type, Callable[[Any], Json]] = {
    Panel: panel_figure,
    Points: points_figure,
    Bars: _bars_figure,
    HeatMap: _map_figure,
}
