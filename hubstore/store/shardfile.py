"""The bytes of one Zarr shard: chunks of rows, then their index and its checksum (Zarr's `sharding_indexed`)."""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt
import torch
from numcodecs.blosc import BITSHUFFLE, Blosc

from hubstore.errors import CorruptStoreError
from hubstore.store.dtypes import DTYPES, dtype_name, itemsize, nan_element
from hubstore.store.layout import Layout

MISSING = np.uint64(2**64 - 1)
"""Offset and length of a chunk that the shard does not hold."""

CHECKED = 1 << 17
"""Elements looked over at a time: as many as stay in the cache."""

Index = npt.NDArray[np.uint64]
"""[chunks, 2]: offset and length in bytes."""


def crc32c(*buffers: bytes | memoryview) -> int:
    """CRC32C (Castagnoli) of the concatenated buffers."""
    value = 0
    for buffer in buffers:
        # The library takes numpy arrays of any kind, but no memoryview.
        value = google_crc32c.extend(value, np.frombuffer(buffer, np.uint8))
    return value


def row_bytes(rows: torch.Tensor) -> memoryview:
    """The bytes of contiguous CPU rows, without a copy."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")


def encode_shard(rows: torch.Tensor, layout: Layout) -> list[bytes | memoryview]:
    """The buffers of a shard that holds `rows` [at most shard_rows, width], to be written one after the other.

    Uncompressed rows are not copied: they stand in the file as they stand in memory.
    """
    chunk_bytes = layout.chunk_rows * layout.width * itemsize(layout.dtype)
    data = row_bytes(rows)
    used = -(-len(rows) // layout.chunk_rows)
    padding = nan_element(layout.dtype) * ((used * chunk_bytes - len(data)) // itemsize(layout.dtype))
    buffers: list[bytes | memoryview]
    if layout.compressor == "none":
        buffers = [data, padding]
        lengths = [chunk_bytes] * used
    else:
        whole = bytes(data) + padding
        codec = _blosc(layout)
        buffers = [codec.encode(whole[i * chunk_bytes : (i + 1) * chunk_bytes]) for i in range(used)]
        lengths = [len(buffer) for buffer in buffers]
    return [*buffers, _encode_index(lengths, layout.shard_rows // layout.chunk_rows)]


def index_size(layout: Layout) -> int:
    """Bytes of a shard's index and its checksum."""
    return 16 * (layout.shard_rows // layout.chunk_rows) + 4


def read_index(mapped: npt.NDArray[np.uint8], layout: Layout, name: str) -> Index:
    """The index at a mapped shard's end; CorruptStoreError when it is not what was written."""
    size = index_size(layout)
    if len(mapped) < size:
        raise CorruptStoreError(f"{name} is truncated: {len(mapped)} bytes do not hold a shard index")
    body = mapped[len(mapped) - size : -4].tobytes()
    if crc32c(body) != int.from_bytes(mapped[-4:].tobytes(), "little"):
        raise CorruptStoreError(f"{name}: the shard index does not match its checksum")
    return np.frombuffer(body, "<u8").reshape(-1, 2)


def used_chunks(index: Index, rows: int, layout: Layout, name: str) -> Index:
    """The index of the chunks that hold the first `rows` rows; CorruptStoreError where one is missing."""
    used = index[: -(-rows // layout.chunk_rows)]
    if (used == MISSING).any():
        raise CorruptStoreError(f"{name}: a chunk that the commit counts is missing from the shard index")
    return used


def chunks_of(encoded: Sequence[npt.NDArray[np.uint8]], layout: Layout) -> torch.Tensor:
    """Compressed chunks as [chunks, chunk_rows, width]."""
    codec = _blosc(layout)
    data = bytearray(b"".join(codec.decode(chunk.tobytes()) for chunk in encoded))
    whole = torch.from_numpy(np.frombuffer(data, np.uint8)).view(DTYPES[layout.dtype])
    return whole.view(len(encoded), layout.chunk_rows, layout.width)


def decode_shard(mapped: npt.NDArray[np.uint8], rows: int, layout: Layout, name: str) -> torch.Tensor:
    """The first `rows` rows [rows, width] of a mapped shard, a view into the mapping where it is uncompressed."""
    used = used_chunks(read_index(mapped, layout, name), rows, layout, name)
    if layout.compressor == "none":
        chunk_bytes = layout.chunk_rows * layout.width * itemsize(layout.dtype)
        if not np.array_equal(used[:, 0], np.arange(len(used), dtype=np.uint64) * np.uint64(chunk_bytes)):
            raise CorruptStoreError(f"{name}: chunks are not in order")
        data = mapped[: rows * layout.width * itemsize(layout.dtype)]
    else:
        chunks = chunks_of([mapped[offset : offset + length] for offset, length in used.tolist()], layout)
        return chunks.view(-1, layout.width)[:rows]
    return torch.from_numpy(np.asarray(data)).view(DTYPES[layout.dtype]).view(rows, layout.width)


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
