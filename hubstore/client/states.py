"""Hidden states of a store on a server: rows by position, asked for by the ids of their items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.checks import check_count, check_positions
from hubstore.errors import QueryError
from hubstore.store.rows import Rows

BLOCK = 1024
"""Rows of a segment."""


class RemoteStates(Rows):
    """One layer under one pooling of a store on a server, with what `hubstore.store.HiddenStates` does.

    Args:
        layer, pooling: as the store names them.
        width: of a row.
        dtype: the stored one, to which the float32 that travels is turned back, exactly.
        ids: of all items, in position order.
        fetch: the table of `vectors` of some ids.
    """

    def __init__(
        self,
        layer: str,
        pooling: str,
        width: int,
        dtype: torch.dtype,
        ids: Sequence[str],
        fetch: Callable[[list[str]], pa.Table],
    ) -> None:
        self.layer = layer
        self.pooling = pooling
        self._width, self._dtype, self._ids, self._fetch = width, dtype, ids, fetch

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return len(self._ids), self._width

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return self._dtype

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, [n, width] in the stored dtype."""
        requested = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        if not len(requested):
            return torch.empty((0, self._width), dtype=self._dtype)
        vectors = self._fetch([self._ids[place] for place in requested.tolist()])["vector"].combine_chunks()
        rows = vectors.flatten().to_numpy().reshape(-1, self._width).astype(np.float32)
        return torch.from_numpy(rows).to(self._dtype)

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop), [rows, width] in the stored dtype."""
        of = f"rows of layer {self.layer}"
        start = check_count("start", start, least=0, most=len(self), of=of, error=QueryError)
        stop = (
            len(self) if stop is None else check_count("stop", stop, least=0, most=len(self), of=of, error=QueryError)
        )
        return self.take(np.arange(start, stop))

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows [start, stop), some at a time, each with its first position: [rows, width]."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, BLOCK):
            yield first, self.read(first, min(first + BLOCK, stop))
