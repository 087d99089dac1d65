"""k-means over unit-scale rows, and the nearest centroid of rows: products by the kernels that search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hubstore.devices import current
from hubstore.index.rows import Vectors
from hubstore.kernels import topk_cosine

ITERATIONS = 10
"""Rounds of Lloyd's algorithm; more move centroids little (FAISS has as many)."""

BLOCK_ROWS = 8192
"""Rows that are assigned at once."""

APART = np.float32(1 / 1024)
"""A centroid of no rows takes over half of another's: both are moved by this share of it."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids that rows are assigned to.

    The nearest by L2 has the largest x·c - |c|²/2, a product of [x, 1] and [c, -|c|²/2]; a last element gives all
    of the latter one norm, so that it is a cosine.

    Args:
        points: float32 [lists, width].
        device: where products are computed.
    """

    points: Vectors
    device: torch.device

    def __post_init__(self) -> None:
        """Make what rows are compared with."""
        points = torch.from_numpy(self.points).double()
        halves = points.square().sum(1, keepdim=True) / 2
        squares = 2 * halves + halves.square()
        lifted = torch.cat([points, -halves, (squares.max() - squares).clamp_min(0).sqrt()], 1)
        object.__setattr__(self, "_lifted", lifted.float().to(self.device))

    def nearest(self, rows: Vectors) -> Numbers:
        """int64 [n]: the nearest centroid of each of `rows` [n, width]."""
        found = np.empty(len(rows), np.int64)
        with current(self.device):
            for start in range(0, len(rows), BLOCK_ROWS):
                block = torch.from_numpy(rows[start : start + BLOCK_ROWS])
                lifted = torch.cat([block, torch.ones(len(block), 1), torch.zeros(len(block), 1)], 1)
                nearest = topk_cosine(lifted.to(self.device), self._lifted, 1)[1]  # type: ignore[attr-defined]
                found[start : start + len(block)] = nearest[:, 0].cpu().numpy()
        return found


def cluster(rows: Vectors, lists: int, seed: int, device: torch.device) -> Vectors:
    """Centroids float32 [lists, width] of `rows` [n, width], by Lloyd's algorithm from rows drawn by `seed`."""
    rng = np.random.default_rng(seed)
    points = rows[np.sort(rng.choice(len(rows), lists, replace=False))]
    for _ in range(ITERATIONS):
        points = _means(rows, Centroids(points, device).nearest(rows), points)
    return points


def _means(rows: Vectors, nearest: Numbers, points: Vectors) -> Vectors:
    """The mean of each list's rows; a list of none splits the largest."""
    order = np.argsort(nearest, kind="stable")
    counts = np.bincount(nearest, minlength=len(points))
    ends = np.cumsum(counts)
    moved = points.copy()
    for number in np.flatnonzero(counts).tolist():
        moved[number] = rows[order[ends[number] - counts[number] : ends[number]]].mean(0, dtype=np.float64)
    for empty in np.flatnonzero(counts == 0).tolist():
        largest = int(np.argmax(counts))
        moved[empty] = moved[largest] * (1 + APART)
        moved[largest] *= 1 - APART
        counts[empty] = counts[largest] = counts[largest] // 2
    return moved
