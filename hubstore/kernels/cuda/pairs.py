"""Exact scores of chosen pairs of rows, and their order: what becomes of a sweep's candidates."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.candidates import FEW, TopCandidates

PAIRS, WIDTH = 8, 512
RANKED = 512  # candidates that a program ranks against one another


@triton.jit
def row_scores(
    queries,
    q_stride,
    query,
    rows,
    r_stride,
    row,
    valid,
    width,
    COSINE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Products, or cosines, of a query with rows [ROWS], and its norm; in float64, and summed in one order whatever
    the row, so that equal rows tie."""
    product = tl.zeros((ROWS, WIDTH), tl.float64)
    square = tl.zeros((ROWS, WIDTH), tl.float64)
    own = tl.zeros((WIDTH,), tl.float64)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        x = tl.load(queries + query * q_stride + column, inside, other=0.0).to(tl.float64)
        y = tl.load(rows + row[:, None] * r_stride + column[None, :], valid[:, None] & inside[None, :], other=0.0)
        y = y.to(tl.float64)
        product += y * x[None, :]
        if COSINE:
            square += y * y
            own += x * x
    score, norm = tl.sum(product, 1), tl.sqrt(tl.sum(own, 0))
    if COSINE:
        norms = tl.sqrt(tl.sum(square, 1)) * norm
        score = tl.where(norms > 0, score / tl.where(norms > 0, norms, 1.0), 0.0)
    return score, norm


