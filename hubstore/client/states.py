"""Hidden states of a store on a server: rows by position, asked for by the ids of their items, at once or awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

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
        found = self._fetch([self._ids[place] for place in requested.tolist()])
        return _rows_of(found, self._width, self._dtype)

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


class AsyncRemoteStates:
    """As `RemoteStates`, awaited: `await states.take([3, 1])`, `await states[:4]`, `async for` over `segments()`.

    Args:
        layer, pooling, width, dtype, ids: as of `RemoteStates`.
        fetch: gives the table of `vectors` of some ids, awaited.
    """

    def __init__(
        self,
        layer: str,
        pooling: str,
        width: int,
        dtype: torch.dtype,
        ids: Sequence[str],
        fetch: Callable[[list[str]], Awaitable[pa.Table]],
    ) -> None:
        self._places = _Places(layer, pooling, width, dtype, ids, lambda _: pa.table({}))
        self._fetch, self._ids = fetch, ids

    @property
    def layer(self) -> str:
        """As the store names it."""
        return self._places.layer

    @property
    def pooling(self) -> str:
        """Likewise."""
        return self._places.pooling

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self._places.shape

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return self._places.dtype

    def __len__(self) -> int:
        """Rows."""
        return len(self._places)

    def __repr__(self) -> str:
        return repr(self._places).replace(_Places.__name__, type(self).__name__)

    async def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, [n, width] in the stored dtype."""
        return await self._at(self._places.take(positions))

    async def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop), [rows, width] in the stored dtype."""
        return await self._at(self._places.read(start, stop))

    def __getitem__(self, rows: Any) -> Awaitable[torch.Tensor]:
        """Some rows in the stored dtype, chosen as of `hubstore.store.HiddenStates`: [width] of one, or [n, width]."""
        return self._chosen(rows)

    async def _chosen(self, rows: Any) -> torch.Tensor:
        first, *rest = rows if isinstance(rows, tuple) and rows else (rows,)
        found = await self._at(self._places[first])
        return found[tuple(rest)] if found.ndim == 1 else found[(slice(None), *rest)]

    async def segments(self, start: int = 0, stop: int | None = None) -> AsyncIterator[tuple[int, torch.Tensor]]:
        """Rows [start, stop), some at a time, each with its first position: [rows, width]."""
        for first, places in self._places.segments(start, stop):
            yield first, await self._at(places)

    async def _at(self, places: torch.Tensor) -> torch.Tensor:
        """The rows at `places` [n, width], of which each element is a row's position, or at one of them [width]."""
        one, (_, width) = places.ndim == 1, self.shape
        chosen = places.reshape(-1, width)[:, 0].tolist()
        if not chosen:
            return torch.empty((0, width), dtype=self.dtype)
        rows = _rows_of(await self._fetch([self._ids[place] for place in chosen]), width, self.dtype)
        return rows[0] if one else rows


class _Places(RemoteStates):
    """Rows whose elements are the row's own position: what is chosen and checked of rows, without asking for any."""

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """int64 [n, width]."""
        requested = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        return torch.from_numpy(np.ascontiguousarray(requested, np.int64))[:, None].expand(-1, self._width)


def _rows_of(found: pa.Table, width: int, dtype: torch.dtype) -> torch.Tensor:
    """[n, width] of a table of `vectors`."""
    vectors = found["vector"].combine_chunks()
    return torch.from_numpy(vectors.flatten().to_numpy().reshape(-1, width).astype(np.float32)).to(dtype)
