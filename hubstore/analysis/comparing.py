"""What all analyses take: `CompareOptions`, resolved against a store into the parameters of a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubstore.analysis.pairs import Pair, check_pairs, check_partitions, chosen_pairs
from hubstore.analysis.states import item_pooling
from hubstore.options import CompareOptions, refuse_others, take

if TYPE_CHECKING:
    from hubstore.store import StoreReader


def compare_options(
    analysis: str,
    options: CompareOptions | None,
    named: dict[str, Any],
    *,
    pairs: Sequence[Pair] | None = None,
    partitions: Sequence[str] | None = None,
) -> CompareOptions:
    """The options of an analysis: what is named in its call, over those in `options`."""
    positional = {"pairs": pairs, "partitions": partitions}
    named = {**named, **{name: value for name, value in positional.items() if value is not None}}
    found = take(CompareOptions, named, options)
    refuse_others(analysis, named)
    return found


def by_pair(store: StoreReader, options: CompareOptions, *, with_itself: bool = False) -> dict[str, Any]:
    """Parameters of an analysis of pairs of partitions.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or both pairs and a pivot.
        AnalysisError: no pair, a partition paired with itself unless `with_itself`, or a row for each token.
    """
    pairs = options.pairs
    if options.pivot is None:
        chosen = check_pairs(store, pairs, with_itself=with_itself)
    else:
        chosen = chosen_pairs(store, pairs, options.pivot)
    return {"pairs": chosen, **_shared(store, options)}


def by_partition(store: StoreReader, options: CompareOptions) -> dict[str, Any]:
    """Parameters of an analysis of partitions: those named, those of the pairs, or all; raises as `by_pair` does."""
    names = options.partitions
    if names is None and (pairs := chosen_pairs(store, options.pairs, options.pivot)) is not None:
        names = tuple(name for pair in pairs for name in pair)
    return {"partitions": check_partitions(store, names), **_shared(store, options)}


def _shared(store: StoreReader, options: CompareOptions) -> dict[str, Any]:
    return {
        **({} if store.partition_by is None else {"partition_by": store.partition_by}),
        "layers": store.layer_names(options.layers),
        "pooling": item_pooling(store, options.pooling),
        "seed": options.seed,
        "bootstrap": options.bootstrap,
    }
