"""What each kind of index would take: bytes on disk and in memory, and how many queries it would answer.

Sizes follow from how FAISS lays its files out. Times are a model of few terms, whose constants are measured here in a
few seconds and kept in the user's cache: exact search passes by every row, IVF with codes compares a query with the
lists' centroids and then passes by the codes of those that it visits.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import MissingDependencyError
from hubstore.index import kinds
from hubstore.index.description import IndexDescription
from hubstore.index.library import faiss
from hubstore.kernels import topk_cosine
from hubstore.measurements import MeasurementCache, machine
from hubstore.store.dtypes import itemsize

BATCH = 64
"""Queries at once where they come together."""

SAMPLE_ROWS = 1 << 16
INDEXED_ROWS = 1 << 15
"""Made-up rows that exact search and IVF with codes are measured on."""

READ_BYTES = 256 << 20
"""Of a file that is written, read past the cache and removed, to measure the disk."""

LINKS = 4 * (64 + 32 / 31)
"""Bytes of an HNSW's links for each row: 64 on the ground, 32 on each floor above; a 32nd of the rows rises."""

HNSW_SECONDS = 1 / 512 / np.log2(50_000)
"""Of one of a batch of queries, for each doubling of the rows: 512 queries/s over 50,000 x 384 on two cores of an AMD
EPYC, as the README has it. An HNSW takes too long to build to be measured for a plan."""

K = 10

ROW_BYTES = 16 << 10
"""Of lists that a disk reads in the time of one row from elsewhere, where many of either are asked for at once."""


@dataclass(frozen=True)
class SearchSpeed:
    """What this machine was measured to do, on the CPU.

    Args:
        row_seconds: exact search, for each byte of the rows that it passes by, whatever the queries.
        pair_seconds: for each element of a row and query of a batch.
        read_seconds: of the disk, for each byte; None where none was measured.
        centroid_seconds: IVF, for each element of a centroid that a query is compared with; None without FAISS.
        code_seconds: of IVF-PQ, for each byte of codes that a query visits.
        rabitq_seconds: the same of RaBitQ codes.
    """

    row_seconds: float
    pair_seconds: float
    read_seconds: float | None
    centroid_seconds: float | None
    code_seconds: float | None
    rabitq_seconds: float | None = None


@dataclass(frozen=True)
class IndexCost:
    """What one layer's index of one kind would take.

    Args:
        kind: one of `KINDS`.
        disk: bytes of the index's file; exact search has none.
        memory: bytes that a search passes over and that it is slow without: of the rows, for exact search. Those of
            ivfrabitq are of its file, and need not be free.
        alone: seconds of one query.
        together: seconds of each of `BATCH` queries at once.
        by: where the times come from: "measured here", or who measured them; None where there are none.
    """

    kind: str
    disk: int
    memory: int
    alone: float | None
    together: float | None
    by: str | None


def index_bytes(kind: str, rows: int, width: int, bits: int = kinds.RABITQ_BITS) -> int:
    """Bytes of a FAISS file of `rows` rows, with RaBitQ codes of `bits` an element; 0 for exact search."""
    if kind == "exact":
        return 0
    if kind == "hnsw":
        return round(rows * (2 * width + LINKS + 12))
    lists = kinds.list_count(rows)
    if kind == "ivf":
        return rows * (2 * width + 8) + 4 * lists * width
    if kind == "ivfrabitq":
        code, rotation = rabitq_bytes(width, bits), 4 * width * width
        return rows * (code + 8) + lists * (16 * (code + 8) + 4 * width + 28) + rotation
    code = code_bytes(rows, width)
    # Codes of a list come in blocks of 32, the last of which is half full.
    return rows * (code + 8) + lists * (16 * code + 4 * width) + 64 * width


def list_bytes(description: IndexDescription) -> float:
    """Of a list, on average; of a node of an HNSW, whose rows are as many whatever the effort."""
    bits = kinds.rabitq_bits(description.factory)
    size = index_bytes(description.kind, description.rows, description.width, bits)
    return size / (description.parameters or {}).get("nlist", description.rows)


def code_bytes(rows: int, width: int) -> int:
    """Bytes of one row's code in an IVF-PQ."""
    return int(kinds.factory("ivfpq", rows, width).rpartition("PQ")[2].partition("x")[0]) // 2


