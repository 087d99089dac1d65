"""Panels, maps, heat maps and bars as Matplotlib axes of the caller's, or as Plotly figures."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hubstore.errors import MissingDependencyError, OptionError
from hubstore.plots.fonts import set_fonts
from hubstore.plots.interactive import panel_figure
from hubstore.plots.lens import HeatMap, draw_map
from hubstore.plots.panels import BLUE, GOLD, GREEN, PURPLE, RED, Panel
from hubstore.plots.static import PANEL_INCHES, draw_panel, require_matplotlib
from hubstore.plots.text import in_matplotlib, in_plotly, layer_label, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Backend = Literal["matplotlib", "plotly"]
Json = dict[str, Any]

LOOKS = tuple(
    (color, marker)
    for marker in (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"))
    for color in (BLUE, GOLD, GREEN, RED, PURPLE, "#56b4e9", "#7a5230")
)
"""Color and marker, of Matplotlib and of Plotly, of the groups of a map: 28 are told apart."""

SHOWN_CHARACTERS = 44


@dataclass(frozen=True)
class Points:
    """A map.

    Args:
        title: above it.
        xy: float32 [n, 2].
        groups: what each point is colored by [n].
        texts: of each point [n], told when it is pointed at.
    """

    title: str
    xy: npt.NDArray[np.float32]
    groups: Sequence[str]
    texts: Sequence[str]


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


def _looks(groups: Sequence[str]) -> Mapping[str, tuple[str, tuple[str, str]]]:
    """A look for each group, in the order of their sizes."""
    names, counts = np.unique(np.array(groups, object).astype(str), return_counts=True)
    ordered = [str(names[n]) for n in np.argsort(-counts, kind="stable")]
    return {name: LOOKS[number % len(LOOKS)] for number, name in enumerate(ordered)}


def _draw_points(points: Points, axes: Axes) -> None:
    groups = np.array(points.groups, object)
    for name, (color, (marker, _)) in _looks(points.groups).items():
        own = points.xy[groups == name]
        size = max(6.0, min(28.0, 12_000 / max(len(groups), 1)))
        axes.scatter(
            own[:, 0], own[:, 1], s=size, color=color, marker=marker, alpha=0.7, linewidths=0, label=in_matplotlib(name)
        )
    axes.set_title(in_matplotlib(points.title), fontsize=11)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    axes.legend(fontsize=8, ncols=math.ceil(len(_looks(points.groups)) / 16), **beside)


def _draw_bars(bars: Bars, axes: Axes) -> None:
    looks = _looks(bars.groups)
    places = np.arange(len(bars.names))
    axes.barh(places, bars.values, color=[looks[group][0] for group in bars.groups])
    axes.set_yticks(places, [in_matplotlib(visible(name, SHOWN_CHARACTERS)) for name in bars.names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(in_matplotlib(bars.label))
    axes.set_title(in_matplotlib(visible(bars.title, 2 * SHOWN_CHARACTERS)), fontsize=11)
    low = min(bars.values, default=0.0)
    axes.set_xlim(min(0.0, low) if low < 0.5 else max(0.0, low - 2 * (1 - low)), None)
    axes.spines[["top", "right"]].set_visible(False)


_DRAWN: Mapping[type, Callable[[Any, Any], None]] = {
    Panel: draw_panel,
    Points: _draw_points,
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


def _points_figure(points: Any) -> Json:
    groups, texts = np.array(points.groups, object), np.array([in_plotly(text) for text in points.texts], object)
    data = [
        {
            "type": "scattergl",
            "mode": "markers",
            "name": in_plotly(name),
            "x": points.xy[groups == name, 0],
            "y": points.xy[groups == name, 1],
            "text": texts[groups == name],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": color, "symbol": symbol, "size": 6, "opacity": 0.7},
        }
        for name, (color, (_, symbol)) in _looks(points.groups).items()
    ]
    none = {"showgrid": False, "zeroline": False, "showticklabels": False}
    return {"data": data, "layout": {"xaxis": none, "yaxis": {**none, "scaleanchor": "x"}}}


def _bars_figure(bars: Any) -> Json:
    looks = _looks(bars.groups)
    data = {
        "type": "bar",
        "orientation": "h",
        "x": list(bars.values),
        "y": [in_plotly(visible(name, SHOWN_CHARACTERS)) for name in bars.names],
        "marker": {"color": [looks[group][0] for group in bars.groups]},
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
    Points: _points_figure,
    Bars: _bars_figure,
    HeatMap: _map_figure,
}
