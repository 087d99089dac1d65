"""Candidates of a sweep: two of every 16 rows are written down, and the best of them carried from block to block.

Of each group of 16 rows the sweep writes the best score and the second best, each with its row's place in the
group in its last 4 bits, and of each tile the best of all. The best candidates lie in the tiles of the best
maxima, so that only a few tiles' groups are looked at again. A candidate is one int64: the score's bits, ordered
as the scores are, and beneath them the row, smaller rows larger. A group whose second best is a candidate may hold
a third: all its rows are then scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 16  # rows of a group; the place in it takes 4 bits
MOST_TILES = 4096  # of a block
FEW = 64  # candidates up to which one kernel chooses them
LAST_ROW = 0x7FFFFFFF
NONE = -(2**63)


@triton.jit
def _ahead(a_best, a_second, b_best, b_second):
    return tl.maximum(a_best, b_best), tl.maximum(tl.minimum(a_best, b_best), tl.maximum(a_second, b_second))


@triton.jit
def keep_best(keys, first_m, first_n, m, best, second, top, groups, tiles, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """Write the best two int32 keys [TILE_M, TILE_N] of every group, and the best of the tile.

    A group is what one thread holds of a row of 64: columns 8 i + 2 t and the next, i = 0 ... 7. So threads exchange
    nothing.
    """
    rows = first_m + tl.arange(0, TILE_M)
    place = tl.arange(0, TILE_N)
    place = (place // 8) % 8 * 2 + place % 2
    keys = (keys & -16) | (15 - place)[None, :]
    even, odd = tl.split(tl.reshape(keys, (TILE_M, TILE_N // 2, 2)))
    high = tl.reshape(tl.maximum(even, odd), (TILE_M, TILE_N // 64, 8, 4))
    low = tl.reshape(tl.minimum(even, odd), (TILE_M, TILE_N // 64, 8, 4))
    high, low = tl.reduce((high, low), 2, _ahead)
    high = tl.reshape(high, (TILE_M, TILE_N // 16))
    low = tl.reshape(low, (TILE_M, TILE_N // 16))
    at = rows.to(tl.int64)[:, None] * groups + first_n // 16 + tl.arange(0, TILE_N // 16)[None, :]
    valid = (rows < m)[:, None]
    tl.store(best + at, high, valid)
    tl.store(second + at, low, valid)
    tl.store(top + rows.to(tl.int64) * tiles + first_n // TILE_N, tl.max(high, 1), rows < m)


@triton.jit
def ordered(scores):
    """float32 as int32 that sort as the floats do."""
    bits = scores.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _candidates(keys, groups, first, n, valid):
    """int64 candidates of keys [tiles, groups of a tile]."""
    place = 15 - (keys & 15)
    row = groups // 4 * 64 + place // 2 * 8 + groups % 4 * 2 + place % 2
    found = ((keys & -16).to(tl.int64) << 32) | (0x7FFFFFFF - (first + row)).to(tl.int64)
    return tl.where(valid & (row < n), found, -9223372036854775808)


@triton.jit
def _choose(
    best,
    second,
    top,
    groups,
    tiles,
    n,
    first,
    leading,
    seconds,
    COUNT: tl.constexpr,
    TILES: tl.constexpr,
    PER_TILE: tl.constexpr,
):
    """Merge a sweep's candidates into the leading COUNT of each query."""
    query = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, COUNT)
    held = tl.load(leading + query * COUNT + slot)
    held_second = tl.load(seconds + query * COUNT + slot)
    # Of equal keys the held row is smaller, so that only a greater key can lead.
    needed = (tl.min(held, 0) >> 32).to(tl.int32)
    tile = tl.arange(0, TILES)
    maxima = tl.load(top + query * tiles + tile, tile < tiles, other=-2147483648)
    maxima = tl.where(tile < tiles, maxima & -16, -2147483648)
    chosen = tl.zeros((COUNT,), tl.int32)
    number = 0
    most = tl.max(maxima, 0)
    while (number < COUNT) & (most > needed):
        where = tl.argmax(maxima, 0)
        chosen = tl.where(slot == number, where, chosen)
        maxima = tl.where(tile == where, -2147483648, maxima)
        number += 1
        most = tl.max(maxima, 0)
    if number > 0:
        group = chosen[:, None] * PER_TILE + tl.arange(0, PER_TILE)[None, :]
        valid = (slot < number)[:, None] & (group < groups)
        at = query * groups + group
        high = _candidates(tl.load(best + at, valid, other=0), group, first, n, valid)
        low = _candidates(tl.load(second + at, valid, other=0), group, first, n, valid)
        own_second = low
        for place in range(COUNT):
            leader = tl.maximum(tl.max(held, 0), tl.maximum(tl.max(tl.max(high, 1), 0), tl.max(tl.max(low, 1), 0)))
            # A group's best brings its second along; the second itself has none.
            follows = tl.max(tl.where(held == leader, held_second, -9223372036854775808), 0)
            own = tl.where(high == leader, own_second, -9223372036854775808)
            follows = tl.maximum(follows, tl.max(tl.max(own, 1), 0))
            tl.store(leading + query * COUNT + place, leader)
            tl.store(seconds + query * COUNT + place, follows)
            held = tl.where(held == leader, -9223372036854775808, held)
            high = tl.where(high == leader, -9223372036854775808, high)
            low = tl.where(low == leader, -9223372036854775808, low)


