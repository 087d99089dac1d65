"""The store: writing beside a raw append, a layer's scan and random rows beside numpy's memory map."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.bench.figure import HUBSTORE, Figure, Report, figure, machine_of
from hubstore.bench.states import require_memory
from hubstore.bench.timing import Task, interleave, seconds
from hubstore.storage import LocalStorage
from hubstore.store import DTYPES, HiddenStates, Layout, StoreReader, write_metadata, write_shard
from hubstore.system import temporary_folder

SHARD_ROWS = 8192
CHUNK_ROWS = 256
DRAWS = 5
"""Sets of random rows taken in a turn; their median counts."""

WORDS = {2: torch.int16, 4: torch.int32}
"""What numpy reads states as, by their size in bytes: it has no bfloat16."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoreSizes:
    """A store of `layers` x `rows` x `width`, and how many random rows to take at once."""

    rows: int = 4 * SHARD_ROWS
    width: int = 768
    layers: int = 4
    taken: int = 1000
    dtype: str = "float16"

    @property
    def layout(self) -> Layout:
        """Its shapes."""
        layers = tuple(map(str, range(self.layers)))
        return Layout(layers, ("mean",), self.dtype, self.width, SHARD_ROWS, chunk_rows=CHUNK_ROWS)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self.layers * self.rows * self.width * DTYPES[self.dtype].itemsize


def measure_store(sizes: StoreSizes, scratch: Path | None, runs: int) -> Report:
    """MB/s of writing, GB/s of a scan and milliseconds of random rows, in a folder under `scratch`, then removed."""
    require_memory(sizes.nbytes + DRAWS * 8 * sizes.taken, torch.device("cpu"))
    with temporary_folder("hubstore-bench-", scratch) as folder:
        figures = (_writing(sizes, Path(folder), runs), *_reading(sizes, Path(folder), runs))
    notes = (
        "write: every file synced, checksummed and committed, items too",
        "raw append: the same states to one file, one fsync a shard",
        "scan: every byte of a layer summed, from the page cache; take: random rows in no order",
    )
    return Report("store", machine_of(torch.device("cpu")), asdict(sizes), figures, notes)


def _writing(sizes: StoreSizes, scratch: Path, runs: int) -> Figure:
    shards, items = made_up(sizes)
    number = count()

    def rate(write: Callable[[Path], None]) -> Task:
        def task() -> float:
            path = scratch / str(next(number))
            took = seconds(lambda: write(path))
            shutil.rmtree(path)
            return sizes.nbytes / took / 1e6

        return task

    tasks = {
        "raw append": rate(lambda path: append_raw(path, shards)),
        HUBSTORE: rate(lambda path: write_store(path, sizes.layout, shards, items)),
    }
    work = f"write {sizes.layers} layers x {sizes.rows:,} x {sizes.width} {sizes.dtype}"
    return figure(work, "MB/s", interleave(tasks, runs), "raw append")


def _reading(sizes: StoreSizes, scratch: Path, runs: int) -> tuple[Figure, Figure]:
    shards, items = made_up(sizes)
    write_store(scratch / "x.hub", sizes.layout, shards, items)
    layer = torch.cat([shard[0] for shard in shards])
    np.save(scratch / "plain.npy", layer.view(WORDS[layer.element_size()]).numpy())
    plain = np.load(scratch / "plain.npy", mmap_mode="r")
    hidden = StoreReader(scratch / "x.hub").hidden(0)
    drawn = np.random.default_rng(0).integers(0, sizes.rows, (DRAWS, sizes.taken))
    what = f"{sizes.rows:,} x {sizes.width} {sizes.dtype}"
    scans = interleave(_scans(plain, hidden), runs, disk=False)
    takes = {"numpy memmap": taking(lambda at: plain[at], drawn), HUBSTORE: taking(hidden.take, drawn)}
    return (
        figure(f"scan a layer of {what}", "GB/s", scans, "numpy memmap"),
        figure(
            f"take {sizes.taken:,} random rows of {what}",
            "ms",
            interleave(takes, runs, disk=False),
            "numpy memmap",
            better="lower",
        ),
    )


def _scans(plain: npt.NDArray[Any], hidden: HiddenStates) -> dict[str, Task]:
    pieces = [slice(start, start + SHARD_ROWS) for start in range(0, len(plain), SHARD_ROWS)]
    word = WORDS[plain.dtype.itemsize]

    def rate(scan: Callable[[], int]) -> Task:
        return lambda: plain.nbytes / seconds(scan) / 1e9

    return {
        "numpy memmap": rate(lambda: total(plain[piece] for piece in pieces)),
        HUBSTORE: rate(lambda: total(rows.view(word).numpy() for _, rows in hidden.segments())),
    }


def made_up(sizes: StoreSizes) -> tuple[list[torch.Tensor], list[pa.Table]]:
    """Shards [layers, rows, width] of normal numbers, and the items of each."""
    generator = torch.Generator().manual_seed(0)
    states, items = [], []
    for start in range(0, sizes.rows, SHARD_ROWS):
        rows = min(SHARD_ROWS, sizes.rows - start)
        drawn = torch.randn(sizes.layers, rows, sizes.width, generator=generator)
        states.append(drawn.to(DTYPES[sizes.dtype]))
        items.append(made_up_items(rows, start))
    return states, items


def made_up_items(rows: int, first: int = 0) -> pa.Table:
    """An item table with texts of about the usual length, in pairs of one concept."""
    numbers = range(first, first + rows)
    return pa.table(
        {
            "id": [f"item-{number}" for number in numbers],
            "concept": [f"concept-{number // 2}" for number in numbers],
            "language": ["en"] * rows,
            "modality": ["text"] * rows,
            "text": [f"A sentence of about the usual length, number {number}, to be kept." for number in numbers],
            "tokens": pa.array([20] * rows, pa.int32()),
            "truncated": [False] * rows,
        }
    )


def write_store(path: Path, layout: Layout, shards: Sequence[torch.Tensor], items: Sequence[pa.Table]) -> None:
    """Write a store of shards [layers, rows, width], each with its items."""
    storage = LocalStorage(path)
    for shard, (states, table) in enumerate(zip(shards, items, strict=True)):
        write_shard(storage, layout, shard, table, {"mean": states})
    write_metadata(storage, layout, {"model": {"id": "random"}}, sum(map(len, items)), 0)


def append_raw(path: Path, shards: Iterable[torch.Tensor]) -> None:
    """Write shards [layers, rows, width] to one file in `path`, one fsync for each."""
    path.mkdir()
    with (path / "raw").open("ab", buffering=0) as file:
        for shard in shards:
            for layer in shard:
                view = memoryview(layer.view(torch.uint8).numpy().reshape(-1))
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())


def total(pieces: Iterable[npt.NDArray[Any]]) -> int:
    """The sum of all bytes, eight at a time as words: cheap, and no byte is left out."""
    found = 0
    for piece in pieces:
        data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        whole = len(data) // 8 * 8
        found += int(np.add.reduce(data[:whole].view(np.uint64))) + int(data[whole:].sum())
    return found % 2**64


def taking(take: Callable[[Positions], object], drawn: Positions) -> Task:
    """Milliseconds to take rows at each of `drawn` [draws, rows], the median."""
    return lambda: 1e3 * statistics.median([seconds(lambda at=at: take(at)) for at in drawn])  # type: ignore[misc]
