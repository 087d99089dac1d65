"""Writing shards. One writer to a store; a shard is there when its commit is, and not before."""

from __future__ import annotations

import contextlib
import datetime
import io
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hubstore.errors import NonFiniteError, ShardCommittedError, StoreLockedError
from hubstore.storage import Buffer, FileRecord, Storage
from hubstore.storage.location import shell_word
from hubstore.store.attributes import write_root
from hubstore.store.commit import Commit
from hubstore.store.layout import (
    FORMAT,
    Layout,
    array_key,
    array_metadata,
    commit_key,
    group_keys,
    group_metadata,
    items_key,
    previews_key,
    shard_key,
)
from hubstore.store.shardfile import check_dtype, encode_shard, non_finite
from hubstore.store.verification import corrupt_file

WRITE_THREADS = 8
"""Files on their way to the disk at once. They mostly wait for it: even on one CPU, eight are faster than four."""


def write_metadata(storage: Storage, layout: Layout, attributes: Mapping[str, Any], rows: int, token_rows: int) -> None:
    """Describe the store: groups, arrays of `rows` and `token_rows` rows, and last the root with its attributes."""
    for key in group_keys(layout.poolings):
        storage.write(key, group_metadata())
    for pooling in layout.poolings:
        metadata = array_metadata(layout, token_rows if pooling == "tokens" else rows)
        for layer in layout.layers:
            storage.write(f"{array_key(pooling, layer)}/zarr.json", metadata)
    write_root(storage, {"format": FORMAT, **layout.to_json(), **attributes})


def write_shard(  # noqa: PLR0913
    storage: Storage,
    layout: Layout,
    shard: int,
    items: pa.Table,
    states: Mapping[str, torch.Tensor],
    *,
    generation: int = 0,
    first_token_shard: int = 0,
    times: Mapping[str, float] | None = None,
    previews: pa.Table | None = None,
    finite: bool = False,
    threads: Executor | None = None,
) -> Commit:
    """Write one shard and commit it.

    Files are checked, compressed, written and checksummed side by side; several shards may be written at once, best
    with the same `threads`: then one begins where the files of the one before no longer keep all of them busy.

    Where another writer commits it meanwhile and this one wrote over that one's files, with other bytes, the other's
    commit is taken back and the shard written again: a commit is of what is there.

    Args:
        storage: the store.
        layout: its shapes.
        shard: the shard's number.
        items: the item table: id, concept, language, modality, text, media, tokens, truncated, media_ranges; one row
            per item, at most shard_rows.
        states: for each pooling, [layers, rows, width] on the CPU in the store's dtype; rows in item order.
        generation: which planning of the store the shard belongs to.
        first_token_shard: where its token rows start, in Zarr shards of the "tokens" arrays.
        times: milliseconds to keep beside the commit.
        previews: id and data of thumbnails and clips; None where none are kept.
        finite: whether all states are known to be finite; else they are checked.
        threads: that write the files; None for `WRITE_THREADS` of its own.

    Raises:
        NonFiniteError: a state is NaN or infinite; names layer and item, and nothing is committed.
        ShardCommittedError: the shard has a commit already.
        StoreError: the disk is full or broken; nothing is committed.
        StoreLockedError: the right to write has ended; says so where it ended too late for what another committed.
    """
    key = commit_key(shard)
    if storage.exists(key):
        raise _committed_already(storage, shard)

    def write() -> Commit:
        started = time.perf_counter()
        encoded = _shard_files(layout, shard, items, states, first_token_shard, previews, finite)
        files = _write_files(storage, encoded, threads)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_ms = round(1e3 * (time.perf_counter() - started), 3)
        return Commit(
            shard=shard,
            items=len(items),
            generation=generation,
            first_token_shard=first_token_shard,
            tokens=states["tokens"].shape[1] if "tokens" in states else 0,
            runs=_runs(items),
            files=files,
            times={**(times or {}), "write_ms": write_ms, "committed": now},
        )

    try:
        commit = write()
        if not storage.put_if_absent(key, commit.encode()):
            if corrupt_file(storage, shard) is None:
                raise _committed_already(storage, shard)
            storage.delete(key)
            commit = write()
            if not storage.put_if_absent(key, commit.encode()):
                raise _committed_already(storage, shard)
    except StoreLockedError as error:
        corrupt = corrupt_file(storage, shard) if storage.exists(key) else None
        if corrupt is None:
            raise
        raise StoreLockedError(
            f"{storage.root / corrupt}: this process wrote over it when its right to write had ended, and another had "
            f"committed it; `hubstore verify {shell_word(storage.root)}` lists all that is wrong; extract it again, "
            "elsewhere"
        ) from error
    return commit


