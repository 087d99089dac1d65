"""A search for few queries, bound by reading the rows: one pass of products keeps the largest cosine of every few rows.

The groups of rows whose cosines lead are scored again in float64. What was left out has at most the largest cosine
of the rest, so that the answer is known to be right, or not known and searched for anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hubstore.kernels.cuda import float32_pass
from hubstore.kernels.cuda.candidates import ordered
from hubstore.kernels.cuda.pairs import PAIRS, best, block_of, row_scores
from hubstore.kernels.cuda.replay import Replay
from hubstore.kernels.cuda.sweep import aligned

FEW = 64  # queries up to which reading the rows takes longer than the products
WIDE_FEW = 2  # queries over float32 rows up to which float32 on ordinary cores takes less time than three TF32 products
GROUP = PAIRS  # rows side by side of which the largest cosine is kept
PARTS = 8192  # of the rows, at most, each with groups of its own
SLACK = 22  # groups beyond k that are scored again
LEADING = 64  # groups that are, at most
DOUBT = 1e-6  # more than the error of a row's norm and of the division by it
DIGIT = 2.0**-30  # of a cosine, more than what the products lose for each column
LEAST_NORM = 1e-12  # of a query whose products float32 holds


class Tile(NamedTuple):
    """What a program multiplies at a time, and how."""

    rows: int
    row_bytes: int
    warps: int
    stages: int


TILES = {16: Tile(128, 256, 8, 4), 32: Tile(128, 256, 8, 3), 64: Tile(128, 256, 8, 3)}
"""By queries, of which there are as many in a tile."""


@triton.jit
def _filled(rows, r_stride, number, width, ROWS: tl.constexpr):
    """int32 [ROWS]: whether a row is not all zeros. Few columns at a time, for the registers that it takes."""
    filled = tl.zeros((ROWS,), tl.int32)
    for start in range(0, width, 16):
        column = start + tl.arange(0, 16)
        y = tl.load(rows + number[:, None] * r_stride + column[None, :], (column < width)[None, :], other=0.0)
        filled = tl.maximum(filled, tl.max((y != 0).to(tl.int32), 1))
    return filled


@triton.jit(do_not_specialize=["q"])
def _largest_cosines(
    tiled_queries,
    tiled_rows,
    queries,
    q_stride,
    q,
    rows,
    r_stride,
    n,
    width,
    largest,
    groups,
    top,
    steps,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    TILED: tl.constexpr,
    SAME: tl.constexpr,
):
    """Of each group of a part's rows the largest |x| cos(x, y) for each query, and the largest of the part.

    A group is as many rows side by side, and those at their place in the part's other tiles.
    """
    part, parts = tl.program_id(0), tl.num_programs(0)
    query = tl.arange(0, QUERIES)
    asked = query < q
    most = tl.full((ROWS // GROUP, QUERIES), -float("inf"), tl.float32)
    for step in range(steps):
        number = (part * steps + step).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        valid = number < n
        number = tl.minimum(number, n - 1)
        products = tl.zeros((ROWS, QUERIES), tl.float32)
        square = tl.zeros((ROWS,), tl.float32)
        for start in range(0, width, WIDTH):
            if TILED:
                y = tiled_rows.load([(part * steps + step) * ROWS, start])
                x = tiled_queries.load([0, start])
            else:
                column = start + tl.arange(0, WIDTH)
                inside = (column < width)[None, :]
                y = tl.load(rows + number[:, None] * r_stride + column[None, :], inside, other=0.0)
                x = tl.load(queries + query[:, None] * q_stride + column[None, :], asked[:, None] & inside, other=0.0)
            wide = y.to(tl.float32)
            square += tl.sum(wide * wide, 1)
            # Tensor cores cut off what an addend has below a sum's digits: so sums of few columns, added up here. That
            # they are taken away and not added keeps the compiler from having the tensor cores add them.
            if SAME:
                products -= tl.dot(y, x.T)
            else:
                products -= tl.dot(wide, x.to(tl.float32).T, input_precision="tf32x3")
        # Infinity stands for a cosine that is none: NaN or infinity in a row, or squares that leave float32.
        fits = square < 1e38
        if rows.dtype.element_ty != tl.float16:  # whose squares float32 holds
            lost = square <= 1e-30
            if tl.max(lost.to(tl.int32), 0) > 0:
                lost = lost & (_filled(rows, r_stride, number, width, ROWS) > 0)
            fits = fits & (lost == 0)
        cosine = -products / tl.sqrt(tl.where(square > 0, square, 1.0))[:, None]
        cosine = tl.where((cosine > -1e30) & fits[:, None], cosine, float("inf"))
        cosine = tl.where(valid[:, None], cosine, -float("inf"))
        most = tl.maximum(most, tl.max(tl.reshape(cosine, (ROWS // GROUP, GROUP, QUERIES)), 1))
    group = part * (ROWS // GROUP) + tl.arange(0, ROWS // GROUP)
    tl.store(largest + query[None, :] * groups + group[:, None], most, asked[None, :])
    tl.store(top + query * parts + part, tl.max(most, 0), asked)


@triton.jit
def _places(keys, COUNT: tl.constexpr, OTHERS: tl.constexpr):
    """Which of int32 keys [COUNT * OTHERS] are the COUNT largest, of equal ones the first, and each one's place."""
    # Halve between what COUNT keys reach, for certain, and what none does, until as many keys reach the middle.
    low = tl.min(tl.max(tl.reshape(keys, (OTHERS, COUNT)), 0), 0).to(tl.int64)
    high = tl.max(keys, 0).to(tl.int64) + 1
    reached = tl.sum((keys >= low.to(tl.int32)).to(tl.int32), 0)
    while (reached != COUNT) & (high - low > 1):
        middle = (low + high) >> 1
        count = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0)
        high = tl.where(count >= COUNT, high, middle)
        low = tl.where(count >= COUNT, middle, low)
        reached = tl.where(count >= COUNT, count, reached)
    least = low.to(tl.int32)
    # More than COUNT are left where the last of them are equal.
    above, level = (keys > least).to(tl.int32), (keys == least).to(tl.int32)
    chosen = (keys >= least).to(tl.int32)
    if reached == COUNT:
        place = tl.cumsum(chosen, 0) - 1
    else:
        place = tl.where(level > 0, tl.sum(above, 0) + tl.cumsum(level, 0), tl.cumsum(above, 0)) - 1
    return (chosen > 0) & (place < COUNT), place


