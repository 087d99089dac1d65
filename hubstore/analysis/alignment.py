"""Alignment of two partitions' geometries, at one layer or between any two: debiased CKA and mutual kNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hubstore.analysis import cka
from hubstore.analysis.comparing import by_pair, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import jackknifed_overlap, tempered, tie_seed
from hubstore.analysis.pairs import Concepts, Matched, Pair, Selection, all_pairs
from hubstore.analysis.results import Row, intervals, stored_or_computed
from hubstore.analysis.states import VARIANTS, States
from hubstore.checks import check_count
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError, Parameter
from hubstore.kernels import Neighbors, neighbor_weights
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

COLUMNS = {
    "layer_y": pa.string(),
    "chance": pa.float64(),
    "left_out_x": pa.int64(),
    "left_out_y": pa.int64(),
}


def alignment(
    store: StoreReader,
    pairs: Sequence[Pair] | None = None,
    options: CompareOptions | None = None,
    *,
    k: int = 10,
    cross_layers: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """Whether matched items lie in the same way among themselves in two partitions.

    Args:
        store: an opened store.
        pairs: partitions to compare; None compares all that share concepts.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, bootstrap, ...) may be given by
            name too. The bootstrap takes resamples of the concepts.
        k: neighbors of mutual kNN; n - 1 where there are fewer.
        cross_layers: compare every layer of x with every layer of y, for the pairs that are named; a partition
            may then be paired with itself.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer of x, layer_y of y, pair and metric. "cka" (variant "debiased"): linear CKA by the
        unbiased HSIC; its interval resamples the Hájek projection and is too narrow where nothing aligns,
        for there the projection vanishes. "mutual_knn" (variants "raw" and "centered"): mean share of k nearest
        neighbors by cosine that both sides have in common (Huh et al., 2024), in parts where some are tied for the
        last places; its interval resamples what each concept adds to it by its own neighbors and as
        another's (see `tempered`); `chance` is k / (n - 1). Intervals are 95%.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; a pair shares fewer than 4 concepts, or cross_layers names
            no pair of many.
    """
    parameters = {
        **by_pair(store, compare_options("alignment", options, named, pairs=pairs), with_itself=cross_layers),
        "k": check_count("k", k, error=AnalysisError),
        "cross_layers": cross_layers,
    }
    if cross_layers and parameters["pairs"] is None and len(all_pairs(store)) > 1:
        count = len(parameters["layers"])
        raise AnalysisError(
            f"cross_layers compares {count} x {count} layers for each pair; name the pairs with ",
            Parameter("pairs", "..."),
        )
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(store, "alignment", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs))


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    matched, skipped = Concepts(store).match_all(params["pairs"], cka.FEWEST)
    compare = _Comparison(
        States(store, params["pooling"], on), Bootstrap(params["bootstrap"], params["seed"]), params["k"]
    )

    def find(layer: str) -> list[Row]:
        others = params["layers"] if params["cross_layers"] else [layer]
        return [row for items in matched for other in others for row in compare(layer, other, items)]

    return Prepared(find, {"skipped_pairs": skipped})


class _Comparison:
    """Compares two layers, keeping what was made of each layer's items for the next comparison."""

    def __init__(self, states: States, resampling: Bootstrap, k: int) -> None:
        self._states, self._resampling, self._k = states, resampling, k

    def __call__(self, layer_x: str, layer_y: str, items: Matched) -> list[Row]:
        n = len(items)
        k = min(self._k, n - 1)
        value, shares = cka.cka(self._side(layer_x, items.x), self._side(layer_y, items.y))
        columns, values = [shares.cpu().numpy()], [value]
        for variant in VARIANTS:
            near_x = self._neighbors(layer_x, items.x, variant, k)
            near_y = self._neighbors(layer_y, items.y, variant, k)
            shared, added = jackknifed_overlap(near_x, near_y, n, k)
            columns.append(tempered(shared, added))
            values.append(shared.mean())
        estimates = np.array(values)
        bounds = self._resampling.of_estimates(estimates, np.stack(columns, 1))
        rows = intervals(["cka", "mutual_knn", "mutual_knn"], estimates, bounds)
        common = {"layer": layer_x, "layer_y": layer_y, **items.columns()}
        of_each = [("debiased", 0.0), *((variant, k / (n - 1)) for variant in VARIANTS)]
        return [
            {**common, "variant": variant, "chance": chance, **row}
            for (variant, chance), row in zip(of_each, rows, strict=True)
        ]

    def _side(self, layer: str, selection: Selection) -> cka.Side:
        return self._states.cached(
            ("cka", layer, selection),
            lambda: cka.side(lambda: self._states.blocks(layer, selection, "centered")),
        )

    def _neighbors(self, layer: str, selection: Selection, variant: str, k: int) -> Neighbors:
        seed = tie_seed(layer, selection.partition)
        return self._states.cached(
            ("neighbors", layer, selection, variant),
            lambda: neighbor_weights(self._states.rows(layer, selection, variant), k, seed=seed),
        )
