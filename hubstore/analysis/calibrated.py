"""Calibrated alignment of two partitions, within a store or between two: every measure beside its null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.analysis.calibration import View, compare, permutations, view
from hubstore.analysis.comparing import by_pair, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import tie_seed
from hubstore.analysis.pairs import Concepts, Pair, Selection, all_pairs
from hubstore.analysis.results import FIELDS, Row, stored_or_computed
from hubstore.analysis.states import States, item_pooling
from hubstore.checks import check_count, check_resamples
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError, Parameter
from hubstore.options import CompareOptions

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
FEWEST = 12
"""Items under which a linear map of half of them says nothing."""


def calibrated(  # noqa: PLR0913
    store: StoreReader,
    pairs: Sequence[Pair] | None = None,
    options: CompareOptions | None = None,
    *,
    k: int = 10,
    permutations: int = 99,
    sample: int = 512,
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
        k: neighbors of mutual kNN and CKNNA; n - 1 where there are fewer.
        permutations: of y's items, the same for every layer.
        sample: concepts, drawn at random, where there are more: the measures need n x n matrices.
        cross_layers: compare every layer of x with every layer of y, for the pairs that are named.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer of x, layer_y of y, pair and metric (see `hubstore.analysis.calibration.measures`). `null_mean`
        is what shuffled items give, in closed form for "cka", "rsa", "mutual_knn" and "linear_r2"; `calibrated` is
        (value - null_mean) / (1 - null_mean), 0 by chance and 1 at best; `p_value` is (1 + permutations with at least
        this value) / (1 + permutations), of this row alone.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; a pair shares fewer than 12 concepts, or cross_layers names
            no pair of many.
    """
    parameters = {
        **by_pair(store, compare_options("calibrated", options, named, pairs=pairs), with_itself=cross_layers),
        "k": check_count("k", k, error=AnalysisError),
        "permutations": check_resamples("permutations", permutations, error=AnalysisError),
        "sample": check_count("sample", sample, least=FEWEST, error=AnalysisError),
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
    matched, skipped = Concepts(store).match_all(params["pairs"], FEWEST)
    states = States(store, params["pooling"], on)

    def find(layer: str) -> list[Row]:
        others = params["layers"] if params["cross_layers"] else [layer]
        rows: list[Row] = []
        for items in matched:
            chosen = sampled(len(items), params["sample"], params["seed"])
            x, y = (Selection.of(side.partition, side.positions[chosen]) for side in (items.x, items.y))
            orders = permutations(len(x), params["permutations"], params["seed"])
            common = {"layer": layer, **items.columns(), "n": len(x)}
            for other in others:
                found = compare(_view(states, layer, x, params["k"]), _view(states, other, y, params["k"]), orders)
                rows += [{**common, "layer_y": other, **row} for row in found]
        return rows

    return Prepared(find, {"skipped_pairs": skipped})


def calibrated_between(
    x: StoreReader,
    y: StoreReader,
    pair: Pair,
    *,
    layers_x: Sequence[str | int] | None = None,
    layers_y: Sequence[str | int] | None = None,
    by: str = "concept",
    k: int = 10,
    **named: int,
) -> pa.Table:
    """The same measures between two stores, of two models for instance, whose widths may differ; nothing is kept.

    Args:
        x: an opened store.
        y: another.
        pair: a partition of x and one of y.
        layers_x: of x, None for all.
        layers_y: of y.
        by: "concept" or "id": what matched items have the same of.
        k: neighbors.
        named: permutations, sample and seed, as `calibrated` has them.

    Returns:
        A row for every layer of x, layer of y and metric.

    Raises:
        QueryError: a partition or layer that a store does not have.
        AnalysisError: the partitions share fewer than 12 concepts or ids.
    """
    drawn = {"permutations": 99, "sample": 512, "seed": 0, **named}
    selections, left_out = _matched(x, y, pair, by)
    chosen = sampled(len(selections[0]), drawn["sample"], drawn["seed"])
    sides = []
    for store, selection, layers in zip((x, y), selections, (layers_x, layers_y), strict=True):
        some = Selection.of(selection.partition, selection.positions[chosen])
        states = States(store, item_pooling(store, None))
        names = store.layer_names(None if layers is None else tuple(layers))
        sides.append({name: _view(states, name, some, k) for name in names})
    orders = permutations(len(chosen), drawn["permutations"], drawn["seed"])
    common = {"analysis": "calibrated", "x": pair[0], "y": pair[1], "n": len(chosen), **left_out}
    rows = [
        {**common, "layer": layer, "layer_y": other, **row}
        for layer, one in sides[0].items()
        for other, its in sides[1].items()
        for row in compare(one, its, orders)
    ]
    fields = [*FIELDS, *(pa.field(name, kind) for name, kind in COLUMNS.items())]
    arrays = [pa.array([row.get(one.name) for row in rows], one.type, from_pandas=True) for one in fields]
    return pa.table(arrays, schema=pa.schema(fields))


def sampled(n: int, sample: int, seed: int) -> npt.NDArray[np.int64]:
    """Places of `sample` of n items, drawn without replacement, in order; all where there are no more."""
    if n <= sample:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, n]).choice(n, sample, replace=False))


def _view(states: States, layer: str, selection: Selection, k: int) -> View:
    near = min(k, len(selection) - 1)
    seed = tie_seed(layer, selection.partition)
    return states.cached(("view", layer, selection, near), lambda: view(states.rows(layer, selection), near, seed))


def _matched(x: StoreReader, y: StoreReader, pair: Pair, by: str) -> tuple[tuple[Selection, Selection], dict[str, int]]:
    """Items of two stores that have one concept or id, in one order, and how many have no match."""
    if by not in ("concept", "id"):
        raise AnalysisError(f"items of two stores match by 'concept' or 'id', not by {by!r}")
    firsts = []
    for store, name in zip((x, y), pair, strict=True):
        positions = store.partition(name).positions()
        names = store.items[by].take(pa.array(positions)).to_pylist()
        firsts.append({key: at for key, at in zip(reversed(names), reversed(positions.tolist()), strict=True) if key})
    shared = sorted(firsts[0].keys() & firsts[1].keys(), key=firsts[0].__getitem__)
    if len(shared) < FEWEST:
        raise AnalysisError(
            f"{pair[0]!r} of {x.path} and {pair[1]!r} of {y.path} share {len(shared)} values of {by!r}, at least "
            f"{FEWEST} are needed; extract both from one corpus"
        )
    chosen = [
        Selection.of(name, np.array([positions[key] for key in shared]))
        for name, positions in zip(pair, firsts, strict=True)
    ]
    left = [len(store.partition(name).positions()) - len(shared) for store, name in zip((x, y), pair, strict=True)]
    return (chosen[0], chosen[1]), {"left_out_x": left[0], "left_out_y": left[1]}
