"""Do equivalent items cluster: the concepts and languages of each item's nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.analysis.comparing import by_partition, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import shared_labels
from hubstore.analysis.pairs import Concepts, Selection
from hubstore.analysis.results import Row, stored_or_computed
from hubstore.analysis.states import VARIANTS, States
from hubstore.checks import check_count, check_resamples
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError
from hubstore.kernels import Neighbors, neighbor_weights
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Numbers = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
COLUMNS = {"k": pa.int64(), "null_mean": pa.float64(), "p_value": pa.float64()}
WHOLE = "*"
MOST_NEIGHBORS = 10
PERMUTED = 64  # permutations drawn at a time
BLOCK = 1 << 22  # comparisons of permuted labels at a time


def clustering(
    store: StoreReader,
    partitions: Sequence[str] | None = None,
    options: CompareOptions | None = None,
    *,
    permutations: int = 1000,
    k: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """Whether an item's nearest neighbors, of all partitions together, share its concept or its language.

    The items are those whose concept at least two of the partitions have, one for each concept and partition.

    Args:
        store: an opened store.
        partitions: at least two; None is all.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, bootstrap, ...) may be given by
            name too. The bootstrap takes resamples of the concepts, their items' neighbors kept.
        permutations: of the concept labels within each partition, the neighbors kept.
        k: neighbors by cosine, the item itself excluded. None is one for each other partition, so that a
            perfect hub has a purity of 1, but at most 10.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer, x (a partition whose items ask, or "*" for all; y is always "*"), variant ("raw", or
        "centered": each partition's mean removed) and metric: "concept_purity" and "language_purity", the mean
        share of the k neighbors with the item's concept and of its partition. `null_mean` is what is expected
        of labels that mean nothing: over the permutations for concepts, in closed form for languages.
        `p_value`, for concepts, is (1 + permutations with at least this purity) / (1 + permutations).
        n counts items; intervals are 95%.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; fewer than 2 concepts are shared by two partitions.
    """
    parameters = {
        **by_partition(store, compare_options("clustering", options, named, partitions=partitions)),
        "permutations": check_resamples("permutations", permutations, error=AnalysisError),
        "k": None if k is None else check_count("k", k, error=AnalysisError),
    }
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(
        store, "clustering", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs)
    )


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    partitions, seed = params["partitions"], params["seed"]
    items = _items(store, partitions)
    near = min(params["k"] or min(len(partitions) - 1, MOST_NEIGHBORS), len(items) - 1)
    states = States(store, params["pooling"], on)
    resampling = Bootstrap(params["bootstrap"], params["seed"])

    def permuted(start: int) -> Labels:
        return states.cached(("permuted", start), lambda: _permuted(items, seed, start))

    def find(layer: str) -> list[Row]:
        rows: list[Row] = []
        for variant in VARIANTS:
            hidden = torch.cat([states.rows(layer, selection, variant) for selection in items.selections])
            neighbors = neighbor_weights(hidden, near, most_tied=near, seed=seed)
            null = _null(items, neighbors, near, params["permutations"], permuted)
            common = {"layer": layer, "variant": variant, "k": near}
            rows += [{**common, **row} for row in _purities(items, neighbors, near, null, resampling)]
        return rows

    return Prepared(find, {"left_out": items.left_out})


@dataclass(frozen=True)
class _Items:
    """Items in the order of their partitions.

    Args:
        selections: those of each partition.
        concepts: number of each item's concept [n], below `concept_count`.
        partitions: number of each item's partition [n].
        left_out: items of each partition without a match, or whose concept an earlier item has.
    """

    selections: list[Selection]
    concepts: Numbers
    partitions: Numbers
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def concept_count(self) -> int:
        return int(self.concepts.max()) + 1

    def groups(self) -> Iterator[tuple[str, slice]]:
        """Name and place of all items, and of each partition's."""
        yield WHOLE, slice(0, len(self))
        start = 0
        for selection in self.selections:
            yield selection.partition, slice(start, start + len(selection))
            start += len(selection)


def _items(store: StoreReader, partitions: Sequence[str]) -> _Items:
    concepts = Concepts(store)
    found = [concepts.first_items(name) for name in partitions]
    codes, counts = np.unique(np.concatenate([[], *(numbers for numbers, _ in found)]), return_counts=True)
    shared = codes[counts >= 2]
    if len(shared) < 2:
        raise AnalysisError(
            f"partitions {', '.join(map(repr, partitions))} of {store.path} share {len(shared)} concepts, at least "
            "2 are needed; items match where their `concept` is the same: choose partitions of one parallel corpus"
        )
    masks = [np.isin(numbers, shared) for numbers, _ in found]
    return _Items(
        selections=[
            Selection.of(name, positions[mask])
            for name, (_, positions), mask in zip(partitions, found, masks, strict=True)
        ],
        concepts=np.searchsorted(
            shared, np.concatenate([numbers[mask] for (numbers, _), mask in zip(found, masks, strict=True)])
        ),
        partitions=np.repeat(np.arange(len(found)), [mask.sum() for mask in masks]),
        left_out={
            name: store.partition(name).size - int(mask.sum()) for name, mask in zip(partitions, masks, strict=True)
        },
    )


def _purities(
    items: _Items, neighbors: Neighbors, k: int, null: npt.NDArray[np.float64], resampling: Bootstrap
) -> Iterator[Row]:
    """Rows for each group of items; `null` is the concept purity of each permutation and group [R, groups]."""
    same = {
        metric: shared_labels(neighbors, labels, k)
        for metric, labels in (("concept_purity", items.concepts), ("language_purity", items.partitions))
    }
    sizes = np.bincount(items.partitions)
    expected = (sizes[items.partitions] - 1) / (len(items) - 1)
    for group, (name, place) in enumerate(items.groups()):
        if place.start == place.stop:
            continue
        for metric, purity in same.items():
            value = purity[place].mean()
            low, high = _interval(items, place, purity[place], resampling)
            row = {"x": name, "y": WHOLE, "metric": metric, "value": float(value), "low": low, "high": high}
            if metric == "language_purity":
                row["null_mean"] = float(expected[place].mean())
            elif len(null):
                # Purities are counts over one denominator; what is left of its rounding is no difference.
                as_large = int((null[:, group] >= value - 1e-12).sum())
                row["null_mean"] = float(null[:, group].mean())
                row["p_value"] = (1 + as_large) / (1 + len(null))
            yield {**row, "n": place.stop - place.start}


def _interval(
    items: _Items, place: slice, purity: npt.NDArray[np.float64], resampling: Bootstrap
) -> tuple[float, float]:
    concepts = items.concepts[place]
    sums = np.bincount(concepts, purity, items.concept_count).astype(np.float64)
    counts = np.bincount(concepts, minlength=items.concept_count).astype(np.float64)
    bounds = resampling.of_ratios(sums[:, None], counts[:, None])
    return float(bounds[0, 0]), float(bounds[1, 0])


def _null(
    items: _Items, neighbors: Neighbors, k: int, permutations: int, permuted: Callable[[int], Labels]
) -> npt.NDArray[np.float64]:
    """Concept purity [permutations, groups] with the concepts permuted within each partition.

    Two items of one partition never share a concept, so that only neighbors of other partitions are counted.
    """
    edges = neighbors.edges
    asking, answering, weights = (part.cpu().numpy() for part in (edges.rows, edges.columns, edges.weights))
    across = items.partitions[asking] != items.partitions[answering]
    asking, answering, weights = asking[across], answering[across], weights[across]
    places = [place for _, place in items.groups()]
    bounds = [np.searchsorted(asking, (place.start, place.stop)) for place in places]
    sizes = np.array([max(1, place.stop - place.start) * k for place in places])
    hits = []
    for start in range(0, permutations, PERMUTED):
        labels = permuted(start)[: permutations - start]
        for some in np.array_split(labels, 1 + len(labels) * len(asking) // BLOCK):
            same = np.take(some, asking, 1) == np.take(some, answering, 1)
            hits.append(np.stack([same[:, first:last] @ weights[first:last] for first, last in bounds], 1))
    return np.asarray(np.concatenate([np.empty((0, len(places))), *hits]) / sizes)


def _permuted(items: _Items, seed: int, start: int) -> Labels:
    """Concepts [PERMUTED, n] permuted within each partition: permutations `start` and on, whatever the layer."""
    rng = np.random.default_rng([seed, start])
    labels = np.tile(items.concepts.astype(np.int32), (PERMUTED, 1))
    for name, place in items.groups():
        if name != WHOLE:
            labels[:, place] = rng.permuted(labels[:, place], axis=1)
    return labels
