"""Hidden states and items for other tools: NumPy, safetensors, Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hubstore.arrow import rows_as_lists
from hubstore.errors import HubstoreError, Parameter, QueryError, StoreError, StoreExistsError
from hubstore.files import replacing
from hubstore.store import HiddenStates, StoreReader
from hubstore.system import reason, remedy

FORMATS = ("npy", "safetensors", "parquet")
BLOCK_ROWS = 8192


def export(
    store: StoreReader,
    out: Path,
    *,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    partition: str | None = None,
    format: str = "npy",
    states: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Write `items.parquet` and one file for each layer, `layer-<name>.<format>`, into the folder `out`.

    Rows of every file are in the order of items.parquet. bfloat16 stays bfloat16 in safetensors and becomes
    float32, which holds it exactly, in the others. Parquet repeats the items beside a list column `hidden`.

    Args:
        store: the store.
        out: a folder, made when it is not there.
        layers: all by default.
        pooling: the store's first by default; not "tokens" (its rows are not items).
        partition: one partition's items only, such as "zh-Hans"; all by default.
        format: "npy", "safetensors" or "parquet".
        states: False for the items alone.
        overwrite: replace files that are there.

    Raises:
        QueryError: an unknown format, layer, pooling or partition.
        StoreExistsError: a file is there already, or `out` is one.
        StoreError: a file cannot be written, as on a full disk; one that was there before stays.
    """
    if format not in FORMATS:
        raise QueryError(f"format {format!r} is not known; use {', '.join(FORMATS)}")
    name = store.pooling_name(pooling)
    if states and name == "tokens":
        raise QueryError("under pooling tokens rows are no items; read them with store.hidden(layer, 'tokens')")
    positions = np.arange(len(store), dtype=np.int64) if partition is None else store.partition(partition).positions()
    names = store.layer_names(layers) if states else []
    out = out.absolute()
    targets = {"items": out / "items.parquet"} | {layer: out / f"layer-{layer}.{format}" for layer in names}
    for target in targets.values():
        if target.exists() and not overwrite:
            raise StoreExistsError(f"{target} is there already; give another folder, or --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        existing = next(folder for folder in (out, *out.parents) if folder.exists())
        raise StoreExistsError(f"{out} is to be a folder, and {existing} is a file; give another") from error
    except OSError as error:
        raise StoreError(f"{out} cannot be made ({reason(error)}); {remedy(error)}, or give another folder") from error
    items = store.items.take(pa.array(positions))
    with _written(targets["items"]) as partial:
        pq.write_table(items, partial)
    for layer in names:
        with _written(targets[layer]) as partial:
            _write(store.hidden(layer, name), positions, items, partial, format)
    return list(targets.values())


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A name beside a target; what is written there takes its place, whole."""
    try:
        with replacing(target) as partial:
            yield partial
    except HubstoreError:
        raise
    except (OSError, SafetensorError) as error:
        said, todo = (reason(error), remedy(error)) if isinstance(error, OSError) else (error, "free space there")
        raise StoreError(
            f"{target} could not be written ({said}); {todo} or give another folder, and run the same command again "
            "with ",
            Parameter("overwrite", True),
            ": files that are whole are there already",
        ) from error


def _write(states: HiddenStates, positions: np.ndarray, items: pa.Table, path: Path, format: str) -> None:
    if format == "safetensors":
        save_file({f"layer-{states.layer}": states.take(positions)}, path)
        return
    dtype = _exact(states.take([])).numpy().dtype
    if format == "npy":
        with path.open("xb") as file:  # not mapped: on a full disk, a write to a mapping kills the process
            shape = (len(positions), states.shape[1])
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _, rows in _blocks(states, positions):
                file.write(np.ascontiguousarray(rows.numpy()).data)
        return
    schema = items.schema.append(pa.field("hidden", pa.list_(pa.from_numpy_dtype(dtype), states.shape[1])))
    with pq.ParquetWriter(path, schema) as writer:
        for start, rows in _blocks(states, positions):
            hidden = rows_as_lists(rows.numpy())
            writer.write_table(items.slice(start, len(rows)).append_column(schema.field("hidden"), hidden))


def _blocks(states: HiddenStates, positions: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, len(positions), BLOCK_ROWS):
        yield start, _exact(states.take(positions[start : start + BLOCK_ROWS]))


def _exact(rows: torch.Tensor) -> torch.Tensor:
    """The rows in a dtype that NumPy has: bfloat16 as float32."""
    return rows.float() if rows.dtype is torch.bfloat16 else rows
