"""The shape of each partition's states: anisotropy, effective rank, hubness, norms and massive dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.comparing import by_partition, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.neighbors import occurrences
from hubstore.analysis.pairs import Selection
from hubstore.analysis.results import Row, intervals, stored_or_computed
from hubstore.analysis.states import VARIANTS, States
from hubstore.checks import check_count
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError
from hubstore.kernels import neighbor_weights
from hubstore.kernels.cpu.threads import one_thread
from hubstore.kernels.rows import unit_rows
from hubstore.options import CompareOptions
from hubstore.stats import blocks as fixed
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Blocks = Callable[[], Iterator[Tensor]]
COLUMNS = {"dimension": pa.int64()}
WHOLE = "*"
TOP = 10
ROUNDING = 1e-18  # of counts that are equal but for the order they were added in


def geometry(
    store: StoreReader,
    partitions: Sequence[str] | None = None,
    options: CompareOptions | None = None,
    *,
    k: int = 10,
    sample: int = 2048,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """How the states of each partition, and of all together, fill their space.

    Args:
        store: an opened store; its items need no concepts.
        partitions: None is all.
        options: what to compare, and how to draw; its fields (layers, pooling, seed, bootstrap, ...) may be given by
            name too. The bootstrap takes resamples of the items.
        k: neighbors of the hubness; n - 1 where there are fewer.
        sample: items, drawn at random, that the hubness is computed among where there are more.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer, x (a partition, or "*" for all; y is empty), variant ("raw", or "centered": each
        partition's mean removed) and metric. "anisotropy": mean cosine of distinct items (Ethayarajh, 2019).
        "effective_rank": the exponential of the entropy of the singular values' shares (Roy and Vetterli,
        2007). "hubness": the skewness of how often an item is among the k nearest of others by cosine
        (Radovanović et al., 2010), in parts where it is tied for the last places. "norm_mean", "norm_median",
        "norm_max". "share_top1" and "share_top10": the share of all squared norms in the largest dimension, whose
        number is in `dimension`, and in the largest 10. n is the number of items behind the value. Intervals are 95%;
        effective rank, hubness, the median and the maximum have none, for a resample's duplicates would bias them.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; no partition has 2 items.
    """
    parameters = {
        **by_partition(store, compare_options("geometry", options, named, partitions=partitions)),
        "k": check_count("k", k, error=AnalysisError),
        "sample": check_count("sample", sample, least=2, error=AnalysisError),
    }
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(store, "geometry", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs))


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    everything = [Selection.of(name, store.partition(name).positions()) for name in params["partitions"]]
    groups = {s.partition: [s] for s in everything if len(s) >= 2}
    skipped = [s.partition for s in everything if len(s) < 2]
    if not groups:
        raise AnalysisError(f"no partition of {store.path} has 2 items, fewer than which have no geometry")
    if len(everything) > 1:
        groups[WHOLE] = [s for selections in groups.values() for s in selections]
    states = States(store, params["pooling"], on)
    resampling = Bootstrap(params["bootstrap"], params["seed"])

    def find(layer: str) -> list[Row]:
        rows: list[Row] = []
        for name, selections in groups.items():
            for variant in VARIANTS:
                common = {"layer": layer, "x": name, "y": "", "variant": variant}
                spread = _spread(_blocks(states, layer, selections, variant), resampling)
                hubs = _hubness(states, layer, selections, variant, params["k"], params["sample"], params["seed"])
                rows += [{**common, **row} for row in [*spread, hubs]]
        return rows

    return Prepared(find, {"skipped_partitions": skipped})


def _blocks(states: States, layer: str, selections: Sequence[Selection], variant: str) -> Blocks:
    return lambda: (block for selection in selections for block in states.blocks(layer, selection, variant))


def _spread(blocks: Blocks, resampling: Bootstrap) -> list[Row]:
    """Every metric but the hubness, in two passes."""
    passed = fixed.map_blocks(
        lambda block: (block.square().sum(1), torch.stack([block.square().sum(0), unit_rows(block).sum(0)])), blocks()
    )
    squared = torch.cat([squares for squares, _ in passed])
    energy, unit_sum = fixed.sum_blocks(lambda sums: sums, [sums for _, sums in passed])
    n = len(squared)
    order = energy.argsort(descending=True, stable=True)[:TOP]
    columns = [_anisotropy_shares(blocks, unit_sum), squared.sqrt()]
    values = [fixed.mean(column) for column in columns]
    bounds = resampling.of_estimates(np.array(values), torch.stack([2 * columns[0], columns[1]], 1).cpu().numpy())
    rows = intervals(["anisotropy", "norm_mean"], values, bounds)
    largest = fixed.concat_blocks(
        lambda b: torch.stack([b[:, order[0]].square(), b[:, order].square().sum(1)], 1), blocks()
    )
    of_largest, total = largest.cpu().numpy(), squared.expand(2, -1).T.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = of_largest.sum(0) / total.sum(0)
    rows += intervals(["share_top1", "share_top10"], shares, resampling.of_ratios(of_largest, total))
    rows[2] = {**rows[2], "dimension": int(order[0])}
    rows += [
        {"metric": "norm_median", "value": float(columns[1].quantile(0.5))},
        {"metric": "norm_max", "value": float(columns[1].max())},
        {"metric": "effective_rank", "value": effective_rank(blocks, n)},
    ]
    return [{**row, "n": n} for row in rows]


def _anisotropy_shares(blocks: Blocks, unit_sum: Tensor) -> Tensor:
    """Mean cosine of each item to the others [n]: their mean is the anisotropy, twice it the Hájek projection."""

    def toward(block: Tensor) -> Tensor:
        unit = unit_rows(block)
        return unit @ unit_sum - unit.square().sum(1)

    shares = fixed.concat_blocks(toward, blocks())
    return shares / (len(shares) - 1)


def effective_rank(blocks: Blocks, n: int) -> float:
    """exp(-Σ p log p), p = σ / Σ σ the singular values' shares of n states; NaN where all are zero."""
    if n <= next(blocks()).shape[1]:
        rows = torch.cat(list(blocks()))
        (gram,) = fixed.map_blocks(lambda whole: whole @ whole.T, [rows])
    else:
        gram = fixed.sum_blocks(lambda block: block.T @ block, blocks())
    with one_thread():  # several add up in another order
        singular: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
        shares = singular / singular.sum()
        return float(torch.exp(torch.special.entr(shares).sum()))


