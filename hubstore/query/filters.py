"""Filters of a search: languages, modalities, concepts and conditions as allowed positions."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.errors import QueryError
from hubstore.index import Allowed
from hubstore.options import SearchOptions
from hubstore.query.where import columns_where, positions_where
from hubstore.store import StoreReader

NAMES_SHOWN = 20
NAMES_COMPARED = 50_000


def items_where(store: StoreReader, where: str | None) -> Allowed | None:
    """The items for which a condition is true; None without one. QueryError where it is none, naming the place."""
    if where is None:
        return None
    columns = store.item_columns(columns_where(where, store.item_schema))
    passing = np.zeros(len(columns), np.bool_)
    passing[positions_where(columns, where, store.item_schema)] = True
    return Allowed.from_mask(passing)


def allowed_items(
    store: StoreReader, options: SearchOptions, query_language: str | None, passing: Allowed | None = None
) -> Allowed:
    """The items that may answer a query in `query_language` (None: unknown, or of no matter).

    Args:
        store: of the items.
        options: with the filters.
        query_language: of the query.
        passing: the items for which `options.where` is true, where there is one; see `items_where`.

    Raises:
        QueryError: a language, modality or concept that the store does not have, or filters that leave no item.
    """
    partitions = list(store.partitions.values())
    _check_names(store, "language", options.languages, [p.language for p in partitions])
    _check_names(store, "modality", options.modalities, [p.modality for p in partitions])
    chosen = [
        partition
        for partition in partitions
        if _passes(partition.language, options.languages)
        and _passes(partition.modality, options.modalities)
        and not (options.exclude_same_language and partition.language == query_language)
    ]
    allowed = Allowed.from_ranges(np.concatenate([np.empty((0, 2), np.int64), *(one.bounds for one in chosen)]))
    if options.concepts is not None:
        allowed = allowed & _of_concepts(store, options.concepts)
    if passing is not None:
        allowed = allowed & passing
    if allowed.size == 0:
        raise QueryError(_nothing_left(store, options, query_language))
    return allowed


def _nothing_left(store: StoreReader, options: SearchOptions, query_language: str | None) -> str:
    named = {"language": options.languages, "modality": options.modalities, "concept": options.concepts}
    filters = [f"{name} {', '.join(values)}" for name, values in named.items() if values is not None]
    if options.where is not None:
        filters.append(f"where {options.where}")
    if options.exclude_same_language:
        filters.append(f"not in the query's language {query_language}")
    present = shown(store.partitions)
    return f"no item of {store.path} passes the filters ({'; '.join(filters)}); it has the partitions {present}"


def shown(names: Collection[str]) -> str:
    """Names for a message, the first of them where they are many."""
    first = ", ".join(list(names)[:NAMES_SHOWN])
    return first if len(names) <= NAMES_SHOWN else f"{first} and {len(names) - NAMES_SHOWN} more"


def closest(name: str, column: pa.ChunkedArray) -> str:
    """ "; closest: a, b" from a string column, or "" where nothing is near.

    Only names of about the same length are compared, and not more than NAMES_COMPARED: a store may have millions.
    """
    lengths = pc.utf8_length(column)
    near = pc.and_(
        pc.greater_equal(lengths, len(name) - 2),
        pc.less_equal(lengths, len(name) + 2),
    )
    names = column.filter(near)[:NAMES_COMPARED].to_pylist()
    found = difflib.get_close_matches(name, dict.fromkeys(names), n=3)
    return f"; closest: {', '.join(found)}" if found else ""


def _passes(value: str, allowed: Sequence[str] | None) -> bool:
    return allowed is None or value in allowed


def _check_names(store: StoreReader, what: str, allowed: Sequence[str] | None, present: Sequence[str]) -> None:
    names = sorted(set(present))
    for name in allowed or ():
        if name not in names:
            raise QueryError(f"{store.path} has no {what} {name!r}; it has {shown(names)}")


def _of_concepts(store: StoreReader, concepts: Sequence[str]) -> Allowed:
    column = store.items["concept"]
    mask = pc.is_in(column, value_set=pa.array(concepts, pa.string()))
    present = set(pc.unique(column.filter(mask)).to_pylist())
    for concept in concepts:
        if concept not in present:
            raise QueryError(f"{store.path} has no concept {concept!r}{closest(concept, column.drop_null())}")
    return Allowed.from_positions(np.flatnonzero(mask.to_numpy()))
