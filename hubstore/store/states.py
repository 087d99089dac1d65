"""One layer's hidden states: rows by position, from files mapped on this machine or from ranges of remote objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from hubstore.checks import check_count, check_positions
from hubstore.errors import QueryError
from hubstore.storage import FileRecord, Storage
from hubstore.storage.mappings import MappedFile, size_of_mapped
from hubstore.storage.prefetch import of_mapped, prefetch
from hubstore.store.commit import Commit
from hubstore.store.dtypes import itemsize
from hubstore.store.gather import copy_rows
from hubstore.store.layout import Layout, shard_key
from hubstore.store.partition import Positions
from hubstore.store.rows import Rows
from hubstore.store.shardfile import Find, Found, open_shard
from hubstore.store.torch_dtypes import DTYPES

WHOLE = 2
"""A remote shard is read whole, and stored in the cache, from where a `WHOLE`th of its rows are asked for."""

RESIDENT = 512 << 20
"""Bytes of a layer that the system soon holds in memory. Of a smaller one nothing is asked of the disk ahead: that took
a tenth of a server's time over 200,000 x 384."""


class HiddenStates(Rows):
    """One layer under one pooling, over the store's Zarr shards.

    Uncompressed shards on this machine are memory-mapped. Of others, the ranges are read that hold the rows asked for:
    the rows themselves, or the compressed chunks around them. Rows that no commit covers are not reachable: positions
    count committed rows only. `[...]` copies; `torch()` and `numpy.asarray` do not, where there is one mapped shard.
    """

    def __init__(self, storage: Storage, layout: Layout, commits: Sequence[Commit], layer: str, pooling: str) -> None:
        self.layer = layer
        self.pooling = pooling
        self._storage = storage
        self._layout = layout
        self._files = _files(layout, commits, layer, pooling)
        self._starts = np.cumsum([0, *(rows for _, _, rows in self._files)], dtype=np.int64)
        self._mapped: dict[int, tuple[MappedFile, Find]] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return int(self._starts[-1]), self._layout.width

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return DTYPES[self._layout.dtype]

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows [start, stop) in order, each with its first position: [rows, width].

        Mapped rows are not copied. Remote files are read while the ones before them are used.
        """
        start, stop = self._range(start, stop)
        spans = []
        file = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            last = min(stop, int(self._starts[file + 1]))
            spans.append((file, start, last))
            start, file = last, file + 1
        jobs = (((last - first) * self._row_bytes, partial(self._span, n, first, last)) for n, first, last in spans)
        yield from zip((first for _, first, _ in spans), self._storage.in_order(jobs), strict=True)

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) as a copy [rows, width] in the stored dtype."""
        start, stop = self._range(start, stop)
        out = torch.empty((max(stop - start, 0), self._layout.width), dtype=self.dtype)
        for position, rows in self.segments(start, stop):
            out[position - start : position - start + len(rows)] = rows
        return out

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, as a copy [n, width] in the stored dtype."""
        requested = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        out = torch.empty((len(requested), self._layout.width), dtype=self.dtype)
        files = np.searchsorted(self._starts, requested, side="right") - 1
        order = np.argsort(files, kind="stable")
        local = (requested - self._starts[files])[order]
        numbers, firsts = np.unique(files[order], return_index=True)
        parts = [slice(*ends) for ends in pairwise([*firsts.tolist(), len(order)])]
        jobs = ((0, partial(self._find, n, local[part])) for n, part in zip(numbers.tolist(), parts, strict=True))
        for part, (rows, places) in zip(parts, self._storage.in_order(jobs), strict=True):
            copy_rows(rows, np.asarray(places), out, order[part])
        return out

    def prefetch(self, positions: npt.ArrayLike) -> None:
        """Have rows that `take` is to copy read from a local disk side by side; it does not wait for them.

        What is read is their pages and no more. Where rows are mapped no other way, `take` reads side by side itself.
        """
        requested = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        small = len(self) * self._row_bytes <= RESIDENT
        if small or not self._storage.is_local or self._layout.compressor != "none":
            return
        requested = np.unique(requested)
        files = np.searchsorted(self._starts, requested, side="right") - 1
        starts = (requested - self._starts[files]) * self._row_bytes
        firsts = np.searchsorted(files, numbers := np.unique(files))
        for number, part in zip(numbers.tolist(), pairwise([*firsts.tolist(), len(files)]), strict=True):
            if number not in self._mapped:
                self._find(number, np.empty(0, np.int64))
            if (held := self._mapped.get(number)) is not None:
                own = starts[slice(*part)]
                prefetch(of_mapped(held[0]), own, own + self._row_bytes)

    def evict(self, file: int) -> None:
        """Hold a file mapped no longer; it is mapped again when it is read again."""
        self._mapped.pop(file, None)

    @property
    def _row_bytes(self) -> int:
        return self._layout.width * itemsize(self._layout.dtype)

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        """Rows asked for as [start, stop); QueryError where the layer has no such."""
        of = f"rows of layer {self.layer}"
        start = check_count("start", start, least=0, most=len(self), of=of, error=QueryError)
        if stop is None:
            return start, len(self)
        return start, check_count("stop", stop, least=0, most=len(self), of=of, error=QueryError)

    def _span(self, file: int, start: int, stop: int) -> torch.Tensor:
        """Rows of a file, which hold positions [start, stop)."""
        first = int(self._starts[file])
        rows, places = self._find(file, range(start - first, stop - first))
        return rows[places[0] : places[-1] + 1]

    def _find(self, file: int, requested: Positions | range) -> Found:
        """Rows of a file, by the cheapest way there is to them."""
        key, record, count = self._files[file]
        held = self._mapped.get(file)
        if held is not None:
            mapped, find = held
            size = size_of_mapped(mapped)
            if size < record.size:
                raise self._storage.other_size(key, size, record)
        else:
            whole = self._storage.mapped(key, record)
            if whole is None and WHOLE * len(np.unique(requested)) >= count:
                whole = self._storage.map_committed(key, record)
            find = open_shard(
                partial(self._storage.read_ranges, key, record) if whole is None else whole,
                *(record.size, count, self._layout, str(self._storage.root / key)),
            )
            if isinstance(whole, np.memmap):  # what is in memory goes with the caller
                self._mapped[file] = whole, find
                self._storage.mappings.add(self, file, record.size)
        return find(requested)


def _files(layout: Layout, commits: Sequence[Commit], layer: str, pooling: str) -> list[tuple[str, FileRecord, int]]:
    """Key, size and checksum, and rows of every Zarr shard of one layer, in position order."""
    files = []
    for commit in commits:
        rows = commit.tokens if pooling == "tokens" else commit.items
        first = commit.first_token_shard if pooling == "tokens" else commit.shard
        for offset, start in enumerate(range(0, rows, layout.shard_rows)):
            key = shard_key(pooling, layer, first + offset)
            files.append((key, commit.files[key], min(layout.shard_rows, rows - start)))
    return files
