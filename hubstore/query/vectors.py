"""Stored hidden states of items, as an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hubstore.arrow import rows_as_lists
from hubstore.store import StoreReader


def stored_vectors(
    store: StoreReader, ids: Sequence[str], layers: Sequence[str | int] | None = None, pooling: str | None = None
) -> pa.Table:
    """Hidden states of items; see `hubstore.Store.vectors`."""
    pooled, positions = store.pooling_name(pooling), store.positions(ids)
    rows, labels, tokens = positions, pa.array(ids, pa.string()), None
    if pooled == "tokens":
        ranges = [np.arange(start, stop) for start, stop in store.token_ranges()[positions]]
        rows = np.concatenate([np.empty(0, np.int64), *ranges])
        tokens = np.concatenate([np.empty(0, np.int64), *(np.arange(len(own)) for own in ranges)])
        labels = labels.take(pa.array(np.repeat(np.arange(len(ids)), [len(own) for own in ranges])))
    tables = []
    for layer in store.layer_names(layers):
        states = store.hidden(layer, pooled).take(rows).float().numpy()
        columns = {
            "id": labels,
            "layer": pa.array([layer] * len(rows), pa.string()),
            "vector": rows_as_lists(states),
        }
        if tokens is not None:
            columns["token"] = pa.array(tokens, pa.int32())
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).combine_chunks()
