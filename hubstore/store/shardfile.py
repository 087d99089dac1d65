"""The bytes of one Zarr shard: chunks of rows, then their index and its checksum (Zarr's `sharding_indexed`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from numcodecs.blosc import BITSHUFFLE, Blosc

from hubstore.errors import CorruptStoreError
from hubstore.storage import Buffer, Bytes, crc32c
from hubstore.store.dtypes import itemsize, nan_element
from hubstore.store.layout import Layout
from hubstore.store.sizes import chunk_bytes_of, index_size, row_bytes_of
from hubstore.store.torch_dtypes import DTYPES, dtype_name

MISSING = np.uint64(2**64 - 1)
"""Offset and length of a chunk that the shard does not hold."""

CHECKED = 1 << 20
"""Elements looked over at a time: as many as stay in a large cache, in few calls, since each takes the interpreter."""

APART = 1 << 18
"""Bytes between two rows from which they are read by two requests: fewer cost less than a request."""

Index = npt.NDArray[np.uint64]
"""[chunks, 2]: offset and length in bytes."""

Positions = npt.NDArray[np.int64]

Ranges = Callable[[Sequence[int], Sequence[int]], Sequence[Bytes]]
"""Bytes [start, stop) of a shard, for each start and stop."""

Found = tuple[torch.Tensor, Positions | range]
"""Rows [n, width] that hold those asked for, and where among them each of those is."""

Find = Callable[[Positions | range], Found]
"""Finds the rows with some numbers in a shard."""


def row_bytes(rows: torch.Tensor) -> memoryview:
    """The bytes of contiguous CPU rows, without a copy."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")