@triton.jit
def _pair_scores(
    queries,
    q_stride,
    rows,
    r_stride,
    chosen,
    scores,
    count,
    width,
    COSINE: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    row = tl.load(chosen + query * count + place, place < count, other=-1)
    valid = row >= 0
    score = tl.zeros((PAIRS,), tl.float64)
    if tl.max(row, 0) >= 0:
        score, _ = row_scores(queries, q_stride, query, rows, r_stride, row, valid, width, COSINE, PAIRS, WIDTH)
    tl.store(scores + query * count + place, tl.where(valid, score, -float("inf")), place < count)


def pair_product(queries: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """float64 [q, c]: queries[i] · rows[chosen[i, j]].

    Args:
        queries: [q, width], any float dtype.
        rows: [n, width], any float dtype.
        chosen: int64 [q, c]; -1 for none, which gives -infinity.
    """
    return _scored(queries, rows, chosen, cosine=False)


def pair_cosine(queries: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """The cosines of the same, 0 with a row of zeros."""
    return _scored(queries, rows, chosen, cosine=True)


def _scored(queries: Tensor, rows: Tensor, chosen: Tensor, cosine: bool) -> Tensor:
    (q, count), width = chosen.shape, queries.shape[1]
    scores = torch.empty(q, count, dtype=torch.float64, device=queries.device)
    if not scores.numel():
        return scores
    queries, rows = (part if part.stride(1) == 1 else part.contiguous() for part in (queries, rows))
    _pair_scores[(q, triton.cdiv(count, PAIRS))](
        queries,
        queries.stride(0),
        rows,
        rows.stride(0),
        chosen.contiguous(),
        scores,
        count,
        width,
        cosine,
        PAIRS,
        block_of(width),
        num_warps=4,
    )
    return scores


def block_of(width: int) -> int:
    """Columns that are summed at once."""
    return int(min(WIDTH, max(32, triton.next_power_of_2(width))))


@triton.jit
def _rank(
    scores, indices, count, best_scores, best_indices, k, COUNT: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr
):
    """Each candidate's rank, by counting those before it, is the place it goes to."""
    query = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, COUNT)
    index = tl.load(indices + query * count + place, place < count, other=-1)
    valid = index >= 0
    score = tl.load(scores + query * count + place, valid, other=-float("inf"))
    rank = tl.zeros((COUNT,), tl.int32)
    for start in range(0, count, STEP):
        other = start + tl.arange(0, STEP)
        other_index = tl.load(indices + query * count + other, other < count, other=-1)
        other_score = tl.load(scores + query * count + other, other_index >= 0, other=-float("inf"))
        higher = other_score[None, :] > score[:, None]
        tied = (other_score[None, :] == score[:, None]) & (other_index[None, :] < index[:, None])
        rank += tl.sum(((higher | tied) & (other_index >= 0)[None, :]).to(tl.int32), 1)
    ranked = valid & (rank < k)
    tl.store(best_scores + query * k + rank, score, ranked)
    tl.store(best_indices + query * k + rank, index, ranked)
    empty = tl.arange(0, K)
    beyond = (empty < k) & (empty >= tl.sum(valid.to(tl.int32), 0))
    tl.store(best_scores + query * k + empty, -float("inf"), beyond)
    tl.store(best_indices + query * k + empty, -1, beyond)


@triton.jit
def _join_tie_groups(
    queries,
    q_stride,
    rows,
    r_stride,
    n,
    width,
    found,
    seconds,
    best_scores,
    best_indices,
    k,
    COSINE: tl.constexpr,
    COUNT: tl.constexpr,
    K: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Score what is left of tie groups, and let it into the best; most queries have none.

    As many rows at once as `_pair_scores` takes, and as wide: else sums had another order, and equal rows no tie.
    """
    query = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, COUNT)
    last = tl.min(tl.load(found + query * COUNT + slot), 0)
    second = tl.load(seconds + query * COUNT + slot)
    tie_groups = (second != -9223372036854775808) & (second >= last)
    if tl.max(tie_groups.to(tl.int32), 0) > 0:
        for number in range(COUNT):
            second_of = tl.load(seconds + query * COUNT + number)
            if (second_of != -9223372036854775808) & (second_of >= last):
                first_row = 0x7FFFFFFF - (tl.load(found + query * COUNT + number) & 0x7FFFFFFF)
                second_row = 0x7FFFFFFF - (second_of & 0x7FFFFFFF)
                for part in range(0, 16, PAIRS):
                    place = part + tl.arange(0, PAIRS)
                    row = first_row // 64 * 64 + place // 2 * 8 + first_row % 8 // 2 * 2 + place % 2
                    valid = (row < n) & (row != first_row) & (row != second_row)
                    index = row.to(tl.int64)
                    score, _ = row_scores(
                        queries, q_stride, query, rows, r_stride, index, valid, width, COSINE, PAIRS, WIDTH
                    )
                    held = tl.arange(0, K)
                    held_score = tl.load(best_scores + query * k + held, held < k, other=-float("inf"))
                    held_index = tl.load(best_indices + query * k + held, held < k, other=-1)
                    holds = held_index >= 0
                    # A row's rank is the number of those before it: of the held ones, and of the others of its group.
                    before = (held_score[:, None] > score[None, :]) | (
                        (held_score[:, None] == score[None, :]) & (held_index[:, None] < index[None, :])
                    )
                    before = before & holds[:, None] & valid[None, :]
                    after = (before == 0) & holds[:, None] & valid[None, :]
                    among = (score[:, None] > score[None, :]) | (
                        (score[:, None] == score[None, :]) & (index[:, None] < index[None, :])
                    )
                    among = among & valid[:, None] & valid[None, :]
                    held_rank = held + tl.sum(after.to(tl.int32), 1)
                    rank = tl.sum(before.to(tl.int32), 0) + tl.sum(among.to(tl.int32), 0)
                    tl.debug_barrier()
                    tl.store(best_scores + query * k + held_rank, held_score, holds & (held_rank < k))
                    tl.store(best_indices + query * k + held_rank, held_index, holds & (held_rank < k))
                    tl.store(best_scores + query * k + rank, score, valid & (rank < k))
                    tl.store(best_indices + query * k + rank, index, valid & (rank < k))
                    tl.debug_barrier()


def join_tie_groups(
    queries: Tensor,
    rows: Tensor,
    leading: TopCandidates,
    scores: Tensor,
    indices: Tensor,
    *,
    cosine: bool,
) -> None:
    """Let the neighbors of candidates in tie groups into the best, in place.

    Args:
        queries: [q, width].
        rows: [n, width], of which the candidates are.
        leading: the candidates of each query; groups begin at row 0.
        scores: float64 [q, k], as `best` gives them, of at least all candidates.
        indices: int64 [q, k], rows.
        cosine: whether scores are cosines, or products.
    """
    (q, k), count = scores.shape, leading.found.shape[1]
    if not q or not k:
        return
    if count > FEW:
        tie_groups = torch.nonzero(leading.tie_groups.any(1))[:, 0]
        if len(tie_groups):
            neighbors = leading.neighbors(tie_groups, 0)
            neighbors = torch.where(neighbors < len(rows), neighbors, -1)
            more = torch.cat([scores[tie_groups], _scored(queries[tie_groups], rows, neighbors, cosine)], 1)
            scores[tie_groups], indices[tie_groups] = best(more, torch.cat([indices[tie_groups], neighbors], 1), k)
        return
    queries, rows = (part if part.stride(1) == 1 else part.contiguous() for part in (queries, rows))
    width = queries.shape[1]
    _join_tie_groups[(q,)](
        queries,
        queries.stride(0),
        rows,
        rows.stride(0),
        len(rows),
        width,
        leading.found,
        leading.seconds,
        scores,
        indices,
        k,
        cosine,
        count,
        max(2, triton.next_power_of_2(k)),
        PAIRS,
        block_of(width),
        num_warps=4,
    )


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
    if count > RANKED or not scores.numel():
        return _best_plain(scores, indices, k)
    best_scores = torch.empty(q, k, dtype=torch.float64, device=scores.device)
    best_indices = torch.empty(q, k, dtype=torch.int64, device=scores.device)
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
        triton.next_power_of_2(k),
        num_warps=1 if size <= 32 else 4 if size <= 128 else 16,
    )
    return best_scores, best_indices


def _best_plain(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by sorting, for candidates that are too many for one program."""
    by_index = torch.where(indices < 0, torch.iinfo(torch.int64).max, indices).argsort(dim=1, stable=True)
    order = by_index.gather(1, scores.gather(1, by_index).argsort(dim=1, descending=True, stable=True))[:, :k]
    lacking = (0, k - order.shape[1])
    best_indices = torch.nn.functional.pad(indices.gather(1, order), lacking, value=-1)
    best_scores = torch.nn.functional.pad(scores.gather(1, order), lacking, value=-torch.inf)
    return best_scores.masked_fill(best_indices < 0, -torch.inf), best_indices
