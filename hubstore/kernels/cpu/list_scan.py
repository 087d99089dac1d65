"""The scan of inverted lists of one-bit codes: tables, sums of their entries, and heaps of the nearest rows."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from hubstore.kernels.cpu.shuffle import BLOCK_ROWS, STEP, block_sums

GROUP = 4
"""Elements of a code."""

LEVELS = 63
"""Of an element's size: the entry of 4 elements fits a byte."""

MOST_WIDTH = 1024
"""Of rows: 65,535 holds the sum of 256 groups."""

FACTOR_BYTES = 8 * BLOCK_ROWS
"""Of a block: two float32 of each row, |r|² and f, after the codes."""


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def scan_lists(
    content: Any,
    floats: Any,
    longs: Any,
    places: Any,
    code_size: int,
    centroids: Any,
    queries: Any,
    pairs: Any,
    allowed: Any,
    bounds: Any,
    distances: Any,
    rows: Any,
) -> None:
    """Put the nearest rows of lists into the heaps of the queries that visit them.

    Args:
        content: uint8, the file; floats and longs: the same as float32 and int64.
        places: int64 [lists, 3], of each the first byte, its rows, and the rows that it has room for.
        code_size: bytes of a row's code.
        centroids: float32 [lists, width].
        queries: float32 [q, width].
        pairs: int64 [pairs, 2], list and query.
        allowed: uint8, a bit a row; empty where all may be found.
        bounds: float32 [q], beyond which no row is wanted.
        distances, rows: float32 and int64 [q, count], heaps, filled.
    """
    width = centroids.shape[1]
    groups = (width + GROUP - 1) // GROUP
    packed = 16 * (groups + groups % 2)
    length = (packed + STEP - 1) // STEP * STEP
    table = np.zeros(length, np.uint8)
    entries = table.view(np.uint64)
    signed = np.zeros(GROUP * groups, np.int32)
    sums = np.empty(BLOCK_ROWS, np.uint16)
    found = np.empty(BLOCK_ROWS, np.float32)
    block_bytes = packed + FACTOR_BYTES
    for pair in range(len(pairs)):
        number, query = pairs[pair]
        offset, size, capacity = places[number]
        step, total, square = _quantize(queries[query], centroids[number], signed)
        _tabulate(signed, entries)
        scale = np.float32(2 * step / np.sqrt(width))
        ids = (offset + capacity * code_size) // 8
        far, near = distances[query], rows[query]
        for first in range(0, size, BLOCK_ROWS):
            start = offset + first // BLOCK_ROWS * block_bytes
            block_sums(content.ctypes.data + start, table.ctypes.data, length, sums.ctypes.data)
            factors = floats[(start + packed) // 4 : (start + block_bytes) // 4]
            limit = min(bounds[query], far[0])
            reached: Any = 0
            for i in range(BLOCK_ROWS):
                product = scale * np.float32(2 * np.int32(sums[i]) - np.int32(total))
                found[i] = factors[2 * i] + square - factors[2 * i + 1] * product
                reached += np.int32(found[i] <= limit)
            if reached == 0:
                continue
            for i in range(min(BLOCK_ROWS, size - first)):
                if not found[i] <= limit:
                    continue
                row = longs[ids + first + i]
                if len(allowed) == 0 or (0 <= row >> 3 < len(allowed) and allowed[row >> 3] >> (row & 7) & 1):
                    _push(far, near, found[i], row)
                    limit = min(bounds[query], far[0])


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _quantize(query: Any, centroid: Any, signed: Any) -> Any:
    """Write the elements of query less centroid in steps; the step, their sizes' sum, and |query - centroid|²."""
    most, square = np.float32(0), np.float32(0)
    for i in range(len(query)):
        element = query[i] - centroid[i]
        most = max(most, abs(element))
        square += element * element
    step = most / np.float32(LEVELS) if most > 0 else np.float32(1)
    inverse = np.float32(1) / step
    total: Any = np.int32(0)
    for i in range(len(query)):
        scaled = (query[i] - centroid[i]) * inverse
        signed[i] = np.int32(scaled + np.float32(0.5) if scaled >= 0 else scaled - np.float32(0.5))
        total += abs(signed[i])
    return step, total, square


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _tabulate(signed: Any, entries: Any) -> None:
    """Write 16 bytes for each group: of a code, the sum of the sizes of the elements whose sign it has.

    8 bytes at once, as one number: its bytes are never negative in the end, whatever they are meanwhile.
    """
    every, first, second, third = 0x0101010101010101, 0x0100010001000100, 0x0101000001010000, 0x0101010100000000
    for group in range(len(signed) // GROUP):
        at = GROUP * group
        a, b, c, d = np.int64(signed[at]), np.int64(signed[at + 1]), np.int64(signed[at + 2]), np.int64(signed[at + 3])
        base = (abs(a) - a + abs(b) - b + abs(c) - c + abs(d) - d) // 2  # of the negative ones
        low = base * every + a * first + b * second + c * third
        entries[2 * group] = np.uint64(low)
        entries[2 * group + 1] = np.uint64(low + d * every)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _push(distances: Any, rows: Any, distance: Any, row: Any) -> None:
    """Replace the farthest of a heap, the first, by a nearer row; of rows as near, the larger is farther."""
    if distance > distances[0] or (distance == distances[0] and 0 <= rows[0] < row):
        return
    at, count = 0, len(distances)
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        other = child + 1
        if other < count and _farther(distances[other], rows[other], distances[child], rows[child]):
            child = other
        if not _farther(distances[child], rows[child], distance, row):
            break
        distances[at] = distances[child]
        rows[at] = rows[child]
        at = child
    distances[at] = distance
    rows[at] = row


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _farther(distance: Any, row: Any, other: Any, other_row: Any) -> bool:
    return bool(distance > other or (distance == other and (row > other_row >= 0 or row < 0 <= other_row)))
