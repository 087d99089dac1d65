"""Items that pass simple filters, and those that are equivalent to one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.checks import check_count, check_strings
from hubstore.errors import QueryError
from hubstore.store.partition import Positions, range_positions

if TYPE_CHECKING:
    from hubstore.store.reader import StoreReader


def find_positions(
    store: StoreReader,
    text: str | None = None,
    *,
    languages: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
    among: Positions | None = None,
) -> Positions:
    """int64 positions, ascending, of the items that pass all filters; None is no restriction.

    Args:
        store: where to look.
        text: part of an item's text or id, in whatever case.
        languages: only in one of these.
        modalities: only of one of these.
        concepts: only of one of these.
        partitions: only in one of these; QueryError for one that the store does not have.
        among: only at these positions, ascending.
    """
    named = None if partitions is None else {store.partition(name).name for name in partitions}
    chosen = [
        part.bounds
        for part in store.partitions.values()
        if (named is None or part.name in named)
        and (languages is None or part.language in languages)
        and (modalities is None or part.modality in modalities)
    ]
    bounds = np.concatenate([np.empty((0, 2), np.int64), *chosen])
    found = range_positions(bounds[np.argsort(bounds[:, 0])])
    if among is not None:
        found = np.intersect1d(found, among, assume_unique=True)
    if concepts is not None:
        found = found[_bools(pc.is_in(store.items["concept"], value_set=pa.array(concepts, pa.string())))[found]]
    if text:
        texts, ids = (pc.match_substring(store.items[name], text, ignore_case=True) for name in ("text", "id"))
        found = found[(_bools(texts) | _bools(ids))[found]]
    return found


def find_items(
    store: StoreReader,
    text: str | None = None,
    *,
    offset: int = 0,
    limit: int = 50,
    among: Positions | None = None,
    **filters: Sequence[str] | None,
) -> pa.Table:
    """Items in position order, some of those that match, with their `position`.

    Args:
        store: where to look.
        text: part of an item's text or id, in whatever case.
        offset: matches to leave out.
        limit: the most to give.
        among: only items at these positions, ascending.
        filters: languages, modalities, concepts and partitions, as for `find_positions`.

    Returns:
        The items' columns and `position`; `total` in the metadata's JSON under b"hubstore" says of how many.
    """
    offset = check_count("offset", offset, least=0, error=QueryError)
    limit = check_count("limit", limit, error=QueryError)
    for name, values in filters.items():
        filters[name] = None if values is None else check_strings(name, values, error=QueryError)
    found = find_positions(store, text, among=among, **filters)
    shown = found[offset : offset + limit]
    table = store.items.take(pa.array(shown)).append_column("position", pa.array(shown))
    return table.replace_schema_metadata({b"hubstore": json.dumps({"total": len(found)})})


def equivalents(store: StoreReader, position: int) -> pa.Table:
    """The other items of an item's concept, in position order; none of an item without one."""
    concept = store.items["concept"][position].as_py()
    others = np.empty(0, np.int64)
    if concept is not None:
        others = np.flatnonzero(_bools(pc.equal(store.items["concept"], concept)))
    return store.items.take(pa.array(others[others != position]))


def _bools(mask: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(mask, False).to_numpy(), np.bool_)
