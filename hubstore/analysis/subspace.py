"""Language subspaces: what is left of the language, and of the meaning, once directions of the language are removed.

Every eraser is fitted on one half of the concepts, in all languages, and everything is measured on the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.comparing import by_partition, compare_options
from hubstore.analysis.erasers import Eraser, inlp, leace, lsar, orthogonal
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import pair_hits
from hubstore.analysis.results import Row, intervals, stored_or_computed
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.analysis.states import States
from hubstore.devices import resolve_device
from hubstore.kernels.rows import unit_rows
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.intervals import share_intervals
from hubstore.stats.ridge import fit_ridge, indicators

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
COLUMNS = {"directions": pa.int64(), "chance": pa.float64()}
WHOLE = "*"
METRICS = ("recall@1", "difference", "language_accuracy")
SHARE = 0.9
"""Of what language accuracy is above chance, or of the variance between languages, that directions are counted for."""


def subspace(
    store: StoreReader,
    partitions: Sequence[str] | None = None,
    options: CompareOptions | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """How many directions carry the language, and what retrieval and similarity are without them.

    Args:
        store: an opened store.
        partitions: two or more that share concepts; None is all.
        options: its fields (layers, pooling, seed, bootstrap, ...) may be given by name too; `bootstrap` 0 leaves
            intervals out.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer, x ("*", or a partition whose items ask), variant and metric, on concepts that nothing was
        fitted on. Variants: "raw"; "one_mean", the mean of all fitted items removed, as in all that follow;
        "centered", each partition's own mean removed; "lsar" (Xie et al., 2022), "leace" (Belrose et al., 2023) and
        "inlp" (Ravfogel et al., 2020), see `hubstore.analysis.erasers`; "random", as many random directions as LSAR's;
        and "lsar_1", "lsar_2", "lsar_4", ... of so many directions. Metrics: "recall@1", the share of items whose match
        is the nearest, over all ordered pairs of partitions; "difference", matched minus baseline cosine;
        "language_accuracy" of a ridge classifier that is fitted anew on what is left; `directions` is how many are
        removed, `chance` what knows nothing reaches. "directions_for_90%" counts those of LSAR without which the
        classifier loses 90 % of what it has above chance (null where all do not do), and "directions_with_90%" those
        that hold 90 % of the variance between the means of languages, on tested concepts. Intervals are 95 %, of
        resampled concepts.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; fewer than two partitions, or they share fewer than 24
            concepts.
    """
    parameters = by_partition(store, compare_options("subspace", options, named, partitions=partitions))
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(store, "subspace", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs))


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    concepts = SharedConcepts.of(store, params["partitions"], params["seed"])
    states = States(store, params["pooling"], on)
    resampling = Bootstrap(params["bootstrap"], params["seed"])

    def find(layer: str) -> list[Row]:
        every = concepts.states(states, layer)
        split = _Split(every[:, concepts.fitted], every[:, concepts.tested], concepts.held(every.device))
        rows = _layer_rows(split, concepts.names, resampling, params["seed"])
        return [{"layer": layer, "y": WHOLE, **row} for row in rows]

    return Prepared(find, {"fitted": len(concepts.fitted), "tested": len(concepts.tested)})


class _Split:
    """Fitted and tested states of one layer, and what erasers are fitted on.

    Args:
        fitted: float64 [partitions, concepts, width].
        tested: float64 [partitions, other concepts, width].
        held: bool [concepts], of the fitted ones for choosing between fits.
    """

    def __init__(self, fitted: Tensor, tested: Tensor, held: Tensor) -> None:
        self.fitted, self.tested = fitted, tested
        self.languages, concepts, _ = fitted.shape
        self.rows = fitted.flatten(0, 1)
        self.labels = torch.arange(self.languages, device=fitted.device).repeat_interleave(concepts)
        self.held = held.repeat(self.languages)
        self.means = fitted.mean(1)

    def without(self, eraser: Eraser) -> tuple[Tensor, Tensor]:
        """Fitted and tested states without the eraser's directions and without the mean of all."""
        mean = eraser(self.rows).mean(0)
        return eraser(self.fitted) - mean, eraser(self.tested) - mean


