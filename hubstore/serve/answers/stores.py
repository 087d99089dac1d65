"""What a store is: its layers, partitions, indexes, results and provenance."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from hubstore.errors import CorruptStoreError, IndexNotFoundError
from hubstore.index.description import read_description, store_commits
from hubstore.serve.answers.about import public
from hubstore.serve.answers.analyses import kept_tables
from hubstore.serve.snapshot import Snapshot


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """A store in a list."""
    partitions, unfinished = snapshot.partitions.values(), snapshot.unfinished
    return {
        "name": snapshot.name,
        "revision": snapshot.revision,
        "items": len(snapshot),
        "complete": unfinished is None,
        "unfinished": None if unfinished is None else str(public(str(unfinished))),
        "model": public(snapshot.attributes.get("model", {}).get("id")),
        "layers": list(snapshot.layers),
        "poolings": list(snapshot.poolings),
        "languages": list(dict.fromkeys(partition.language for partition in partitions)),
        "modalities": list(dict.fromkeys(partition.modality for partition in partitions)),
    }


def info(snapshot: Snapshot, *, encoder: bool, originals: bool) -> dict[str, Any]:
    """All about a store."""
    tables = kept_tables(snapshot)
    return {
        **summary(snapshot),
        "dtype": snapshot.layout.dtype,
        "width": snapshot.width,
        "partitions": [
            {"name": one.name, "modality": one.modality, "language": one.language, "items": one.size}
            for one in snapshot.partitions.values()
        ],
        "concepts": snapshot.kept("concepts", lambda: _concepts(snapshot)),
        "indexes": indexes(snapshot),
        "analyses": [table.described() for table in tables],
        "projections": [one for table in tables if table.current for one in table.projections()],
        "lens": snapshot.keeps_lens,
        "previews": snapshot.keeps_previews,
        "originals": originals,
        "encoder": encoder,
        "provenance": public(provenance(snapshot)),
    }


def indexes(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The index of every layer and pooling that has one."""
    found = []
    for pooling in snapshot.poolings:
        for layer in snapshot.layers:
            try:
                one = read_description(snapshot, layer, pooling)
            except (IndexNotFoundError, CorruptStoreError):
                continue
            stale = one.kind != "exact" and one.commits != store_commits(snapshot)
            found.append({"layer": layer, "pooling": pooling, "kind": one.kind, "rows": one.rows, "stale": stale})
    return found


def provenance(snapshot: Snapshot) -> dict[str, Any]:
    """What the store says of how it was made, but for its shape, which is said elsewhere."""
    shape = {"format", *snapshot.layout.to_json()}
    return {key: value for key, value in snapshot.attributes.items() if key not in shape}


def _concepts(snapshot: Snapshot) -> int:
    return int(pc.count_distinct(snapshot.items["concept"]).as_py())
