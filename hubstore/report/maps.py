"""The section that maps languages: each against each at one layer, or each pair over the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hubstore.plots.cube import Cube, Floats, Pair
from hubstore.plots.panels import Choice, Control, Grid, Panel, Section, View
from hubstore.plots.text import layer_label
from hubstore.report.by_pair import MOST_PAIRS, Pairs
from hubstore.report.gather import Gathered

MOST_CELLS = 200_000  # of all maps together: each adds to the page
QUANTITIES = {
    "recall@1, cosine, centered": ("retrieval", "centered", "recall@1"),
    "recall@1, cosine, raw": ("retrieval", "raw", "recall@1"),
    "recall@1, CSLS, centered": ("retrieval", "csls_centered", "recall@1"),
    "matched − baseline, centered": ("similarity", "centered", "difference"),
    "matched − baseline, raw": ("similarity", "raw", "difference"),
}
Quantities = Mapping[str, tuple[str, str, str]]


def map_section(found: Gathered, cubes: Mapping[str, Cube], pairs: Pairs) -> Section:
    """A map of languages where most pairs of them were compared, else of pairs over layers."""
    quantities = {name: of for name, of in QUANTITIES.items() if of[0] in cubes}
    names = list(dict.fromkeys(name for pair in pairs.all for name in pair))
    if len(names) > 2 and len(pairs.all) > len(names) * (len(names) - 1) / 4:
        return _of_languages(found, cubes, pairs.all, names, quantities)
    return _of_pairs(found, cubes, pairs.all, quantities)


def _of_languages(
    found: Gathered, cubes: Mapping[str, Cube], pairs: Sequence[Pair], names: Sequence[str], quantities: Quantities
) -> Section:
    kept = _kept_layers(found.layers, len(quantities) * len(names) ** 2)
    best = _best_layer(cubes, pairs, kept)
    slider = Control("layer", "Layer", tuple(layer_label(found.layers[i]) for i in kept), best, slider=True)
    shown: dict[Choice, Panel | Grid] = {}
    for i, (name, (analysis, variant, metric)) in enumerate(quantities.items()):
        values = _square(cubes[analysis], names, variant, metric)
        limits = _limits(cubes[analysis], pairs, variant, metric)
        for j, layer in enumerate(kept):
            title = f"{name}, layer {layer_label(found.layers[layer])}"
            sides = ("language that asks", "language that answers")
            shown[i, j] = Grid(title, tuple(names), tuple(names), *sides, values[layer], name, limits)
    return Section(
        key="map",
        title="Language by language",
        seen=(
            "Each cell is one pair: the language of its row asks, that of its column answers; bright is better. Move "
            "the slider through the layers."
        ),
        computed=(
            "The same numbers as in the two sections above. The map opens at the layer with the best recall@1 "
            "(centered, mean over all pairs)."
        ),
        controls=(Control("quantity", "Quantity", tuple(quantities)), slider),
        views=(View("map", ("quantity", "layer"), shown, (0, best)),),
    )


def _of_pairs(found: Gathered, cubes: Mapping[str, Cube], pairs: Sequence[Pair], quantities: Quantities) -> Section:
    ways = [way for x, y in pairs[:MOST_PAIRS] for way in ((x, y), (y, x))]
    columns = tuple(layer_label(layer) for layer in found.layers)
    shown: dict[Choice, Panel | Grid] = {}
    for i, (name, (analysis, variant, metric)) in enumerate(quantities.items()):
        directed = analysis == "retrieval"
        shown_pairs = ways if directed else ways[::2]
        rows = tuple(f"{x} → {y}" if directed else f"{x} – {y}" for x, y in shown_pairs)
        values = cubes[analysis].lines("value", shown_pairs, variant, metric)
        limits = _limits(cubes[analysis], pairs, variant, metric)
        shown[(i,)] = Grid(name, rows, columns, "pair", "layer", values, name, limits, over_layers=True)
    return Section(
        key="map",
        title="Pair by pair",
        seen="Each row is one pair (the first language asks, the second answers), each column a layer; bright: better.",
        computed="The same numbers as in the two sections above.",
        controls=(Control("quantity", "Quantity", tuple(quantities)),),
        views=(View("map", ("quantity",), shown, (0,)),),
    )


def _kept_layers(layers: Sequence[str], cells: int) -> list[int]:
    """Places of the layers that the map has: all, or as many evenly spread ones as the page can carry."""
    count = min(len(layers), max(3, MOST_CELLS // cells))
    return sorted(set(np.linspace(0, len(layers) - 1, count).round().astype(int).tolist()))


def _best_layer(cubes: Mapping[str, Cube], pairs: Sequence[Pair], kept: Sequence[int]) -> int:
    """Which of the layers kept has the best recall@1."""
    if "retrieval" not in cubes:
        return 0
    values = cubes["retrieval"].mean("value", pairs, "centered", "recall@1")[list(kept)]
    return int(np.nan_to_num(values).argmax())


def _limits(cube: Cube, pairs: Sequence[Pair], variant: str, metric: str) -> tuple[float, float]:
    """Of the colors, the same for all layers."""
    if metric != "difference":
        return 0.0, 1.0
    values = cube.lines("value", pairs, variant, metric)
    return min(0.0, float(np.nanmin(values))), float(np.nanmax(values))


def _square(cube: Cube, names: Sequence[str], variant: str, metric: str) -> Floats:
    """[layers, names, names]; what knows no direction is mirrored."""
    pairs = [(x, y) for x in names for y in names]
    values = cube.lines("value", pairs, variant, metric)
    if metric == "difference":
        mirrored = cube.lines("value", [(y, x) for x, y in pairs], variant, metric)
        values = np.where(np.isnan(values), mirrored, values)
    return values.T.reshape(len(cube.layers), len(names), len(names))
