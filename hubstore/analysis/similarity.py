"""Equation 1 of Wu et al. (2025): how much nearer equivalent items are than others, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hubstore.analysis.bootstrap import Bootstrap
from hubstore.analysis.layers import Progress, over_layers
from hubstore.analysis.pairs import Concepts, Matched, Pair, check_pairs
from hubstore.analysis.resolution import lost_variance, resolves, rounding_variance
from hubstore.analysis.results import Findings, Row, intervals, kept_or_made
from hubstore.analysis.states import VARIANTS, States, item_pooling, layer_names
from hubstore.devices import resolve_device

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
    *,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    device: str = "auto",
    progress: Progress | None = None,
) -> pa.Table:
    """Cosine of matched items against the mean over mismatched ones, and their difference.

    Args:
        store: an opened store.
        pairs: partitions to compare; None compares all that share concepts.
        layers: None is all.
        pooling: None is the store's first that has a row per item.
        seed: of the bootstrap.
        bootstrap: resamples of the concepts; 0 gives no intervals.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.

    Returns:
        A row per layer, pair, variant ("raw", or "centred": each partition's mean over the paired items
        removed) and metric ("matched", "baseline", "difference"). Intervals are 95%. For "difference",
        `resolution` is the standard error that rounding to the store's dtype alone causes, and `resolved`
        whether the difference is 40 times that, which leaves two digits; `unresolved` puts it in words.
        left_out_x and left_out_y count items without a match, or whose concept an earlier item has.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a pair shares fewer than 2 concepts.
    """
    chosen, names, pooled = check_pairs(store, pairs), layer_names(store, layers), item_pooling(store, pooling)

    on = resolve_device(device)

    def make() -> Findings:
        matched, skipped = Concepts(store).match_all(chosen)
        states, resampling = States(store, pooled, on), Bootstrap(bootstrap, seed)

        def find(layer: str) -> list[Row]:
            return [
                {"layer": layer, "variant": variant, **items.columns(), **row}
                for items in matched
                for variant in VARIANTS
                for row in _compare(states, layer, items, variant, resampling)
            ]

        return Findings(COLUMNS, over_layers(store, names, find, progress, on), {"skipped_pairs": skipped})

    parameters = {"pairs": chosen, "layers": names, "pooling": pooled, "seed": seed, "bootstrap": bootstrap}
    return kept_or_made(store, "similarity", parameters, make)


def unresolved(table: pa.Table) -> str | None:
    """A warning where the store's dtype cannot tell a table of similarities to two digits, else None."""
    coarse = table.filter(pc.equal(table["resolved"], False))
    if not coarse.num_rows:
        return None
    places = list(dict.fromkeys(coarse["layer"].to_pylist()))
    return (
        f"{coarse.num_rows} differences of matched and baseline (layers {', '.join(places)}) are not resolved to "
        "two digits by the dtype of the store; extract again with --dtype float32"
    )


def _compare(states: States, layer: str, items: Matched, variant: str, resampling: Bootstrap) -> list[Row]:
    n = len(items)
    sum_x, sum_y = (states.unit_sum(layer, side, variant) for side in (items.x, items.y))
    cosines, toward_x, toward_y = _products(states, layer, items, variant, sum_x, sum_y)
    matched = float(cosines.mean())
    baseline = float(sum_x @ sum_y - cosines.sum()) / (n * (n - 1))
    # To first order a concept acts on the baseline through all mismatched pairs that it is in.
    shares = (toward_x + toward_y - 2 * cosines) / (n - 1)
    columns = torch.stack([cosines, shares, cosines - shares], 1).cpu().numpy()
    values = np.array([matched, baseline, matched - baseline])
    rows = intervals(METRICS, values, resampling.of_estimates(values, columns))
    variance = rounding_variance(states, layer, (items.x, items.y), variant, cosines - toward_y / n)
    variance += rounding_variance(states, layer, (items.y, items.x), variant, cosines - toward_x / n)
    variance += lost_variance(states, layer, (items.x, items.y), variant)
    resolution = variance**0.5
    return [*rows[:2], {**rows[2], "resolution": resolution, "resolved": resolves(values[2], resolution)}]


def _products(
    states: States, layer: str, items: Matched, variant: str, sum_x: Tensor, sum_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ᵢ·ŷᵢ, ŷᵢ·Σx̂ and x̂ᵢ·Σŷ, each float64 [n]."""
    units = zip(states.units(layer, items.x, variant), states.units(layer, items.y, variant), strict=True)
    pieces = [((x * y).sum(1), y @ sum_x, x @ sum_y) for x, y in units]
    cosines, toward_x, toward_y = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return cosines, toward_x, toward_y
