"""Analyses whose layers are shared out over a Ray cluster: each by one task, on whatever node has room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hubstore.analysis.layers import LayerMap, LayerTask
from hubstore.analysis.results import Row
from hubstore.devices import current
from hubstore.errors import AnalysisError, EngineError, HubstoreError
from hubstore.extraction.cluster import POLL_S, ClusterCapacity, Needs, connected, end_tasks, first_line
from hubstore.extraction.workers import sendable
from hubstore.kernels.cpu.threads import one_thread
from hubstore.storage.location import Location
from hubstore.store import StoreReader

STAYS = "Analyses that are done are kept, and the same command makes the others"

Result = tuple[list[Row], HubstoreError | None]


@dataclass(frozen=True)
class OnRay:
    """Who shares the layers of an analysis: `jobs` of `hubstore.analysis.analyze`.

    A task has one thread, or one GPU; a node that is lost costs the layers that were under way there, which are made
    again elsewhere.

    Args:
        address: see `hubstore.extraction.cluster.connected`.
    """

    address: str | None = None

    @contextlib.contextmanager
    def __call__(self, store: StoreReader, task: LayerTask) -> Iterator[LayerMap]:
        """Tasks for the layers of one analysis, for as long as this lasts."""
        with connected(self.address) as ray:
            needs = Needs.of_task(task.device.type)
            capacity = ClusterCapacity(ray, needs, "a layer's analysis")
            remote_layer = ray.remote(_layer).options(**needs.options())
            sent = replace(task, device=torch.device(task.device.type))  # whichever of its type a node has
            where, digest = store.path.absolute(), store.digest
            calls: list[Any] = []

            def mapped(layers: Sequence[str]) -> Iterator[list[Row]]:
                calls.extend(remote_layer.remote(where, digest, sent, layer) for layer in layers)
                for call, layer in zip(calls, layers, strict=True):
                    while not ray.wait([call], timeout=POLL_S)[0]:
                        capacity.poll(STAYS)
                    yield _rows(ray, call, layer, store)

            try:
                yield mapped
            finally:
                end_tasks(ray, calls)


def _layer(where: Location, digest: str, task: LayerTask, layer: str) -> Result:
    """The task: the rows of one layer. An error is returned: raised, it would come with Ray's own traceback."""
    try:
        store = StoreReader(where)
        if store.digest != digest:
            raise AnalysisError(f"{where} was written to while it was analyzed; run the analysis again")
        with current(task.device), one_thread():
            return task.of(store)(layer), None
    except HubstoreError as error:
        return [], sendable(error, f"the task of layer {layer}")


def _rows(ray: Any, call: Any, layer: str, store: StoreReader) -> list[Row]:
    try:
        rows, error = ray.get(call)
    except ray.exceptions.RayError as lost:
        raise EngineError(f"layer {layer} of {store.path} could not be analyzed: {first_line(lost)}. {STAYS}") from lost
    if error is not None:
        raise error
    found: list[Row] = rows
    return found