def _layer_rows(split: _Split, names: Sequence[str], resampling: Bootstrap, seed: int) -> Iterator[Row]:
    most = split.languages - 1
    full = lsar(split.means, most)
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(full.mean), full.directions)))
    nothing = orthogonal(torch.zeros(len(full.mean), 0, dtype=full.mean.dtype, device=full.mean.device))
    centered = split.means[:, None]
    found: dict[str, tuple[int | None, tuple[Tensor, Tensor]]] = {
        "raw": (0, (split.fitted, split.tested)),
        "one_mean": (0, split.without(nothing)),
        "centered": (None, (split.fitted - centered, split.tested - centered)),
        "lsar": (full.directions, split.without(full)),
    }
    for name, eraser in (
        ("leace", leace(split.rows, split.labels, split.languages)),
        ("inlp", inlp(split.rows, split.labels, split.languages, split.held)),
        ("random", orthogonal(torch.linalg.qr(drawn.to(split.rows)).Q)),
    ):
        found[name] = (eraser.directions, split.without(eraser))
    k = 1
    while k < full.directions:
        eraser = lsar(split.means, k)
        found[f"lsar_{k}"] = (eraser.directions, split.without(eraser))
        k *= 2
    accuracies: dict[int, float] = {}
    for variant, (directions, (fitted, tested)) in found.items():
        for row in _measured(split, fitted, tested, names, resampling):
            yield {**row, "variant": variant, "directions": directions}
            counts = directions is not None and (variant == "one_mean" or variant.startswith("lsar"))
            if counts and row["x"] == WHOLE and row["metric"] == "language_accuracy":
                accuracies[directions or 0] = row["value"]
    yield from _counted(split, full, accuracies)


def _measured(
    split: _Split, fitted: Tensor, tested: Tensor, names: Sequence[str], resampling: Bootstrap
) -> Iterator[Row]:
    """Rows of METRICS, over all partitions and of each."""
    languages, n, _ = tested.shape
    values = np.stack([*_found(tested), _classified(split, fitted, tested)])  # [metrics, partitions, concepts]
    chances = (1 / n, None, 1 / languages)
    for x, of in ((WHOLE, values.mean(1)), *zip(names, values.swapaxes(0, 1), strict=True)):
        columns = of.T  # [concepts, metrics]
        bounds = resampling.of_means(columns)
        if resampling.replicates:
            bounds[:, [0, 2]] = share_intervals(columns[:, [0, 2]])
        for row, chance in zip(intervals(METRICS, columns.mean(0), bounds), chances, strict=True):
            yield {"x": x, **row, "chance": chance, "n": n}


def _found(tested: Tensor) -> tuple[Floats, Floats]:
    """By partition that asks and concept, [partitions, concepts]: whether the match is nearest; what matched minus
    baseline cosine has of it, to first order. Both are means over the partitions that answer."""
    units = unit_rows(tested)
    languages, n, _ = units.shape
    hits = pair_hits(units)
    sums = units.sum(1)
    nearer = torch.zeros(languages, n, dtype=units.dtype, device=units.device)
    for x in range(languages):
        matched = (units[x] * units).sum(2)  # [partitions, n]
        # A sum of cosines is the cosine with the sum.
        toward, away = (
            (side - matched) / (n - 1) for side in (sums @ units[x].T, (units @ sums[x, :, None]).squeeze(2))
        )
        difference = matched - toward - away + toward.mean(1, keepdim=True)
        nearer[x] = (difference.sum(0) - difference[x]) / (languages - 1)
    found = (hits.sum(1) - hits.diagonal().T) / (languages - 1)
    return found, nearer.cpu().numpy()


def _classified(split: _Split, fitted: Tensor, tested: Tensor) -> Floats:
    """1 where a classifier of languages, fitted on what is left, is right: [partitions, concepts]."""
    targets = indicators(split.labels, split.languages)
    classifier = fit_ridge(fitted.flatten(0, 1), targets, split.held)
    said = classifier(tested.flatten(0, 1)).argmax(1).reshape(tested.shape[:2])
    right = said == torch.arange(split.languages, device=said.device)[:, None]
    return np.asarray(right.to(torch.float64).cpu().numpy())


def _counted(split: _Split, full: Eraser, accuracies: Mapping[int, float]) -> Iterator[Row]:
    """How many directions carry the language: by a classifier, and by variance."""
    chance = 1 / split.languages
    enough = chance + (1 - SHARE) * max(accuracies[0] - chance, 0.0)
    needed = min((k for k, accuracy in accuracies.items() if accuracy <= enough), default=None)
    few = max((k for k, accuracy in accuracies.items() if accuracy > enough and k < (needed or 0)), default=0)
    while needed is not None and needed - few > 1:  # between the numbers that were tried
        middle = (needed + few) // 2
        accuracy = _classified(split, *split.without(lsar(split.means, middle))).mean()
        few, needed = (few, middle) if accuracy <= enough else (middle, needed)
    between = split.tested.mean(1) - split.tested.mean((0, 1))
    total = between.square().sum()
    held = (between @ full.right).square().sum(0).cumsum(0) / total
    with_it = (held >= SHARE).nonzero()
    common = {"x": WHOLE, "variant": "lsar", "n": split.tested.shape[1], "chance": None, "directions": full.directions}
    of_variance = int(with_it[0]) + 1 if len(with_it) else None
    for metric, value in (("directions_for_90%", needed), ("directions_with_90%", of_variance)):
        yield {**common, "metric": metric, "value": None if value is None else float(value)}
