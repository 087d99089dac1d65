"""The best k of a tile of approximate scores: a few candidates, chosen by what the error allows, scored exactly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hubstore.kernels.cpu.bits import value

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STRIDE = 128
"""Scores that are looked at together, and one by one only where any of them may be a candidate."""


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def exact_product(left: Any, right: Any) -> float:
    """left · right in float64; equal operands give equal products."""
    total = 0.0
    for i in range(len(left)):
        total += np.float64(left[i]) * np.float64(right[i])
    return total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def exact_cosine(unit: Any, row: Any) -> float:
    """unit · row / |row| in float64, 0 for a row of zeros."""
    total, square = 0.0, 0.0
    for i in range(len(unit)):
        value = np.float64(row[i])
        total += unit[i] * value
        square += value * value
    return total / np.sqrt(square) if square > 0 else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def candidate_cosines(units: Doubles, rows: Any, places: Integers, cosines: Doubles) -> None:
    """Write the cosine of each query with each of its candidates, as `exact_cosine` has it; -inf where there is none.

    Args:
        units: [q, width], unit queries.
        rows: [n, width].
        places: [q, c], which of `rows`; below 0 for none.
        cosines: [q, c], filled.
    """
    for i in range(len(places)):
        for j in range(places.shape[1]):
            place = places[i, j]
            cosines[i, j] = exact_cosine(units[i], rows[place]) if place >= 0 else -np.inf


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _push(heap: Floats, value: np.float32) -> None:
    """Replace the least of a min-heap."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= len(heap):
            break
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _insert(scores: Doubles, indices: Integers, score: float, index: int) -> None:
    """Put a row into its place among the best, which are ordered by score, then by index."""
    at = len(scores) - 1
    if score < scores[at] or (score == scores[at] and index > indices[at]):
        return
    while at > 0 and (scores[at - 1] < score or (scores[at - 1] == score and indices[at - 1] > index)):
        scores[at] = scores[at - 1]
        indices[at] = indices[at - 1]
        at -= 1
    scores[at] = score
    indices[at] = index


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _reach(products: Any, lacking: int, bias: Floats, relative: np.float32, least: np.float32) -> bool:
    """Whether any score may be `least`."""
    reaching = np.int32(0)
    for j in range(len(products)):
        product = value(products[j], lacking)
        reaching += np.int32(product + bias[j] + abs(product) * relative >= least)
    return bool(reaching)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _choose(
    products: Any,
    lacking: int,
    bias: Floats,
    relative: np.float32,
    error: np.float32,
    floor: np.float32,
    heap: Floats,
    chosen: npt.NDArray[np.int32],
    most: Floats,
) -> tuple[int, np.float32]:
    """Write the candidates of one query to `chosen`, and what they may reach to `most`.

    Args:
        products: [t], as lacking, bias, relative and error those of `search_tile`.
        lacking: bits of float32 that they lack.
        bias: [t].
        relative: error of a product.
        error: the rest of the error.
        floor: what a candidate must reach.
        heap: [k], min-heap of scores that are reached for certain; raised.
        chosen: [t], filled.
        most: [t], filled.

    Returns:
        How many there are, and what the best k reach for certain.
    """
    count, found = len(products), 0
    floor = max(floor, heap[0])
    for start in range(0, count, STRIDE):
        part = slice(start, start + STRIDE)
        if not _reach(products[part], lacking, bias[part], relative, floor - error):
            continue
        for j in range(start, min(start + STRIDE, count)):
            product = value(products[j], lacking)
            score, spread = product + bias[j], abs(product) * relative + error
            if score + spread >= floor:
                chosen[found], most[found] = j, score + spread
                found += 1
                if score - spread > heap[0]:
                    _push(heap, score - spread)
                    floor = max(floor, heap[0])
    remaining = 0
    for c in range(found):
        if most[c] >= floor:
            chosen[remaining], most[remaining] = chosen[c], most[c]
            remaining += 1
    return remaining, floor


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def search_tile(
    products: Any,
    lacking: int,
    bias: Floats,
    relative: np.float32,
    error: Floats,
    shift: Doubles,
    numbers: Integers,
    queries: Any,
    rows: Any,
    first: int,
    cosine: bool,
    budget: int,
    bound: Doubles,
    scores: Doubles,
    indices: Integers,
    failed: npt.NDArray[np.bool_],
) -> None:
    """Put the rows of a tile that belong to the best k of each query among them.

    Args:
        products: [q, t], as integers that hold their bits; products[i, j] + bias[j] is the exact score less shift[i],
            but for the error.
        lacking: bits of float32 that they lack: 0, or 16 where they are bfloat16.
        bias: [t].
        relative: error of a product as a share of its size.
        error: [q], more than the rest of the error.
        shift: [q].
        numbers: [q], which of `queries`, `bound`, `scores` and `indices` these are.
        queries: [n, width], what exact scores are computed from; unit rows where `cosine`.
        rows: [t, width], the same.
        first: index of the tile's first row.
        cosine: whether a score is divided by the row's norm.
        budget: a query with more candidates is left as it was, and `failed`.
        bound: [n], scores that k rows seen by anyone reach; raised.
        scores: [n, k] of the best rows, descending; equal ones by index.
        indices: [n, k] of the best rows.
        failed: [q], set.
    """
    count, k = products.shape[1], scores.shape[1]
    chosen = np.empty(count, np.int32)
    most = np.empty(count, np.float32)
    heap = np.empty(k, np.float32)
    for i in range(len(products)):
        query = numbers[i]
        for j in range(k):
            heap[j] = scores[query, k - 1 - j] - shift[i]
        floor = np.float32(bound[query] - shift[i])
        remaining, floor = _choose(products[i], lacking, bias, relative, error[i], floor, heap, chosen, most)
        failed[i] = remaining > budget
        if failed[i]:
            continue
        # The likeliest first: what they reach exactly rules out many of the others.
        likely = heap[0] + 2 * error[i]
        for unlikely in (False, True):
            for c in range(remaining):
                if (most[c] < likely) == unlikely and most[c] >= floor:
                    j = chosen[c]
                    score = exact_cosine(queries[query], rows[j]) if cosine else exact_product(queries[query], rows[j])
                    _insert(scores[query], indices[query], score, first + j)
            floor = max(floor, np.float32(scores[query, k - 1] - shift[i]))
        bound[query] = max(bound[query], scores[query, k - 1])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def merge(scores: Doubles, indices: Integers, other_scores: Doubles, other_indices: Integers) -> None:
    """Put the other best rows [q, k] among the best; an index below 0 is no row."""
    for i in range(len(scores)):
        for j in range(other_scores.shape[1]):
            if other_indices[i, j] >= 0:
                _insert(scores[i], indices[i], other_scores[i, j], other_indices[i, j])