def rabitq_bytes(width: int, bits: int = kinds.RABITQ_BITS) -> int:
    """Bytes of one row's RaBitQ code: signs and two factors in float32; of more bits those, and three more factors."""
    more = 0 if bits == 1 else -(-width * (bits - 1) // 8) + 12
    return -(-width // 8) + 8 + more


def index_costs(rows: int, width: int, dtype: str, speed: SearchSpeed, memory: int | None = None) -> list[IndexCost]:
    """What each kind would take over one layer.

    Args:
        rows: of the layer.
        width: of a row.
        dtype: of the store.
        speed: this machine's.
        memory: bytes that searches may have; rows beyond it are read from the disk for every pass.
    """
    stored = rows * width * itemsize(dtype)
    passing = stored * speed.row_seconds
    if memory is not None and stored > memory and speed.read_seconds is not None:
        passing = max(passing, stored * speed.read_seconds)
    pairs = rows * width * speed.pair_seconds
    found = [IndexCost("exact", 0, stored, passing, passing / BATCH + pairs, "measured here")]
    size = index_bytes("hnsw", rows, width)
    of_hnsw = float(HNSW_SECONDS * np.log2(max(rows, 2))) * width / 384
    found.append(IndexCost("hnsw", size, size, None, of_hnsw, "the README's measurement, 50,000 x 384"))
    for kind in kinds.IVF_KINDS if rows >= 16 else ():
        size = index_bytes(kind, rows, width)
        seconds = _ivf_seconds(kind, rows, width, speed)
        found.append(IndexCost(kind, size, size, seconds, seconds, None if seconds is None else "measured here"))
    return found


def _ivf_seconds(kind: str, rows: int, width: int, speed: SearchSpeed) -> float | None:
    """Of one query that visits as many lists as an index begins with; None where it was not measured."""
    code, seconds = {
        "ivfpq": (code_bytes(rows, width), speed.code_seconds),
        "ivfrabitq": (rabitq_bytes(width), speed.rabitq_seconds),
    }.get(kind, (0, None))
    if speed.centroid_seconds is None or seconds is None:
        return None
    settings = kinds.parameters(kind, rows)
    visited = rows * settings["nprobe"] / settings["nlist"] * code
    return settings["nlist"] * width * speed.centroid_seconds + visited * seconds


def search_speed(width: int, dtype: str, folder: Path | None, *, refresh: bool = False) -> SearchSpeed:
    """The machine's speed at rows of `width` elements, from the cache where it is there.

    Args:
        width: of a row.
        dtype: that they are stored in.
        folder: on the disk that they are on; None to leave it out.
        refresh: measure whatever the cache has.
    """
    cache = MeasurementCache({**machine(), "search": [width, dtype]}, refresh=refresh)
    rows = torch.randn(SAMPLE_ROWS, width, generator=torch.Generator().manual_seed(0))
    stored = rows.to(getattr(torch, dtype))
    few, many = (cache.value(f"exact {count}", _exact_measure(stored, count)) for count in (1, BATCH))
    row_seconds = few / stored.nbytes
    pair_seconds = max(many - few, 0.0) / ((BATCH - 1) * stored.numel())
    read_seconds = None
    if folder is not None:
        disk = MeasurementCache({**machine(), "disk": os.stat(folder).st_dev}, refresh=refresh)
        read_seconds = disk.value("read", lambda: _read_probe(folder))
    try:
        faiss()
    except MissingDependencyError:
        return SearchSpeed(row_seconds, pair_seconds, read_seconds, None, None)
    found = {}
    for kind, size in (("ivfpq", code_bytes(INDEXED_ROWS, width)), ("ivfrabitq", rabitq_bytes(width))):
        measure = _IvfMeasure(kind, rows[:INDEXED_ROWS].numpy())
        narrow, wide = (cache.value(f"{kind} {share}", measure.of(share)) for share in (measure.NARROW, measure.WIDE))
        codes = INDEXED_ROWS * size
        seconds = max(wide - narrow, 0.0) / ((measure.WIDE - measure.NARROW) * codes)
        found[kind] = seconds, max(narrow - measure.NARROW * codes * seconds, 0.0)
    (code_seconds, rest), (rabitq_seconds, _) = found["ivfpq"], found["ivfrabitq"]
    centroid_seconds = rest / (kinds.list_count(INDEXED_ROWS) * width)
    return SearchSpeed(row_seconds, pair_seconds, read_seconds, centroid_seconds, code_seconds, rabitq_seconds)


def _exact_measure(rows: torch.Tensor, count: int) -> Callable[[], float]:
    queries = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(1))
    return lambda: _least(lambda: topk_cosine(queries, rows, K), 3)


class _IvfMeasure:
    """IVF with codes over made-up rows, built when it is first asked."""

    NARROW, WIDE = 0.125, 1.0

    def __init__(self, kind: str, rows: npt.NDArray[np.float32]) -> None:
        self._kind, self._rows = kind, rows
        self._core: Any = None

    def of(self, share: float) -> Callable[[], float]:
        """Seconds of one of `BATCH` queries that visits a share of the lists."""

        def measure() -> float:
            if self._core is None:
                width = self._rows.shape[1]
                self._core = faiss().index_factory(width, kinds.factory(self._kind, len(self._rows), width))
                self._core.train(self._rows)
                self._core.add(self._rows)
            lists = kinds.list_count(len(self._rows))
            options = faiss().SearchParametersIVF(nprobe=max(1, round(share * lists)))
            queries = self._rows[:BATCH] + np.float32(0.1)
            count = kinds.parameters(self._kind, len(self._rows))["refine"] * K
            return _least(lambda: self._core.search(queries, count, params=options), 3) / BATCH

        return measure


def _least(work: Callable[[], object], runs: int) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _read_probe(folder: Path) -> float:
    """Seconds for each byte of a file that is not in memory."""
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(prefix=".hubstore-probe-", dir=folder) as file:
        for _ in range(READ_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        with open(file.name, "rb", buffering=0) as opened:
            while opened.read(8 << 20):
                pass
        return (time.perf_counter() - started) / READ_BYTES
