"""How many bytes a shard has."""

from __future__ import annotations

from hubstore.store.dtypes import itemsize
from hubstore.store.layout import Layout

COMPRESSED_MOST = 256
"""Times that lz4 makes bytes fewer at most."""


def index_size(layout: Layout) -> int:
    """Bytes of a shard's index and its checksum."""
    return 16 * (layout.shard_rows // layout.chunk_rows) + 4


def size_limits(rows: int, layout: Layout) -> tuple[int, int]:
    """The fewest and the most bytes of a shard of so many rows; where it is not compressed, it has one size only."""
    whole = -(-rows // layout.chunk_rows) * chunk_bytes_of(layout)
    if layout.compressor == "none":
        return whole + index_size(layout), whole + index_size(layout)
    return whole // COMPRESSED_MOST + index_size(layout), 2 * whole + 4096 + index_size(layout)


def row_bytes_of(layout: Layout) -> int:
    """Of one row."""
    return layout.width * itemsize(layout.dtype)


def chunk_bytes_of(layout: Layout) -> int:
    """Of one chunk, uncompressed."""
    return layout.chunk_rows * row_bytes_of(layout)
