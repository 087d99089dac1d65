"""Building indexes: train on a seeded sample, add in blocks, publish the description last; later, add what is new."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch

from hubstore.checks import check_count
from hubstore.devices import resolve_device
from hubstore.errors import CorruptStoreError, IndexingError, IndexNotFoundError
from hubstore.files import write_all
from hubstore.index import kinds
from hubstore.index.description import (
    IndexDescription,
    check_file,
    description_key,
    faiss_key,
    grows_from,
    read_description,
    rebuild_command,
    store_commits,
)
from hubstore.index.library import Gpu, faiss, has_gpu
from hubstore.index.rows import Vectors, centered, unwrap, wrap
from hubstore.index.validate import RefusedIndexError, check_index
from hubstore.kernels.rows import unit_rows
from hubstore.storage import FileRecord
from hubstore.store import HiddenStates, StoreReader
from hubstore.system import reason, remedy
from hubstore.version import __version__

BLOCK_ROWS = 8192

Progress = Callable[[str, int, int], None]
"""Called with a layer, its rows indexed so far, and its rows in all."""


@dataclass(frozen=True)
class _Job:
    store: StoreReader
    states: HiddenStates
    kind: str
    requested: str
    seed: int
    device: torch.device
    progress: Progress

    @property
    def rows(self) -> int:
        return self.states.shape[0]

    @property
    def name(self) -> str:
        return f"{self.store.path}, layer {self.states.layer} ({self.states.pooling})"


def build(
    store: StoreReader,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    kind: str = "auto",
    *,
    seed: int = 0,
    rebuild: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[IndexDescription, ...]:
    """Index layers of a store, or bring their indexes up to date.

    Where a layer has an index of the kind whose commits are the store's first ones, only the rows since then are added;
    an IVF index trained on fewer than half of today's rows is trained anew. Of two builds of one layer at one time, the
    later wins or is found out by its checksum.

    Args:
        store: the store.
        layers: which layers; all by default.
        pooling: which pooling; the store's first by default.
        kind: "exact", "hnsw", "ivf", "ivfpq", or "auto": by size, or the kind that was chosen before.
        seed: of the training sample and of FAISS's clustering; an index that only grows keeps its own.
        rebuild: build from nothing whatever there is.
        device: "auto", "cpu" or "cuda"; on a GPU, IVF trains and adds there.
        progress: called after every block.

    Returns:
        One description a layer, in order.

    Raises:
        QueryError: a layer or pooling that is not there.
        IndexingError: an unknown kind, a seed that is none, an empty store, or too few rows for the kind.
        CorruptStoreError: an index that is there is not as it was written, and `rebuild` is not set.
        MissingDependencyError: FAISS is needed and not installed.
        NonFiniteError: a row holds NaN or infinity.
    """
    kinds.check_kind(kind)
    seed = check_count("seed", seed, least=0, most=2**31 - 1, error=IndexingError)  # FAISS has it as an int
    chosen = resolve_device(device)
    return tuple(
        _build_layer(store, store.hidden(layer, pooling), kind, seed, rebuild, chosen, progress or _no_progress)
        for layer in store.layer_names(layers)
    )


def _build_layer(
    store: StoreReader,
    states: HiddenStates,
    requested: str,
    seed: int,
    rebuild: bool,
    device: torch.device,
    progress: Progress,
) -> IndexDescription:
    previous = None if rebuild else _previous(store, states)
    kind = requested
    if requested == "auto":
        by_kind = previous is not None and previous.requested != "auto"
        kind = previous.kind if previous and by_kind else kinds.choose(states.shape[0], device.type == "cuda")
        requested = previous.requested if previous and by_kind else "auto"
    job = _Job(store, states, kind, requested, seed, device, progress)
    if previous and _is_current(job, previous):
        return previous
    if kind == "exact":
        return _publish(job, _describe(job), None)
    _check_rows(job)
    if previous and _can_grow(job, previous):
        return _grow(job, previous)
    return _build_anew(job)


def _previous(store: StoreReader, states: HiddenStates) -> IndexDescription | None:
    try:
        return read_description(store, states.layer, states.pooling)
    except IndexNotFoundError:
        return None


def _is_current(job: _Job, previous: IndexDescription) -> bool:
    same = (previous.kind, previous.requested, previous.commits)
    if same != (job.kind, job.requested, store_commits(job.store)):
        return False
    if previous.kind != "exact":
        check_file(job.store, previous)
    return True


def _can_grow(job: _Job, previous: IndexDescription) -> bool:
    outgrown = (
        job.kind in kinds.IVF_KINDS and previous.trained_rows is not None and job.rows > 2 * previous.trained_rows
    )
    return previous.kind == job.kind and grows_from(job.store, previous) and not outgrown


def _check_rows(job: _Job) -> None:
    needed = 16 if job.kind == "ivfpq" else 1
    if job.rows < needed:
        raise IndexingError(f"{job.name} has {job.rows} rows; {job.kind} needs {needed} to train on. Use --kind exact")


def _grow(job: _Job, previous: IndexDescription) -> IndexDescription:
    try:
        whole = read_faiss(job.store, previous)
    except RefusedIndexError as error:
        raise CorruptStoreError(
            f"the index of {job.name} cannot grow, since it is none that hubstore writes: {error}; build it again: "
            f"{rebuild_command(job.store, previous.layer, previous.pooling)}"
        ) from error
    core, mean = unwrap(whole)
    _add(job, core, mean, start=previous.rows)
    whole.ntotal = core.ntotal
    description = replace(
        _describe(job),
        seed=previous.seed,
        factory=previous.factory,
        parameters=previous.parameters,
        trained_rows=previous.trained_rows,
    )
    return _publish(job, description, whole)


def _build_anew(job: _Job) -> IndexDescription:
    parameters = kinds.parameters(job.kind, job.rows)
    factory = kinds.factory(job.kind, job.rows, job.states.shape[1])
    core = faiss().index_factory(job.states.shape[1], factory, faiss().METRIC_L2)
    if job.kind == "hnsw":
        core.hnsw.efConstruction = parameters["efConstruction"]
        core.hnsw.efSearch = parameters["efSearch"]
        core.hnsw.rng = faiss().RandomGenerator(job.seed)
    else:
        core.nprobe = parameters["nprobe"]
        core.cp.seed = job.seed
    sample, mean = _sample(job)
    gpu = Gpu(job.device) if job.kind in kinds.IVF_KINDS and has_gpu(job.device) else None
    if gpu is not None and job.kind == "ivf":
        on_gpu = gpu.move(core)
        on_gpu.cp.seed = job.seed
        on_gpu.train(sample)
        _add(job, on_gpu, mean)
        core = gpu.fetch(on_gpu)
        core.nprobe = parameters["nprobe"]
    else:
        # FAISS has no fast-scan on the GPU, but the clustering, the long part of its training, can go there.
        clustering = None if gpu is None else gpu.move(faiss().IndexFlatL2(job.states.shape[1]))
        if clustering is not None:
            core.clustering_index = clustering
        core.train(sample)
        if clustering is not None:
            core.clustering_index = None
        _add(job, core, mean)
    description = replace(_describe(job), factory=factory, parameters=parameters, trained_rows=job.rows)
    return _publish(job, description, wrap(core, mean))


def _sample(job: _Job) -> tuple[Vectors, Vectors]:
    """Centered rows to train on [n, width], and the mean [width] that they were centered by."""
    count = kinds.training_rows(job.kind, job.rows)
    drawn = np.random.default_rng(job.seed).choice(job.rows, count, replace=False)
    states = job.states.take(np.sort(drawn))
    name = f"the training sample of {job.name}"
    mean = unit_rows(states, name).mean(dim=0).float().numpy()
    return centered(states, mean, name), mean


def _add(job: _Job, core: Any, mean: Vectors, start: int = 0) -> None:
    for block in range(start, job.rows, BLOCK_ROWS):
        for first, states in job.states.segments(block, min(block + BLOCK_ROWS, job.rows)):
            core.add(centered(states, mean, job.name, first))
        job.progress(job.states.layer, min(block + BLOCK_ROWS, job.rows), job.rows)


def _describe(job: _Job) -> IndexDescription:
    return IndexDescription(
        layer=job.states.layer,
        pooling=job.states.pooling,
        kind=job.kind,
        requested=job.requested,
        rows=job.rows,
        width=job.states.shape[1],
        commits=store_commits(job.store),
        seed=job.seed,
        hubstore=__version__,
    )


def _publish(job: _Job, description: IndexDescription, whole: Any | None) -> IndexDescription:
    """Write file and description under other names, then take the old index back and rename them, the description last.

    On a full disk the old index stays; a build that is killed leaves the old one, the new one, or none.
    """
    storage = job.store.storage
    key = faiss_key(job.states.pooling, job.states.layer)
    described = description_key(job.states.pooling, job.states.layer)
    unique = uuid.uuid4().hex  # two may build at once
    with storage.scratch(f"{key}.{unique}") as file, storage.scratch(f"{described}.{unique}") as description_file:
        if whole is not None:
            record = write_durably(file, lambda write: faiss().write_index(whole, faiss().PyCallbackIOWriter(write)))
            description = replace(description, faiss=faiss().__version__, file=record)
        write_durably(description_file, lambda write: write(description.encode()))
        # An upload takes long, and can fail: until it is done, the old index stays.
        if storage.is_local or whole is None:
            storage.delete(described)
        if whole is None:
            storage.delete(key)
        else:
            storage.put_file(key, file)
        storage.put_file(described, description_file)
    return description


def write_durably(path: Path, make: Callable[[Callable[[bytes], None]], object]) -> FileRecord:
    """Write a file that `make` passes on piece by piece; its size and CRC32C, of what the disk has taken.

    Raises:
        IndexingError: the disk is full or broken.
    """
    size = checksum = 0

    def write(data: bytes) -> None:
        nonlocal size, checksum
        write_all(descriptor, data)
        size, checksum = size + len(data), google_crc32c.extend(checksum, data)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            make(write)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise IndexingError(
            f"{path.parent}: the index could not be written there ({reason(error)}); {remedy(error)} and run the same "
            "command again. An index that was there stays"
        ) from error
    return FileRecord(size, checksum)


def read_faiss(store: StoreReader, description: IndexDescription, *, mapped: bool = False) -> Any:
    """The FAISS index of a description, wrapped as in its file.

    `mapped`, it is to be searched only: its rows and links stay in the file, and are read where a search goes.

    Raises:
        CorruptStoreError: the file is not as it was written.
        RefusedIndexError: it is no index that hubstore writes, or none that this FAISS reads.
    """
    check_file(store, description)
    key = faiss_key(description.pooling, description.layer)
    check_index(store.storage.map(key), description)
    path = store.storage.local(key)
    try:
        return faiss().read_index(str(path), faiss().IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise RefusedIndexError(f"this FAISS does not read it: {error}") from error


def _no_progress(layer: str, done: int, total: int) -> None:
    """Say nothing."""