@triton.jit
def _choose(
    largest,
    groups,
    top,
    parts,
    places,
    chosen,
    limits,
    COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    PER_PART: tl.constexpr,
):
    """The COUNT groups that lead, which are in the COUNT parts that do; the largest cosine, and that of the rest."""
    query = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, PARTS)
    maxima = tl.load(top + query * parts + number, number < parts, other=-float("inf"))
    keys = tl.where(number < parts, ordered(maxima), -2147483648)
    taken, place = _places(keys, COUNT, PARTS // COUNT)
    tl.store(places + query * COUNT + place, tl.where(number < parts, number, -1), taken)
    rest = tl.max(tl.where(taken, -float("inf"), maxima), 0)
    tl.store(limits + query * 2, tl.max(maxima, 0))
    tl.debug_barrier()
    slot = tl.arange(0, COUNT * PER_PART)
    part = tl.load(places + query * COUNT + slot // PER_PART)
    group = part * PER_PART + slot % PER_PART
    maxima = tl.load(largest + query * groups + group, part >= 0, other=-float("inf"))
    keys = tl.where(part >= 0, ordered(maxima), -2147483648)
    taken, place = _places(keys, COUNT, PER_PART)
    tl.store(chosen + query * COUNT + place, tl.where(part >= 0, group, -1), taken)
    rest = tl.maximum(rest, tl.max(tl.where(taken, -float("inf"), maxima), 0))
    tl.store(limits + query * 2 + 1, rest)


@triton.jit
def _group_cosines(
    queries,
    q_stride,
    rows,
    r_stride,
    n,
    width,
    chosen,
    steps,
    cosines,
    numbers,
    norms,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The cosines of rows side by side of a chosen group, and the query's norm, in float64."""
    query, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group = tl.load(chosen + query * COUNT + place // steps).to(tl.int64)
    tile = group // (ROWS // GROUP) * steps + place % steps
    first = tl.where(group < 0, n, tile * ROWS + group % (ROWS // GROUP) * GROUP)
    row = first + tl.arange(0, GROUP)
    valid = row < n
    cosine, norm = row_scores(queries, q_stride, query, rows, r_stride, row, valid, width, True, GROUP, WIDTH)
    out = (query * tl.num_programs(1) + place) * GROUP + tl.arange(0, GROUP)
    tl.store(cosines + out, cosine)
    tl.store(numbers + out, tl.where(valid, row, -1))
    tl.store(norms + query, norm)


@triton.jit
def _judge(exact, limits, norms, doubt, least_norm, k, scores, sure, K: tl.constexpr):
    """The scores in their dtype, and whether no row that was left out can be among the best."""
    query = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, K)
    score = tl.load(exact + query * k + place, place < k, other=float("inf"))
    tl.store(scores + query * k + place, score.to(scores.dtype.element_ty), place < k)
    norm = tl.load(norms + query)
    most, others = tl.load(limits + query * 2), tl.load(limits + query * 2 + 1).to(tl.float64)
    held = (norm == 0) | ((norm >= least_norm) & (norm <= 1 / least_norm))
    apart = tl.min(score, 0) * norm > others + doubt * norm
    tl.store(sure + query, (held & apart & (most < float("inf"))).to(tl.int32))


@dataclass(frozen=True)
class _Cut:
    """How rows [n, width] are cut for q queries.

    Args:
        tile: what a program multiplies at a time.
        queries: of a tile, at least q.
        width: columns of a step.
        steps: tiles of a part.
        parts: of the rows, one for each program.
    """

    tile: Tile
    queries: int
    width: int
    steps: int
    parts: int

    @classmethod
    def of(cls, q: int, rows: Tensor) -> _Cut:
        queries = max(16, triton.next_power_of_2(q))
        tile, (n, width) = TILES[queries], rows.shape
        steps = triton.cdiv(n, tile.rows * PARTS)
        step = min(tile.row_bytes // rows.element_size(), max(16, triton.next_power_of_2(width)))
        return cls(tile, queries, step, steps, triton.cdiv(n, tile.rows * steps))

    @property
    def per_part(self) -> int:
        """Groups of a part."""
        return self.tile.rows // GROUP


def small_batch_topk(queries: Tensor, rows: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """`topk_cosine` for at most FEW queries over rows on the same device, whose host waits once, at the end.

    Returns:
        Scores in `dtype` and indices [q, k] as `topk_cosine` orders them, or None where the products cannot tell the
        rows apart or hold their norms, and where k is too large.
    """
    multiplied = aligned(queries) and aligned(rows) and (_same_16_bits(queries, rows) or len(queries) > WIDE_FEW)
    if not multiplied:
        found = float32_pass.float32_topk(queries, rows, k) if len(queries) <= float32_pass.FEW else None
        return None if found is None else (found[0].to(dtype), found[1])
    if k + SLACK > LEADING:
        return None
    scores, indices, sure = _replay(queries, rows, k, dtype)  # the one wait for the device
    return (scores, indices) if all(sure) else None


def _same_16_bits(queries: Tensor, rows: Tensor) -> bool:
    """Whether their products are exact in float32 as they are."""
    return queries.dtype == rows.dtype and rows.element_size() == 2


def _enqueue(queries: Tensor, rows: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in `dtype` and indices [q, k], and int32 [q], whether they are right for certain."""
    cut = _Cut.of(len(queries), rows)
    largest, top = _swept(queries, rows, cut)
    chosen, limits = _chosen(largest, top, cut, triton.next_power_of_2(k + SLACK))
    cosines, numbers, norms = _scored(queries, rows, chosen, cut)
    exact, indices = best(cosines, numbers, k)
    scores = torch.empty(exact.shape, dtype=dtype, device=rows.device)
    sure = torch.empty(len(queries), dtype=torch.int32, device=rows.device)
    doubt = DOUBT + DIGIT * rows.shape[1]
    _judge[(len(queries),)](
        exact, limits, norms, doubt, LEAST_NORM, k, scores, sure, triton.next_power_of_2(k), num_warps=1
    )
    return scores, indices, sure


_replay = Replay(_enqueue)


def _swept(queries: Tensor, rows: Tensor, cut: _Cut) -> tuple[Tensor, Tensor]:
    """float32 [q, groups] and [q, parts]: the largest cosine of each group and of each part, times the query's norm."""
    (n, width), q, groups = rows.shape, len(queries), cut.parts * cut.per_part
    maxima = torch.empty(q * (groups + cut.parts), dtype=torch.float32, device=rows.device)
    largest, top = maxima[: q * groups].view(q, groups), maxima[q * groups :].view(q, cut.parts)
    same = _same_16_bits(queries, rows)
    tiled = q > 16 or not same  # of few columns, the loads that need no descriptors take less time
    _largest_cosines[(cut.parts,)](
        TensorDescriptor.from_tensor(queries, [cut.queries, cut.width]) if tiled else None,
        TensorDescriptor.from_tensor(rows, [cut.tile.rows, cut.width]) if tiled else None,
        queries,
        queries.stride(0),
        q,
        rows,
        rows.stride(0),
        n,
        width,
        largest,
        groups,
        top,
        cut.steps,
        cut.queries,
        cut.tile.rows,
        cut.width,
        GROUP,
        tiled,
        same,
        num_warps=cut.tile.warps,
        num_stages=cut.tile.stages,
    )
    return largest, top


def _chosen(largest: Tensor, top: Tensor, cut: _Cut, count: int) -> tuple[Tensor, Tensor]:
    """int32 [q, count] groups, -1 for none, and float32 [q, 2]: the largest of all, and of the groups left out."""
    q = len(largest)
    places, chosen = torch.empty(2, q, count, dtype=torch.int32, device=largest.device)
    limits = torch.empty(q, 2, dtype=torch.float32, device=largest.device)
    _choose[(q,)](
        largest,
        largest.shape[1],
        top,
        cut.parts,
        places,
        chosen,
        limits,
        count,
        max(count, triton.next_power_of_2(cut.parts)),
        cut.per_part,
        num_warps=8,
    )
    return chosen, limits


def _scored(queries: Tensor, rows: Tensor, chosen: Tensor, cut: _Cut) -> tuple[Tensor, Tensor, Tensor]:
    """float64 and int64 [q, c]: the cosines of all rows of the groups chosen, and their numbers; float64 [q] norms."""
    (q, count), (n, width), device = chosen.shape, rows.shape, rows.device
    cosines = torch.empty(q, count * cut.steps * GROUP, dtype=torch.float64, device=device)
    numbers = torch.empty(cosines.shape, dtype=torch.int64, device=device)
    norms = torch.empty(q, dtype=torch.float64, device=device)
    _group_cosines[(q, count * cut.steps)](
        queries,
        queries.stride(0),
        rows,
        rows.stride(0),
        n,
        width,
        chosen,
        cut.steps,
        cosines,
        numbers,
        norms,
        count,
        cut.tile.rows,
        GROUP,
        block_of(width),
        num_warps=4,
    )
    return cosines, numbers, norms