def _hubness(
    states: States, layer: str, selections: Sequence[Selection], variant: str, k: int, sample: int, seed: int
) -> Row:
    chosen = _sampled([len(selection) for selection in selections], sample, seed)
    pairs = zip(selections, chosen, strict=True)
    rows = torch.cat([states.rows(layer, selection, variant)[places.to(states.device)] for selection, places in pairs])
    counts = occurrences(neighbor_weights(rows, min(k, len(rows) - 1)), len(rows))
    return {"metric": "hubness", "value": skewness(counts), "n": len(rows)}


def skewness(values: npt.NDArray[np.float64]) -> float:
    """Third central moment over the cube of the standard deviation; NaN where nothing varies."""
    deviations = values - values.mean()
    spread = float((deviations**2).mean())
    return float((deviations**3).mean()) / spread**1.5 if spread > ROUNDING else float("nan")


def _sampled(sizes: Sequence[int], sample: int, seed: int) -> list[Tensor]:
    """Places within each of several groups of `sizes`, `sample` in all, drawn without replacement."""
    bounds = np.cumsum([0, *sizes])
    n = int(bounds[-1])
    drawn = np.arange(n)
    if n > sample:
        drawn = np.sort(np.random.default_rng([seed, n]).choice(n, sample, replace=False))
    cuts = np.searchsorted(drawn, bounds)
    return [torch.from_numpy(drawn[cuts[i] : cuts[i + 1]] - bounds[i]) for i in range(len(sizes))]
