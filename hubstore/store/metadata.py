"""The metadata of groups and arrays, against what a store's layout and its shards give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hubstore.decoding import decode_object
from hubstore.storage import Storage
from hubstore.store.commit import Commit
from hubstore.store.layout import ROOT, Layout, array_key, array_metadata, group_keys, group_metadata
from hubstore.store.unfinished import missing_shards

UNKNOWN = 1 << 60
"""More rows than any array has."""


def wrong_metadata(
    storage: Storage, layout: Layout, attributes: Mapping[str, Any], commits: Sequence[Commit]
) -> Iterator[tuple[str, bytes]]:
    """The keys of groups and arrays whose metadata is missing or not what the layout gives, each with what it gives."""
    for key in group_keys(layout.poolings):
        if not storage.exists(key) or storage.read(key) != group_metadata():
            yield key, group_metadata()
    for pooling in layout.poolings:
        allowed = _planned_rows(layout, attributes, commits, pooling)
        counted = {f"{array_key(pooling, layer)}/{ROOT}": -1 for layer in layout.layers}
        for key in counted:
            counted[key] = _rows(storage, layout, key)
        good = Counter(rows for rows in counted.values() if rows in allowed)
        most = allowed.start if allowed.stop == UNKNOWN else allowed[-1]
        rows = good.most_common(1)[0][0] if good else most
        for key, found in counted.items():
            if found != rows:
                yield key, array_metadata(layout, rows)


def _rows(storage: Storage, layout: Layout, key: str) -> int:
    """The rows that an array's metadata counts; -1 where it is not what the layout gives of so many rows."""
    if not storage.exists(key):
        return -1
    data = storage.read(key)
    try:
        rows = decode_object(data)["shape"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return -1
    whole = isinstance(rows, int) and not isinstance(rows, bool)
    return rows if whole and data == array_metadata(layout, rows) else -1


def _planned_rows(layout: Layout, attributes: Mapping[str, Any], commits: Sequence[Commit], pooling: str) -> range:
    """How many rows the arrays of a pooling may have: to the end of the last shard, as it was planned.

    That is where the last commit ends, unless items of the last generation were skipped or are still to come.
    """
    size = layout.shard_rows
    if pooling == "tokens":
        end = max((commit.first_token_shard * size + commit.tokens for commit in commits), default=0)
    else:
        end = max((commit.shard * size + commit.items for commit in commits), default=0)
    generations = [one for entry in attributes["corpora"] for one in entry["generations"]]
    if not generations:
        return range(end, UNKNOWN)
    last = max(generations, key=lambda one: int(one["generation"]))
    committed_items = sum(commit.items for commit in commits if commit.generation == last["generation"])
    if committed_items == last["items"] and not missing_shards(last, {commit.shard for commit in commits}):
        return range(end, end + 1)
    if "tokens" in layout.poolings or "shards" not in last:
        return range(end, UNKNOWN)
    return range(end, max(last["shards"][0] * size + last["items"], end) + 1)