def encode_shard(rows: torch.Tensor, layout: Layout) -> list[Buffer]:
    """The buffers of a shard that holds `rows` [at most shard_rows, width], to be written one after the other.

    Uncompressed rows are not copied: they stand in the file as they stand in memory.
    """
    chunk_bytes = chunk_bytes_of(layout)
    data = row_bytes(rows)
    used = -(-len(rows) // layout.chunk_rows)
    padding = nan_element(layout.dtype) * ((used * chunk_bytes - len(data)) // itemsize(layout.dtype))
    buffers: list[Buffer]
    if layout.compressor == "none":
        buffers = [data, padding]
        lengths = [chunk_bytes] * used
    else:
        chunks: list[Buffer] = [data[i * chunk_bytes : (i + 1) * chunk_bytes] for i in range(used)]
        chunks[-1:] = [bytes(chunk) + padding for chunk in chunks[-1:]]
        codec = _blosc(layout)
        buffers = [codec.encode(chunk) for chunk in chunks]
        lengths = [len(buffer) for buffer in buffers]
    return [*buffers, _encode_index(lengths, layout.shard_rows // layout.chunk_rows)]


def read_index(ranges: Ranges, size: int, rows: int, layout: Layout, name: str) -> Index:
    """The index of the chunks that hold the first `rows` rows of a shard.

    Args:
        ranges: the shard.
        size: its bytes.
        rows: that a commit counts in it.
        layout: the store's shapes.
        name: of the shard, for messages.

    Raises:
        CorruptStoreError: the shard is truncated, or its index is not what was written.
    """
    if size < index_size(layout):
        raise CorruptStoreError(f"{name} is truncated: {size} bytes do not hold a shard index")
    (end,) = ranges([size - index_size(layout)], [size])
    body = end[:-4].tobytes()
    if crc32c(body) != int.from_bytes(end[-4:].tobytes(), "little"):
        raise CorruptStoreError(f"{name}: the shard index does not match its checksum")
    used = np.frombuffer(body, "<u8").reshape(-1, 2)[: -(-rows // layout.chunk_rows)]
    if (used == MISSING).any():
        raise CorruptStoreError(f"{name}: a chunk that the commit counts is missing from the shard index")
    if layout.compressor == "none":
        expected = np.arange(len(used), dtype=np.uint64) * np.uint64(chunk_bytes_of(layout))
        if not np.array_equal(used[:, 0], expected):
            raise CorruptStoreError(f"{name}: chunks are not in order")
    return used


def open_shard(shard: Bytes | Ranges, size: int, rows: int, layout: Layout, name: str) -> Find:
    """What finds rows of a shard, and reads no more of it than holds them. Args and Raises as of `read_index`."""
    if callable(shard):
        ranges = shard
        if layout.compressor == "none":  # rows lie one after the other: their place needs no index
            return partial(_find_ranges, ranges, layout)
    else:
        ranges = _slices(shard)
    index = read_index(ranges, size, rows, layout, name)
    if layout.compressor != "none":
        return partial(_find_chunks, ranges, index, layout, name)
    assert not callable(shard)
    whole = torch.from_numpy(np.asarray(shard[: rows * row_bytes_of(layout)]))
    mapped = whole.view(DTYPES[layout.dtype]).view(rows, layout.width)
    return lambda requested: (mapped, requested)


def map_rows(shard: Bytes, rows: int, layout: Layout, name: str) -> torch.Tensor:
    """The first `rows` rows [rows, width] of an uncompressed shard, a view into it."""
    return open_shard(shard, len(shard), rows, layout, name)(np.empty(0, np.int64))[0]


def _slices(whole: Bytes) -> Ranges:
    return lambda starts, stops: [whole[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _find_ranges(ranges: Ranges, layout: Layout, requested: Positions | range) -> Found:
    """Uncompressed rows by their ranges; near ones in one, with what is between them."""
    size = row_bytes_of(layout)
    rows, places = np.unique(np.asarray(requested), return_inverse=True)
    after = np.flatnonzero(np.diff(rows) > 1 + APART // size) + 1
    firsts, lasts = [0, *after.tolist()], [*(after - 1).tolist(), len(rows) - 1]
    starts = [int(rows[first]) * size for first in firsts]
    stops = [(int(rows[last]) + 1) * size for last in lasts]
    found = np.empty((len(rows), size), np.uint8)
    for part, first, last in zip(ranges(starts, stops), firsts, lasts, strict=True):
        found[first : last + 1] = part.reshape(-1, size)[rows[first : last + 1] - rows[first]]
    return torch.from_numpy(found).view(DTYPES[layout.dtype]), places


def _find_chunks(ranges: Ranges, index: Index, layout: Layout, name: str, requested: Positions | range) -> Found:
    """Compressed rows by the chunks that hold them."""
    numbers = np.asarray(requested)
    chunks, places = np.unique(numbers // layout.chunk_rows, return_inverse=True)
    starts = index[chunks, 0].tolist()
    stops = index[chunks].sum(axis=1).tolist()
    decoded = torch.empty((len(chunks) * layout.chunk_rows, layout.width), dtype=DTYPES[layout.dtype])
    out = decoded.view(torch.uint8).numpy().reshape(len(chunks), -1)
    codec = _blosc(layout)
    for chunk, target in zip(ranges(starts, stops), out, strict=True):
        said = np.frombuffer(chunk[:16].tobytes(), "<u4")  # Blosc's header: 4 bytes, its size, a block's, the chunk's
        if len(said) < 4 or (said[1], said[3]) != (len(target), len(chunk)):
            raise CorruptStoreError(f"{name}: a chunk is not what the shard index says")
        codec.decode(np.ascontiguousarray(chunk), target)
    return decoded, places * layout.chunk_rows + numbers % layout.chunk_rows


def non_finite(rows: torch.Tensor) -> tuple[int, str] | None:
    """The first row of `rows` that holds NaN or infinity, and which of the two; None where all is finite."""
    if _all_finite(rows):
        return None
    row = int((~rows.isfinite()).any(dim=-1).nonzero()[0])
    return row, "NaN" if rows[row].isnan().any() else "infinite"


def _all_finite(rows: torch.Tensor) -> bool:
    """Read as an integer, a float whose exponent is all ones is greater than every finite one of its sign.

    Two maxima take a tenth of the time of `isfinite().all()`: nothing is written, and the second finds the rows in the
    cache.
    """
    signed = rows.contiguous().view(torch.int32 if rows.dtype is torch.float32 else torch.int16).numpy().reshape(-1)
    unsigned = signed.view(np.uint32 if rows.dtype is torch.float32 else np.uint16)
    infinity = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}[rows.dtype]
    minus_infinity = infinity + (1 << (8 * rows.itemsize - 1))
    pieces = (slice(start, start + CHECKED) for start in range(0, len(signed), CHECKED))
    return all(signed[piece].max() < infinity and unsigned[piece].max() < minus_infinity for piece in pieces)


def check_dtype(rows: torch.Tensor, layout: Layout) -> None:
    """Our own mistake, not a user's: rows that are not the store's shape."""
    assert dtype_name(rows.dtype) == layout.dtype, (rows.dtype, layout.dtype)
    assert rows.ndim == 2, rows.shape
    assert rows.shape[1] == layout.width, (rows.shape, layout.width)


def _encode_index(lengths: Sequence[int], chunks: int) -> bytes:
    index = np.full((chunks, 2), MISSING, "<u8")
    ends = np.cumsum(lengths, dtype=np.uint64)
    index[: len(lengths), 0] = ends - np.asarray(lengths, np.uint64)
    index[: len(lengths), 1] = lengths
    body = index.tobytes()
    return body + crc32c(body).to_bytes(4, "little")


def _blosc(layout: Layout) -> Blosc:
    return Blosc(cname="lz4", clevel=5, shuffle=BITSHUFFLE, typesize=itemsize(layout.dtype))
