"""Rows of hidden states as Python's own containers are used: `states[3]`, `len(states)`, `numpy.asarray(states)`."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import PositionError, QueryError


class Rows(ABC):
    """Rows [n, width] of one layer under one pooling, in the stored dtype, wherever they are."""

    layer: str
    pooling: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The stored dtype."""

    @abstractmethod
    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows [start, stop) in order, each with its first position: [rows, width]."""

    @abstractmethod
    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, as a copy [n, width] in the stored dtype."""

    @abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) as a copy [rows, width] in the stored dtype."""

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __repr__(self) -> str:
        rows, width = self.shape
        return f"<{type(self).__name__} layer {self.layer}, {self.pooling}: {rows:,} x {width}, {self.dtype}>"

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _, rows in self.segments():
            yield from rows.clone()

    def __getitem__(self, rows: Any) -> torch.Tensor:
        """A copy of some rows in the stored dtype: [width] of one, [n, width] of several.

        Args:
            rows: an integer, negative from the end; a slice; a list, array or tensor of integers, or of a bool for
                every row. After a comma comes what to take of each row, as torch has it.

        Raises:
            PositionError: there is no such row.
            QueryError: what names no rows, such as an id.

        Example:
            >>> states = store.hidden(2)
            >>> states[-1].shape, states[:4, :8].shape, states[[2, 0]].shape
            (torch.Size([32]), torch.Size([4, 8]), torch.Size([2, 32]))
        """
        if isinstance(rows, tuple):
            first, *rest = rows or (slice(None),)
            found = self[first]
            return found[tuple(rest)] if found.ndim == 1 else found[(slice(None), *rest)]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self.read(start, max(start, stop)) if step == 1 else self.take(np.arange(start, stop, step))
        try:
            return self.take([self._position(operator.index(rows))])[0]
        except TypeError:
            return self.take(self._positions(rows))

    def torch(self) -> torch.Tensor:
        """All rows [n, width] as a tensor; of a local store of one shard the mapped file itself, without a copy.

        What is written into it is not written to the store, and changes what this process reads of it.

        Example:
            >>> store.hidden(2).torch().float().mean(0).shape
            torch.Size([32])
        """
        pieces = [rows for _, rows in self.segments()]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All rows, read-only unless they are a copy; bfloat16, which NumPy does not have, as float32."""
        tensor = self.torch()
        exact = tensor.dtype is not torch.bfloat16
        found = (tensor if exact else tensor.float()).numpy()
        wanted = found.dtype if dtype is None else np.dtype(dtype)
        if copy is False and not (exact and wanted == found.dtype):
            raise ValueError(f"{self!r} cannot be had as {wanted} without a copy; leave copy out")
        if copy or wanted != found.dtype:
            return found.astype(wanted)
        found = found.view()
        found.flags.writeable = False
        return found

    def _position(self, row: int) -> int:
        position = row + len(self) if row < 0 else row
        if not 0 <= position < len(self):
            raise PositionError(f"layer {self.layer} has rows 0 to {len(self) - 1}, and {row} is none; correct it")
        return position

    def _positions(self, rows: Any) -> npt.NDArray[np.int64]:
        found = np.asarray(rows)
        if found.dtype == bool and found.shape == (len(self),):
            return np.flatnonzero(found)
        if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
            raise QueryError(
                f"{rows!r} names no rows of layer {self.layer}; give whole numbers, a slice, or a bool for each of the "
                f"{len(self)} rows; items by their ids are in store[id].hidden({self.layer!r})"
            )
        return np.array([self._position(int(row)) for row in found], np.int64)
