"""What an extraction would take: items, tokens, bytes, files and time before it is begun, and whether there is room."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from hubstore.corpus import Corpus, same_source
from hubstore.errors import StoreError
from hubstore.extraction.plan import PlannedShard
from hubstore.extraction.settings import ResolvedSettings, Settings
from hubstore.extraction.workload import Counted, Speed, count_corpus, model_speed
from hubstore.forward.memory import SLOTS
from hubstore.measurements import MeasurementCache, machine
from hubstore.models import Model
from hubstore.storage import LocalStorage, Storage
from hubstore.store import DTYPES, Layout, write_shard
from hubstore.store.attributes import read_attributes
from hubstore.store.dtypes import itemsize
from hubstore.store.layout import ROOT
from hubstore.store.log import read_commits

PROBE_BYTES = 64 << 20
"""Of the shard that is written, and removed, to measure the disk."""

COMPRESSED = 0.7
"""Of its bytes that blosc-lz4-bitshuffle leaves of bfloat16; measured on hidden states (README: a quarter smaller)."""

SIZED = ("mean", "tokens")
"""Poolings that sizes are given of beside those asked for: every other has a row for each item, as mean has."""

PLANNED_BYTES = 48
"""Of memory that planning takes for each item of a generation: hashes of id and concept, partition, order, and sorting
them."""

ORDER_BYTES = 12
"""Of the plan's files for each item, beside the item itself: its place and its tokens."""


@dataclass(frozen=True)
class Need:
    """Bytes that an extraction needs of a disk or a memory, and those that are free.

    Args:
        what: "disk", "memory" or "GPU memory".
        where: which one.
        needed: bytes.
        available: bytes that are free; None where that is not known.
    """

    what: str
    where: str
    needed: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is as much; None where that is not known."""
        return None if self.available is None else self.needed <= self.available


@dataclass(frozen=True)
class Estimate:
    """What an extraction would take.

    Args:
        settings: what was asked for, resolved.
        layout: the store's shapes.
        counted: the corpus.
        states: bytes of the arrays under each pooling that was asked for, uncompressed.
        sizes: for each pooling and dtype, bytes of the arrays of all layers that were asked for.
        files: of the finished store.
        committed: items that the store has already; time and needs are those of the others.
        seconds: of each part of the work, measured here; parts that overlap are each given whole.
        speed: what was measured, on one device.
        needs: what is needed, and what is free.
        place: the folder whose disk was measured.
    """

    settings: ResolvedSettings
    layout: Layout
    counted: Counted
    states: Mapping[str, int]
    sizes: Mapping[str, Mapping[str, int]]
    files: int
    committed: int
    seconds: Mapping[str, float]
    speed: Speed
    needs: tuple[Need, ...]
    place: Path | None

    @property
    def store_bytes(self) -> int:
        """Of the finished store: arrays and item tables."""
        compressed = COMPRESSED if self.layout.compressor != "none" else 1
        return int(sum(self.states.values()) * compressed + self.counted.table_bytes)

    @property
    def between(self) -> tuple[float, float]:
        """Seconds at least, were all that overlaps hidden behind the longest part, and at most, were nothing."""
        overlapping = [seconds for part, seconds in self.seconds.items() if part != "plan"]
        return self.seconds["plan"] + max(overlapping), self.seconds["plan"] + sum(overlapping)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        counted = self.counted
        low, high = self.between
        deprecated = {"tokenise": self.seconds["tokenize"]} if "tokenize" in self.seconds else {}
        return {
            "items": counted.items,
            "committed": self.committed,
            "partitions": [list(partition) for partition in counted.partitions],
            "tokens": round(counted.total_tokens),
            "tokens_error": round(counted.error),
            "by_modality": {modality: one.to_json() for modality, one in counted.tokens.items()},
            "layers": list(self.layout.layers),
            "poolings": list(self.layout.poolings),
            "dtype": self.layout.dtype,
            "width": self.layout.width,
            "shards": len(counted.shards),
            "shard_rows": self.layout.shard_rows,
            "files": self.files,
            "bytes": {"store": self.store_bytes, **self.states, "items": counted.table_bytes},
            "sizes": {pooling: dict(by_dtype) for pooling, by_dtype in self.sizes.items()},
            "seconds": {**self.seconds, **deprecated, "low": low, "high": high},
            "measured": {
                "token_seconds": dict(self.speed.token_seconds),
                "write_seconds_per_byte": self.speed.write_seconds,
            },
            "needs": [{**asdict(need), "there": need.available, "fits": need.fits} for need in self.needs],
        }


def estimate(
    corpus: Corpus,
    model: Model,
    settings: Settings | None = None,
    *,
    folder: str | Path | None = ".",
    devices: int = 1,
    refresh: bool = False,
) -> Estimate:
    """What extracting a corpus would take. The corpus is read once; nothing stays but what was measured, in the cache.

    Args:
        corpus: the items.
        model: the model, on the device that it would run on.
        settings: as for `extract`.
        folder: where the store would be, on a local disk; None for an object store, of which nothing is measured. Of a
            store that is there, unfinished, what is left counts.
        devices: that share the work, each like the model's own.
        refresh: measure this machine whatever the cache has.

    Raises:
        CorpusError, ModelError, StoreError: as `extract` would.
    """
    settings = (settings or Settings()).resolve(model)
    layout = settings.layout(model.width)
    counted = count_corpus(corpus, model, settings, layout)
    place = None if folder is None else _existing(Path(folder))
    speed = model_speed(model, settings, counted, refresh=refresh)
    if place is not None:
        speed = replace(speed, write_seconds=_write_seconds(place, layout, refresh))
    states = {pooling: array_bytes(layout, pooling, counted.shards) for pooling in layout.poolings}
    begun = _Begun() if folder is None else _begun(Path(folder), corpus, model, settings)
    workers = max(1, min(devices, len(counted.shards)))
    return Estimate(
        settings=settings,
        layout=layout,
        counted=counted,
        states=states,
        sizes=_sizes(layout, counted),
        files=_files(layout, counted),
        committed=begun.items,
        seconds=_seconds(settings, counted, speed, sum(states.values()), begun, workers),
        speed=speed,
        needs=tuple(_needs(model, layout, counted, speed, states, place, begun, workers)),
        place=place,
    )


@dataclass(frozen=True)
class _Begun:
    """What an earlier run of the same has left: items and bytes committed, and whether all of the corpus is planned."""

    items: int = 0
    size: int = 0
    planned: bool = False


def _begun(folder: Path, corpus: Corpus, model: Model, settings: ResolvedSettings) -> _Begun:
    storage = LocalStorage(folder)
    if not storage.exists(ROOT):
        return _Begun()
    attributes = read_attributes(storage)
    entry = next(reversed(attributes["corpora"]), None)
    if entry is None or not entry["identity"]:
        return _Begun()
    stored = entry["identity"]
    requested = (settings.to_json(), model.identity["weights"])
    if (Settings.from_json(stored["settings"]).to_json(), stored["model"]["weights"]) != requested:
        return _Begun()
    if not same_source(stored["corpus"], corpus.source):
        return _Begun()
    generations = {generation["generation"] for generation in entry["generations"]}
    commits = [
        commit for commit in read_commits(storage, Layout.from_json(attributes)) if commit.generation in generations
    ]
    size = sum(file.size for commit in commits for file in commit.files.values())
    return _Begun(sum(commit.items for commit in commits), size, not entry["more"])


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())


def _sizes(layout: Layout, counted: Counted) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for pooling in dict.fromkeys((*layout.poolings, *SIZED)):
        shards: Sequence[tuple[int, int]] = counted.shards
        if pooling not in layout.poolings:  # how its rows would lie in shards is not known
            shards = [(0, round(counted.total_tokens)) if pooling == "tokens" else (counted.items, 0)]
        found[pooling] = {dtype: array_bytes(layout, pooling, shards, dtype) for dtype in DTYPES}
    return found


def _files(layout: Layout, counted: Counted) -> int:
    """Arrays' shards and metadata, groups, item tables and commits."""
    arrays = sum(len(zarr_shards(layout, pooling, counted.shards)) + 1 for pooling in layout.poolings)
    return len(layout.layers) * arrays + 2 + len(layout.poolings) + 2 * len(counted.shards)


