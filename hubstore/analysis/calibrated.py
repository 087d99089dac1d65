"""Calibrated alignment of two partitions of a store: every measure beside its null; see `between` for two stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.analysis.calibration import (
    View,
    expected,
    named_measures,
    permutations,
    permuted_values,
    row_of,
)
from hubstore.analysis.comparing import by_pair, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import tie_seed
from hubstore.analysis.pairs import Concepts, Pair, Selection, all_pairs
from hubstore.analysis.results import Row, stored_or_computed
from hubstore.analysis.states import States
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError, Parameter
from hubstore.options import FEWEST_COMPARED, CalibrationOptions, CompareOptions, take

if TYPE_CHECKING:
    from hubstore.store import StoreReader

COLUMNS = {
    "layer_y": pa.string(),
    "null_mean": pa.float64(),
    "calibrated": pa.float64(),
    "p_value": pa.float64(),
    "left_out_x": pa.int64(),
    "left_out_y": pa.int64(),
}


def calibrated(
    store: StoreReader,
    pairs: Sequence[Pair] | None = None,
    options: CompareOptions | None = None,
    calibration: CalibrationOptions | None = None,
    *,
    cross_layers: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """How similar two partitions are in how their matched items lie, by many measures, and how much is beyond chance.

    Args:
        store: an opened store.
        pairs: partitions to compare; None compares all that share concepts.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, ...) may be given by name too.
        calibration: measures, k, permutations (the same for every layer) and sample; may be given by name too.
        cross_layers: compare every layer of x with every layer of y, for the pairs that are named.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.
        named: fields of `CompareOptions` and of `CalibrationOptions`.

    Returns:
        A row per layer of x, layer_y of y, pair and metric (see `hubstore.analysis.calibration.MEASURES`). `null_mean`
        is what shuffled items give, in closed form for "cka", "rsa", "mutual_knn" and "linear_r2"; `calibrated` is
        (value - null_mean) / (1 - null_mean), 0 by chance and 1 at best; `p_value` is (1 + permutations with at least
        this value) / (1 + permutations), of this row alone.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range, a measure that is none; a pair shares fewer than 12 concepts,
            or cross_layers names no pair of many.
    """
    calibration = take(CalibrationOptions, named, calibration)
    named_measures(calibration.measures)
    parameters = {
        **by_pair(store, compare_options("calibrated", options, named, pairs=pairs), with_itself=cross_layers),
        **asdict(calibration),
        "cross_layers": cross_layers,
    }
    if cross_layers and parameters["pairs"] is None and len(all_pairs(store)) > 1:
        raise AnalysisError(
            "cross_layers compares all layers of each pair; name the pairs with ", Parameter("pairs", "...")
        )
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(
        store, "calibrated", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs)
    )


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    matched, skipped = Concepts(store).match_all(params["pairs"], FEWEST_COMPARED)
    states = States(store, params["pooling"], on)
    names = named_measures(params["measures"])

    def find(layer: str) -> list[Row]:
        others = params["layers"] if params["cross_layers"] else [layer]
        rows: list[Row] = []
        for items in matched:
            chosen = sampled(len(items), params["sample"], params["seed"])
            x, y = (Selection.of(side.partition, side.positions[chosen]) for side in (items.x, items.y))
            orders = permutations(len(x), params["permutations"], params["seed"])
            common = {"layer": layer, **items.columns(), "n": len(x)}
            own = layer_view(states, layer, x, params["k"])
            for other in others:
                its = layer_view(states, other, y, params["k"])
                for name, values in permuted_values([own], [its], orders, names).items():
                    found = row_of(name, values[0, 0], expected(*name, own, its))
                    rows.append({**common, "layer_y": other, **found})
        return rows

    return Prepared(find, {"skipped_pairs": skipped})


def sampled(n: int, sample: int, seed: int) -> npt.NDArray[np.int64]:
    """Places of `sample` of n items, drawn without replacement, in order; all where there are no more."""
    if n <= sample:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, n]).choice(n, sample, replace=False))


def layer_view(states: States, layer: str, selection: Selection, k: int) -> View:
    """A layer's states of some items as the measures need them, with k neighbors or as many as there are."""
    near = min(k, len(selection) - 1)
    seed = tie_seed(layer, selection.partition)
    return states.cached(("view", layer, selection, near), lambda: View(states.rows(layer, selection), near, seed))
