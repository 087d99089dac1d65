"""Exact search: many queries beside the bare product, one query beside a single read of the rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from hubstore.bench.ceilings import fastest_dtype, multiplying, reading
from hubstore.bench.figure import HUBSTORE, Figure, Report, figure, machine_of
from hubstore.bench.states import RESULT_BYTES, require_memory, unit_states
from hubstore.bench.timing import device_seconds, interleave
from hubstore.kernels import topk_cosine

CEILING_ROWS = 1 << 16
"""Rows of the bare product: all scores of a large search would not fit."""


@dataclass(frozen=True)
class SearchSizes:
    """A search: `queries` for their `k` nearest of `rows` x `width`, kept as `dtype`."""

    rows: int
    width: int
    queries: int
    k: int
    dtype: str = "float16"

    @classmethod
    def default(cls, device: torch.device) -> SearchSizes:
        """What takes a device a few seconds."""
        return cls(1_000_000, 1024, 4096, 10) if device.type == "cuda" else cls(100_000, 768, 256, 10)


def measure_search(sizes: SearchSizes, device: torch.device, runs: int) -> Report:
    """TFLOP/s and queries/s of a search, and the latency of one query, on made-up unit rows."""
    dtype = getattr(torch, sizes.dtype)
    elements = (sizes.rows + sizes.queries) * sizes.width
    require_memory(elements * dtype.itemsize + RESULT_BYTES * sizes.queries * sizes.k, device)
    rows = unit_states(sizes.rows, sizes.width, dtype=dtype, device=device, seed=0)
    queries = unit_states(sizes.queries, sizes.width, dtype=dtype, device=device, seed=1)
    what = f"{sizes.rows:,} x {sizes.width} {sizes.dtype}, k {sizes.k}"
    figures = (*_many(sizes, queries, rows, what, runs), _one(sizes, queries[:1], rows, what, runs))
    return Report("search", machine_of(device), asdict(sizes), figures)


def _many(sizes: SearchSizes, queries: torch.Tensor, rows: torch.Tensor, what: str, runs: int) -> tuple[Figure, ...]:
    device = rows.device
    operations = 2 * sizes.rows * sizes.width * sizes.queries
    fastest = fastest_dtype(device)
    ceiling = f"bare product, {str(fastest).removeprefix('torch.')}"
    of_rows = min(sizes.rows, CEILING_ROWS)
    tasks = {
        ceiling: multiplying(sizes.queries, of_rows, sizes.width, dtype=fastest, device=device),
        HUBSTORE: lambda: operations / device_seconds(lambda: topk_cosine(queries, rows, sizes.k), device) / 1e12,
    }
    samples = interleave(tasks, runs, disk=False)
    each = 1e12 / (2 * sizes.rows * sizes.width)
    work = f"{sizes.queries:,} queries, {what}"
    return (
        figure(work, "TFLOP/s", samples, ceiling),
        figure(work, "queries/s", samples, ceiling, scale=each),
    )


def _one(sizes: SearchSizes, query: torch.Tensor, rows: torch.Tensor, what: str, runs: int) -> Figure:
    device = rows.device
    tasks = {
        "one read of the rows": reading(rows),
        HUBSTORE: lambda: device_seconds(lambda: topk_cosine(query, rows, sizes.k), device),
    }
    samples = interleave(tasks, runs, disk=False)
    return figure(f"one query, {what}", "ms", samples, "one read of the rows", better="lower", scale=1e3)