def _seconds(
    settings: ResolvedSettings, counted: Counted, speed: Speed, written: int, begun: _Begun, workers: int
) -> dict[str, float]:
    tokenizing, reading, running = 0.0, 0.0, 0.0
    for modality, one in counted.tokens.items():
        if modality == "text":
            tokenizing += one.all_seconds
            running += sum(number * speed.of_text(length) for length, number in one.lengths.items())
        elif modality in speed.media_seconds:
            reading += one.all_seconds
            running += one.total * speed.media_seconds[modality]
    counts_tokens = tokenizing + reading if "tokens" in settings.poolings else 0.0
    left = 1 - begun.items / counted.items
    found = {"plan": 0.0 if begun.planned else counted.reading + counts_tokens, "model": left * running / workers}
    found |= {"tokenize": left * tokenizing / workers} if tokenizing else {}
    found |= {"read media": left * reading / workers} if reading else {}
    found |= {"write": left * written * speed.write_seconds} if speed.write_seconds is not None else {}
    return found


def _needs(
    model: Model,
    layout: Layout,
    counted: Counted,
    speed: Speed,
    states: Mapping[str, int],
    place: Path | None,
    begun: _Begun,
    workers: int,
) -> list[Need]:
    compressed = COMPRESSED if layout.compressor != "none" else 1
    planned = 0 if begun.planned else counted.spool_bytes + ORDER_BYTES * counted.items
    found = []
    if place is not None:
        needed = max(0, int(sum(states.values()) * compressed) + counted.table_bytes - begun.size) + planned
        free = LocalStorage(place).free_bytes()
        found.append(Need("disk", f"{place}, the plan's {planned / 1e6:,.0f} MB included", needed, free))
    slots = SLOTS * _largest_shard(layout, counted)
    memory = workers * slots + PLANNED_BYTES * counted.items
    model_copies = (
        "the model's weights and a batch in it" if workers == 1 else f"{workers} models' weights and their batches"
    )
    found.append(Need("memory", f"beside {model_copies}", memory, memory_available()))
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # what measuring took and gave back is not free by the driver's account
        free, _ = torch.cuda.mem_get_info(model.device)
        name = torch.cuda.get_device_name(model.device)
        each = name if workers == 1 else f"each of {workers}, as {name}"
        found.append(Need("GPU memory", f"{each}, beside the model's weights", slots + speed.device_bytes, free))
    return found


