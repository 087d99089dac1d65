"""Sections on single partitions and all of them together: clustering and geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.plots.cube import Cube, Pair
from hubstore.plots.panels import Control, Curve, Panel, Section, View
from hubstore.plots.text import number
from hubstore.report.gather import Gathered

WHOLE = "*"
VARIANTS = ("raw", "centered")
MOST_PARTITIONS = 200


def partition_control(cubes: Sequence[Cube]) -> tuple[Control, tuple[str, ...]]:
    """The list of partitions, all together first, and the name behind each option."""
    names = list(dict.fromkeys(x for cube in cubes for x, _ in cube.pairs))
    ordered = ([WHOLE] if WHOLE in names else []) + [name for name in names if name != WHOLE][:MOST_PARTITIONS]
    labels = ["all together" if name == WHOLE else name for name in ordered]
    return Control("partition", "Language", tuple(labels)), tuple(ordered)


def _views(key: str, names: Sequence[str], panel: Callable[[str], Panel]) -> View:
    return View(key, ("partition",), {(i,): panel(name) for i, name in enumerate(names)}, (0,))


def _curve(cube: Cube, pair: Pair, variant: str, metric: str, name: str, style: str) -> Curve:
    value, low, high = (cube.lines(column, [pair], variant, metric)[0] for column in ("value", "low", "high"))
    return Curve(name, style, value, low, high)


def clustering_section(found: Gathered, cube: Cube, table: pa.Table, control: Control, names: Sequence[str]) -> Section:
    """Concept purity against language purity of the nearest neighbors."""
    k = table["k"][0].as_py()

    def of(variant: str) -> Callable[[str], Panel]:
        def panel(name: str) -> Panel:
            pair = (name, WHOLE)
            curves = []
            for what in ("concept", "language"):
                found_curve = _curve(cube, pair, variant, f"{what}_purity", f"same {what}", what)
                if what == "concept":
                    p = cube.lines("p_value", [pair], variant, "concept_purity")[0]
                    notes = [f"; p = {number(value)}" if np.isfinite(value) else "" for value in p]
                    found_curve = Curve(
                        found_curve.name, what, found_curve.values, found_curve.low, found_curve.high, notes=notes
                    )
                curves.append(found_curve)
            for what in ("concept", "language"):
                null = cube.lines("null_mean", [pair], variant, f"{what}_purity")[0]
                curves.append(Curve(f"{what}, by chance", f"{what}_null", null))
            label = f"share of {k} nearest neighbors"
            return Panel(f"Neighborhoods, {variant}", label, found.layers, tuple(curves), limits=(0.0, 1.0))

        return panel

    return Section(
        key="clustering",
        title="Clustering: do neighborhoods share a meaning or a language?",
        seen=(
            f"Of a sentence's {k} nearest neighbors among all languages together: the share with its concept (blue) "
            "and in its language (gold). In a hub, blue rises above gold; dotted lines are what random labels give."
        ),
        computed=(
            f"Purity of the k = {k} nearest by cosine; the null permutes concepts within each language, p = (1 + as "
            "large) / (1 + permutations) (Phipson and Smyth, 2010). Bands are 95 % bootstrap intervals over concepts."
        ),
        controls=(control,),
        views=tuple(_views(variant, names, of(variant)) for variant in VARIANTS),
        notes=(_p_values(cube, found.layers),),
    )


def _p_values(cube: Cube, layers: Sequence[str]) -> str:
    parts = []
    for variant in VARIANTS:
        p = cube.lines("p_value", [(WHOLE, WHOLE)], variant, "concept_purity")[0]
        if np.isfinite(p).any():
            clear = int((p <= 0.05).sum())
            parts.append(f"{variant} at {clear} of {len(layers)} layers (smallest p = {number(float(np.nanmin(p)))})")
    if not parts:
        return "No permutations were drawn, so that there are no p-values."
    return "Concept purity is larger than by chance (p ≤ 0.05, all languages together): " + "; ".join(parts) + "."


def geometry_section(found: Gathered, cube: Cube, table: pa.Table, control: Control, names: Sequence[str]) -> Section:
    """The shape of the states."""

    def both(metric: str, title: str, label: str) -> Callable[[str], Panel]:
        def panel(name: str) -> Panel:
            curves = tuple(_curve(cube, (name, ""), variant, metric, variant, variant) for variant in VARIANTS)
            return Panel(title, label, found.layers, curves)

        return panel

    def norms(name: str) -> Panel:
        curves = (
            _curve(cube, (name, ""), "raw", "norm_mean", "mean, raw", "raw"),
            _curve(cube, (name, ""), "raw", "norm_max", "largest, raw", "raw_top"),
            _curve(cube, (name, ""), "centered", "norm_mean", "mean, centered", "centered"),
        )
        return Panel("Norms", "Euclidean norm (log scale)", found.layers, curves, log=True)

    def shares(name: str) -> Panel:
        curves = tuple(
            _curve(cube, (name, ""), variant, f"share_top{top}", f"top {top}, {variant}", style)
            for variant in VARIANTS
            for top, style in ((1, variant), (10, f"{variant}_top"))
        )
        return Panel("Largest dimensions", "share of squared norm", found.layers, curves, limits=(0.0, 1.0))

    panels = {
        "anisotropy": both("anisotropy", "Anisotropy", "mean cosine of two items"),
        "rank": both("effective_rank", "Effective rank", "dimensions"),
        "hubness": both("hubness", "Hubness", "skewness of k-occurrence"),
        "norms": norms,
        "shares": shares,
    }
    return Section(
        key="geometry",
        title="Geometry: what shape do the states have?",
        seen=(
            "Anisotropy: how alike all states are. Effective rank: how many dimensions they fill. Hubness: whether a "
            "few items are near to everything (0 = none). Norms, and how much of them sits in the one and the ten "
            "largest dimensions. Where the raw curves are extreme, trust the centered results above."
        ),
        computed=(
            "Anisotropy after Ethayarajh (2019, arXiv 1909.00512); effective rank, Roy and Vetterli (2007); hubness, "
            "the skewness of how often an item is among the 10 nearest of others, Radovanović et al. (2010); "
            "dominating dimensions, Timkey and van Schijndel (2021, arXiv 2109.04404). Bands are 95 % intervals."
        ),
        controls=(control,),
        views=tuple(_views(key, names, panel) for key, panel in panels.items()),
        notes=_dimensions(table),
    )


def _dimensions(table: pa.Table) -> tuple[str, ...]:
    """Which dimension is the largest, over the layers."""
    whole = WHOLE if WHOLE in table["x"].to_pylist() else table["x"][0].as_py()
    conditions = {"metric": "share_top1", "variant": "raw", "x": whole}
    for column, name in conditions.items():
        table = table.filter(pc.equal(table[column], name))
    rows = zip(*(table[column].to_pylist() for column in ("value", "layer", "dimension")), strict=True)
    known = [(value, layer, dimension) for value, layer, dimension in rows if value is not None]
    if not known:
        return ()
    share, layer, dimension = max(known, key=lambda row: row[0])
    return (f"The largest share of one dimension is {number(share)}: dimension {dimension} at layer {layer} (raw).",)