class TileCandidates:
    """Where a sweep leaves the candidates of m queries among n rows."""

    def __init__(self, m: int, n: int, device: torch.device, tile_n: int) -> None:
        self.n = n
        self.tiles = triton.cdiv(n, tile_n)
        self.per_tile = tile_n // GROUP
        self.groups = self.tiles * self.per_tile
        self.best, self.second = (torch.empty(m, self.groups, dtype=torch.int32, device=device) for _ in range(2))
        self.top = torch.empty(m, self.tiles, dtype=torch.int32, device=device)

    def arguments(self) -> tuple[Tensor | int, ...]:
        """What `keep_best` takes."""
        return self.best, self.second, self.top, self.groups, self.tiles


@dataclass(frozen=True)
class TopCandidates:
    """The leading candidates of each query, descending.

    Args:
        found: int64 [q, c].
        seconds: int64 [q, c], the second best of the group that each is the best of.
    """

    found: Tensor
    seconds: Tensor

    @classmethod
    def none(cls, q: int, count: int, device: torch.device) -> TopCandidates:
        """No candidates yet, and room for at least `count`."""
        size = triton.next_power_of_2(max(16, count))
        return cls(*(torch.full((q, size), NONE, dtype=torch.int64, device=device) for _ in range(2)))

    def part(self, span: slice) -> TopCandidates:
        """Those of some queries: a view, into which a sweep of theirs is merged."""
        return TopCandidates(self.found[span], self.seconds[span])

    def merge(self, swept: TileCandidates, first: int) -> None:
        """Take in what a sweep left; its row 0 is row `first`, beyond all rows so far."""
        q, count = self.found.shape
        if count > FEW:
            return self.merge_plain(swept, first)
        _choose[(q,)](
            swept.best,
            swept.second,
            swept.top,
            swept.groups,
            swept.tiles,
            swept.n,
            first,
            self.found,
            self.seconds,
            count,
            max(16, triton.next_power_of_2(swept.tiles)),
            swept.per_tile,
            num_warps=1 if swept.tiles <= 1024 and count <= 16 else 4,
        )
        return None

    def merge_plain(self, swept: TileCandidates, first: int) -> None:
        """The same in PyTorch, for candidates that are too many for one program."""
        count = self.found.shape[1]
        tile = torch.arange(swept.tiles, device=swept.top.device)
        chosen = _wide(swept.top & -GROUP, tile).topk(min(count, swept.tiles), sorted=False).values
        chosen = LAST_ROW - (chosen & LAST_ROW)
        groups = (chosen[..., None] * swept.per_tile + torch.arange(swept.per_tile, device=tile.device)).flatten(1)
        high, low = (
            self._candidates(keys.gather(1, groups), groups, swept.n, first) for keys in (swept.best, swept.second)
        )
        everyone = torch.cat([self.found, high, low], 1)
        followers = torch.cat([self.seconds, low, torch.full_like(low, NONE)], 1)
        leaders, order = everyone.topk(count)
        self.found.copy_(leaders)
        self.seconds.copy_(followers.gather(1, order))

    @staticmethod
    def _candidates(keys: Tensor, groups: Tensor, n: int, first: int) -> Tensor:
        rows = row_of(groups, (GROUP - 1) - (keys & (GROUP - 1)).to(torch.int64))
        return torch.where(rows < n, _wide(keys & -GROUP, first + rows), NONE)

    @property
    def positive(self) -> Tensor:
        """bool []: whether every query has its fill of candidates of positive scores."""
        return (self.found[:, -1] >> 32 > 0).all()

    @property
    def rows(self) -> Tensor:
        """int64 [q, c]; -1 where there is none."""
        return torch.where(self.found == NONE, -1, LAST_ROW - (self.found & LAST_ROW))

    @property
    def scores(self) -> Tensor:
        """float32 [q, c], as the sweep had them but for their last bits."""
        keys = (self.found >> 32).to(torch.int32)
        return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(torch.float32)

    @property
    def tie_groups(self) -> Tensor:
        """bool [q, c]: whether the group's second best is a candidate too, and it may hold more."""
        return (self.seconds != NONE) & (self.seconds >= self.found[:, -1:])

    def neighbors(self, queries: Tensor, first: int) -> Tensor:
        """int64 [p, c * 16]: of the tie groups of `queries` [p], the rows that are no candidates; -1 in between.

        Groups are those of a sweep whose row 0 is row `first`, or a multiple of 64 rows further.
        """
        rows, seconds = self.rows[queries], LAST_ROW - (self.seconds[queries] & LAST_ROW)
        inside = rows - first
        group = inside // 64 * 4 + inside % 8 // 2
        everyone = first + row_of(group[..., None], torch.arange(GROUP, device=rows.device))
        shown = self.tie_groups[queries][..., None] & (everyone != rows[..., None]) & (everyone != seconds[..., None])
        return torch.where(shown, everyone, -1).flatten(1)


def row_of(groups: Tensor, places: Tensor) -> Tensor:
    """The row at a place of a group; see `keep_best`."""
    return groups // 4 * 64 + places // 2 * 8 + groups % 4 * 2 + places % 2


def _wide(keys: Tensor, numbers: Tensor) -> Tensor:
    return (keys.to(torch.int64) << 32) | (LAST_ROW - numbers)
