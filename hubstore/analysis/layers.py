"""One analysis of many layers: in which order, on how many threads or processes, and how far it is.

What is found in a layer depends on no other layer. So threads, processes of this host or those of others may take the
layers, and the rows, joined in the order of the layers, are the same to the byte.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from hubstore.analysis.results import Findings, Row
from hubstore.checks import check_count
from hubstore.devices import current
from hubstore.errors import AnalysisError
from hubstore.kernels.cpu.threads import single_threads
from hubstore.storage.location import Location
from hubstore.store import StoreReader
from hubstore.system import starting_processes

Progress = Callable[[int, int], None]
SMALL = 1 << 20  # elements of a layer of a partition


@dataclass(frozen=True)
class Prepared:
    """An analysis that is ready to be made of one layer after another.

    Args:
        find: the rows of a layer.
        notes: what is known before the first: pairs that were skipped.
    """

    find: Callable[[str], list[Row]]
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class LayerTask:
    """An analysis as it is sent to a process: `prepare` is a function at the top of a module.

    Args:
        prepare: what makes it ready, from the store, a device and `parameters`.
        parameters: of the analysis.
        columns: of its own and their types.
        device: where to compute.
    """

    prepare: Callable[[StoreReader, torch.device, Mapping[str, Any]], Prepared]
    parameters: Mapping[str, Any]
    columns: Mapping[str, Any]
    device: torch.device

    def of(self, store: StoreReader) -> Callable[[str], list[Row]]:
        """What gives the rows of a layer, in any process that has opened the store."""
        column = self.parameters.get("partition_by")
        return self.prepare(
            store if column is None else store.partitioned_by(column), self.device, self.parameters
        ).find


LayerMap = Callable[[Sequence[str]], Iterator[list[Row]]]
"""Gives the rows of each layer, in their order."""

Executor = Callable[[StoreReader, LayerTask], contextlib.AbstractContextManager[LayerMap]]
"""How others share the layers of an analysis."""


def over_layers(
    store: StoreReader, task: LayerTask, progress: Progress | None = None, jobs: int | Executor = 1
) -> Findings:
    """What an analysis finds in each of its layers, in their order.

    Operations on small partitions cost less than waking a second thread for each, and on a busy machine waiting
    for it has been seen to cost ten times the work. So where partitions are small each thread takes whole layers.
    A GPU, which works them off in one queue, is given one after another.

    Args:
        store: the store.
        parts: the analysis.
        progress: called with layers done and layers in all.
        jobs: processes of this host that share the layers, each of which opens the store for itself; or who else does.

    Raises:
        AnalysisError: fewer than one job, a process that was killed, or what the analysis refuses.
    """
    if not callable(jobs):
        jobs = check_count("jobs", jobs, of="processes", error=AnalysisError)
    prepared = task.prepare(store, task.device, task.parameters)
    layers: Sequence[str] = task.parameters["layers"]
    rows: list[Row] = []
    if not isinstance(jobs, int):
        mapping = jobs(store, task)
    elif min(jobs, len(layers)) > 1:
        mapping = _processes(store, task, min(jobs, len(layers)))
    else:
        small = task.device.type == "cpu" and len(store) * store.width < SMALL * len(store.partitions)
        mapping = _threads(small, prepared.find)
    with current(task.device), mapping as mapped:
        for done, found in enumerate(mapped(layers), 1):
            rows += found
            if progress:
                progress(done, len(layers))
    return Findings(task.columns, rows, dict(prepared.notes))


@contextlib.contextmanager
def _threads(small: bool, find: Callable[[str], list[Row]]) -> Iterator[LayerMap]:
    """`find` of each layer, on as many threads as torch has where `small`, each of which is torch's only one then."""
    if not small:
        yield lambda layers: map(find, layers)
        return
    with single_threads(torch.get_num_threads()) as pool:
        yield lambda layers: pool.map(find, layers)


@contextlib.contextmanager
def _processes(store: StoreReader, task: LayerTask, jobs: int) -> Iterator[LayerMap]:
    """The same by processes, each with its share of torch's threads: copies of one that has imported what they need."""
    threads = max(1, torch.get_num_threads() // jobs)
    arguments = (store.path, store.digest, task, threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, task.prepare.__module__])
    with starting_processes("ask for one of --jobs"):
        made = ProcessPoolExecutor(jobs, context, _begin, arguments)
    with made as pool:
        try:
            yield lambda layers: pool.map(_find, layers)
        except BrokenProcessPool as error:
            raise AnalysisError(
                f"{store.path}: a process of the analysis was killed, for want of memory perhaps; ask for fewer --jobs"
            ) from error


_task: list[tuple[Location, str, LayerTask]] = []
"""In a process that shares the layers: the store, its digest, and the analysis."""


def _begin(path: Location, digest: str, task: LayerTask, threads: int) -> None:
    torch.set_num_threads(threads)
    _task.append((path, digest, task))


@functools.cache
def _ready() -> Callable[[str], list[Row]]:
    """Opens the store when the first layer is asked for, so that what is wrong with it is raised there."""
    ((path, digest, task),) = _task
    store = StoreReader(path)
    if store.digest != digest:
        raise AnalysisError(f"{path} was written to while it was analyzed; run the analysis again")
    return task.of(store)


def _find(layer: str) -> list[Row]:
    return _ready()(layer)
