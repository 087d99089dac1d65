"""What the report tells, taken from the store: the analyses' tables, and why any of them is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hubstore.analysis import ANALYSES, alignment, analyze, contrasts, projection
from hubstore.analysis.pairs import chosen_pairs
from hubstore.analysis.resolution import finer_dtype
from hubstore.analysis.states import item_pooling
from hubstore.errors import AnalysisError, IndexingError, MissingDependencyError
from hubstore.options import CompareOptions
from hubstore.report.examples import Example, choose_examples, find_examples

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Progress = Callable[[str, int, int], None]
MATRIX = "layer-by-layer"
EXAMPLES = "neighbors"
PROJECTION = "projection"
MATRIX_CELLS = 20_000  # of the matrices of all pairs together: each adds to the page, and takes time
MAP_POINTS, MAP_LAYERS = 1_000, 9
TOKENS_ONLY = (
    "The store keeps a row for every token and none for a whole item (pooling 'tokens' only), and all of "
    "this compares items. To have it, extract again with --pooling mean or --pooling last."
)


@dataclass(frozen=True)
class Gathered:
    """All that the report tells.

    Args:
        layers: the layers that are compared, in the store's order.
        pooling: the pooling that they are compared under; None where the store has none with a row per item.
        tables: the analyses' results by name, with "layer-by-layer" for the matrices of pairs, "projection" for the
            map.
        left_out: why a part is missing, by its name, one sentence.
        examples: items with their neighbors in other languages.
        seed: what the analyses ran with.
        finer: what to do where the store's dtype does not resolve a difference.
        contrasts: the largest layer of similarity and retrieval against every other, paired by concept.
    """

    layers: tuple[str, ...]
    pooling: str | None
    tables: dict[str, pa.Table] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    seed: int = 0
    finer: str = ""
    contrasts: pa.Table | None = None


def gather(
    store: StoreReader, options: CompareOptions, example_ids: Sequence[str] | None, progress: Progress | None
) -> Gathered:
    """Run the analyses, or take them from the store; see `write_report` for the arguments.

    Raises:
        QueryError: a partition, layer, pooling or id that the store does not have, or both pairs and a pivot.
        AnalysisError: partitions are named, a pair of one partition with itself, or pooling "tokens" where there is
            another.
    """
    if options.partitions:
        raise AnalysisError("a report is over pairs of partitions; give pairs or a pivot in the place of partitions")
    names = tuple(store.layer_names(options.layers))
    chosen = chosen_pairs(store, options.pairs, options.pivot)
    if example_ids is not None:
        store.positions(example_ids)  # an id that is not there is told before minutes of work, not after
    if set(store.poolings) == {"tokens"}:
        return Gathered(names, None, left_out=dict.fromkeys([*ANALYSES, EXAMPLES], TOKENS_ONLY), seed=options.seed)
    pooled = item_pooling(store, options.pooling)
    found = Gathered(names, pooled, seed=options.seed, finer=finer_dtype(store.dtype))
    for name in ANALYSES:
        try:
            tables = analyze(
                store,
                [name],
                pairs=chosen,
                layers=names,
                pooling=pooled,
                seed=options.seed,
                bootstrap=options.bootstrap,
                progress=progress,
            )
        except AnalysisError as error:
            found.left_out[name] = _sentence(error)
        else:
            found.tables.update(tables)
    if "alignment" in found.tables and len(names) > 1:
        found.tables[MATRIX] = _matrices(store, found, pooled, progress)
    if "similarity" in found.tables and options.bootstrap and len(names) > 1:
        table = found.tables["similarity"]
        pairs = list(dict.fromkeys(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)))
        found = replace(found, contrasts=contrasts(store, pairs, replace(options, layers=names, pooling=pooled)))
    try:
        found.tables[PROJECTION] = _projection(store, found, pooled, progress)
    except AnalysisError as error:
        found.left_out[PROJECTION] = _sentence(error)
    if store.partition_by is not None:
        found.left_out[EXAMPLES] = (
            f"Neighbors are looked for in other languages, and this page is by {store.partition_by}."
        )
        return found
    ids = choose_examples(store, chosen, options.seed) if example_ids is None else list(dict.fromkeys(example_ids))
    try:
        examples = find_examples(store, ids, names, pooled)
    except (IndexingError, MissingDependencyError) as error:  # an index that is stale, or not readable here
        found.left_out[EXAMPLES] = _sentence(error)
        return found
    return replace(found, examples=examples)


def _matrices(store: StoreReader, found: Gathered, pooling: str, progress: Progress | None) -> pa.Table:
    """Every layer by every layer of the first pairs, of as many as the page can carry."""
    table = found.tables["alignment"]
    pairs = list(dict.fromkeys(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)))
    report = None if progress is None else lambda done, total: progress(MATRIX, done, total)
    return alignment(
        store,
        pairs[: max(1, MATRIX_CELLS // len(found.layers) ** 2)],
        layers=found.layers,
        pooling=pooling,
        seed=found.seed,
        bootstrap=0,
        cross_layers=True,
        progress=report,
    )


def _projection(store: StoreReader, found: Gathered, pooling: str, progress: Progress | None) -> pa.Table:
    """A map of some items at some of the layers, evenly spread."""
    chosen = np.unique(np.linspace(0, len(found.layers) - 1, MAP_LAYERS).round().astype(int))
    report = None if progress is None else lambda done, total: progress(PROJECTION, done, total)
    layers = [found.layers[place] for place in chosen]
    return projection(store, layers=layers, pooling=pooling, points=MAP_POINTS, seed=found.seed, progress=report)


def _sentence(error: Exception) -> str:
    words = str(error)
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
