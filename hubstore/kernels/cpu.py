"""The kernels in torch tiles, for CPU and CUDA: float32 products, float64 wherever a digit could be lost.

Hidden states crowd around their mean: cosines may differ by 1e-6 on a value near 1, which float32 barely
holds. For any vector m, x̂·ŷ = x̂·m + x̂·(ŷ - m), and the first term is the same for all candidates of a
query. So the products are taken with rows moved by their mean, small numbers whose float32 error is
small too, and the common term is added in float64 where it matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.kernels.reference import MatchRanks, PairedCosine
from hubstore.kernels.rows import check_pair, check_widths, unit_rows

ROWS = {"cpu": 4096, "cuda": 32768}  # rows of a tile that stream past the queries
QUERIES = {"cpu": 1024, "cuda": 4096}  # queries of a tile, and the side of `match_rank`'s square ones
BLOCK = 1 << 21  # elements that are float64 at a time
KEYS = {"cpu": 1 << 18, "cuda": 1 << 26}  # scores that are made into sorting keys at a time
SLACK = 6  # candidates beyond k that are scored again, for what float32 products may misorder
PADDING = 64  # products of whole panels only, so that equal rows get equal scores wherever they stand
SLOP = 1e-5  # more than the error of a float32 product of unit rows


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """See `hubstore.kernels.paired_cosine`."""
    check_pair(x, y)
    cosines = torch.empty(x.shape[:-1], dtype=torch.float64, device=x.device)
    sum_x = torch.zeros((*x.shape[:-2], x.shape[-1]), dtype=torch.float64, device=x.device)
    sum_y = torch.zeros_like(sum_x)
    for start, stop in _spans(x.shape[-2], max(1, BLOCK * x.shape[-2] // max(1, x.numel()))):
        unit_x = unit_rows(x[..., start:stop, :], "x", start)
        unit_y = unit_rows(y[..., start:stop, :], "y", start)
        cosines[..., start:stop] = (unit_x * unit_y).sum(-1)
        sum_x += unit_x.sum(-2)
        sum_y += unit_y.sum(-2)
    return PairedCosine(cosines, sum_x, sum_y)


def topk_cosine(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """See `hubstore.kernels.topk_cosine`."""
    device = queries.device
    unit = unit_rows(queries, "queries")
    best = _Best.empty(len(queries), k, device)
    for start, segment in [(0, rows)] if isinstance(rows, Tensor) else rows:
        check_widths(queries, segment)
        for first, stop in _spans(len(segment), ROWS[device.type]):
            tile = unit_rows(segment[first:stop].to(device), "rows", start + first)
            best.add(unit, tile, start + first)
    return best.scores.to(torch.float32), best.indices


@dataclass
class _Best:
    """The best k rows so far of every query: float64 scores [q, k] and indices [q, k]."""

    scores: Tensor
    indices: Tensor

    @classmethod
    def empty(cls, queries: int, k: int, device: torch.device) -> _Best:
        shape = (queries, k)
        return cls(
            torch.full(shape, -torch.inf, dtype=torch.float64, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
        )

    def add(self, unit: Tensor, tile: Tensor, first: int) -> None:
        """Merge the unit rows `tile` [rows, width], the first of which is row `first`."""
        k = self.scores.shape[1]
        anchor = tile.mean(0)
        moved = _padded((tile - anchor).to(torch.float32))
        for start, stop in _spans(len(unit), QUERIES[unit.device.type]):
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
    from_the_end = torch.arange(last, -1, -1, device=products.device)
    found = []
    for rows in torch.split(active, max(1, KEYS[products.device.type] // (last + 1))):
        bits = (products[rows] + 0.0).view(torch.int32)  # adding 0.0 makes -0.0 and 0.0 one
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64).bitwise_left_shift_(32)
        keys |= from_the_end
        found.append(last - (keys.topk(count, sorted=False).values & 0xFFFFFFFF))
    return torch.cat(found)


def _exact(queries: Tensor, tile: Tensor, candidates: Tensor) -> Tensor:
    """float64 [q, c]: the products of each query with its candidates, element by element.

    A sum over the last dimension adds in one order whatever the row, so that equal rows tie exactly.
    """
    scores = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
    elements = max(1, candidates.shape[1] * tile.shape[1])
    for start, stop in _spans(len(queries), max(1, BLOCK // elements)):
        chosen = tile[candidates[start:stop]]
        scores[start:stop] = chosen.mul_(queries[start:stop, None]).sum(-1)
    return scores


def match_rank(x: Tensor, y: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """See `hubstore.kernels.match_rank`."""
    check_pair(x, y)
    biases = torch.zeros(len(y), device=x.device) if bias is None else bias.to(x.device)
    return _Pair.of(x, y).ranks(biases.reshape(-1, len(y))).reshape(*biases.shape[:-1], len(x))


def match_ranks(x: Tensor, y: Tensor, *, neighbours: int = 10) -> MatchRanks:
    """See `hubstore.kernels.match_ranks`."""
    check_pair(x, y)
    forward = _Pair.of(x, y)
    backward = forward.swapped()
    near_x, near_y = forward.neighbour_means(neighbours), backward.neighbour_means(neighbours)
    plain = torch.zeros_like(near_x)
    there = forward.ranks(torch.stack([plain, near_y / 2]))
    back = backward.ranks(torch.stack([plain, near_x / 2]))
    return MatchRanks(there[0], back[0], there[1], back[1])


@dataclass(frozen=True)
class _Pair:
    """Two sides of n unit rows, each less its mean, and what makes cosines of their products.

    x̂ᵢ·ŷⱼ = (x̂ᵢ - mx)·(ŷⱼ - my) + (x̂ᵢ - mx)·my + (ŷⱼ - my)·mx + mx·my.

    Args:
        n: rows of each side.
        x: x̂ᵢ - mx, float32 [n, width], padded.
        y: ŷⱼ - my, float32 [n, width], padded.
        of_x: (x̂ᵢ - mx)·my, float32 [n].
        of_y: (ŷⱼ - my)·mx, float32 [n].
        constant: mx·my.
        whole: all products of x and y where they are one tile.
    """

    n: int
    x: Tensor
    y: Tensor
    of_x: Tensor
    of_y: Tensor
    constant: float
    whole: Tensor | None

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Pair:
        (moved_x, mean_x), (moved_y, mean_y) = _moved(x, "x"), _moved(y, "y")
        n = len(x)
        return cls(
            n=n,
            x=moved_x,
            y=moved_y,
            of_x=moved_x[:n] @ mean_y.to(torch.float32),
            of_y=moved_y[:n] @ mean_x.to(torch.float32),
            constant=float(mean_x @ mean_y),
            whole=(moved_x @ moved_y.T)[:n, :n] if n <= QUERIES[x.device.type] else None,
        )

    def swapped(self) -> _Pair:
        """The pair y, x."""
        whole = None if self.whole is None else self.whole.T.contiguous()
        return _Pair(self.n, self.y, self.x, self.of_y, self.of_x, self.constant, whole)

    def spans(self) -> list[tuple[int, int]]:
        """The sides of the tiles of products."""
        return list(_spans(self.n, QUERIES[self.x.device.type]))

    def products(self, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """float32 [rows, columns], computed over whole panels."""
        if self.whole is not None:
            return self.whole
        left = self.x[rows[0] : _padded_length(rows[1])]
        right = self.y[columns[0] : _padded_length(columns[1])]
        return (left @ right.T)[: rows[1] - rows[0], : columns[1] - columns[0]]

    def ranks(self, biases: Tensor) -> Tensor:
        """int64 [variants, n]: the rank of each match under each of `biases` [variants, n]."""
        # What is common to all candidates moves no rank, and without it float32 keeps more digits.
        wide = biases.to(torch.float64)
        subtracted = (wide - wide.mean(1, keepdim=True) - self.of_y).to(torch.float32)
        ranks = torch.zeros(subtracted.shape, dtype=torch.int64, device=self.x.device)
        for rows in self.spans():
            own = self.products(rows, rows)
            for columns in self.spans():
                products = own if columns == rows else self.products(rows, columns)
                for ranked, bias in zip(ranks, subtracted, strict=True):
                    matches = (own.diagonal() - bias[slice(*rows)])[:, None]
                    ahead = _ahead(products - bias[slice(*columns)], matches, columns[0] - rows[0])
                    ranked[slice(*rows)] += ahead.sum(1, dtype=torch.int32)
        return ranks

    def neighbour_means(self, k: int) -> Tensor:
        """float64 [n]: mean cosine of each row of x to its k nearest of y."""
        means = torch.empty(self.n, dtype=torch.float64, device=self.x.device)
        for rows in self.spans():
            best = self.x.new_empty(rows[1] - rows[0], 0)
            for columns in self.spans():
                best = torch.cat([best, self.products(rows, columns) + self.of_y[slice(*columns)]], 1)
                best = best.topk(min(k, best.shape[1]), sorted=False).values
            means[slice(*rows)] = best.mean(1, dtype=torch.float64)
        return means + self.of_x + self.constant


def _moved(rows: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Unit rows less their mean, float32 [n, width] and padded, and the mean, float64 [width]."""
    spans = list(_spans(len(rows), max(1, BLOCK // max(1, rows.shape[1]))))
    units = (unit_rows(rows[start:stop], name, start) for start, stop in spans)
    kept = list(units) if len(spans) == 1 else None
    mean = torch.stack([unit.sum(0) for unit in kept or units]).sum(0) / len(rows)
    moved = torch.zeros(_padded_length(len(rows)), rows.shape[1], device=rows.device)
    for start, stop in spans:
        moved[start:stop] = (kept[0] if kept else unit_rows(rows[start:stop], name, start)) - mean
    return moved, mean


def _ahead(scores: Tensor, matches: Tensor, offset: int) -> Tensor:
    """bool [q, t]: which scores stand before their query's match; of equal ones those of smaller index."""
    if offset < 0:
        return scores >= matches
    if offset > 0:
        return scores > matches
    return (scores > matches) | (scores == matches).tril(-1)


def _padded(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, _padded_length(len(rows)) - len(rows)))


def _padded_length(length: int) -> int:
    return -(-length // PADDING) * PADDING


def _spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, length)) for start in range(0, length, size))
