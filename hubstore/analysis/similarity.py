"""Equation 1 of Wu et al. (2025): how much nearer equivalent items are than others, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hubstore.analysis.comparing import by_pair, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.pairs import Concepts, Matched, Pair
from hubstore.analysis.resolution import finer_dtype, lost_variance, resolves, rounding_variance
from hubstore.analysis.results import Row, intervals, stored_or_computed
from hubstore.analysis.states import VARIANTS, States, item_pooling
from hubstore.devices import resolve_device
from hubstore.options import CompareOptions
from hubstore.stats import blocks
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

METRICS = ("matched", "baseline", "difference")
COLUMNS = {
    "left_out_x": pa.int64(),
    "left_out_y": pa.int64(),
    "resolution": pa.float64(),
    "resolved": pa.bool_(),
}


def similarity(
    store: StoreReader,
    pairs: Sequence[Pair] | None = None,
    options: CompareOptions | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """Cosine of matched items against the mean over mismatched ones, and their difference.

    Args:
        store: an opened store.
        pairs: partitions to compare; None compares all that share concepts.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, bootstrap, ...) may be given by
            name too. The bootstrap takes resamples of the concepts.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer, pair, variant ("raw", or "centered": each partition's mean over the paired items
        removed, and the n-th part that this adds to the difference) and metric ("matched", "baseline", "difference").
        Intervals are 95%. For "difference",
        `resolution` is the standard error that rounding to the store's dtype alone causes, and `resolved`
        whether the difference is 40 times that, which leaves two digits; `unresolved` puts it in words.
        left_out_x and left_out_y count items without a match, or whose concept an earlier item has.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; a pair shares fewer than 2 concepts.
    """
    parameters = by_pair(store, compare_options("similarity", options, named, pairs=pairs))
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(
        store, "similarity", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs)
    )


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    matched, skipped = Concepts(store).match_all(params["pairs"])
    states = States(store, params["pooling"], on)
    resampling = Bootstrap(params["bootstrap"], params["seed"])

    def find(layer: str) -> list[Row]:
        return [
            {"layer": layer, "variant": variant, **items.columns(), **row}
            for items in matched
            for variant in VARIANTS
            for row in _compare(states, layer, items, variant, resampling)
        ]

    return Prepared(find, {"skipped_pairs": skipped})


def unresolved(table: pa.Table, dtype: torch.dtype | None = None) -> str | None:
    """A warning where the store's dtype cannot tell a table of similarities to two digits, else None.

    Args:
        table: of `similarity`.
        dtype: the store's, which a finer one would have to be finer than; None for one of 16 bits.
    """
    coarse = table.filter(pc.equal(table["resolved"], False))
    if not coarse.num_rows:
        return None
    places = list(dict.fromkeys(coarse["layer"].to_pylist()))
    return (
        f"{coarse.num_rows} differences of matched and baseline (layers {', '.join(places)}) are not resolved to "
        f"two digits by the dtype of the store; {finer_dtype(dtype)}"
    )


def concept_differences(
    store: StoreReader,
    pair: Pair,
    layers: Sequence[str],
    device: str = "auto",
    variant: str = "raw",
    *,
    pooling: str | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """What each concept adds to matched minus baseline, to first order: what a verdict on it is tested with.

    Returns:
        By layer float64 [n], whose mean is the difference.
    """
    states = States(store, item_pooling(store, pooling), resolve_device(device))
    return pair_differences(states, Concepts(store).match(*pair), layers, variant)


def pair_differences(
    states: States, items: Matched, layers: Sequence[str], variant: str
) -> dict[str, npt.NDArray[np.float64]]:
    """The same of matched items, from states that other pairs share."""
    found = {}
    for layer in layers:
        values, shares, *_ = _estimates(states, layer, items, variant)
        found[layer] = values[2] + shares[:, 2] - shares[:, 2].mean()
    return found


def _compare(states: States, layer: str, items: Matched, variant: str, resampling: Bootstrap) -> list[Row]:
    n = len(items)
    values, columns, cosines, toward_x, toward_y = _estimates(states, layer, items, variant)
    rows = intervals(METRICS, values, resampling.of_estimates(values, columns))
    variance = rounding_variance(states, layer, (items.x, items.y), variant, cosines - toward_y / n)
    variance += rounding_variance(states, layer, (items.y, items.x), variant, cosines - toward_x / n)
    variance += lost_variance(states, layer, (items.x, items.y), variant)
    resolution = variance**0.5
    return [*rows[:2], {**rows[2], "resolution": resolution, "resolved": resolves(values[2], resolution)}]


def _estimates(
    states: States, layer: str, items: Matched, variant: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Tensor, Tensor, Tensor]:
    """Values of METRICS [3], each concept's share in them [n, 3], and what `_products` gives."""
    n = len(items)
    sum_x, sum_y = (states.unit_sum(layer, side, variant) for side in (items.x, items.y))
    cosines, toward_x, toward_y = _products(states, layer, items, variant, sum_x, sum_y)
    matched = blocks.mean(cosines)
    baseline = (float((sum_x * sum_y).cpu().numpy().sum()) - n * matched) / (n * (n - 1))
    # To first order a concept acts on the baseline through all mismatched pairs that it is in.
    shares = (toward_x + toward_y - 2 * cosines) / (n - 1)
    # Means over the same n items draw mismatched ones apart: their cosine is too low by an n-th of the difference.
    unbiased = (n - 1) / n if variant == "centered" else 1.0
    apart = unbiased * (cosines - shares)
    columns = torch.stack([cosines, cosines - apart, apart], 1).cpu().numpy()
    difference = unbiased * (matched - baseline)
    return np.array([matched, matched - difference, difference]), columns, cosines, toward_x, toward_y


def _products(
    states: States, layer: str, items: Matched, variant: str, sum_x: Tensor, sum_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ᵢ·ŷᵢ, ŷᵢ·Σx̂ and x̂ᵢ·Σŷ, each float64 [n]."""

    def products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (x * y).sum(1), y @ sum_x, x @ sum_y

    pieces = blocks.map_blocks(products, *(states.units(layer, side, variant) for side in (items.x, items.y)))
    cosines, toward_x, toward_y = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return cosines, toward_x, toward_y
