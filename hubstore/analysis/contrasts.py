"""The layer where a quantity is largest against every other, paired: the same concepts, the same resamples.

Intervals of two layers may overlap where their difference is certain, since the layers of one model move together from
concept to concept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.analysis.comparing import by_pair
from hubstore.analysis.pairs import Concepts, Matched, Pair
from hubstore.analysis.results import Findings, Row, stored_or_computed
from hubstore.analysis.retrieval import pair_successes
from hubstore.analysis.similarity import pair_differences
from hubstore.analysis.states import VARIANTS, States
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
COLUMNS = {"layer_y": pa.string()}
WHOLE = "*"
DIFFERENCE, RECALL = "difference", "recall@1"
SIMULTANEOUS = "of all differences at once"
"""What kept tables say of their intervals; those of one difference each are computed again."""


def contrasts(
    store: StoreReader, pairs: Sequence[Pair], options: CompareOptions, metrics: Sequence[str] = (DIFFERENCE, RECALL)
) -> pa.Table:
    """How far the largest layer of a quantity is above each other layer, as means over pairs of partitions.

    Args:
        store: an opened store.
        pairs: of partitions that share concepts.
        options: layers, pooling, seed and bootstrap.
        metrics: "difference", of `similarity`; "recall@1", of `retrieval`, in both directions.

    Returns:
        A row per metric, variant ("raw", "centered"), layer (the largest) and layer_y (another). The value is the mean
        difference; its 95 % interval of resampled concepts, which keep their values at both layers and in all pairs, is
        of all differences between two layers at once: that the largest was picked from the same concepts makes none
        of them clear.
    """
    chosen = CompareOptions(
        pairs=tuple(pairs),
        layers=options.layers,
        pooling=options.pooling,
        seed=options.seed,
        bootstrap=options.bootstrap,
    )
    parameters = {**by_pair(store, chosen), "metrics": list(metrics), "intervals": SIMULTANEOUS}

    def make() -> Findings:
        rows = [row for metric in metrics for row in _of_metric(store, metric, parameters)]
        return Findings(COLUMNS, rows)

    return stored_or_computed(store, "contrasts", parameters, COLUMNS, make)


def _of_metric(store: StoreReader, metric: str, parameters: Mapping[str, Any]) -> Iterator[Row]:
    layers: Sequence[str] = parameters["layers"]
    concepts, states = Concepts(store), States(store, parameters["pooling"])
    matched = [concepts.match(*pair) for pair in parameters["pairs"]]
    members = [concepts.codes(items.x.positions) for items in matched]
    known = np.unique(np.concatenate(members))
    for variant in VARIANTS:
        # The mean over concepts of these is the mean over pairs of each pair's mean.
        total = np.zeros((len(known), len(layers)))
        for items, of in zip(matched, members, strict=True):
            share = len(known) / (len(of) * len(matched))
            np.add.at(total, np.searchsorted(known, of), share * _values(states, items, layers, metric, variant))
        yield from _paired(total, layers, {"metric": metric, "variant": variant}, parameters)


def _values(states: States, items: Matched, layers: Sequence[str], metric: str, variant: str) -> Floats:
    """What each matched concept adds, of recall in either direction by half: float64 [n, layers]."""
    if metric == DIFFERENCE:
        found = pair_differences(states, items, layers, variant)
        return np.stack([found[layer] for layer in layers], 1)
    both = pair_successes(states, items, layers, metric, variant)
    return np.stack([(both[layer][0] + both[layer][1]) / 2 for layer in layers], 1)


def _paired(values: Floats, layers: Sequence[str], common: Row, parameters: Mapping[str, Any]) -> Iterator[Row]:
    means = values.mean(0)
    if np.isnan(means).all():
        return
    peak = int(np.nanargmax(means))
    low, high = Bootstrap(parameters["bootstrap"], parameters["seed"]).of_lead(values, peak)
    for place, layer in enumerate(layers):
        if place != peak:
            yield {**common, "layer": layers[peak], "layer_y": layer, "x": WHOLE, "y": WHOLE, "n": len(values),
                   "value": float(means[peak] - means[place]), "low": float(low[place]),
                   "high": float(high[place])}  # fmt: skip
