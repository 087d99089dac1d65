"""The floor of exact search: score tiles by cuBLAS, one Triton pass that keeps the best, an exact re-rank."""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
CANDIDATES = 16
QUERIES = 4096


@triton.jit
def _keep_best(scores, values, indices, first, TILE: tl.constexpr, CANDIDATES: tl.constexpr):
    query = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, TILE)
    slots = tl.arange(0, CANDIDATES)
    score = tl.load(scores + query * TILE + columns).to(tl.float32)
    value = tl.load(values + query * CANDIDATES + slots)
    index = tl.load(indices + query * CANDIDATES + slots)
    best = tl.max(score, 0)
    least = tl.min(value, 0)
    if best > least:
        while best > least:
            column = tl.argmax(score, 0)
            here = slots == tl.argmin(value, 0)
            value = tl.where(here, best, value)
            index = tl.where(here, first + column, index)
            score = tl.where(columns == column, float("-inf"), score)
            best = tl.max(score, 0)
            least = tl.min(value, 0)
        tl.store(values + query * CANDIDATES + slots, value)
        tl.store(indices + query * CANDIDATES + slots, index)


def search(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """int64 [q, k]: rows of the largest products with each query; both 16-bit and of norm 1."""
    return torch.cat([_search(part, rows, k) for part in torch.split(queries, QUERIES)])


def _search(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    values = torch.full((len(queries), CANDIDATES), -torch.inf, device=rows.device)
    indices = torch.zeros(len(queries), CANDIDATES, dtype=torch.int64, device=rows.device)
    scores = torch.empty(len(queries), TILE, dtype=queries.dtype, device=rows.device)
    for first in range(0, len(rows), TILE):
        tile = rows[first : first + TILE]
        if len(tile) == TILE:
            torch.matmul(queries, tile.T, out=scores)
        else:
            scores.fill_(-torch.inf)
            scores[:, : len(tile)] = queries @ tile.T
        _keep_best[(len(queries),)](scores, values, indices, first, TILE, CANDIDATES, num_warps=4)
    return torch.cat([_rerank(*part, rows, k) for part in zip(queries.split(1024), indices.split(1024), strict=True)])


def _rerank(queries: Tensor, candidates: Tensor, rows: Tensor, k: int) -> Tensor:
    exact = torch.einsum("qd,qcd->qc", queries.float(), rows[candidates].float())
    return candidates.gather(1, exact.topk(k).indices)
