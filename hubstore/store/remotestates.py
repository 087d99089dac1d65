"""One layer of a remote store: ranges of the rows asked for, and whole shards ahead of a scan."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from hubstore.checks import check_positions
from hubstore.errors import CorruptStoreError, QueryError
from hubstore.storage.objects import READERS, RemoteStorage
from hubstore.store.commit import FileRecord
from hubstore.store.dtypes import DTYPES, itemsize
from hubstore.store.reader import HiddenStates
from hubstore.store.shardfile import chunks_of, decode_shard, index_size, read_index, used_chunks

AHEAD_BYTES = 128 << 20
"""Bytes that a scan reads ahead of what it gives."""

WHOLE = 2
"""A piece is read whole, and kept in the cache, from where a `WHOLE`th of its rows are asked for."""

APART = 1 << 18
"""Bytes between two rows from which they are read by two requests: fewer cost less than a request."""


class RemoteStates(HiddenStates):
    """One layer under one pooling: rows by position, from the ranges of objects that hold them.

    The same answers as `HiddenStates`, whose pieces are files on this machine.
    """

    _storage: RemoteStorage

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows [start, stop) in order, each with its first position; the next ones are read meanwhile."""
        start, stop = self._range(start, stop)
        waiting: deque[tuple[int, int, Future[torch.Tensor]]] = deque()
        ahead = 0
        piece = bisect_right(self._starts, start) - 1
        try:
            while start < stop or waiting:
                while start < stop and len(waiting) < READERS and (not waiting or ahead < AHEAD_BYTES):
                    last = min(stop, self._starts[piece + 1])
                    size = (last - start) * self._row_bytes
                    waiting.append((start, size, self._submit(piece, start, last)))
                    start, piece, ahead = last, piece + 1, ahead + size
                position, size, rows = waiting.popleft()
                yield position, rows.result()
                ahead -= size
        finally:
            for _, _, rows in waiting:
                rows.cancel()

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, as a copy [n, width] in the stored dtype."""
        wanted = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        out = torch.empty((len(wanted), self._layout.width), dtype=self.dtype)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        cuts = np.searchsorted(ascending, self._starts)
        parts: list[tuple[slice, Future[torch.Tensor]]] = []
        for piece in np.flatnonzero(np.diff(cuts)).tolist():
            part = slice(cuts[piece], cuts[piece + 1])
            rows = ascending[part] - self._starts[piece]
            parts.append((part, self._storage.submit(partial(self._rows, piece, rows))))
        for part, found in parts:
            out[torch.from_numpy(order[part])] = found.result()
        return out

    @property
    def _row_bytes(self) -> int:
        return self._layout.width * itemsize(self._layout.dtype)

    def _submit(self, piece: int, start: int, stop: int) -> Future[torch.Tensor]:
        first = self._starts[piece]
        return self._storage.submit(partial(self._span, piece, start - first, stop - first))

    def _span(self, piece: int, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a piece."""
        if WHOLE * (stop - start) >= self._pieces[piece][2]:
            return self._segment(piece)[start:stop]
        return self._rows(piece, np.arange(start, stop))

    def _rows(self, piece: int, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Rows of a piece, ascending, as [rows, width]."""
        key, record, count = self._pieces[piece]
        if piece in self._mapped or WHOLE * len(np.unique(rows)) >= count:
            return self._segment(piece)[torch.from_numpy(rows)]
        cached = self._storage.cached(key, record)
        if cached is not None:
            return self._decoded(piece, cached)[torch.from_numpy(rows)]
        if self._layout.compressor == "none":
            return self._plain(key, record, rows)
        return self._compressed(key, record, rows)

    def _segment(self, piece: int) -> torch.Tensor:
        """A whole piece; what is mapped stays mapped, what is in memory goes with the caller."""
        rows = self._mapped.get(piece)
        if rows is None:
            key, record, _ = self._pieces[piece]
            whole = self._storage.map_committed(key, record)
            rows = self._decoded(piece, whole)
            if isinstance(whole, np.memmap) and self._layout.compressor == "none":
                self._mapped[piece] = rows
                self._storage.mappings.add(self, piece, len(whole))
        return rows

    def forget(self, piece: int) -> None:
        """Keep a piece mapped no longer; it is mapped again when it is read again."""
        self._mapped.pop(piece, None)

    def _decoded(self, piece: int, whole: npt.NDArray[np.uint8]) -> torch.Tensor:
        key, _, count = self._pieces[piece]
        return decode_shard(whole, count, self._layout, str(self._storage.root / key))

    def _plain(self, key: str, record: FileRecord, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Uncompressed rows lie one after the other from the object's start."""
        size = self._row_bytes
        different, where = np.unique(rows, return_inverse=True)
        after = np.flatnonzero(np.diff(different) > 1 + APART // size) + 1
        firsts, lasts = [0, *after.tolist()], [*(after - 1).tolist(), len(different) - 1]
        starts = [int(different[first]) * size for first in firsts]
        stops = [(int(different[last]) + 1) * size for last in lasts]
        read = self._storage.ranges(key, record, starts, stops)
        found = np.empty((len(different), size), np.uint8)
        for part, first, last in zip(read, firsts, lasts, strict=True):
            span = different[first : last + 1] - different[first]
            found[first : last + 1] = part.reshape(-1, size)[span]
        return torch.from_numpy(found[where]).view(DTYPES[self._layout.dtype])

    def _compressed(self, key: str, record: FileRecord, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """The chunks that hold the rows, as the object's index says."""
        name = str(self._storage.root / key)
        tail = index_size(self._layout)
        if tail > record.size:
            raise CorruptStoreError(f"{name} is truncated: {record.size} bytes do not hold a shard index")
        (end,) = self._storage.ranges(key, record, [record.size - tail], [record.size])
        index = used_chunks(read_index(end, self._layout, name), int(rows[-1]) + 1, self._layout, name)
        per_chunk = self._layout.chunk_rows
        wanted, where = np.unique(rows // per_chunk, return_inverse=True)
        starts = [int(index[chunk, 0]) for chunk in wanted]
        stops = [int(index[chunk, 0] + index[chunk, 1]) for chunk in wanted]
        chunks = chunks_of(self._storage.ranges(key, record, starts, stops), self._layout)
        return chunks[torch.from_numpy(where), torch.from_numpy(rows % per_chunk)]
