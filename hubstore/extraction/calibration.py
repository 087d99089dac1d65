"""How fast this machine is, measured in a few seconds: the model on full batches, and a shard on its way to the disk.

What was measured is kept in the user's cache, by machine, model and settings, and measured again when asked.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hubstore.errors import StoreError
from hubstore.extraction.settings import Settings
from hubstore.forward import Batching, HostBatch, collate, collate_media
from hubstore.forward.capture import Capture
from hubstore.measurements import MeasurementCache, machine
from hubstore.media import MediaInputs
from hubstore.models import Model
from hubstore.storage import LocalStorage
from hubstore.store import DTYPES, Layout, write_shard

LENGTHS = tuple(2**n for n in range(3, 21))
"""Lengths of texts, in tokens, at which the model is measured; between them it is interpolated."""

SECONDS = 0.3
"""How long the model runs at each length; its fastest batch counts."""

PROBE_BYTES = 64 << 20
"""Of the shard that is written, and removed, to measure the disk."""


@dataclass(frozen=True)
class Speed:
    """What this machine was measured to do.

    Args:
        token_seconds: by length in tokens, of the model for each token of full batches of texts so long.
        media_seconds: by modality, of the model for each token of pictures or sounds.
        device_bytes: of the GPU beside the model's weights, at most, while it did.
        write_seconds: for each byte of a shard, checked, written, synced and committed; None where nothing is written,
            or nothing may be.
    """

    token_seconds: Mapping[int, float]
    media_seconds: Mapping[str, float]
    device_bytes: int
    write_seconds: float | None

    def of_text(self, length: int) -> float:
        """Seconds of the model for one text of so many tokens."""
        known = sorted(self.token_seconds)
        rates = [self.token_seconds[one] for one in known]
        return length * float(np.interp(np.log2(max(length, 1)), np.log2(known), rates))


def measured_speed(
    model: Model,
    settings: Settings,
    texts: Sequence[Sequence[int]],
    longest: int,
    media: Mapping[str, Sequence[MediaInputs]],
    folder: Path | None,
    *,
    refresh: bool,
) -> Speed:
    """The machine's speed, from the cache where it is there; that of pictures and sounds is always measured.

    Args:
        model: on its device.
        settings: resolved.
        texts: token ids of some texts; none where there are none.
        longest: tokens of the longest text that there will be.
        media: by modality, some pictures or sounds.
        folder: on the disk that the store will be on; None where it will not be on one.
        refresh: measure whatever the cache has.
    """
    token_seconds: dict[int, float] = {}
    device_bytes = [0.0]
    run = _timer(model, settings)
    if texts:
        cache = MeasurementCache(_model_key(model, settings), refresh=refresh)
        wanted = list(itertools.takewhile(lambda length: length < 2 * longest, LENGTHS)) or [LENGTHS[0]]
        wanted = sorted({min(length, settings.max_tokens or length) for length in wanted})

        def run_texts(length: int) -> _Run:
            return run(_text_batch(model, settings, texts, length))

        def seconds_of(length: int) -> float:
            return run_texts(length).token_seconds

        for length in wanted:
            token_seconds[length] = cache.value(str(length), functools.partial(seconds_of, length))
        most = cache.value(f"device_bytes {wanted[-1]}", lambda: run_texts(wanted[-1]).device_bytes)
        device_bytes.append(most)
    of_media = {name: run(_media_batch(model, settings, name, items)) for name, items in media.items()}
    device_bytes += [one.device_bytes for one in of_media.values()]
    media_seconds = {modality: one.token_seconds for modality, one in of_media.items()}
    write_seconds = None if folder is None else _write_seconds(folder, settings.layout(model.width), refresh)
    return Speed(token_seconds, media_seconds, int(max(device_bytes)), write_seconds)


@dataclass(frozen=True)
class _Run:
    """Seconds of the model for each token of a batch, and bytes of the GPU that it took beside what was there."""

    token_seconds: float
    device_bytes: float


def _timer(model: Model, settings: Settings) -> Callable[[HostBatch], _Run]:
    """A function that measures a batch."""
    capture = Capture(model, settings.layers, settings.poolings, DTYPES[settings.dtype])
    fewest = 3 if model.device.type == "cuda" else 1  # a GPU's first run of a shape takes long

    def run(batch: HostBatch) -> _Run:
        times: list[float] = []
        with _most_on(model.device) as most:
            while sum(times) < SECONDS or len(times) < fewest:
                started = time.perf_counter()
                _run_once(capture, batch)
                times.append(time.perf_counter() - started)
        return _Run(min(times) / batch.tokens, most())

    return run


def _run_once(capture: Capture, batch: HostBatch) -> None:
    capture.run(batch.to(capture.model.device))
    if capture.model.device.type == "cuda":
        torch.cuda.synchronize(capture.model.device)


@contextlib.contextmanager
def _most_on(device: torch.device) -> Iterator[Callable[[], int]]:
    """How many bytes of a GPU were taken at most meanwhile, beside those that were taken before."""
    if device.type != "cuda":
        yield lambda: 0
        return
    torch.cuda.reset_peak_memory_stats(device)  # else loading the model counts, and whatever ran before
    before = torch.cuda.memory_allocated(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before


def _text_batch(model: Model, settings: Settings, texts: Sequence[Sequence[int]], length: int) -> HostBatch:
    """A full batch of texts of `length` tokens."""
    assert settings.batch_tokens is not None
    room = settings.batch_tokens
    how = Batching("packed", first_position=0) if settings.batching == "packed" else Batching("padded")
    endless = itertools.cycle(itertools.chain.from_iterable(texts))
    items = [list(itertools.islice(endless, length)) for _ in range(max(1, room // length))]
    return collate(model, items, how, room)


def _media_batch(model: Model, settings: Settings, modality: str, items: Sequence[MediaInputs]) -> HostBatch:
    """A full batch, or as many as there are, of pictures or sounds as long as the first."""
    assert settings.media_tokens is not None
    lengths = [model.adapters[modality].length_of(item) for item in items]
    alike = [item for item, length in zip(items, lengths, strict=True) if length == lengths[0]]
    return collate_media(model, modality, alike[: max(1, settings.media_tokens // lengths[0])])


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


def _model_key(model: Model, settings: Settings) -> dict[str, Any]:
    device = model.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    asked = {name: getattr(settings, name) for name in ("layers", "poolings", "dtype", "batch_tokens", "batching")}
    named = {name: model.identity.get(name) for name in ("weights", "dtype", "attention", "stack")}
    return {**machine(), "gpu": gpu, "model": named, "settings": asked}
