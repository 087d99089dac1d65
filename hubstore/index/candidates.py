"""Candidates for the exact re-rank, from an index that FAISS holds or from one whose lists stay in their file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from hubstore.index.allowed import Allowed, Positions
from hubstore.index.library import Gpu, faiss
from hubstore.index.listfile import ChangedListError, ListFile
from hubstore.index.rows import Vectors, centered, rotated


class CandidateSource(Protocol):
    """What gives candidates."""

    def find(self, queries: torch.Tensor, count: int, effort: int, allowed: Allowed | None = None) -> Positions:
        """The rows nearest to queries by codes.

        Args:
            queries: [q, width], as a caller gives them.
            count: rows for each.
            effort: HNSW's efSearch, or the lists that IVF visits, of which there are as many.
            allowed: the rows that may be found; all by default.

        Returns:
            int64 [q, count] positions, best first, -1 where it found fewer.
        """
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """An index of centered rows that FAISS holds.

    Args:
        kind: of the index.
        core: the index.
        mean: float32 [width], of the unit rows.
        gpu: where it is, if it is on one.
        owners: Python objects that free what `core` points into when they go.
    """

    kind: str
    core: Any
    mean: Vectors
    gpu: Gpu | None = None
    owners: tuple[Any, ...] = ()

    def find(self, queries: torch.Tensor, count: int, effort: int, allowed: Allowed | None = None) -> Positions:
        """See `CandidateSource`; on a GPU one search at a time, on a CPU as many as there are threads."""
        selector = None if allowed is None else _selector(allowed, self.core.ntotal)
        if self.kind == "hnsw":
            options = faiss().SearchParametersHNSW(efSearch=max(effort, count), sel=selector)
        else:
            options = faiss().SearchParametersIVF(nprobe=effort, sel=selector)
        with contextlib.nullcontext() if self.gpu is None else self.gpu.lock:
            return np.asarray(self.core.search(centered(queries, self.mean), count, params=options)[1], np.int64)


@dataclass(frozen=True, eq=False)
class InFile:
    """An index whose lists stay in their file.

    Args:
        lists: the file.
        changed: the error to raise for a list that is not as it was written.
    """

    lists: ListFile
    changed: Callable[[ChangedListError], Exception]

    def find(self, queries: torch.Tensor, count: int, effort: int, allowed: Allowed | None = None) -> Positions:
        """See `CandidateSource`."""
        vectors = rotated(centered(queries, self.lists.head.mean), self.lists.head.rotation)
        try:
            return self.lists.search(vectors, count, effort, allowed)
        except ChangedListError as error:
            raise self.changed(error) from error


def _selector(allowed: Allowed, rows: int) -> Any:
    """FAISS's: one range needs no memory, more are a bit a row."""
    if len(allowed.ranges) == 1:
        start, stop = allowed.ranges[0].tolist()
        return faiss().IDSelectorRange(start, stop)
    return faiss().IDSelectorBitmap(allowed.bits(rows))
