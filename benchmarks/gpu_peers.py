"""What one would use instead of hubstore's kernels, each made ready once and then called as a user would.

Rows are normalized, and put into the dtype that a peer wants, before its time is taken; hubstore does both in its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

Search = Callable[[], Tensor]
"""Searches once; int64 or int32 [q, k] of row numbers."""

SCORES = 1 << 29
"""Scores of one tile of plain torch: 1 GiB in float16."""

QUERIES = 4096
"""Queries of one tile."""


@dataclass(frozen=True)
class Searching:
    """A search that every contestant does.

    Args:
        queries: [q, width], as hubstore gets them.
        rows: [n, width], as hubstore gets them.
        k: how many of the largest cosine.
    """

    queries: Tensor
    rows: Tensor
    k: int

    @cached_property
    def half_queries(self) -> Tensor:
        """float16 [q, width] of norm 1."""
        return unit(self.queries, torch.float16)

    @cached_property
    def half_rows(self) -> Tensor:
        """float16 [n, width] of norm 1."""
        return unit(self.rows, torch.float16)

    def tiles(self) -> list[tuple[slice, slice]]:
        """Queries and rows of plain torch's tiles."""
        queries = min(QUERIES, len(self.queries))
        return spans(len(self.queries), queries, len(self.rows), SCORES // queries)


def unit(states: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., n, width] of norm 1 in `dtype`, made in float32, a piece at a time."""
    made = torch.empty_like(states, dtype=dtype)
    for part, into in zip(states.split(1 << 16, dim=-2), made.split(1 << 16, dim=-2), strict=True):
        into.copy_(normalize(part.float(), dim=-1))
    return made


def spans(m: int, rows: int, n: int, columns: int) -> list[tuple[slice, slice]]:
    """Tiles of `rows` x `columns` over m x n; the last ones are what is left."""
    return [
        (slice(top, min(top + rows, m)), slice(left, min(left + columns, n)))
        for top in range(0, m, rows)
        for left in range(0, n, columns)
    ]


def torch_search(of: Searching) -> Search:
    """float16 products in large tiles, torch.topk of each, and of what they found."""
    queries, rows, tiles = of.half_queries, of.half_rows, of.tiles()

    def search() -> Tensor:
        found: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for top, left in tiles:
            scores, columns = (queries[top] @ rows[left].T).topk(min(of.k, left.stop - left.start))
            found.setdefault(top.start, []).append((scores, columns + left.start))
        best = []
        for parts in found.values():
            scores = torch.cat([part for part, _ in parts], 1)
            columns = torch.cat([part for _, part in parts], 1)
            best.append(columns.gather(1, scores.topk(of.k).indices))
        return torch.cat(best)

    return search


def product_alone(of: Searching) -> Callable[[], None]:
    """The float16 products of the search, tile by tile over one buffer, nothing done with them: the ceiling."""
    queries, rows = of.half_queries, of.half_rows
    height = min(QUERIES, len(queries))
    width = min(1 << 16, len(rows))
    tiles = spans(len(queries), height, len(rows), width)
    buffer = torch.empty(height * width, dtype=torch.float16, device=rows.device)

    def multiply() -> None:
        for top, left in tiles:
            shape = (top.stop - top.start, left.stop - left.start)
            torch.matmul(queries[top], rows[left].T, out=buffer[: shape[0] * shape[1]].view(shape))

    return multiply


def product_in_8_bits(of: Searching) -> Callable[[], None]:
    """The same by int8 rows, whose int32 sums cuBLAS writes: what 8-bit candidates could cost at best."""
    queries, rows = in_8_bits(of.queries), in_8_bits(of.rows)
    height, width = min(QUERIES, len(queries)), min(1 << 16, len(rows))
    tiles = spans(len(queries), height, len(rows), width)

    def multiply() -> None:
        for top, left in tiles:
            torch._int_mm(queries[top], rows[left].T)

    return multiply


def in_8_bits(states: Tensor) -> Tensor:
    """int8 [n, width], in steps of a 127th of each row's largest element, a piece at a time."""
    made = torch.empty(states.shape, dtype=torch.int8, device=states.device)
    for part, into in zip(states.split(1 << 16), made.split(1 << 16), strict=True):
        wide = part.float()
        into.copy_((wide * (127 / wide.abs().amax(1, keepdim=True))).round())
    return made


def baseline(of: Searching) -> Search:
    """Score tiles and one pass over them, as first tried."""
    if not of.rows.is_cuda:  # where Triton interprets, it would run, and take minutes
        raise RuntimeError("it runs on a GPU")
    from benchmarks.baseline import search

    return lambda: search(of.half_queries, of.half_rows, of.k)


def flashlib_search(of: Searching) -> Search:
    """flashlib's fused search in bfloat16; of rows of norm 1 the nearest have the largest cosine."""
    from flashlib.primitives.knn import flash_knn

    queries, rows = unit(of.queries, torch.bfloat16), unit(of.rows, torch.bfloat16)
    return lambda: flash_knn(queries, rows, of.k, return_distances=False)


def faiss_search(of: Searching) -> Search:
    """FAISS's exact index in float32, on the GPU where the rows are; they are put there once."""
    warm = torch.ones(8, 8, device=of.rows.device)
    _ = warm @ warm  # a build of FAISS may take cuBLAS from torch, which loads it with its first product
    import faiss

    queries, rows = unit(of.queries, torch.float32), unit(of.rows, torch.float32)
    width = rows.shape[1]
    if not rows.is_cuda:
        index = faiss.IndexFlatIP(width)
        index.add(rows.numpy())
        return lambda: torch.from_numpy(index.search(queries.numpy(), of.k)[1])
    import faiss.contrib.torch_utils  # changes every index of the process: here alone, where a GPU's take tensors

    config = faiss.GpuIndexFlatConfig()
    config.device = rows.device.index or 0
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), width, config)
    index.add(rows)

    def search() -> Tensor:
        found: Tensor = index.search(queries, of.k)[1]
        return found

    return search


