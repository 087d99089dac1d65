"""The values of a column as partitions, in the place of languages and modalities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.errors import QueryError
from hubstore.store.partition import Partition, Positions

MOST_VALUES = 1000
"""Of a column that partitions a store: analyses compare every two of them."""


def partitions_by(values: pa.ChunkedArray, what: str) -> Mapping[str, Partition]:
    """A partition for each value, in the order of their first items; items without a value are in none.

    Args:
        values: of the items, in position order.
        what: column and store, for messages.

    Raises:
        QueryError: there is no value, or there are too many.
    """
    distinct = pc.count_distinct(values).as_py()
    if not 0 < distinct <= MOST_VALUES:
        raise QueryError(f"{what} has {distinct:,} values; partitions are made of 1 to {MOST_VALUES:,}")
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int16)
    names = encoded.dictionary.to_pylist()
    # Sorted once, whatever the number of values; -1, of items without one, comes first.
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes, np.arange(len(names) + 1), sorter=order)
    return {
        name: Partition("text", name, _bounds(order[edges[code] : edges[code + 1]])) for code, name in enumerate(names)
    }


def _bounds(positions: Positions) -> Positions:
    """int64 [runs, 2]: start and stop of each run of ascending positions."""
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    starts, stops = positions[np.r_[0, breaks]], positions[np.r_[breaks - 1, len(positions) - 1]] + 1
    return np.stack([starts, stops], axis=1)
