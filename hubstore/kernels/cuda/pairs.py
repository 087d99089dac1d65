"""Exact scores of chosen pairs of rows, and their order: what becomes of a sweep's candidates."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS, WIDTH = 8, 512
RANKED = 512  # candidates that a program ranks against one another


@triton.jit
def _pair_products(
    queries, q_stride, rows, r_stride, chosen, products, squares, count, width, PAIRS: tl.constexpr, WIDTH: tl.constexpr
):
    query = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    row = tl.load(chosen + query * count + place, place < count, other=-1)
    there = row >= 0
    if tl.max(row, 0) >= 0:
        product = tl.zeros((PAIRS, WIDTH), tl.float64)
        square = tl.zeros((PAIRS, WIDTH), tl.float64)
        for start in range(0, width, WIDTH):
            column = start + tl.arange(0, WIDTH)
            inside = column < width
            x = tl.load(queries + query * q_stride + column, inside, other=0.0).to(tl.float64)
            y = tl.load(rows + row[:, None] * r_stride + column[None, :], there[:, None] & inside[None, :], other=0.0)
            y = y.to(tl.float64)
            product += y * x[None, :]
            if squares is not None:
                square += y * y
        tl.store(products + query * count + place, tl.sum(product, 1), there)
        if squares is not None:
            tl.store(squares + query * count + place, tl.sum(square, 1), there)


def pair_product(queries: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """float64 [q, c]: queries[i] · rows[chosen[i, j]], each summed in one order whatever the row, so that equal rows tie.

    Args:
        queries: [q, width], any float dtype.
        rows: [n, width], any float dtype.
        chosen: int64 [q, c]; -1 for none, which gives -infinity.
    """
    products = torch.full(chosen.shape, -torch.inf, dtype=torch.float64, device=queries.device)
    _launch(queries, rows, chosen, products, None)
    return products


def pair_cosine(queries: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """float64 [q, c]: the cosine of each query with its chosen rows; 0 with a row of zeros, -infinity where -1.

    Args:
        queries: [q, width], any float dtype.
        rows: [n, width], any float dtype.
        chosen: int64 [q, c].
    """
    products = torch.full(chosen.shape, -torch.inf, dtype=torch.float64, device=queries.device)
    squares = torch.ones_like(products)
    _launch(queries, rows, chosen, products, squares)
    norms = squares.sqrt_() * torch.linalg.vector_norm(queries, dim=1, keepdim=True, dtype=torch.float64)
    return products.div_(norms.masked_fill_(norms == 0, 1.0))


def _launch(queries: Tensor, rows: Tensor, chosen: Tensor, products: Tensor, squares: Tensor | None) -> None:
    q, width = queries.shape
    if not chosen.numel():
        return
    queries, rows = (part if part.stride(1) == 1 else part.contiguous() for part in (queries, rows))
    block = min(WIDTH, max(32, triton.next_power_of_2(width)))
    grid = (q, triton.cdiv(chosen.shape[1], PAIRS))
    _pair_products[grid](
        queries,
        queries.stride(0),
        rows,
        rows.stride(0),
        chosen.contiguous(),
        products,
        squares,
        chosen.shape[1],
        width,
        PAIRS,
        block,
        num_warps=4,
    )


@triton.jit
def _rank(
    scores, indices, count, best_scores, best_indices, k, COUNT: tl.constexpr, STEP: tl.constexpr
):
    """Each candidate's rank, by counting those before it, is the place it goes to."""
    query = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, COUNT)
    index = tl.load(indices + query * count + place, place < count, other=-1)
    there = index >= 0
    score = tl.load(scores + query * count + place, there, other=-float("inf"))
    rank = tl.zeros((COUNT,), tl.int32)
    for start in range(0, count, STEP):
        other = start + tl.arange(0, STEP)
        other_index = tl.load(indices + query * count + other, other < count, other=-1)
        other_score = tl.load(scores + query * count + other, other_index >= 0, other=-float("inf"))
        higher = other_score[None, :] > score[:, None]
        tied = (other_score[None, :] == score[:, None]) & (other_index[None, :] < index[:, None])
        rank += tl.sum(((higher | tied) & (other_index >= 0)[None, :]).to(tl.int32), 1)
    kept = there & (rank < k)
    tl.store(best_scores + query * k + rank, score, kept)
    tl.store(best_indices + query * k + rank, index, kept)


def best(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k candidates of the largest scores, descending; of equal ones the smaller index first.

    Args:
        scores: float64 [q, c].
        indices: int64 [q, c], different from one another but for -1, which stands for none.
        k: how many.

    Returns:
        scores float64 and indices int64 [q, k]; -infinity and -1 where there are fewer.
    """
    q, count = scores.shape
    best_scores = torch.full((q, k), -torch.inf, dtype=torch.float64, device=scores.device)
    best_indices = torch.full((q, k), -1, dtype=torch.int64, device=scores.device)
    if not scores.numel():
        return best_scores, best_indices
    if count > RANKED:
        by_index = torch.where(indices < 0, torch.iinfo(torch.int64).max, indices).argsort(dim=1, stable=True)
        order = by_index.gather(1, scores.gather(1, by_index).argsort(dim=1, descending=True, stable=True))[:, :k]
        best_scores[:, : order.shape[1]] = scores.gather(1, order)
        best_indices[:, : order.shape[1]] = indices.gather(1, order)
        return best_scores.masked_fill_(best_indices < 0, -torch.inf), best_indices
    size = max(16, triton.next_power_of_2(count))
    _rank[(q,)](
        scores.contiguous(),
        indices.contiguous(),
        count,
        best_scores,
        best_indices,
        k,
        size,
        min(size, 32),
        num_warps=1 if size <= 32 else 4,
    )
    return best_scores, best_indices
