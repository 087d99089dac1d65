"""One analysis of many layers: in which order, on how many threads or processes, and how far it is.

A layer is a part: what is found in it depends on nothing that another was found in. So parts may be taken by threads,
by processes of this host or by those of others, and joined in the order of the layers they are the same to the byte.
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
class Parts:
    """An analysis as a process can be told of it: `prepare` is a function at the top of a module.

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
        return self.prepare(store, self.device, self.parameters).find


Mapped = Callable[[Sequence[str]], Iterator[list[Row]]]
"""Gives the rows of each layer, in their order."""

Share = Callable[[StoreReader, Parts], contextlib.AbstractContextManager[Mapped]]
"""How others share the layers of an analysis."""


def over_layers(store: StoreReader, parts: Parts, progress: Progress | None = None, jobs: int | Share = 1) -> Findings:
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
    prepared = parts.prepare(store, parts.device, parts.parameters)
    layers: Sequence[str] = parts.parameters["layers"]
    rows: list[Row] = []
    if not isinstance(jobs, int):
        mapping = jobs(store, parts)
    elif min(jobs, len(layers)) > 1:
        mapping = _processes(store, parts, min(jobs, len(layers)))
    else:
        small = parts.device.type == "cpu" and len(store) * store.width < SMALL * len(store.partitions)
        mapping = _threads(small, prepared.find)
    with current(parts.device), mapping as mapped:
        for done, found in enumerate(mapped(layers), 1):
            rows += found
            if progress:
                progress(done, len(layers))
    return Findings(parts.columns, rows, dict(prepared.notes))


@contextlib.contextmanager
def _threads(small: bool, find: Callable[[str], list[Row]]) -> Iterator[Mapped]:
    """`find` of each layer, on as many threads as torch has where `small`, each of which is torch's only one then."""
    if not small:
        yield lambda layers: map(find, layers)
        return
    with single_threads(torch.get_num_threads()) as pool:
        yield lambda layers: pool.map(find, layers)


@contextlib.contextmanager
def _processes(store: StoreReader, parts: Parts, jobs: int) -> Iterator[Mapped]:
    """The same by processes, each with its share of torch's threads: copies of one that has imported what they need."""
    threads = max(1, torch.get_num_threads() // jobs)
    told = (store.path, store.digest, parts, threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, parts.prepare.__module__])
    with ProcessPoolExecutor(jobs, context, _begin, told) as pool:
        try:
            yield lambda layers: pool.map(_find, layers)
        except BrokenProcessPool as error:
            raise AnalysisError(
                f"{store.path}: a process of the analysis was killed, for want of memory perhaps; ask for fewer --jobs"
            ) from error


_told: list[tuple[Location, str, Parts]] = []
"""In a process that shares the layers: the store, its digest, and the analysis."""


def _begin(path: Location, digest: str, parts: Parts, threads: int) -> None:
    torch.set_num_threads(threads)
    _told.append((path, digest, parts))


@functools.cache
def _ready() -> Callable[[str], list[Row]]:
    """Opens the store when the first layer is asked for, so that what is wrong with it is raised there."""
    ((path, digest, parts),) = _told
    store = StoreReader(path)
    if store.digest != digest:
        raise AnalysisError(f"{path} was written to while it was analyzed; run the analysis again")
    return parts.of(store)


def _find(layer: str) -> list[Row]:
    return _ready()(layer)
