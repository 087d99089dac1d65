"""Exact search: a layer's mapped rows, or the allowed slices of them, through `topk_cosine`; nothing to build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy.typing as npt
import torch

from hubstore.devices import current
from hubstore.index.allowed import Allowed, Positions
from hubstore.kernels import topk_cosine

SLICE_ROWS = 512
"""Ranges of fewer rows on average are gathered into blocks: a tile per tiny slice costs more than the copy.

On one core, 50,000 of 100,000 rows of width 384 in ranges of 64 take one query 58 ms as slices and 28 as blocks; in
ranges of 512, 18 and 28.
"""

BLOCK_ROWS = 8192


class Rows(Protocol):
    """Rows by position, as `hubstore.store.HiddenStates` has them."""

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows [start, stop) in order, each with its first position."""
        ...

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions`, in that order."""
        ...


class LayerRows(Rows, Protocol):
    """All rows of a layer, as they are or less the mean of their partition."""

    layer: str
    pooling: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        ...

    def __len__(self) -> int:
        """Rows."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop)."""
        ...

    def prefetch(self, positions: npt.ArrayLike) -> None:
        """Have rows read that `take` is to give."""
        ...


def exact_search(
    states: Rows,
    queries: torch.Tensor,
    k: int,
    allowed: Allowed,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of largest cosine among `allowed`, for each query.

    Args:
        states: the layer's rows.
        queries: [q, width], any float dtype.
        k: rows wanted.
        allowed: positions that may answer.
        device: where to compute; the rows stream there from the memory map, segment by segment.
        dtype: of the scores; what was found in parts of a layer is merged by float64.

    Returns:
        scores [q, k], descending, and positions int64 [q, k], both on the CPU; ties to the smaller position,
        -inf and -1 where there are fewer.

    Raises:
        NonFiniteError: NaN or infinity in a query or a row.
    """
    if allowed.size == 0:
        return torch.full((len(queries), k), -torch.inf, dtype=dtype), torch.full((len(queries), k), -1)
    with current(device):
        queries = queries.to(device)
        if allowed.size >= SLICE_ROWS * len(allowed.ranges):
            scores, found = topk_cosine(queries, _slices(states, allowed), k, dtype=dtype)
            found = found.cpu()
        else:
            positions = allowed.positions()
            scores, ordinals = topk_cosine(queries, _blocks(states, positions), k, dtype=dtype)
            ordinals = ordinals.cpu()
            found = torch.from_numpy(positions)[ordinals.clamp_min(0)].masked_fill(ordinals < 0, -1)
    return scores.cpu().masked_fill(found < 0, -torch.inf), found


def _slices(states: Rows, allowed: Allowed) -> Iterator[tuple[int, torch.Tensor]]:
    for start, stop in allowed.ranges.tolist():
        yield from states.segments(start, stop)


def _blocks(states: Rows, positions: Positions) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, len(positions), BLOCK_ROWS):
        yield start, states.take(positions[start : start + BLOCK_ROWS])
