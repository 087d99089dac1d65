"""Maps of items: points colored by a group, by Matplotlib and by Plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hubstore.plots.panels import BLUE, GOLD, GREEN, PURPLE, RED, Points
from hubstore.plots.text import in_matplotlib, in_plotly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]

LOOKS = tuple(
    (color, marker)
    for marker in (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"))
    for color in (BLUE, GOLD, GREEN, RED, PURPLE, "#56b4e9", "#7a5230")
)
"""Color and marker, of Matplotlib and of Plotly, of the groups of a map: 28 are told apart."""


def looks(groups: Sequence[str]) -> Mapping[str, tuple[str, tuple[str, str]]]:
    """A look for each group, in the order of their sizes."""
    names, counts = np.unique(np.array(groups, object).astype(str), return_counts=True)
    ordered = [str(names[n]) for n in np.argsort(-counts, kind="stable")]
    return {name: LOOKS[number % len(LOOKS)] for number, name in enumerate(ordered)}


def draw_points(points: Points, axes: Axes) -> None:
    """A map on Matplotlib axes."""
    groups = np.array(points.groups, object)
    for name, (color, (marker, _)) in looks(points.groups).items():
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
    axes.legend(fontsize=8, ncols=math.ceil(len(looks(points.groups)) / 16), **beside)


def points_figure(points: Points, kind: str = "scattergl") -> Json:
    """A map as Plotly's `data` and `layout`: a trace for each group."""
    texts = np.array([in_plotly(text) for text in points.texts], object)
    groups = np.array(points.groups, object)
    data = [
        {
            "type": kind,
            "mode": "markers",
            "name": in_plotly(name),
            **place,
            "text": texts[groups == name],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": color, "symbol": symbol, "size": 6, "opacity": 0.7},
        }
        for (name, (color, (_, symbol))), place in zip(looks(points.groups).items(), places(points), strict=True)
    ]
    none = {"showgrid": False, "zeroline": False, "showticklabels": False, "showline": False}
    return {"data": data, "layout": {"xaxis": none, "yaxis": {**none, "scaleanchor": "x"}}}


def places(points: Points) -> list[Json]:
    """x and y of each group's points, as `points_figure` has the groups."""
    groups = np.array(points.groups, object)
    return [dict(zip("xy", points.xy[groups == name].T, strict=True)) for name in looks(points.groups)]