def _largest_shard(layout: Layout, counted: Counted) -> int:
    row = layout.width * len(layout.layers) * DTYPES[layout.dtype].itemsize
    items = max((count for count, _ in counted.shards), default=0)
    tokens = max((count for _, count in counted.shards), default=0)
    return row * sum(tokens if pooling == "tokens" else items for pooling in layout.poolings)


def memory_available() -> int | None:
    """Bytes that a process may still take, by the system's account."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    named = dict(line.split(":", 1) for line in lines)
    return int(named["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in named else None


def _write_seconds(folder: Path, layout: Layout, refresh: bool) -> float | None:
    """For each byte of a shard; None where the folder takes nothing."""
    named = {"dtype": layout.dtype, "compressor": layout.compressor}
    try:
        disk = MeasurementCache({**machine(), "disk": os.stat(folder).st_dev, **named}, refresh=refresh)
        return disk.value("write", lambda: _write_probe(folder, layout))
    except (OSError, StoreError):
        return None


def _write_probe(folder: Path, layout: Layout) -> float:
    """Seconds for each byte of a shard of made-up rows, written as shards are."""
    rows = max(1, min(layout.shard_rows, PROBE_BYTES // (layout.width * 2 * 8)))
    one = replace(layout, layers=tuple(map(str, range(8))), poolings=("mean",))
    states = torch.randn(8, rows, layout.width, generator=torch.Generator().manual_seed(0)).to(DTYPES[layout.dtype])
    names = [str(number) for number in range(rows)]
    items = pa.table({"id": names, "language": ["en"] * rows, "modality": ["text"] * rows})
    with tempfile.TemporaryDirectory(prefix=".hubstore-probe-", dir=folder) as probe:
        started = time.perf_counter()
        write_shard(LocalStorage(Path(probe)), one, 0, items, {"mean": states})
        return (time.perf_counter() - started) / states.nbytes


def zarr_shards(layout: Layout, pooling: str, shards: Iterable[tuple[int, int]]) -> list[int]:
    """Rows of every Zarr shard of one layer, from items and token rows of the store's shards."""
    found = []
    for items, tokens in shards:
        rows = tokens if pooling == "tokens" else items
        found += [min(layout.shard_rows, rows - start) for start in range(0, rows, layout.shard_rows)]
    return found


def array_bytes(layout: Layout, pooling: str, shards: Iterable[tuple[int, int]], dtype: str | None = None) -> int:
    """Bytes of all layers under one pooling, uncompressed: whole chunks of rows, and each shard's index.

    Args:
        layout: the store's shapes.
        pooling: which one.
        shards: items and token rows of the store's shards.
        dtype: another than the layout's.
    """
    row = layout.width * itemsize(dtype or layout.dtype)
    index = 16 * (layout.shard_rows // layout.chunk_rows) + 4
    pieces = zarr_shards(layout, pooling, shards)
    chunks = sum(-(-rows // layout.chunk_rows) for rows in pieces)
    return len(layout.layers) * (chunks * layout.chunk_rows * row + len(pieces) * index)


def check_disk_space(storage: Storage, layout: Layout, shards: Sequence[PlannedShard]) -> None:
    """StoreError, with the numbers, where the disk has no room for the arrays of `shards`.

    Item tables, indexes and previews come on top: what is refused could not fit whatever they need. The plan's own
    files are on the disk by now, and what is free is free beside them. A corpus of more items than are planned at once
    is seen no further than that, since nothing says how long it is; `hubstore plan` sees all of it. An object store has
    no end.
    """
    sizes = [(shard.stop - shard.start, shard.tokens) for shard in shards]
    needed = sum(array_bytes(layout, pooling, sizes) for pooling in layout.poolings)
    if layout.compressor != "none":
        needed = int(needed * COMPRESSED)
    free = storage.free_bytes()
    if needed <= free:
        return
    items = sum(count for count, _ in sizes)
    each = needed / len(layout.layers)
    fitting = int(free // each)
    fewer = f"{fitting} of the {len(layout.layers)} layers fit (--layers)" if fitting else "not one layer fits"
    raise StoreError(
        f"{storage.root}: {items:,} items x {len(layout.layers)} layers x {layout.width} in {layout.dtype}, pooling "
        f"{', '.join(layout.poolings)}, need {_size(needed)} and the disk has {_size(free)} free; "
        f"{fewer}. Free space, write elsewhere, or ask for fewer layers, poolings or items; `hubstore plan` shows "
        "what each takes, and --ignore-space starts all the same"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
