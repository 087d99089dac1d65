"""The section that maps languages: each against each at one layer, or each pair over the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hubstore.plots.cube import Cube, Floats, Pair
from hubstore.plots.panels import Choice, Control, Grid, Panel, Points, Section, View
from hubstore.plots.text import layer_label, visible
from hubstore.report.by_pair import MOST_PAIRS, Pairs
from hubstore.report.gather import PROJECTION, Gathered

POINT_TEXT = 60
MOST_CELLS = 60_000  # of all maps together: each adds to the page
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
    shown: dict[Choice, Panel | Grid | Points] = {}
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
    shown: dict[Choice, Panel | Grid | Points] = {}
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


def projection_section(table: pa.Table) -> Section:
    """A map of some items, whose points move from layer to layer."""
    layers = list(dict.fromkeys(table["layer"].to_pylist()))
    shown: dict[Choice, Panel | Grid | Points] = {}
    of_first = table.slice(0, len(table) // len(layers))
    texts = [
        visible(text or name, POINT_TEXT)
        for text, name in zip(*of_first.select(["text", "id"]).to_pydict().values(), strict=True)
    ]
    groups = [
        language if modality == "text" else modality
        for language, modality in zip(*of_first.select(["language", "modality"]).to_pydict().values(), strict=True)
    ]
    for place, layer in enumerate(layers):
        own = table.slice(place * len(of_first), len(of_first))
        xy = np.stack([own["x"].to_numpy(), own["y"].to_numpy()], 1)
        shown[(place,)] = Points(f"{len(of_first):,} items at layer {layer_label(layer)}", xy, groups, texts)
    middle = len(layers) // 2
    slider = Control("depth", "Layer", tuple(map(layer_label, layers)), middle, slider=True)
    return Section(
        key=PROJECTION,
        title="Items on a map: do equivalents come together?",
        seen=(
            "Each point is an item, colored by its language. Move the slider: where languages lie apart, the model "
            "tells them by language; where they mix, by what they mean. A click on the legend hides a language."
        ),
        computed=(
            "Principal components of unit rows less their mean, of whole concepts drawn at random; each layer is "
            "turned to lie nearest the one before (Schönemann, 1966). Two axes show a part of the variance alone."
        ),
        controls=(slider,),
        views=(View("map", ("depth",), shown, (middle,)),),
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
