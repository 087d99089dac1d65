"""Indexes of layers built side by side: each by one task, on whatever node of a Ray cluster has room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubstore.devices import resolve_device
from hubstore.errors import EngineError, HubstoreError
from hubstore.extraction.cluster import POLL_S, ClusterCapacity, Needs, connected, end_tasks, first_line
from hubstore.extraction.workers import sendable
from hubstore.index import IndexDescription, build
from hubstore.index.builder import Progress
from hubstore.index.kinds import check_kind
from hubstore.kernels.cpu.threads import one_thread
from hubstore.options import IndexOptions, refuse_others, take
from hubstore.storage.location import Location
from hubstore.store import StoreReader

STAYS = "Indexes that are built stay, and the same command builds the others"

Result = tuple[IndexDescription | None, HubstoreError | None]


def build_on_ray(
    store: StoreReader,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    kind: str = "auto",
    *,
    options: IndexOptions | None = None,
    address: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **named: Any,
) -> tuple[IndexDescription, ...]:
    """As `hubstore.index.build`, with the layers shared out over a cluster.

    A task has one thread, or one GPU; a node that is lost costs the layers that were under way there, which are built
    again elsewhere.

    Args:
        store: the store, where every node reaches it.
        layers, pooling, kind, options, device, named: as for `build`; the device is one of its type, on whatever node.
        address: see `hubstore.extraction.cluster.connected`.
        progress: called with each layer that is done, how many are, and how many there are.

    Raises:
        EngineError: no cluster is there, it has no room, or a layer's task was lost again and again.
        HubstoreError: as `build`.
    """
    options = take(IndexOptions, named, options)
    refuse_others("build_on_ray", named)
    check_kind(kind)
    names = store.layer_names(layers)
    pooled = store.pooling_name(pooling)
    computing = resolve_device(device).type
    report = progress or (lambda layer, done, total: None)
    with connected(address) as ray:
        needs = Needs.of_task(computing)
        capacity = ClusterCapacity(ray, needs, "a layer's index")
        task = ray.remote(_build).options(**needs.options())
        where = store.path.absolute()
        calls = {task.remote(where, name, pooled, kind, computing, options): name for name in dict.fromkeys(names)}
        waiting, built = list(calls), {}
        try:
            while waiting:
                capacity.poll(STAYS)
                ready, waiting = ray.wait(waiting, timeout=POLL_S)
                for call in ready:
                    built[calls[call]] = _result(ray, call, calls[call], store)
                    report(calls[call], len(built), len(calls))
        finally:
            end_tasks(ray, waiting)
    return tuple(built[name] for name in names)


def _build(where: Location, layer: str, pooling: str, kind: str, device: str, options: IndexOptions) -> Result:
    """The task: build one layer's index. An error is returned: raised, it would come with Ray's own traceback."""
    try:
        with one_thread():
            return build(StoreReader(where), [layer], pooling, kind, options=options, device=device)[0], None
    except HubstoreError as error:
        return None, sendable(error, f"the task of layer {layer}")


def _result(ray: Any, call: Any, layer: str, store: StoreReader) -> IndexDescription:
    try:
        built, error = ray.get(call)
    except ray.exceptions.RayError as lost:
        raise EngineError(
            f"the index of layer {layer} of {store.path} could not be built: {first_line(lost)}. {STAYS}"
        ) from lost
    if error is not None:
        raise error
    assert isinstance(built, IndexDescription)
    return built
