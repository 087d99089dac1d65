"""The store: writing shards beside a raw append, a layer's scan and random rows beside numpy's memory map."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import Result, compare
from hubstore.bench.store import append_raw, made_up_items, taking, total, write_store
from hubstore.bench.timing import Task, interleave, seconds
from hubstore.storage import LocalStorage
from hubstore.store import Layout, StoreReader, write_metadata

WIDTH = 768
SHARD_ROWS = 8192
WRITE_TARGET, SCAN_TARGET, ROWS_TARGET = 0.8, 0.8, 2.0
SEED = 0

Half = npt.NDArray[np.float16]


def run(scratch: Path, *, small: bool) -> list[Result]:
    """The suite."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        written = _writing(Path(folder) / "writing", layers=2 if small else 8, shards=2 if small else 3, small=small)
        return [written, *_reading(Path(folder) / "reading", rows=9_000 if small else 100_000, small=small)]


def _layout(layers: int) -> Layout:
    return Layout(tuple(map(str, range(layers))), ("mean",), "float16", WIDTH, SHARD_ROWS, chunk_rows=256)


def _states(layers: int, rows: int) -> torch.Tensor:
    return torch.randn(layers, rows, WIDTH, generator=torch.Generator().manual_seed(SEED)).half()


def _writing(scratch: Path, *, layers: int, shards: int, small: bool) -> Result:
    scratch.mkdir()
    layout = _layout(layers)
    states = _states(layers, SHARD_ROWS)  # one shard's, written again as every shard: its bytes cost the same
    items = [made_up_items(SHARD_ROWS, shard * SHARD_ROWS) for shard in range(shards)]
    megabytes = shards * states.nbytes / 1e6
    number = count()

    def rate(write: Callable[[Path], None]) -> Task:
        def task() -> float:
            path = scratch / str(next(number))
            took = seconds(lambda: write(path))
            shutil.rmtree(path)
            return megabytes / took

        return task

    tasks = {
        "raw append": rate(lambda path: append_raw(path, [states] * shards)),
        "hubstore": rate(lambda path: write_store(path, layout, [states] * shards, items)),
        "zarr-python": rate(lambda path: _write_zarr(path, layout, states, shards)),
        "tensorstore": rate(lambda path: _write_tensorstore(path, layout, states, shards)),
    }
    return compare(
        "store",
        f"write {shards} shards of {layers} layers x {SHARD_ROWS} x {WIDTH} float16 ({megabytes:.0f} MB)",
        "MB/s",
        interleave(tasks, runs=1 if small else 7),
        against="raw append",
        target=WRITE_TARGET,
        notes=(
            "write: hubstore with every file synced, checksummed and committed, items and metadata too",
            "raw append: the same states to one file, one fsync a shard",
            "zarr-python and tensorstore: the same shards and chunks, no fsync, no items",
        ),
    )


def _write_zarr(path: Path, layout: Layout, states: torch.Tensor, shards: int) -> None:
    import zarr

    group = zarr.create_group(path)
    for layer, rows in zip(layout.layers, states.numpy(), strict=True):
        array = group.create_array(
            layer,
            shape=(shards * layout.shard_rows, WIDTH),
            dtype="float16",
            shards=(layout.shard_rows, WIDTH),
            chunks=(layout.chunk_rows, WIDTH),
            compressors=None,
        )
        for shard in range(shards):
            array[shard * layout.shard_rows : (shard + 1) * layout.shard_rows] = rows


def _write_tensorstore(path: Path, layout: Layout, states: torch.Tensor, shards: int) -> None:
    template = path / "template"
    write_metadata(LocalStorage(template), layout, {}, shards * layout.shard_rows, 0)
    for layer, rows in zip(layout.layers, states.numpy(), strict=True):
        array = _tensorstore(template / "hidden/mean" / layer, write=True)
        for shard in range(shards):
            array[shard * layout.shard_rows : (shard + 1) * layout.shard_rows].write(rows).result()


def _tensorstore(path: Path, *, write: bool = False) -> Any:
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": f"file://{path}/",
        "context": {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}},
    }
    return tensorstore.open(spec, open=True, read=True, write=write).result()


def _reading(scratch: Path, *, rows: int, small: bool) -> list[Result]:
    """A layer of a store, the same bytes as one .npy, and the store's own array through other readers."""
    import zarr

    scratch.mkdir()
    states = _states(1, rows)
    parts = [part.contiguous() for part in states.split(SHARD_ROWS, dim=1)]
    items = [made_up_items(part.shape[1], shard * SHARD_ROWS) for shard, part in enumerate(parts)]
    write_store(scratch / "x.hub", _layout(1), parts, items)
    np.save(scratch / "plain.npy", states[0].numpy())

    plain = np.load(scratch / "plain.npy", mmap_mode="r")
    hidden = StoreReader(scratch / "x.hub").hidden(0)
    array = zarr.open_array(scratch / "x.hub/hidden/mean/0", mode="r")
    tensor = _tensorstore(scratch / "x.hub/hidden/mean/0")
    drawn = np.random.default_rng(SEED).integers(0, rows, (3 if small else 10, 1000))
    scan = _scans(plain, hidden, array, tensor, rows)
    take = _takes(plain, hidden, array, tensor, drawn)
    _same(plain, hidden, drawn[0])
    runs = 1 if small else 7
    return [
        compare(
            "store",
            f"scan a layer of {rows:,} x {WIDTH} float16, every byte, warm",
            "GB/s",
            interleave(scan, runs),
            against="numpy memmap",
            target=SCAN_TARGET,
            notes=("scan: the sum of the bytes as 64-bit words, shard by shard",),
        ),
        compare(
            "store",
            f"take 1000 random rows of {rows:,} x {WIDTH} float16, warm",
            "ms",
            interleave(take, runs),
            against="numpy memmap",
            target=ROWS_TARGET,
            better="lower",
            notes=(f"take: in no order; the median of {len(drawn)} draws a turn",),
        ),
    ]


def _scans(plain: Half, hidden: Any, array: Any, tensor: Any, rows: int) -> dict[str, Task]:
    """Every reader's rows, in pieces of a shard, summed as 64-bit words: cheap, and no byte is left out."""
    bounds = [(start, min(start + SHARD_ROWS, rows)) for start in range(0, rows, SHARD_ROWS)]
    checks = set()

    def rate(scan: Callable[[], int]) -> Task:
        def task() -> float:
            started = time.perf_counter()
            checks.add(scan())
            took = time.perf_counter() - started
            assert len(checks) == 1, "the readers read different bytes"
            return plain.nbytes / took / 1e9

        return task

    return {
        "numpy memmap": rate(lambda: total(plain[start:stop] for start, stop in bounds)),
        "hubstore": rate(lambda: total(piece.numpy() for _, piece in hidden.segments())),
        "zarr-python": rate(lambda: total(array[start:stop] for start, stop in bounds)),
        "tensorstore": rate(lambda: total(tensor[start:stop].read().result() for start, stop in bounds)),
    }


def _takes(plain: Half, hidden: Any, array: Any, tensor: Any, drawn: npt.NDArray[np.int64]) -> dict[str, Task]:
    return {
        "numpy memmap": taking(lambda positions: plain[positions], drawn),
        "hubstore": taking(hidden.take, drawn),
        "zarr-python": taking(lambda positions: array.oindex[positions], drawn),
        "tensorstore": taking(lambda positions: tensor[positions].read().result(), drawn),
    }


def _same(plain: Half, hidden: Any, positions: npt.NDArray[np.int64]) -> None:
    assert np.array_equal(plain[positions].view(np.int16), hidden.take(positions).numpy().view(np.int16))
