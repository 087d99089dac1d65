"""Allowed rows: the part of a layer that a search may answer from, as ranges of positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubstore.store.partition import range_positions

Positions = npt.NDArray[np.int64]

MANY_RANGES = 100_000


@dataclass(frozen=True, eq=False)
class Allowed:
    """A set of positions, kept as ranges because partitions are ranges.

    Args:
        ranges: int64 [n, 2], start and stop of each; sorted, not empty, neither overlapping nor touching.
    """

    ranges: npt.NDArray[np.int64]

    @classmethod
    def everything(cls, rows: int) -> Allowed:
        """Positions 0 to rows - 1."""
        return cls.from_ranges([(0, rows)])

    @classmethod
    def from_ranges(cls, ranges: Iterable[tuple[int, int]] | npt.NDArray[np.int64]) -> Allowed:
        """The union of (start, stop) ranges in any order; empty ones are dropped."""
        bounds = ranges if isinstance(ranges, np.ndarray) else list(ranges)
        return cls(_covered(np.asarray(bounds, np.int64).reshape(-1, 2), depth=1))

    @classmethod
    def from_positions(cls, positions: npt.ArrayLike) -> Allowed:
        """The distinct `positions` [n], in any order."""
        distinct = np.unique(np.asarray(positions, np.int64))
        return cls.from_ranges(np.stack([distinct, distinct + 1], axis=1))

    @classmethod
    def from_mask(cls, mask: npt.NDArray[np.bool_]) -> Allowed:
        """The positions where bool [rows] is True."""
        edges = np.flatnonzero(np.diff(mask.view(np.int8), prepend=0, append=0))
        return cls(edges.reshape(-1, 2).astype(np.int64, copy=False))

    def __and__(self, other: Allowed) -> Allowed:
        """Positions in both."""
        for one, another in ((self, other), (other, self)):
            if len(one.ranges) == 1 and (
                not len(another.ranges) or one._covers(another.ranges[0, 0], another.ranges[-1, 1])
            ):
                return another
        if min(len(self.ranges), len(other.ranges)) > MANY_RANGES:  # to sort them takes longer than a byte a row
            rows = int(max(self.ranges[-1, 1], other.ranges[-1, 1]))
            return Allowed.from_mask(self.mask(rows) & other.mask(rows))
        return Allowed(_covered(np.concatenate([self.ranges, other.ranges]), depth=2))

    def _covers(self, start: int, stop: int) -> bool:
        """Whether the first range has all of [start, stop)."""
        return bool(self.ranges[0, 0] <= start and stop <= self.ranges[0, 1])

    @property
    def size(self) -> int:
        """Positions in it."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    def positions(self) -> Positions:
        """int64 [size], ascending."""
        return range_positions(self.ranges)

    def mask(self, rows: int) -> npt.NDArray[np.bool_]:
        """bool [rows], True where a position is allowed."""
        steps = np.zeros(rows + 1, np.int8)
        # No range stops where another starts.
        steps[self.ranges[:, 0]] = 1
        steps[self.ranges[:, 1]] = -1
        return np.cumsum(steps[:rows], dtype=np.int8).view(np.bool_)

    def bits(self, rows: int) -> npt.NDArray[np.uint8]:
        """uint8 [rows / 8], the same, a bit a position, the lowest first."""
        return np.packbits(self.mask(rows), bitorder="little")


def _covered(ranges: npt.NDArray[np.int64], depth: int) -> npt.NDArray[np.int64]:
    """The maximal ranges [n, 2] that at least `depth` of `ranges` cover (1: the union; 2: what two sets share)."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    points = np.concatenate([ranges[:, 0], ranges[:, 1]])
    steps = np.repeat([1, -1], len(ranges))
    # A range that starts where another stops comes first, so that touching ranges become one ...
    order = np.lexsort((-steps, points))
    inside = np.cumsum(steps[order]) >= depth
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside])))
    found = points[order][edges].reshape(-1, 2)
    # ... and two that only touch share a range of no rows.
    return found[found[:, 0] < found[:, 1]]
