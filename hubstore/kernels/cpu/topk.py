"""The nearest rows of each query: float32 products of rows less their mean, and an exact look at the best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.kernels.cpu import tiles
from hubstore.kernels.rows import check_widths, unit_rows

ROWS = 4096  # rows of a tile that stream past the queries
QUERIES = 1024  # queries of a tile
KEYS = 1 << 18  # scores that are made into sorting keys at a time
SLACK = 6  # candidates beyond k that are scored again, for what float32 products may misorder
SLOP = 1e-5  # more than the error of a float32 product of unit rows


def topk_cosine(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    unit = unit_rows(queries, "queries")
    best = _Best.empty(len(queries), k)
    for start, segment in [(0, rows)] if isinstance(rows, Tensor) else rows:
        check_widths(queries, segment)
        for first, stop in tiles.spans(len(segment), ROWS):
            tile = unit_rows(segment[first:stop], "rows", start + first)
            best.add(unit, tile, start + first)
    return best.scores.to(torch.float32), best.indices


@dataclass
class _Best:
    """The best k rows so far of every query: float64 scores [q, k] and indices [q, k]."""

    scores: Tensor
    indices: Tensor

    @classmethod
    def empty(cls, queries: int, k: int) -> _Best:
        shape = (queries, k)
        return cls(
            torch.full(shape, -torch.inf, dtype=torch.float64),
            torch.full(shape, -1, dtype=torch.int64),
        )

    def add(self, unit: Tensor, tile: Tensor, first: int) -> None:
        """Merge the unit rows `tile` [rows, width], the first of which is row `first`."""
        k = self.scores.shape[1]
        anchor = tile.mean(0)
        moved = _padded((tile - anchor).to(torch.float32))
        for start, stop in tiles.spans(len(unit), QUERIES):
            queries = unit[start:stop]
            products = (_padded(queries.to(torch.float32)) @ moved.T)[: stop - start, : len(tile)]
            reach = products.amax(1) + queries @ anchor
            active = torch.nonzero(reach > self.scores[start:stop, -1] - SLOP).flatten()
            if len(active):
                candidates = _leading(products, active, min(k + SLACK, len(tile)))
                scores = _exact(queries[active], tile, candidates)
                self._merge(active + start, scores, candidates + first)

    def _merge(self, queries: Tensor, scores: Tensor, indices: Tensor) -> None:
        scores = torch.cat([self.scores[queries], scores], 1)
        indices = torch.cat([self.indices[queries], indices], 1)
        by_index = indices.argsort(1)
        order = scores.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
        order = by_index.gather(1, order)[:, : self.scores.shape[1]]
        self.scores[queries] = scores.gather(1, order)
        self.indices[queries] = indices.gather(1, order)


def _leading(products: Tensor, active: Tensor, count: int) -> Tensor:
    """Columns [a, count] of the largest of rows `active` of float32 [q, t]; of equal ones the smaller columns.

    A float's bits, flipped below zero, sort as the float does; with the column beneath them they sort
    as the pair, which torch.topk, free to take any of equal values, then cannot get wrong.
    """
    last = products.shape[1] - 1
    from_the_end = torch.arange(last, -1, -1)
    found = []
    for rows in torch.split(active, max(1, KEYS // (last + 1))):
        bits = (products[rows] + 0.0).view(torch.int32)  # adding 0.0 makes -0.0 and 0.0 one
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64).bitwise_left_shift_(32)
        keys |= from_the_end
        found.append(last - (keys.topk(count, sorted=False).values & 0xFFFFFFFF))
    return torch.cat(found)


def _exact(queries: Tensor, tile: Tensor, candidates: Tensor) -> Tensor:
    """float64 [q, c]: the products of each query with its candidates, element by element.

    A sum over the last dimension adds in one order whatever the row, so that equal rows tie exactly.
    """
    scores = torch.empty(candidates.shape, dtype=torch.float64)
    elements = max(1, candidates.shape[1] * tile.shape[1])
    for start, stop in tiles.spans(len(queries), max(1, tiles.BLOCK // elements)):
        chosen = tile[candidates[start:stop]]
        scores[start:stop] = chosen.mul_(queries[start:stop, None]).sum(-1)
    return scores


def _padded(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, tiles.panelled(len(rows)) - len(rows)))
