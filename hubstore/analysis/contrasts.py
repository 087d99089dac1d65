"""The layer where a quantity is largest against every other, paired: the same concepts, the same resamples.

Intervals of two layers may overlap where their difference is certain, since the layers of one model move together from
concept to concept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.analysis.comparing import by_pair
from hubstore.analysis.pairs import Concepts, Pair
from hubstore.analysis.results import Findings, Row, stored_or_computed
from hubstore.analysis.retrieval import found_by_concept
from hubstore.analysis.similarity import concept_differences
from hubstore.analysis.states import VARIANTS
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
COLUMNS = {"layer_y": pa.string()}
WHOLE = "*"
DIFFERENCE, RECALL = "difference", "recall@1"
ByPair = Callable[[Pair], Mapping[str, Floats]]


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
        difference, its 95 % interval of resampled concepts, which keep their values at both layers and in all pairs.
    """
    chosen = CompareOptions(
        pairs=tuple(pairs),
        layers=options.layers,
        pooling=options.pooling,
        seed=options.seed,
        bootstrap=options.bootstrap,
    )
    parameters = {**by_pair(store, chosen), "metrics": list(metrics)}

    def make() -> Findings:
        rows = [row for metric in metrics for row in _of_metric(store, metric, parameters)]
        return Findings(COLUMNS, rows)

    return stored_or_computed(store, "contrasts", parameters, COLUMNS, make)


def _of_metric(store: StoreReader, metric: str, parameters: Mapping[str, Any]) -> Iterator[Row]:
    layers: Sequence[str] = parameters["layers"]
    pairs: Sequence[Pair] = parameters["pairs"]
    pooling: str = parameters["pooling"]
    for variant in VARIANTS:

        def of_pair(pair: Pair, variant: str = variant) -> Mapping[str, Floats]:
            if metric == DIFFERENCE:
                return concept_differences(store, pair, layers, variant=variant, pooling=pooling)
            _, found = found_by_concept(store, pair, layers, metric=metric, variant=variant, pooling=pooling)
            return found

        both = [*pairs, *((y, x) for x, y in pairs)] if metric == RECALL else list(pairs)
        values = _stacked(store, both, layers, of_pair)
        yield from _paired(values, layers, {"metric": metric, "variant": variant}, parameters)


def _stacked(store: StoreReader, pairs: Sequence[Pair], layers: Sequence[str], of_pair: ByPair) -> Floats:
    """float64 [concepts, layers] whose mean over concepts is the mean over pairs of each pair's mean."""
    concepts = Concepts(store)
    members = [concepts.codes(concepts.match(*pair).x.positions) for pair in pairs]
    known = np.unique(np.concatenate(members))
    total = np.zeros((len(known), len(layers)))
    for pair, of in zip(pairs, members, strict=True):
        found = of_pair(pair)
        values = np.stack([found[layer] for layer in layers], 1)
        np.add.at(total, np.searchsorted(known, of), values * (len(known) / (len(of) * len(pairs))))
    return total


def _paired(values: Floats, layers: Sequence[str], common: Row, parameters: Mapping[str, Any]) -> Iterator[Row]:
    peak = int(values.mean(0).argmax())
    apart = values[:, [peak]] - values
    resampling = Bootstrap(parameters["bootstrap"], parameters["seed"])
    low, high = resampling.of_means(apart)
    for place, layer in enumerate(layers):
        if place != peak:
            yield {**common, "layer": layers[peak], "layer_y": layer, "x": WHOLE, "y": WHOLE, "n": len(values),
                   "value": float(apart[:, place].mean()), "low": float(low[place]),
                   "high": float(high[place])}  # fmt: skip
