"""Pictures and sounds on their way to the model: read, decoded and processed by other processes, ahead of need."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, Final

import pyarrow as pa
import torch
import torch.multiprocessing  # tensors then go between processes through shared memory

from hubstore.corpus import Media
from hubstore.corpus.media import open_image, open_sound
from hubstore.corpus.previews import clip, thumbnail
from hubstore.errors import CorpusError, HubstoreError
from hubstore.extraction.settings import Settings
from hubstore.models import MediaInputs, MediaReader, Model

CHUNK: Final = 32
"""Items that a process reads at once."""

ALIGNED: Final = 16
"""Bytes to whose multiples tensors are laid in shared memory."""

MOST_PROCESSES: Final = 16

BESIDE: Final = 2
"""Cores that are left to the process that feeds the model."""

FEW: Final = 256
"""Items that are read here before other processes are started: it takes as long to start them."""


@dataclass(frozen=True)
class Task:
    """How items are read.

    Args:
        readers: by modality.
        template: the prompt around a medium.
        previews: whether to make a thumbnail or a clip of each.
    """

    readers: Mapping[str, MediaReader]
    template: str
    previews: bool = False


@dataclass(frozen=True)
class ReadItem:
    """One picture or sound, read; or the error that kept it from being read."""

    inputs: MediaInputs | None = None
    preview: bytes | None = None
    error: HubstoreError | None = None


def media_task(model: Model, settings: Settings) -> Task:
    """How the model's pictures and sounds are read."""
    readers = {modality: adapter.reader for modality, adapter in model.adapters.items()}
    return Task(readers, settings.media_template, settings.previews)


def read_item(task: Task, modality: str, media: Media, text: str, name: str) -> ReadItem:
    """Decode a medium and make the model's arguments of it.

    Args:
        task: how.
        modality: "image" or "audio".
        media: what to decode.
        text: beside it.
        name: the item's id, for messages.
    """
    reader = task.readers[modality]
    preview = None
    try:
        if modality == "image":
            image = open_image(media)
            preview = thumbnail(image) if task.previews else None
            return ReadItem(reader.read(image, task.template, text), preview)
        samples = open_sound(media, reader.rate)
        preview = clip(samples, reader.rate) if task.previews else None
        return ReadItem(reader.read(samples, task.template, text), preview)
    except HubstoreError as error:
        return ReadItem(error=error)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:  # a processor that cannot take this medium
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return ReadItem(
            error=CorpusError(f"item {name!r}: {media.name} cannot be made into the model's input: {why}; leave it out")
        )


def read_rows(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[ReadItem]:
    """Read items given as rows of ITEM_SCHEMA."""
    return [read_item(task, row["modality"], Media(row["media"], row["data"]), row["text"], row["id"]) for row in rows]


class MediaFeed:
    """Reads items in order, with other processes where there are any.

    Args:
        task: how.
        processes: beside this one; 0 to read here.
    """

    def __init__(self, task: Task, processes: int) -> None:
        self._task = task
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._seen = 0

    def __enter__(self) -> MediaFeed:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, tables: Iterator[pa.Table]) -> Iterator[ReadItem]:
        """Each item of the tables, in order; the tables are taken as there is room for them."""
        waiting: deque[Future[_Packed]] = deque()
        for table in tables:
            self._seen += len(table)
            if not self._processes or self._seen <= FEW:
                yield from read_rows(self._task, table.to_pylist())
                continue
            waiting.append(self._started().submit(_read, table.to_pylist()))
            if len(waiting) > 2 * self._processes:
                yield from _unpacked(waiting.popleft().result())
        while waiting:
            yield from _unpacked(waiting.popleft().result())

    def _started(self) -> ProcessPoolExecutor:
        """The processes: copies of one that has imported what they need, and knows nothing of a GPU."""
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=_begin, initargs=(self._task,))
        return self._pool


def processes_for(device: torch.device, asked: int | None) -> int:
    """Processes that read media beside the model: none on a CPU, which the model keeps busy by itself."""
    if asked is not None:
        return asked
    return 0 if device.type == "cpu" else max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) - BESIDE))


_Place = tuple[str, torch.dtype, tuple[int, ...], int]  # name, dtype, shape, first byte


@dataclass(frozen=True)
class _Packed:
    """Read items with all their tensors in one piece of memory: each piece costs a file descriptor."""

    memory: torch.Tensor
    items: list[tuple[ReadItem, list[_Place]]]


_task: Task


def _begin(task: Task) -> None:
    """A reading process: one thread, deaf to Ctrl-C, and gone when the process that reads for is."""
    global _task  # noqa: PLW0603 - what a pool's process knows, it is told once
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)


def _read(rows: Sequence[Mapping[str, Any]]) -> _Packed:
    return _packed(read_rows(_task, rows))


def _packed(items: Sequence[ReadItem]) -> _Packed:
    parts: list[torch.Tensor] = []
    packed: list[tuple[ReadItem, list[_Place]]] = []
    size = 0
    for item in items:
        places: list[_Place] = []
        for name, tensor in (item.inputs.tensors if item.inputs else {}).items():
            flat = tensor.contiguous().reshape(-1).view(torch.uint8)
            places.append((name, tensor.dtype, tuple(tensor.shape), size))
            parts += [flat, torch.zeros(-len(flat) % ALIGNED, dtype=torch.uint8)]
            size += len(flat) + len(parts[-1])
        bare = replace(item, inputs=replace(item.inputs, tensors={})) if item.inputs else item
        packed.append((bare, places))
    return _Packed(torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8), packed)


def _unpacked(packed: _Packed) -> Iterator[ReadItem]:
    for item, places in packed.items:
        if item.inputs is None:
            yield item
            continue
        tensors = {
            name: packed.memory[start : start + dtype.itemsize * torch.Size(shape).numel()].view(dtype).view(shape)
            for name, dtype, shape, start in places
        }
        yield replace(item, inputs=replace(item.inputs, tensors=tensors))
