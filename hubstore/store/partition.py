"""A partition: all items of one modality and language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """All items of one (modality, language).

    Args:
        modality: "text", "image" or "audio".
        language: BCP 47 tag.
        ranges: (start, stop) positions, in order and not touching.
    """

    modality: str
    language: str
    ranges: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """ "en" for text, "image/en" for another modality."""
        return partition_name(self.modality, self.language)

    @property
    def size(self) -> int:
        """Items in it."""
        return sum(stop - start for start, stop in self.ranges)

    def positions(self) -> Positions:
        """int64 [size], ascending."""
        return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in self.ranges])


def partition_name(modality: str, language: str) -> str:
    """What a partition is called."""
    return language if modality == "text" else f"{modality}/{language}"
