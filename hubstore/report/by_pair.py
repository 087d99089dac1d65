"""Sections on pairs of partitions: the hub curve, retrieval and alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.plots.cube import Cube, Floats, Pair, mean_over
from hubstore.plots.curves import (
    RETRIEVAL_METRICS,
    VARIANTS,
    cosine_panel,
    curve,
    difference_panel,
    hub_difference,
    retrieval_panel,
)
from hubstore.plots.panels import Choice, Control, Curve, Grid, Panel, Points, Section, View
from hubstore.plots.text import layer_label
from hubstore.report.gather import MATRIX, Gathered

MOST_PAIRS = 200  # that can be chosen singly: each adds its curves to the page


@dataclass(frozen=True)
class Pairs:
    """The pairs of partitions that a reader can choose.

    Args:
        all: every pair, over which the mean is.
        control: the list: the mean, then single pairs; the one pair alone, where there is one.
        groups: the pairs behind each option.
    """

    all: tuple[Pair, ...]
    control: Control
    groups: tuple[tuple[Pair, ...], ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Pairs:
        """The mean over `pairs`, and each of the first MOST_PAIRS of them."""
        every, single = tuple(pairs), [(pair,) for pair in pairs[:MOST_PAIRS]]
        names = [f"{x} – {y}" for ((x, y),) in single]
        if len(every) == 1:
            return cls(every, Control("pair", "Pair", (names[0],)), (every,))
        control = Control(
            "pair",
            "Pair",
            (f"mean over all {len(every)} pairs", *names),
            groups=("", *(x for ((x, _),) in single)),
        )
        return cls(every, control, (every, *single))

    def views(self, key: str, panel: Callable[[Sequence[Pair]], Panel]) -> View:
        """A view of `panel` for the pairs behind each option."""
        return View(key, ("pair",), {(i,): panel(group) for i, group in enumerate(self.groups)}, (0,))

    def notes(self, table: pa.Table, skipped: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """What is left out of the pairs."""
        out = []
        if len(self.all) > MOST_PAIRS:
            out.append(f"The first {MOST_PAIRS} of {len(self.all)} pairs can be chosen; the tables have them all.")
        if skipped:
            some = ", ".join(f"{x} – {y}" for x, y in skipped[:5]) + (", …" if len(skipped) > 5 else "")
            out.append(f"{len(skipped)} pairs that share too few concepts are left out: {some}.")
        left_out = max(pc.max(table["left_out_x"]).as_py(), pc.max(table["left_out_y"]).as_py())
        if left_out:
            out.append(f"Up to {left_out:,} items of a partition have no match in the other and are left out.")
        return tuple(out)


def lead_section(cubes: Mapping[str, Cube], pairs: Pairs) -> Section:
    """What stands beside the findings: the two quantities that show a hub, centered."""

    def panel(group: Sequence[Pair]) -> Panel:
        similarity = cubes["similarity"]
        curves = [curve(similarity, group, "centered", "difference", "matched − baseline", "difference")]
        if "retrieval" in cubes:
            ways = [*group, *((y, x) for x, y in group)]
            curves.append(curve(cubes["retrieval"], ways, "centered", "recall@1", "recall@1, both ways", "centered"))
        return Panel(
            "The hub curve, each language's mean removed",
            "cosine; share found first",
            similarity.layers,
            tuple(curves),
        )

    return Section(
        key="lead",
        title="What the numbers say",
        seen=(
            "The semantic hub hypothesis (Wu et al., 2025): a model places equivalent inputs near one another in its "
            "middle layers, whatever their language. A hub shows as curves that are highest between the ends."
        ),
        computed=(
            "Brackets and bands are 95 % intervals; the layer of a peak is picked as the largest, so that its value "
            "leans high."
        ),
        controls=(pairs.control,),
        views=(pairs.views("curves", panel),),
    )


def hub_section(found: Gathered, cube: Cube, pairs: Pairs, notes: Sequence[str]) -> Section:
    """Matched, baseline and their difference."""

    views = [pairs.views(f"cosine-{variant}", partial(cosine_panel, cube, variant=variant)) for variant in VARIANTS]
    views += [
        pairs.views(f"difference-{variant}", partial(difference_panel, cube, variant=variant)) for variant in VARIANTS
    ]
    return Section(
        key="hub",
        title="The hub curve: are equivalent sentences nearer than others?",
        seen=(
            "Blue is the mean cosine of a sentence with its own translation, gold with all other sentences, green "
            "their difference. A hub shows as a difference that is larger between the first and the last layer."
        ),
        computed=(
            "Matched minus baseline is Eq. 1 of Wu et al. (2025, arXiv 2411.04986); the baseline is over all "
            "mismatched pairs. Bands are 95 % bootstrap intervals over concepts; that of a mean over pairs is the mean "
            "of theirs, no narrower than its own. “Centered” removes each language's mean first: a few huge "
            "dimensions flatten the raw curve."
        ),
        controls=(pairs.control,),
        views=tuple(views),
        notes=(*notes, *_unresolved(cube, pairs, found.finer)),
    )


def _unresolved(cube: Cube, pairs: Pairs, finer: str) -> list[str]:
    places = [
        f"{variant} at layers {', '.join(np.array(cube.layers)[hollow])}"
        for variant in VARIANTS
        if (hollow := hub_difference(cube, pairs.all, variant).hollow) is not None and hollow.any()
    ]
    single = [
        pair
        for pair in pairs.all
        if any((h := hub_difference(cube, [pair], v).hollow) is not None and h.any() for v in VARIANTS)
    ]
    if not places and not single:
        return []
    where = f"; in the mean: {', '.join(places)}" if places and len(pairs.all) > 1 else ""
    return [
        f"Hollow points ({len(single)} of {len(pairs.all)} pairs have some{where}): there, rounding to the store's "
        f"dtype leaves fewer than two digits of the difference. Remedy: {finer}."
    ]


def retrieval_section(found: Gathered, cube: Cube, pairs: Pairs, notes: Sequence[str]) -> Section:
    """Recall and mean reciprocal rank, in both directions."""
    metrics = Control("metric", "Measure", tuple(RETRIEVAL_METRICS.values()))

    def view(back: bool) -> View:
        shown: dict[Choice, Panel | Grid] = {
            (i, j): retrieval_panel(cube, group, metric, back)
            for i, group in enumerate(pairs.groups)
            for j, metric in enumerate(RETRIEVAL_METRICS)
        }
        return View("backward" if back else "forward", ("pair", "metric"), shown, (0, 0))

    return Section(
        key="retrieval",
        title="Retrieval: is the translation the nearest of all?",
        seen=(
            "How often a sentence finds its own translation first (recall@1), among the first 5 or 10, or the mean of "
            "1/rank (MRR). Forward: the first language of each pair asks, the second answers; backward: the reverse."
        ),
        computed=(
            "Exact ranks among all paired items of the other language, by cosine and by CSLS, which discounts items "
            "that are near to everything (k = 10; Conneau et al., 2018, arXiv 1710.04087). Bands are 95 % bootstrap "
            "intervals; the dotted line is what guessing gives. MRR after Voorhees (1999)."
        ),
        controls=(pairs.control, metrics),
        views=(view(False), view(True)),
        notes=tuple(notes),
    )


def alignment_section(found: Gathered, cube: Cube, pairs: Pairs, notes: Sequence[str]) -> Section:
    """CKA and mutual nearest neighbors, over layers and between layers."""

    def panel(group: Sequence[Pair]) -> Panel:
        curves = (
            curve(cube, group, "debiased", "cka", "CKA, debiased", "cka"),
            curve(cube, group, "raw", "mutual_knn", "mutual kNN, raw", "raw"),
            curve(cube, group, "centered", "mutual_knn", "mutual kNN, centered", "centered"),
            Curve("mutual kNN by chance", "chance", cube.mean("chance", group, "raw", "mutual_knn")),
        )
        return Panel("At the same layer", "CKA; shared neighbors (share)", found.layers, curves)

    views = [pairs.views("curves", panel)]
    controls: tuple[Control, ...] = (pairs.control,)
    if MATRIX in found.tables:
        control, view, more = _matrices(found.tables[MATRIX], found.layers, pairs)
        controls, views, notes = (*controls, control), [*views, view], (*notes, *more)
    return Section(
        key="alignment",
        title="Alignment: do the languages lie alike among themselves?",
        seen=(
            "CKA says whether distances within one language mirror those within the other; mutual kNN, how many of "
            "its nearest neighbors a sentence shares with its translation. The matrix compares every layer of one "
            "language with every layer of another."
        ),
        computed=(
            "Linear CKA (Kornblith et al., 2019, arXiv 1905.00414) with the unbiased HSIC (Song et al., 2012; Nguyen "
            "et al., 2021); its band is too narrow where nothing aligns. Mutual kNN with k = 10 (Huh et al., 2024, "
            "arXiv 2405.07987); by chance it is k / (n − 1)."
        ),
        controls=controls,
        views=tuple(views),
        notes=tuple(notes),
    )


def _matrices(table: pa.Table, layers: Sequence[str], pairs: Pairs) -> tuple[Control, View, tuple[str, ...]]:
    """Layers by layers for each choice of pairs, and what is to be said of pairs that have none."""
    metrics = {
        "CKA, debiased": ("cka", "debiased"),
        "mutual kNN, centered": ("mutual_knn", "centered"),
        "mutual kNN, raw": ("mutual_knn", "raw"),
    }
    labels = tuple(layer_label(layer) for layer in layers)
    kept = [pair for pair in pairs.all if pair in set(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))]
    shown: dict[Choice, Panel | Grid | Points] = {}
    for j, (name, (metric, variant)) in enumerate(metrics.items()):
        values = _squares(table, layers, kept, metric, variant)
        known = values[np.isfinite(values)]
        limits = (min(0.0, float(known.min())), float(known.max())) if len(known) else (0.0, 1.0)
        for i, group in enumerate(pairs.groups):
            own = [kept.index(pair) for pair in group if pair in kept]
            of = mean_over(values[own]) if own else np.full((len(layers), len(layers)), np.nan)
            x, y = group[0] if len(group) == 1 else ("the first of the pair", "the second")
            title = f"{name}: {x} by {y}" if len(group) == 1 else f"{name}: mean over {len(own)} pairs"
            title += "" if own else " (not computed)"
            sides = (f"layer of {x}", f"layer of {y}")
            shown[i, j] = Grid(title, labels, labels, *sides, of, name, limits, over_layers=True)
    left_out = f"Matrices are of the first {len(kept)} of {len(pairs.all)} pairs."
    notes = (left_out,) if len(kept) < len(pairs.all) else ()
    return Control("matrix", "Matrix", tuple(metrics)), View("matrix", ("pair", "matrix"), shown, (0, 0)), notes


def _squares(table: pa.Table, layers: Sequence[str], pairs: Sequence[Pair], metric: str, variant: str) -> Floats:
    """float64 [pairs, layers of x, layers of y] of a metric; NaN where the table has none."""
    chosen = table.filter(pc.and_(pc.equal(table["metric"], metric), pc.equal(table["variant"], variant)))
    places = {pair: place for place, pair in enumerate(pairs)}
    of_pair = [places.get(pair, -1) for pair in zip(chosen["x"].to_pylist(), chosen["y"].to_pylist(), strict=True)]
    rows, columns = (pc.index_in(chosen[c], value_set=pa.array(layers)).to_numpy() for c in ("layer", "layer_y"))
    values = np.full((len(pairs) + 1, len(layers), len(layers)), np.nan)  # the last is of pairs that are not shown
    values[of_pair, rows, columns] = chosen["value"].to_numpy()
    return values[:-1]