_Encode = Callable[[], list[Buffer]]
"""Makes the buffers of a file, when it is about to be written."""


def _write_files(
    storage: Storage, files: Iterable[tuple[str, _Encode]], threads: Executor | None
) -> Mapping[str, FileRecord]:
    with contextlib.nullcontext(threads) if threads is not None else ThreadPoolExecutor(WRITE_THREADS) as pool:
        return dict(pool.map(lambda file: _write_file(storage, *file), files))


def _runs(items: pa.Table) -> tuple[tuple[str, str, int], ...]:
    """(modality, language, items) of items of one partition that follow one another."""
    partitions = zip(items["modality"].to_pylist(), items["language"].to_pylist(), strict=True)
    return tuple((*partition, len(list(group))) for partition, group in groupby(partitions))


def encode_items(items: pa.Table) -> bytes:
    """A table of items as Parquet."""
    sink = io.BytesIO()
    pq.write_table(items, sink, compression="zstd", version="2.6")
    return sink.getvalue()


def _committed_already(storage: Storage, shard: int) -> ShardCommittedError:
    return ShardCommittedError(
        f"{storage.root / commit_key(shard)}: this shard is committed already; its rows stay as they are"
    )


def _write_file(storage: Storage, key: str, encode: _Encode) -> tuple[str, FileRecord]:
    buffers = encode()
    storage.write(key, *buffers)
    return key, FileRecord.of(*buffers)


def _shard_files(
    layout: Layout,
    shard: int,
    items: pa.Table,
    states: Mapping[str, torch.Tensor],
    first_token_shard: int,
    previews: pa.Table | None,
    finite: bool,
) -> Iterable[tuple[str, _Encode]]:
    for pooling in layout.poolings:
        first = first_token_shard if pooling == "tokens" else shard
        for layer, rows in zip(layout.layers, states[pooling], strict=True):
            check_dtype(rows, layout)
            check = None if finite else partial(_check_finite, layer=layer, pooling=pooling, items=items, layout=layout)
            parts = rows.split(layout.shard_rows) if len(rows) else ()  # a shard of no item has no states
            for offset, part in enumerate(parts):
                encode = partial(_encode_rows, part, offset * layout.shard_rows, layout, check)
                yield shard_key(pooling, layer, first + offset), encode
    yield items_key(shard), lambda: [encode_items(items)]
    if previews is not None and len(previews):
        yield previews_key(shard), lambda: [encode_items(previews)]


def _encode_rows(
    rows: torch.Tensor, start: int, layout: Layout, check: Callable[[torch.Tensor, int], None] | None
) -> list[Buffer]:
    if check is not None:
        check(rows, start)
    return encode_shard(rows, layout)


def _check_finite(rows: torch.Tensor, start: int, layer: str, pooling: str, items: pa.Table, layout: Layout) -> None:
    found = non_finite(rows)
    if found is None:
        return
    (row, what), dtype = found, layout.dtype
    row += start
    if pooling == "tokens":
        ends = torch.tensor(items["tokens"].to_numpy()).cumsum(0)
        row = int(torch.searchsorted(ends, row, right=True))
    limit = torch.finfo(getattr(torch, dtype)).max
    remedy = (
        "the model itself gave it: run the model in float32 (`--model-dtype float32`) or leave the item out"
        if what == "NaN" or dtype != "float16"
        else f"a value is beyond float16's {limit:.0f}: keep the store in bfloat16 or float32 (`--dtype bfloat16`)"
    )
    raise NonFiniteError(f"item {items['id'][row].as_py()!r}, layer {layer}, pooling {pooling}: {what}; {remedy}")
