"""The processes that read items for a model, beside it and ahead of need: what they can do, and what they are sent."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.extraction.settings import ResolvedSettings, media_task
from hubstore.media.reading import read_portion
from hubstore.models import Model
from hubstore.reading.layout import lay_out_batches
from hubstore.reading.processes import Job, Nursery, ReadingProcesses, Work
from hubstore.reading.texts import TOKENIZED

AT_ONCE: Final = {"text": TOKENIZED, "image": 16, "audio": 16}
"""Items of a modality that a process reads at once."""

PORTION_BYTES: Final = 32 << 20
"""Of texts or encoded files that a process is sent at once, unless one alone has more."""

FEW: Final = 16
"""As many portions are read here before it pays to start processes for them."""

MOST_PROCESSES: Final = 16

RESERVED_CORES: Final = 2
"""Cores that are left to the process that runs the model."""

MEDIA_MODULES: Final = ("hubstore.media.reading", "transformers.processing_utils")
"""What processes that read media import, which takes them seconds, where texts take a tenth of one."""

Processes = int | Nursery | None
"""How many processes read items; those that were started already; None to choose by the device."""

TOKENIZE, LAY_OUT, READ = "tokenize", "lay_out", "read"


def processes_for(device: torch.device, requested: Processes, devices: int = 1) -> int:
    """Processes that read for a model: none beside a CPU, which the model keeps busy by itself.

    Args:
        device: the model's.
        requested: by the user; None to choose.
        devices: of this host that share its cores.
    """
    if requested is not None:
        return requested.processes if isinstance(requested, Nursery) else requested
    cores = len(os.sched_getaffinity(0)) // devices - RESERVED_CORES
    return 0 if device.type == "cpu" else max(1, min(MOST_PROCESSES, cores))


@contextlib.contextmanager
def media_ahead(device: torch.device, requested: Processes, *, reads_media: bool) -> Iterator[Processes]:
    """Start the processes for media while the model is loaded, checked and planned for: they import meanwhile.

    Args:
        device: the model's.
        requested: as of `processes_for`.
        reads_media: whether the model does; else nothing is started.

    Yields:
        What was requested, or what was started.
    """
    count = 0 if isinstance(requested, Nursery) else processes_for(device, requested)
    nursery = None
    if reads_media and count:
        with contextlib.suppress(OSError):  # a system without processes: told of when they are needed
            nursery = Nursery.start(count, MEDIA_MODULES)
    try:
        yield nursery or requested
    finally:
        if nursery is not None:
            nursery.close()


def reading_processes(
    model: Model, settings: ResolvedSettings, modalities: Iterable[str], processes: Processes
) -> ReadingProcesses:
    """Processes that read items of these modalities as the model does; they are yet to be started."""
    nursery = processes if isinstance(processes, Nursery) else None
    work: Work = {}
    modalities = set(modalities)
    if "text" in modalities:
        reader = model.text_reader(settings.max_tokens, settings.template)
        work = {TOKENIZE: reader.read_rows, LAY_OUT: functools.partial(lay_out_batches, model.text_layout)}
    if model.adapters.keys() & modalities:
        work = {**work, READ: functools.partial(read_portion, media_task(model, settings))}
    return ReadingProcesses(work, processes_for(model.device, processes), nursery)


def start_for(readers: ReadingProcesses, items: Iterable[tuple[str, int]]) -> None:
    """Start the processes where there are items enough, given by modality."""
    if sum(count / AT_ONCE[modality] for modality, count in items) > FEW:
        readers.start()


def submit_items(
    readers: ReadingProcesses,
    modality: str,
    sizes: npt.NDArray[np.int64],
    rows: Callable[[int, int], pa.Table],
    name: Callable[[int], str],
) -> list[Job]:
    """Have items of one modality read.

    Args:
        readers: by whom.
        modality: of all the items.
        sizes: int64 [items], in bytes.
        rows: gives items [start, stop), when they are about to be read.
        name: gives an item's id.

    Returns:
        Jobs, in the items' order: of `TokenizedTexts`, or of `ReadItems`.
    """
    kind = TOKENIZE if modality == "text" else READ
    return [
        readers.submit(kind, functools.partial(_serialized, rows, start, stop), functools.partial(name, start))
        for start, stop in _portions(sizes, AT_ONCE[modality])
    ]


def _serialized(rows: Callable[[int, int], pa.Table], start: int, stop: int) -> tuple[pa.Buffer, pa.Schema]:
    table = rows(start, stop)
    (batch,) = table.combine_chunks().to_batches()
    return batch.serialize(), table.schema


def _portions(sizes: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most so many items and `PORTION_BYTES`, of one item at least."""
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + PORTION_BYTES, side="right"))
        stop = min(max(fitting, start + 1), start + most, len(ends))
        yield start, stop
        start = stop
