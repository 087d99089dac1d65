"""A partition: all items of one modality and language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """All items of one (modality, language).

    Args:
        modality: "text", "image" or "audio".
        language: BCP 47 tag.
        bounds: int64 [ranges, 2], start and stop of its positions, in order and not touching.
    """

    modality: str
    language: str
    bounds: Positions

    @property
    def name(self) -> str:
        """ "en" for text, "image/en" for another modality."""
        return partition_name(self.modality, self.language)

    @property
    def size(self) -> int:
        """Items in it."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The bounds as (start, stop); made at each call, so that code for many rows takes `bounds`."""
        return tuple((start, stop) for start, stop in self.bounds.tolist())

    def positions(self) -> Positions:
        """int64 [size], ascending."""
        return range_positions(self.bounds)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partition):
            return NotImplemented
        return self.name == other.name and np.array_equal(self.bounds, other.bounds)

    def __hash__(self) -> int:
        return hash((self.name, self.size))


def range_positions(bounds: Positions) -> Positions:
    """int64 [size]: the positions of ranges [n, 2], one range after another."""
    lengths = bounds[:, 1] - bounds[:, 0]
    skipped = bounds[:, 0] - (np.cumsum(lengths) - lengths)
    positions: Positions = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(skipped, lengths)
    return positions


def partition_name(modality: str, language: str) -> str:
    """What a partition is called."""
    return language if modality == "text" else f"{modality}/{language}"
