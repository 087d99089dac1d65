"""Sections as Plotly figures: data, layout, and what each choice changes, as plain JSON-able mappings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from hubstore.plots.cube import Floats
from hubstore.plots.panels import STYLES, Curve, Grid, Panel, Points, Shown, View
from hubstore.plots.points import places, points_figure
from hubstore.plots.text import in_plotly, layer_label, visible

Json = dict[str, Any]
HEIGHT = 310  # of a panel, without its legend
LEGEND_ROW = 22
MOST_TICKS = 9
MOST_NAMES = 48
PLOTLY = "plotly-cartesian.min.js"
DIGITS = 4
"""Significant ones of what is drawn: none of more could be seen."""


def plotly_js() -> str:
    """Plotly's JavaScript, of the charts that have x and y axes."""
    return resources.files("hubstore.plots").joinpath("plotly", PLOTLY).read_text(encoding="utf-8")


def figure(view: View) -> Json:
    """A view as `data` and `layout`, the roles that it obeys, and by choice ("2.0") what changes."""
    drawn = _drawn(view.first)
    updates = {".".join(map(str, choice)): _update(shown) for choice, shown in view.shown.items()}
    return {**drawn, "uses": list(view.uses), "updates": updates if len(updates) > 1 else {}}


def _drawn(shown: Shown) -> Json:
    if isinstance(shown, Panel):
        return panel_figure(shown)
    return grid_figure(shown) if isinstance(shown, Grid) else map_figure(shown)


def panel_figure(panel: Panel) -> Json:
    """Curves with their bands."""
    places = list(range(len(panel.layers)))
    data = [{**trace, "x": places} for curve in panel.curves for trace in _curve(curve)]
    ticks = ticks_of(panel.layers)
    y_axis: Json = {"title": {"text": panel.y_label, "standoff": 8}, "zeroline": False}
    if panel.log:
        y_axis |= {"type": "log"}
    elif panel.limits is not None:
        spread = panel.limits[1] - panel.limits[0]
        y_axis["range"] = [panel.limits[0] - 0.03 * spread, panel.limits[1] + 0.03 * spread]
    layout = {
        "height": HEIGHT + LEGEND_ROW * len(panel.curves),
        "margin": {"l": 62, "r": 48 if "(" in layer_label(panel.layers[-1]) else 14, "t": 30, "b": 62},
        "hovermode": "x unified",
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": {
            "title": {"text": "layer", "standoff": 6},
            "tickvals": ticks,
            "ticktext": [tick_label(panel.layers[place]) for place in ticks],
            "tickangle": 0,
            "range": [-0.4, len(places) - 0.6],
            "zeroline": False,
            "unifiedhovertitle": {"text": "layer %{x}"},
        },
        "yaxis": y_axis,
    }
    return {"data": data, "layout": layout}


def grid_figure(grid: Grid) -> Json:
    """A heat map, its first row at the top."""
    down, across = name_ticks(grid.rows), ticks_of(grid.columns) if grid.over_layers else name_ticks(grid.columns)
    data = {
        "type": "heatmap",
        "z": _matrix(grid.values),
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "zmin": rounded(grid.limits[0]),
        "zmax": rounded(grid.limits[1]),
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0},
    }
    layout = {
        "height": min(760, max(HEIGHT, 110 + 26 * len(grid.rows))),
        "margin": {"l": 20, "r": 10, "t": 30, "b": 20},
        "dragmode": False,
        "xaxis": {
            "title": {"text": in_plotly(grid.column_label), "standoff": 6},
            "tickvals": across,
            "ticktext": [in_plotly(grid.columns[place]).replace(" (", "<br>(") for place in across],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            **({"tickangle": 0} if grid.over_layers else {}),
        },
        "yaxis": {
            "title": {"text": in_plotly(grid.row_label), "standoff": 8},
            "tickvals": down,
            "ticktext": [in_plotly(grid.rows[place]) for place in down],
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
    }
    names = [[in_plotly(name) for name in side] for side in (grid.rows, grid.columns)]
    return {"data": [data], "layout": layout, "names": names}


def map_figure(points: Points) -> Json:
    """Points without WebGL, which the report's Plotly does not have."""
    drawn = points_figure(points, "scatter")
    drawn["data"] = [
        {**trace, "text": trace["text"].tolist(), **{axis: _list(values) for axis, values in place.items()}}
        for trace, place in zip(drawn["data"], places(points), strict=True)
    ]
    drawn["layout"] |= {
        "height": 2 * HEIGHT,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "dragmode": "pan",
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 0, "yanchor": "top"},
    }
    return drawn


