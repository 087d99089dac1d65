"""Cosines of matched items against those of others, by layer: matched, baseline and their difference (equation 1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hubstore.analysis import concept_differences, similarity, unresolved
from hubstore.analysis.states import VARIANTS
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.result import Row
from hubstore.experiments.significance import Floats, estimate_rows, with_clusters
from hubstore.kernels.rows import unit_rows
from hubstore.plots.experiment import Plot
from hubstore.store import StoreReader

DIFFERENCE = "matched - baseline"
REMOVED = ", means removed"
CENTERED = f"{DIFFERENCE}{REMOVED}"
RAW_VARIANT, CENTERED_VARIANT = VARIANTS
NAMES = {
    (RAW_VARIANT, "matched"): "matched",
    (RAW_VARIANT, "baseline"): "baseline",
    (RAW_VARIANT, "difference"): DIFFERENCE,
    (CENTERED_VARIANT, "difference"): CENTERED,
}
MEANS_REMOVED = "with each side's mean removed"
"""How the note begins that says what the other reading shows."""

PLOTS = (
    Plot("matched and mismatched pairs", "cosine", ("matched", "baseline")),
    Plot("how much nearer matched pairs are", "difference of cosines", (DIFFERENCE, CENTERED)),
)


def compare_partitions(
    context: ExperimentContext, store: StoreReader, x: str, y: str
) -> tuple[list[Row], tuple[str, ...]]:
    """Matched and baseline cosines of two partitions by layer, and their difference, raw (the paper's) and centered.

    Returns:
        Rows, and notes: whether the store's dtype resolves the differences.
    """
    table = similarity(
        store,
        [(x, y)],
        layers=context.layers,
        seed=context.seed,
        bootstrap=context.bootstrap,
        device=context.device,
        progress=lambda done, total: context.progress(f"comparing {x} with {y}", done, total),
    )
    added = {
        variant: concept_differences(store, (x, y), context.layers, context.device, variant) for variant in VARIANTS
    }
    rows: list[Row] = []
    for row in table.to_pylist():
        if (row["variant"], row["metric"]) in NAMES:
            named = {"quantity": NAMES[row["variant"], row["metric"]], **row}
            clusters = added[row["variant"]][row["layer"]][:, None]
            rows += with_clusters([named], clusters) if row["metric"] == "difference" else [named]
    warning = unresolved(table, store.dtype)
    return rows, () if warning is None else (warning,)


def compare_groups(
    context: ExperimentContext, layer: str, x: Tensor, y: Tensor, group_x: Tensor, group_y: Tensor
) -> list[Row]:
    """Matched and baseline cosines and their difference, raw and with each side's mean removed.

    With one item for each concept it is the `similarity` of `hubstore.analysis`.

    Args:
        context: for the resamples.
        layer: its name.
        x: float64 [n, width].
        y: float64 [m, width].
        group_x: int64 [n], the concept of each.
        group_y: int64 [m].
    """
    raw, raw_shares = _matched_and_baseline(unit_rows(x), unit_rows(y), group_x, group_y)
    centered, centered_shares = _matched_and_baseline(
        unit_rows(x - x.mean(0)), unit_rows(y - y.mean(0)), group_x, group_y
    )
    unbiased = 1 - 1 / len(raw_shares)  # the means are over the same concepts; see `hubstore.analysis.similarity`
    values = np.append(raw, unbiased * centered[2])
    shares = np.column_stack([raw_shares, unbiased * centered_shares[:, 2]])
    return estimate_rows(layer, list(NAMES.values()), values, shares, context.resampling, len(x))


def _matched_and_baseline(x: Tensor, y: Tensor, group_x: Tensor, group_y: Tensor) -> tuple[Floats, Floats]:
    """Matched, baseline, difference, float64 [3], and each concept's first-order share in them, [concepts, 3]."""
    number = int(max(group_x.max(), group_y.max())) + 1
    sum_x, sum_y = (
        torch.zeros(number, side.shape[1], dtype=side.dtype).index_add_(0, group, side)
        for side, group in ((x, group_x), (y, group_y))
    )
    count_x, count_y = (torch.bincount(group, minlength=number).to(x.dtype) for group in (group_x, group_y))
    within, pairs = (sum_x * sum_y).sum(1), count_x * count_y
    # A concept is in the mismatched pairs of its media with others' texts, and of its texts with others' media.
    across = sum_x @ sum_y.sum(0) + sum_y @ sum_x.sum(0) - 2 * within
    other = count_x * count_y.sum() + count_y * count_x.sum() - 2 * pairs
    matched, baseline = within.sum() / pairs.sum(), across.sum() / other.sum()
    shares = torch.stack(
        [number * (within - matched * pairs) / pairs.sum(), 2 * number * (across - baseline * other) / other.sum()], 1
    )
    values = torch.stack([matched, baseline, matched - baseline])
    return values.numpy(), torch.cat([shares, shares[:, :1] - shares[:, 1:]], 1).numpy()
