"""A search for few queries: bound by reading the rows, so one pass in float32 gives all cosines, and norms with them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.pairs import best, pair_cosine

FEW = 4  # queries up to which reading the rows takes longer than the products
ROWS, WIDTH, WARPS = 16, 512, 8
SLACK = 22  # groups of rows beyond k that are scored again
LEADING = 64  # of them, at most
GROUPS = 1 << 16  # from which they are chosen
DOUBT = 1e-6  # more than the error of a float32 cosine


@triton.jit
def _largest_cosines(
    queries,
    q_stride,
    rows,
    r_stride,
    n,
    width,
    largest,
    steps,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Of a program's rows the largest |x| cos(x, y), for each query."""
    group = tl.program_id(0)
    for query in tl.static_range(QUERIES):
        most = -float("inf")
        for step in range(steps):
            number = (group * steps + step).to(tl.int64) * ROWS + tl.arange(0, ROWS)
            there = number < n
            squares = tl.zeros((ROWS, WIDTH), tl.float32)
            products = tl.zeros((ROWS, WIDTH), tl.float32)
            for start in range(0, width, WIDTH):
                column = start + tl.arange(0, WIDTH)
                inside = column < width
                at = number[:, None] * r_stride + column[None, :]
                y = tl.load(rows + at, there[:, None] & inside[None, :], other=0.0).to(tl.float32)
                x = tl.load(queries + query * q_stride + column, inside, other=0.0).to(tl.float32)
                squares += y * y
                products += y * x[None, :]
            square = tl.sum(squares, 1)
            cosine = tl.sum(products, 1) / tl.sqrt(tl.where(square > 0, square, 1.0))
            # Infinity stands for a cosine that is none: NaN or infinity in a row, or a norm beyond float32.
            cosine = tl.where((cosine > -1e30) & (square < 1e38), cosine, float("inf"))
            most = tl.maximum(most, tl.max(tl.where(there, cosine, -float("inf")), 0))
        tl.store(largest + query * tl.num_programs(0) + group, most)


@triton.jit
def _lead(largest, groups, chosen, last, COUNT: tl.constexpr, GROUPS: tl.constexpr):
    """The COUNT groups of the largest cosines, and the largest of the others."""
    query = tl.program_id(0)
    group = tl.arange(0, GROUPS)
    cosines = tl.load(largest + query * groups + group, group < groups, other=-float("inf"))
    for place in range(COUNT):
        where = tl.argmax(cosines, 0)
        most = tl.max(cosines, 0)
        tl.store(chosen + query * COUNT + place, tl.where(most > -float("inf"), where, -1))
        cosines = tl.where(group == where, -float("inf"), cosines)
    tl.store(last + query, tl.max(cosines, 0))


def few_topk(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """`topk_cosine` for at most FEW queries over rows on the same device.

    Returns:
        float64 scores and indices [q, k] as `topk_cosine` orders them, or None where float32 cannot tell the rows
        apart or hold their norms, and where k is too large.
    """
    (n, width), q = rows.shape, len(queries)
    if rows.stride(1) != 1 or queries.stride(1) != 1 or k + SLACK > LEADING:
        return None
    steps = triton.cdiv(n, ROWS * GROUPS)
    groups = triton.cdiv(n, ROWS * steps)
    count = min(triton.next_power_of_2(k + SLACK), groups)
    largest = torch.empty(q, groups, dtype=torch.float32, device=rows.device)
    block = min(WIDTH, max(16, triton.next_power_of_2(width)))
    _largest_cosines[(groups,)](
        queries, queries.stride(0), rows, rows.stride(0), n, width, largest, steps, q, ROWS, block, num_warps=WARPS
    )
    chosen = torch.empty(q, count, dtype=torch.int64, device=rows.device)
    last = torch.empty(q, 1, dtype=torch.float32, device=rows.device)
    size = max(16, triton.next_power_of_2(groups))
    _lead[(q,)](largest, groups, chosen, last, count, size, num_warps=max(1, min(32, size // 512)))
    within = torch.arange(ROWS * steps, device=rows.device)
    places = (chosen[..., None] * (ROWS * steps) + within).flatten(1)
    places = torch.where((chosen < 0).repeat_interleave(ROWS * steps, 1) | (places >= n), -1, places)
    scores, indices = best(pair_cosine(queries, rows, places), places, k)
    # What was not chosen has at most the last one's float32 cosine, and a little more by its error.
    norms = torch.linalg.vector_norm(queries, dim=1, keepdim=True, dtype=torch.float64)
    certain = (scores[:, -1:] * norms > last + DOUBT * norms) & torch.isfinite(largest.amax(1, keepdim=True))
    return (scores, indices) if bool(certain.all()) else None
