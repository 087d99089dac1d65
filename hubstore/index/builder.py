"""Building indexes: train on a seeded sample, add in blocks, measure, publish the description last; later, add what is
new."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hubstore.devices import resolve_device
from hubstore.errors import CorruptStoreError, IndexingError, IndexNotFoundError
from hubstore.index import kinds
from hubstore.index.candidates import CandidateSource, InFile, InMemory
from hubstore.index.description import (
    IndexDescription,
    check_file,
    grows_from,
    read_description,
    rebuild_of,
    store_commits,
)
from hubstore.index.exact import LayerRows
from hubstore.index.layer import open_index
from hubstore.index.library import Gpu, faiss, has_gpu
from hubstore.index.listfile import ListFile, write_list_file
from hubstore.index.means import CenteredStates
from hubstore.index.opening import open_list_file, open_lists, read_faiss
from hubstore.index.rows import Vectors, centered, unwrap, wrap
from hubstore.index.runs import Lists, Training, Workspace, encoded_runs, workspace
from hubstore.index.samples import Sample, centered_sample, drawn, train_lists
from hubstore.index.tuning import RECALL, MeasuredRows, is_measured, with_settings
from hubstore.index.validate import Head, RefusedIndexError
from hubstore.index.writing import Write, Writer, faiss_writer, write_durably
from hubstore.options import IndexOptions, refuse_others, take
from hubstore.storage import FileRecord
from hubstore.store import StoreReader
from hubstore.store.layout import INDEX
from hubstore.version import __version__

BLOCK_ROWS = 8192

Progress = Callable[[str, int, int], None]
"""Called with a layer, its rows indexed so far, and its rows in all."""


@dataclass(frozen=True)
class _Job:
    store: StoreReader
    states: LayerRows
    kind: str
    requested: str
    options: IndexOptions
    device: torch.device
    progress: Progress
    recall: float = RECALL

    @property
    def rows(self) -> int:
        return self.states.shape[0]

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def sample(self) -> Sample:
        return Sample(self.kind, self.seed, f"the training sample of {self.name}")

    @property
    def name(self) -> str:
        return f"{self.store.path}, layer {self.states.layer} ({self.states.pooling})"


def build(
    store: StoreReader,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    kind: str = "auto",
    *,
    options: IndexOptions | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **named: Any,
) -> tuple[IndexDescription, ...]:
    """Index layers of a store, or bring their indexes up to date.

    Where a layer has an index of the kind whose commits are the store's first ones, only the rows since then are added;
    an IVF index trained on fewer than half of today's rows is trained anew. Of two builds of one layer at one time, the
    later wins or is found out by its checksum; of kind ivfrabitq only one is let in, and one that was killed goes on
    when it is run again.

    Args:
        store: the store.
        layers: which layers; all by default.
        pooling: which pooling; the store's first by default.
        kind: one of `KINDS`, or "auto": by size, or the kind that was chosen before.
        options: how to build; its fields may be given by name too. An index that only grows keeps its seed; another
            recall chooses anew how hard it is to be searched.
        device: "auto", "cpu" or "cuda"; on a GPU, IVF trains and adds there.
        progress: called after every block.
        named: fields of `IndexOptions`.

    Returns:
        One description a layer, in order.

    Raises:
        QueryError: a layer or pooling that is not there.
        IndexingError: an unknown kind, a seed or a recall that is none, an empty store, too few rows for the kind, or
            another process that builds the same.
        CorruptStoreError: an index that is there is not as it was written, and `rebuild` is not set.
        MissingDependencyError: FAISS is needed and not installed.
        NonFiniteError: a row holds NaN or infinity.
    """
    options = take(IndexOptions, named, options)
    refuse_others("build", named)
    kinds.check_kind(kind)
    if options.centered and kind not in ("auto", "exact", *kinds.IN_FILE):
        raise IndexingError(f"an index of centered rows is exact or {', '.join(kinds.IN_FILE)}, not {kind}")
    report, chosen = progress or _no_progress, resolve_device(device)
    built = []
    for layer in store.layer_names(layers):
        job = _Job(store, store.hidden(layer, pooling), kind, kind, options, chosen, report)
        previous = _previous(job)
        built.append(_build_layer(_aiming(job, previous), None if options.rebuild else previous))
    return tuple(built)


def _build_layer(job: _Job, previous: IndexDescription | None) -> IndexDescription:
    if job.kind == "auto" and previous and previous.requested != "auto":
        job = replace(job, kind=previous.kind, requested=previous.requested)
    elif job.kind == "auto":
        job = replace(job, kind=_chosen(job))
    if previous and _is_current(job, previous):
        if is_measured(previous, job.recall) or (again := _measured_again(job, previous)) is None:
            return previous
        return again
    if job.kind == "exact":
        return _publish(job, _describe(job), None)
    if job.options.centered:
        job = replace(job, states=CenteredStates(job.store, job.store.hidden(job.states.layer, job.states.pooling)))
    _check_rows(job)
    grows = previous if previous and _can_grow(job, previous) else None
    if job.kind in kinds.IN_FILE:
        return _build_lists(job, grows)
    return _build_anew(job) if grows is None else _grow(job, grows)


def _aiming(job: _Job, previous: IndexDescription | None) -> _Job:
    """The job with the recall that was asked for: now, or when the index was built before."""
    if job.options.recall is not None:
        return replace(job, recall=job.options.recall)
    return replace(job, recall=previous.recall.target) if previous and previous.recall else job


def _chosen(job: _Job) -> str:
    kind = kinds.choose(job.rows, job.device.type == "cuda")
    return kind if not job.options.centered or kind == "exact" else kinds.IN_FILE[0]


def _previous(job: _Job) -> IndexDescription | None:
    try:
        return read_description(job.store, job.states.layer, job.states.pooling, centered=job.options.centered)
    except IndexNotFoundError:
        return None
    except CorruptStoreError:
        if job.options.rebuild:
            return None
        raise


def _is_current(job: _Job, previous: IndexDescription) -> bool:
    same = (previous.kind, previous.requested, previous.commits)
    if same != (job.kind, job.requested, store_commits(job.store)):
        return False
    if previous.kind != "exact":
        check_file(job.store, previous)
    return True


def _measured_again(job: _Job, previous: IndexDescription) -> IndexDescription | None:
    """The index as it is, with how hard it is to be searched chosen anew; None where that is nothing else."""
    index = open_index(job.store, previous, torch.device("cpu"))
    if index.source is None:
        return None
    described = _tuned(replace(job, states=index.states), previous, index.source)
    if described == previous:
        return None
    job.store.storage.write(f"{described.folder}/{INDEX}", described.encode())
    return described


def _can_grow(job: _Job, previous: IndexDescription) -> bool:
    outgrown = (
        job.kind in kinds.IVF_KINDS and previous.trained_rows is not None and job.rows > 2 * previous.trained_rows
    )
    # With new rows a partition has another mean, and all of its rows other codes.
    return previous.kind == job.kind and grows_from(job.store, previous) and not outgrown and previous.centered is None


def _check_rows(job: _Job) -> None:
    needed = 16 if job.kind in kinds.CODED else 1
    if job.rows < needed:
        raise IndexingError(f"{job.name} has {job.rows} rows; {job.kind} needs {needed} to train on. Use --kind exact")


def _grow(job: _Job, previous: IndexDescription) -> IndexDescription:
    try:
        whole = read_faiss(job.store, previous)
    except RefusedIndexError as error:
        raise _cannot_grow(job, previous, error) from error
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
    return _publish(job, _tuned(job, description, InMemory(job.kind, core, mean)), faiss_writer(whole))


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
    sample, mean = centered_sample(job.states, job.sample)
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
    return _publish(job, _tuned(job, description, InMemory(job.kind, core, mean)), faiss_writer(wrap(core, mean)))


def _build_lists(job: _Job, previous: IndexDescription | None) -> IndexDescription:
    """An index whose lists are written to the disk as they are made, anew or grown from `previous`."""
    description = replace(
        _describe(job),
        seed=previous.seed if previous else job.seed,
        factory=previous.factory if previous else kinds.factory(job.kind, job.rows, job.states.shape[1]),
        parameters=previous.parameters if previous else kinds.parameters(job.kind, job.rows),
        trained_rows=previous.trained_rows if previous else job.rows,
    )
    older = _older_lists(job, previous) if previous else None
    first = previous.rows if previous else 0
    with _workspace(job, description, first) as place:
        training = (
            place.training(
                lambda: train_lists(job.states, job.sample, job.device),
                kinds.list_count(job.rows),
                job.states.shape[1],
            )
            if older is None
            else _training_of(older.head)
        )
        core, runs = encoded_runs(place, training, job.states, job.name, job.device, _Rising(job), first)
        lists = Lists(core, runs, older)
        means = job.states.means if isinstance(job.states, CenteredStates) else np.empty((0, job.states.shape[1]))

        def write(write: Write) -> FileRecord:
            return write_list_file(write, core, (training.mean, training.rotation), lists.sizes, means, lists.blocks)

        return _publish(job, description, write)


def _older_lists(job: _Job, previous: IndexDescription) -> ListFile:
    check_file(job.store, previous)
    try:
        return open_lists(job.store, previous)
    except RefusedIndexError as error:
        raise _cannot_grow(job, previous, error) from error


def _cannot_grow(job: _Job, previous: IndexDescription, error: RefusedIndexError) -> CorruptStoreError:
    return CorruptStoreError(
        f"the index of {job.name} cannot grow, since it is none that hubstore writes: {error}; build it again: "
        f"{rebuild_of(job.store, previous)}"
    )


def _workspace(job: _Job, description: IndexDescription, first: int) -> AbstractContextManager[Workspace]:
    storage = job.store.storage
    key = description.faiss_key
    settings = {"first": first, **json.loads(description.encode()), "library": faiss().__version__}
    folder = None
    if storage.is_local:
        with storage.scratch(f"{key}.build") as path:  # no link leads to it
            folder = path.parent
    return workspace(folder, settings, job.name)


def _training_of(head: Head) -> Training:
    return Training(head.mean, head.rotation, head.centroids, head.bits)


class _Rising:
    """Passes on how many rows are done, where they are more than before."""

    def __init__(self, job: _Job) -> None:
        self._job, self._most = job, -1

    def __call__(self, done: int) -> None:
        if done > self._most:
            self._most = done
            self._job.progress(self._job.states.layer, done, self._job.rows)


def _tuned(job: _Job, description: IndexDescription, source: CandidateSource) -> IndexDescription:
    """The description with how hard the index is to be searched, and what it then finds."""
    rows = MeasuredRows(job.states, drawn(job.rows, job.sample), job.seed, job.device)
    return with_settings(description, rows, source.find, job.recall)


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
        centered=tuple(job.store.partitions) if job.options.centered else None,
    )


def _publish(job: _Job, description: IndexDescription, writer: Writer | None) -> IndexDescription:
    """Write file and description under other names, then take the old index back and rename them, the description last.

    On a full disk the old index stays; a build that is killed leaves the old one, the new one, or none.
    """
    storage = job.store.storage
    key, described = description.faiss_key, f"{description.folder}/{INDEX}"
    unique = uuid.uuid4().hex  # two may build at once
    with storage.scratch(f"{key}.{unique}") as file, storage.scratch(f"{described}.{unique}") as description_file:
        if writer is not None:
            record, head = write_durably(file, writer)
            description = replace(description, faiss=faiss().__version__, file=record, head=head)
            if head is not None:
                description = _tuned(job, description, _in_scratch(job, file, description))
        write_durably(description_file, lambda write: write(description.encode()))
        # An upload takes long, and can fail: until it is done, the old index stays.
        if storage.is_local or writer is None:
            storage.delete(described)
        if writer is None:
            storage.delete(key)
        else:
            storage.put_file(key, file)
        storage.put_file(described, description_file)
    return description


def _in_scratch(job: _Job, file: Path, description: IndexDescription) -> InFile:
    def changed(error: Exception) -> Exception:
        return IndexingError(f"the index of {job.name} is not what was written a moment ago: {error}; check the disk")

    return InFile(open_list_file(file, description), changed)


def _no_progress(layer: str, done: int, total: int) -> None:
    """Say nothing."""
