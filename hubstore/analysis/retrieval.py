"""Retrieval: how often an item's match is the nearest of all, in both directions, plain and with CSLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.comparing import by_pair, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.pairs import Concepts, Matched, Pair
from hubstore.analysis.results import Row, intervals, stored_or_computed
from hubstore.analysis.states import VARIANTS, States, item_pooling
from hubstore.checks import check_count
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError
from hubstore.kernels import match_rank, match_ranks
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.intervals import share_intervals

if TYPE_CHECKING:
    from hubstore.store import StoreReader

METRICS = ("recall@1", "recall@5", "recall@10", "mrr")
RANKINGS = ("forward", "backward", "csls_forward", "csls_backward")
COLUMNS = {"left_out_x": pa.int64(), "left_out_y": pa.int64()}


def retrieval(
    store: StoreReader,
    pairs: Sequence[Pair] | None = None,
    options: CompareOptions | None = None,
    *,
    k: int = 10,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """Where each item's match stands among all paired items of the other partition.

    Args:
        store: an opened store.
        pairs: partitions to compare, each in both directions; None compares all that share concepts.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, bootstrap, ...) may be given by
            name too. The bootstrap takes resamples of the concepts that ask, among candidates that stay.
        k: neighbors of CSLS (Conneau et al., 2018, use 10).
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer, direction (x asks, y answers), variant and metric ("recall@1", "recall@5",
        "recall@10", "mrr"). Variants are "raw" and "centered" (each partition's mean over the paired items
        removed) by cosine, and "csls_raw" and "csls_centered" by 2 cos(x, y) - r(x) - r(y), with r the mean
        cosine to the k nearest of the other partition. Intervals are 95%, Wilson's for as many trials as vary as
        much; `bootstrap` 0 leaves them out.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; a pair shares fewer than 2 concepts.
    """
    parameters = {
        **by_pair(store, compare_options("retrieval", options, named, pairs=pairs)),
        "k": check_count("k", k, error=AnalysisError),
    }
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(store, "retrieval", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs))


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    matched, skipped = Concepts(store).match_all(params["pairs"])
    states = States(store, params["pooling"], on)
    resampling = Bootstrap(params["bootstrap"], params["seed"])

    def find(layer: str) -> list[Row]:
        return [row for items in matched for row in _both_directions(states, layer, items, params["k"], resampling)]

    return Prepared(find, {"skipped_pairs": skipped})


def found_by_concept(
    store: StoreReader,
    pair: Pair,
    layers: Sequence[str],
    *,
    metric: str,
    variant: str,
    device: str = "auto",
    pooling: str | None = None,
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float64]]]:
    """What each query of x adds to a metric by cosine: what a verdict on it is tested with.

    Args:
        store: an opened store.
        pair: x, which asks, and y.
        layers: names.
        metric: one of METRICS.
        variant: "raw" or "centered".
        device: where to compute.
        pooling: the store's first with a row per item by default.

    Returns:
        The queries' positions in the store, int64 [n], and by layer float64 [n].
    """
    items = Concepts(store).match(*pair)
    states = States(store, item_pooling(store, pooling), resolve_device(device))
    found = pair_successes(states, items, layers, metric, variant)
    return items.x.positions, {layer: forward for layer, (forward, _) in found.items()}


def pair_successes(
    states: States, items: Matched, layers: Sequence[str], metric: str, variant: str
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """By layer what each item of x adds to a metric, and what each of y does, from states that other pairs share."""
    place, found = METRICS.index(metric), {}
    for layer in layers:
        forward, backward = match_rank(*(states.rows(layer, side, variant) for side in (items.x, items.y)))
        found[layer] = _successes(forward)[:, place], _successes(backward)[:, place]
    return found


def _both_directions(states: States, layer: str, items: Matched, k: int, resampling: Bootstrap) -> list[Row]:
    forward: Row = {"layer": layer, **items.columns()}
    backward: Row = {"layer": layer, **items.swapped().columns()}
    labels, successes = [], []
    for variant in VARIANTS:
        rows_x, rows_y = (states.rows(layer, selection, variant) for selection in (items.x, items.y))
        ranks = match_ranks(rows_x, rows_y, neighbors=k)
        successes += [_successes(getattr(ranks, name)) for name in RANKINGS]
        labels += [{**forward, "variant": variant}, {**backward, "variant": variant}]
        labels += [{**label, "variant": f"csls_{variant}"} for label in labels[-2:]]
    columns = np.concatenate(successes, 1)
    bounds = share_intervals(columns) if resampling.replicates else np.full((2, columns.shape[1]), np.nan)
    rows = intervals(METRICS * len(labels), columns.mean(0), bounds)
    return [{**labels[i // len(METRICS)], **row} for i, row in enumerate(rows)]


def _successes(ranks: Tensor) -> npt.NDArray[np.float64]:
    """float64 [n, 4]: what each query adds to each of METRICS."""
    one_based = ranks.cpu().numpy() + 1
    return np.stack([one_based <= 1, one_based <= 5, one_based <= 10, 1 / one_based], 1).astype(np.float64)
