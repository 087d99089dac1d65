"""Equation 1 of Wu et al. (2025) in an experiment's terms: the curves of matched and mismatched pairs."""

from __future__ import annotations

from hubstore.analysis import similarity, unresolved
from hubstore.api import Store
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Plot, Row

DIFFERENCE = "matched - baseline"
CENTRED = "matched - baseline, means removed"
NAMES = {
    ("raw", "matched"): "matched",
    ("raw", "baseline"): "baseline",
    ("raw", "difference"): DIFFERENCE,
    ("centred", "difference"): CENTRED,
}
PLOTS = (
    Plot("matched and mismatched pairs", "cosine", ("matched", "baseline")),
    Plot("how much nearer matched pairs are", "difference of cosines", (DIFFERENCE, CENTRED)),
)


def matching(lab: Lab, store: Store, x: str, y: str) -> tuple[list[Row], tuple[str, ...]]:
    """Matched and baseline cosines of two partitions by layer, and their difference, raw (the paper's) and centred.

    Returns:
        Rows, and notes: whether the store's dtype resolves the differences.
    """
    table = similarity(
        store,
        [(x, y)],
        layers=lab.layers,
        seed=lab.seed,
        bootstrap=lab.bootstrap,
        device=lab.device,
        progress=lambda done, total: lab.progress(f"comparing {x} with {y}", done, total),
    )
    rows: list[Row] = [
        {"quantity": NAMES[row["variant"], row["metric"]], **row}
        for row in table.to_pylist()
        if (row["variant"], row["metric"]) in NAMES
    ]
    warning = unresolved(table)
    return rows, () if warning is None else (warning,)