SEARCHES: dict[str, Callable[[Searching], Callable[[], Tensor | None]]] = {
    "product alone": product_alone,
    "int8 product alone": product_in_8_bits,
    "torch": torch_search,
    "baseline": baseline,
    "flashlib": flashlib_search,
    "FAISS": faiss_search,
}


def torch_few_queries(queries: Tensor, rows: Tensor, k: int) -> Search:
    """One float16 product with rows of norm 1, and torch.topk."""
    return lambda: (queries @ rows.T).topk(k).indices


def torch_match_rank(x: Tensor, y: Tensor, tile: int = 16384) -> Callable[[], tuple[Tensor, Tensor]]:
    """Both directions from one set of float16 products in tiles: compare with the match's, count."""
    x, y = unit(x, torch.float16), unit(y, torch.float16)
    tiles = spans(len(x), tile, len(y), tile)

    def rank() -> tuple[Tensor, Tensor]:
        match = torch.empty(len(x), dtype=x.dtype, device=x.device)
        for rows, columns in tiles:
            if rows == columns:
                match[rows] = (x[rows] @ y[columns].T).diagonal()
        forward = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        backward = torch.zeros_like(forward)
        for rows, columns in tiles:
            scores = x[rows] @ y[columns].T
            forward[rows] += (scores > match[rows, None]).sum(1)
            backward[columns] += (scores > match[columns]).sum(0)
        return forward, backward

    return rank


def torch_paired_cosine(x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    """torch's cosine_similarity, and the sums of normalized rows, layer by layer."""

    def pairs() -> list[Tensor]:
        return [
            part
            for a, b in zip(x, y, strict=True)
            for part in (cosine_similarity(a, b, dim=-1), normalize(a, dim=-1).sum(0), normalize(b, dim=-1).sum(0))
        ]

    return pairs


def torch_lens(hidden: Tensor, unembedding: Tensor, targets: Tensor, k: int) -> Callable[[], list[tuple[Tensor, ...]]]:
    """float32 log_softmax of 1024 states at a time; log-probabilities and ranks of targets, and the top k."""

    def lens() -> list[tuple[Tensor, ...]]:
        read = []
        for states, of_states in zip(hidden.split(1024), targets.split(1024), strict=True):
            logits = (states @ unembedding.T).float().log_softmax(-1)
            wanted = logits.gather(1, of_states)
            ranks = torch.stack([(logits > column[:, None]).sum(1) for column in wanted.T], 1)
            read.append((wanted, ranks, *logits.topk(k)))
        return read

    return lens


def cut_cross_entropy(hidden: Tensor, unembedding: Tensor, target: Tensor) -> Callable[[], Tensor]:
    """Apple's fused loss: minus the log-probability of one target for each state, and nothing else."""
    from cut_cross_entropy import linear_cross_entropy

    @torch.no_grad()
    def loss() -> Tensor:
        found: Tensor = linear_cross_entropy(hidden, unembedding, target, reduction="none")
        return found

    return loss
