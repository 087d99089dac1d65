"""Panels of what is measured of pairs of partitions along the layers: the hub curve, and retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hubstore.analysis.resolution import resolves
from hubstore.plots.cube import Cube, Floats, Pair
from hubstore.plots.panels import Curve, Panel
from hubstore.plots.text import number

VARIANTS = {"raw": "as stored", "centered": "each language's mean removed"}
RETRIEVAL_METRICS = {"recall@1": "recall@1", "recall@5": "recall@5", "recall@10": "recall@10", "mrr": "MRR"}
RETRIEVAL_VARIANTS = {
    "raw": "cosine, raw",
    "centered": "cosine, centered",
    "csls_raw": "CSLS, raw",
    "csls_centered": "CSLS, centered",
}


def curve(cube: Cube, pairs: Sequence[Pair], variant: str, metric: str, name: str, style: str) -> Curve:
    """The mean over `pairs`, with the spread over them as a remark."""
    lines = cube.lines("value", pairs, variant, metric)
    notes = [_spread(at[np.isfinite(at)]) for at in lines.T] if len(pairs) > 1 else []
    value, low, high = (cube.mean(column, pairs, variant, metric) for column in ("value", "low", "high"))
    return Curve(name, style, value, low, high, notes=notes)


def _spread(values: Floats) -> str:
    return f"; pairs {number(values.min())} to {number(values.max())}" if len(values) else ""


def cosine_panel(cube: Cube, group: Sequence[Pair], variant: str) -> Panel:
    """Mean cosine of matched pairs and of all others."""
    curves = tuple(curve(cube, group, variant, name, name, name) for name in ("matched", "baseline"))
    return Panel(f"Cosine, {variant} ({VARIANTS[variant]})", "mean cosine", cube.layers, curves)


def difference_panel(cube: Cube, group: Sequence[Pair], variant: str) -> Panel:
    """Matched minus baseline: the hub curve."""
    curves = (hub_difference(cube, group, variant),)
    return Panel(f"Matched − baseline, {variant}", "difference of cosines", cube.layers, curves)


def hub_difference(cube: Cube, pairs: Sequence[Pair], variant: str) -> Curve:
    """Matched minus baseline, hollow where the store's dtype does not resolve it to two digits."""
    found = curve(cube, pairs, variant, "difference", "difference", "difference")
    resolution = cube.mean("resolution", pairs, variant, "difference")
    # An error of a mean is no larger than the mean of the errors.
    hollow = [not resolves(float(value), float(of)) for value, of in zip(found.values, resolution, strict=True)]
    return Curve(found.name, found.style, found.values, found.low, found.high, np.array(hollow), found.notes)


def retrieval_panel(cube: Cube, group: Sequence[Pair], metric: str, back: bool) -> Panel:
    """How often the match is among the first, or its mean reciprocal rank, by cosine and by CSLS."""
    chosen = [(y, x) if back else (x, y) for x, y in group]
    curves = [curve(cube, chosen, v, metric, name, v) for v, name in RETRIEVAL_VARIANTS.items()]
    curves.append(Curve("chance", "chance", _chance(cube, chosen, metric)))
    title = f"{chosen[0][0]} → {chosen[0][1]}" if len(chosen) == 1 else ("backward" if back else "forward")
    label = RETRIEVAL_METRICS[metric]
    y_label = f"{label} (mean of 1/rank)" if metric == "mrr" else f"{label} (share of queries)"
    return Panel(title, y_label, cube.layers, tuple(curves), limits=(0.0, 1.0))


def _chance(cube: Cube, pairs: Sequence[Pair], metric: str) -> Floats:
    n = cube.mean("n", pairs, "raw", metric)
    if metric == "mrr":
        known = n[np.isfinite(n)]
        most = int(known.max()) if len(known) else 0
        harmonic = np.concatenate([[np.nan], np.cumsum(1 / np.arange(1, most + 1)) / np.arange(1, most + 1)])
        return np.asarray(harmonic[np.nan_to_num(n).astype(int)])
    return np.asarray(np.minimum(1.0, int(metric.removeprefix("recall@")) / n))
