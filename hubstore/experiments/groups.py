"""Equation 1 of Wu et al. (2025) where a concept has several items: a picture with its captions, sounds of one label.

All pairs of one concept are matched, and all pairs of two concepts are the baseline: no other caption of a picture
is in its baseline. With one item for each concept it is the `similarity` of `hubstore.analysis`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.lab import Lab
from hubstore.experiments.matching import DIFFERENCE, NAMES, PLOTS
from hubstore.experiments.outcome import Outcome, Row, make_table
from hubstore.experiments.verdict import Floats, peak
from hubstore.kernels.rows import unit_rows

METRICS = ("matched", "baseline", "difference")


def compare_descriptions(lab: Lab, name: str, modality: str, items: Sequence[Item]) -> Outcome:
    """Cosines of media with the texts of their concept and with others', by layer.

    Args:
        lab: where.
        name: of the store.
        modality: "image" or "audio".
        items: media and texts, each with its concept.

    Raises:
        ModelError: the model does not read the modality, or no texts beside it.
        AnalysisError: there are fewer than two concepts.
    """
    for needed in (modality, "text"):
        lab.model.require_modality(needed)
    store = lab.store(name, Corpus.from_items(items, name), media_template=lab.media_template)
    concepts = {concept: number for number, concept in enumerate(dict.fromkeys(item.concept for item in items))}
    if len(concepts) < 2:
        raise AnalysisError(
            f"{len(concepts)} concepts among {len(items)} items: there is nothing mismatched; give more"
        )
    sides = [[item for item in items if (item.modality == "text") == is_text] for is_text in (False, True)]
    positions = [store.positions([item.id for item in side]) for side in sides]
    groups = [torch.tensor([concepts[item.concept] for item in side]) for side in sides]
    rows: list[Row] = []
    for number, layer in enumerate(lab.layers, 1):
        hidden = store.hidden(layer)
        x, y = (hidden.take(where).to(torch.float64) for where in positions)
        rows += compare_groups(lab, layer, x, y, groups[0], groups[1])
        lab.progress("comparing with descriptions", number, len(lab.layers))
    best = peak(rows, (DIFFERENCE,), lab.intermediate)
    media, texts = map(len, sides)
    note = f"{media:,} {modality} items and {texts:,} texts of {len(concepts):,} concepts, which are resampled whole"
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), PLOTS, (note,))


def compare_groups(lab: Lab, layer: str, x: Tensor, y: Tensor, group_x: Tensor, group_y: Tensor) -> list[Row]:
    """Matched and baseline cosines and their difference, raw and with each side's mean removed.

    Args:
        lab: for the resamples.
        layer: its name.
        x: float64 [n, width].
        y: float64 [m, width].
        group_x: int64 [n], the concept of each.
        group_y: int64 [m].
    """
    rows: list[Row] = []
    for variant in ("raw", "centred"):
        sides = (x, y) if variant == "raw" else (x - x.mean(0), y - y.mean(0))
        values, shares = _means(unit_rows(sides[0]), unit_rows(sides[1]), group_x, group_y)
        low, high = lab.resampling.of_estimates(values, shares)
        rows += [
            {
                "layer": layer,
                "quantity": NAMES[variant, metric],
                "value": value,
                "low": below,
                "high": above,
                "n": len(x),
            }
            for metric, value, below, above in zip(METRICS, values.tolist(), low.tolist(), high.tolist(), strict=True)
            if (variant, metric) in NAMES
        ]
    return rows


def _means(x: Tensor, y: Tensor, group_x: Tensor, group_y: Tensor) -> tuple[Floats, Floats]:
    """The values of METRICS, float64 [3], and each concept's first-order share in them, float64 [concepts, 3]."""
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