def _curve(curve: Curve) -> list[Json]:
    """The band's lower and upper edge, where the curve has intervals, and the line."""
    style = STYLES[curve.style]
    edge = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": curve.name,  # a click on the legend hides the band with its line
    }
    fill = {"fill": "tonexty", "fillcolor": _faint(style.color)}
    edges = [] if curve.low is None else [edge, {**edge, **fill}]
    line: Json = {
        "type": "scatter",
        "mode": "lines+markers" if style.marker else "lines",
        "name": in_plotly(curve.name),
        "legendgroup": curve.name,
        "line": {"color": style.color, "dash": style.dash, "width": 2 if style.marker else 1.5},
        "hovertemplate": "%{text}<extra></extra>",
    }
    if style.marker:
        line["marker"] = {"size": 7, "color": style.color}
    return [_merge(trace, of) for trace, of in zip([*edges, line], _changing(curve), strict=True)]


def _changing(curve: Curve) -> list[Json]:
    """What differs from choice to choice, for each trace of a curve."""
    edges = [] if curve.low is None or curve.high is None else [{"y": _list(curve.low)}, {"y": _list(curve.high)}]
    line: Json = {"y": _list(curve.values), "text": [in_plotly(words) for words in curve.words()]}
    if curve.hollow is not None:
        marker = STYLES[curve.style].marker
        line["marker.symbol"] = [f"{marker}-open" if hollow else marker for hollow in curve.hollow]
    elif STYLES[curve.style].marker:
        line["marker.symbol"] = STYLES[curve.style].marker
    return [*edges, line]


def _update(shown: Shown) -> Json:
    """What Plotly.restyle is given, and the title above the figure."""
    if isinstance(shown, Grid):
        limits = {"zmin": [rounded(shown.limits[0])], "zmax": [rounded(shown.limits[1])]}
        return {"data": {"z": [_matrix(shown.values)], **limits}, "title": visible(shown.title)}
    if isinstance(shown, Points):
        of_groups = places(shown)
        return {"data": {axis: [_list(one[axis]) for one in of_groups] for axis in "xy"}, "title": visible(shown.title)}
    traces = [trace for curve in shown.curves for trace in _changing(curve)]
    data = {name: [trace.get(name) for trace in traces] for name in ("y", "text")}
    if any(curve.hollow is not None for curve in shown.curves):
        data["marker.symbol"] = [trace.get("marker.symbol") for trace in traces]
    return {"data": data, "title": visible(shown.title)}


def _merge(trace: Json, changing: Json) -> Json:
    symbol = {"marker": {**trace["marker"], "symbol": changing["marker.symbol"]}} if "marker" in trace else {}
    return {**trace, **{name: of for name, of in changing.items() if name != "marker.symbol"}, **symbol}


def ticks_of(layers: Sequence[str]) -> list[int]:
    """Places of the layers that get a tick: all, or evenly spaced ones with the last."""
    step = math.ceil(len(layers) / MOST_TICKS)
    ticks = list(range(0, len(layers), step))
    last = len(layers) - 1
    return ticks if ticks[-1] == last else [*(tick for tick in ticks if last - tick >= step), last]


def name_ticks(names: Sequence[str]) -> list[int]:
    """Places of the names of a grid that get a tick."""
    return list(range(0, len(names), math.ceil(len(names) / MOST_NAMES)))


def tick_label(label: str) -> str:
    """A layer's label over two lines, since what is in brackets is long."""
    return in_plotly(layer_label(label)).replace(" (", "<br>(")


def rounded(value: float) -> float | None:
    """DIGITS significant digits; None, which JSON knows, for NaN."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _list(values: Floats) -> list[float | None]:
    return [rounded(float(value)) for value in values]


def _matrix(values: Floats) -> list[list[float | None]]:
    return [_list(row) for row in values]


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
