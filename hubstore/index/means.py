"""Rows without their partition's mean: what sets a state apart from others of its language and modality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hubstore.index.allowed import Allowed
from hubstore.index.exact import BLOCK_ROWS
from hubstore.store import HiddenStates, Partition, StoreReader

Means = npt.NDArray[np.float64]


def partition_mean(store: StoreReader, partition: str, layer: str, pooling: str) -> torch.Tensor:
    """float64 [width]: the mean of a partition's rows; read once for each open store."""
    key = (partition, layer, pooling)
    if key not in store.partition_means:
        states = store.hidden(layer, pooling)
        total = torch.zeros(store.width, dtype=torch.float64)
        rows = rows_of(store, store.partition(partition), pooling)
        for start, stop in rows.ranges.tolist():
            for first in range(start, stop, BLOCK_ROWS):
                total += states.read(first, min(first + BLOCK_ROWS, stop)).double().sum(0)
        store.partition_means[key] = total / rows.size
    return store.partition_means[key]


def rows_of(store: StoreReader, partition: Partition, pooling: str) -> Allowed:
    """A partition's rows: its items, or their tokens."""
    if pooling == "tokens":
        return Allowed.from_ranges(store.token_ranges()[partition.positions()])
    return Allowed.from_ranges(partition.bounds)


def partition_means(store: StoreReader, names: Sequence[str], layer: str, pooling: str) -> Means:
    """float64 [partitions, width]: the means of partitions, in the order of their names."""
    return torch.stack([partition_mean(store, name, layer, pooling) for name in names]).numpy()


class CenteredStates:
    """A layer's rows, each less the mean of its partition, float32; as `HiddenStates` otherwise.

    Args:
        store: where they are.
        states: the rows as they are.
    """

    def __init__(self, store: StoreReader, states: HiddenStates) -> None:
        self.layer, self.pooling = states.layer, states.pooling
        self.names = tuple(store.partitions)
        self.means = partition_means(store, self.names, states.layer, states.pooling)
        self._states, self._means = states, torch.from_numpy(self.means)
        ranges = [rows_of(store, partition, states.pooling).ranges for partition in store.partitions.values()]
        starts, own = np.concatenate(ranges)[:, 0], np.repeat(np.arange(len(ranges)), [len(one) for one in ranges])
        order = np.argsort(starts)
        self._starts, self._own = starts[order], own[order]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self._states.shape

    def __len__(self) -> int:
        """Rows."""
        return len(self._states)

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """As `HiddenStates.segments`, in copies."""
        for first, rows in self._states.segments(start, stop):
            for at in range(0, len(rows), BLOCK_ROWS):
                part = rows[at : at + BLOCK_ROWS]
                yield first + at, self._without(part, np.arange(first + at, first + at + len(part)))

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """As `HiddenStates.read`."""
        rows = self._states.read(start, stop)
        return self._without(rows, np.arange(start, start + len(rows)))

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """As `HiddenStates.take`."""
        return self._without(self._states.take(positions), np.asarray(positions, np.int64))

    def prefetch(self, positions: npt.ArrayLike) -> None:
        """As `HiddenStates.prefetch`."""
        self._states.prefetch(positions)

    def _without(self, rows: torch.Tensor, positions: npt.NDArray[np.int64]) -> torch.Tensor:
        partitions = self._own[np.searchsorted(self._starts, positions, side="right") - 1]
        return (rows.double() - self._means[torch.from_numpy(partitions)]).float()
