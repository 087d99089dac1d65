"""How many bytes a store's arrays have, before they are written, and whether the disk has room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from hubstore.errors import StoreError
from hubstore.extraction.plan import PlannedShard
from hubstore.storage import LocalStorage, Storage
from hubstore.store import Layout
from hubstore.store.dtypes import itemsize

COMPRESSED = 0.7
"""Of its bytes that blosc-lz4-bitshuffle leaves of bfloat16; measured on hidden states (README: a quarter smaller)."""


def zarr_shards(layout: Layout, pooling: str, shards: Iterable[tuple[int, int]]) -> list[int]:
    """Rows of every Zarr shard of one layer, from items and token rows of the store's shards."""
    found = []
    for items, tokens in shards:
        rows = tokens if pooling == "tokens" else items
        found += [min(layout.shard_rows, rows - start) for start in range(0, rows, layout.shard_rows)]
    return found


def array_bytes(layout: Layout, pooling: str, shards: Iterable[tuple[int, int]], dtype: str | None = None) -> int:
    """Bytes of all layers under one pooling, uncompressed: whole chunks of rows, and each shard's index.

    Args:
        layout: the store's shapes.
        pooling: which one.
        shards: items and token rows of the store's shards.
        dtype: another than the layout's.
    """
    row = layout.width * itemsize(dtype or layout.dtype)
    index = 16 * (layout.shard_rows // layout.chunk_rows) + 4
    pieces = zarr_shards(layout, pooling, shards)
    chunks = sum(-(-rows // layout.chunk_rows) for rows in pieces)
    return len(layout.layers) * (chunks * layout.chunk_rows * row + len(pieces) * index)


def disk_free(folder: Path) -> int:
    """Bytes that are free on the disk where `folder` is or would be."""
    there = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    return shutil.disk_usage(there).free


def require_room(storage: Storage, layout: Layout, shards: Sequence[PlannedShard]) -> None:
    """StoreError, with the numbers, where the disk has no room for the arrays of `shards`.

    Item tables, indexes and previews come on top: what is refused could not fit whatever they need. The plan's own
    files are on the disk by now, and what is free is free beside them. A corpus of more items than are planned at once
    is seen no further than that, since nothing says how long it is; `hubstore plan` sees all of it. An object store has
    no end.
    """
    if not isinstance(storage, LocalStorage):
        return
    sizes = [(shard.stop - shard.start, shard.tokens) for shard in shards]
    needed = sum(array_bytes(layout, pooling, sizes) for pooling in layout.poolings)
    if layout.compressor != "none":
        needed = int(needed * COMPRESSED)
    free = disk_free(storage.root)
    if needed <= free:
        return
    items = sum(count for count, _ in sizes)
    each = needed / len(layout.layers)
    fitting = int(free // each)
    fewer = f"{fitting} of the {len(layout.layers)} layers fit (--layers)" if fitting else "not one layer fits"
    raise StoreError(
        f"{storage.root}: {items:,} items x {len(layout.layers)} layers x {layout.width} in {layout.dtype}, pooling "
        f"{', '.join(layout.poolings)}, need {_size(needed)} and the disk has {_size(free)} free; "
        f"{fewer}. Free space, write elsewhere, or ask for fewer layers, poolings or items; `hubstore plan` shows "
        "what each takes, and --ignore-space starts all the same"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
