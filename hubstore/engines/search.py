"""Search of a layer that is too large for one host: actors have its rows in ranges, and what they find is merged.

The search is exact, whatever index a layer has, and its answer the very one of a single process: rows are scored in
float64, each on its own, and merged by those scores and then by position, before they are rounded.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.devices import resolve_device
from hubstore.engines.cluster import Needs, connected, first_line
from hubstore.errors import EngineError, HubstoreError, StoreError
from hubstore.extraction.workers import sendable
from hubstore.index import Allowed, IndexDescription
from hubstore.index.description import grows_from
from hubstore.index.exact import exact_search
from hubstore.index.layer import check_queries, exact_description
from hubstore.location import Location
from hubstore.store import HiddenStates, StoreReader

PATIENCE_S = 60.0
"""That the first actor has to start."""

Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Scores and positions [q, k], best first; -infinity and -1 where there are fewer."""


@dataclass(frozen=True)
class _Layer:
    """What is searched: a layer of a store, as of its commits at one moment.

    Args:
        where: the store.
        revision: digest of those commits.
        about: the layer, and those commits.
    """

    where: Location
    revision: str
    about: IndexDescription


class Searcher:
    """The actor: searches ranges of stores' rows, which it maps, or keeps in its node's cache."""

    def __init__(self, device: str, threads: int) -> None:
        self._device = resolve_device(device)
        self._threads = threads
        self._stores: dict[Location, StoreReader] = {}
        self._states: dict[tuple[Location, str, str], tuple[str, HiddenStates]] = {}

    def ready(self) -> None:
        """Answer as soon as it has started."""

    def search(
        self, layer: _Layer, queries: torch.Tensor, k: int, ranges: npt.NDArray[np.int64]
    ) -> tuple[Found | None, HubstoreError | None]:
        """The best rows within sorted ranges [n, 2]. An error is returned: raised, it would come with a traceback."""
        try:
            torch.set_num_threads(self._threads)
            states = self._rows(layer)
            scores, rows = exact_search(states, queries, k, Allowed(ranges), self._device, dtype=torch.float64)
            return (scores.numpy(), rows.numpy()), None
        except HubstoreError as error:
            return None, sendable(error, f"the search of layer {layer.about.layer}")

    def _rows(self, layer: _Layer) -> HiddenStates:
        """The layer's states; the store is opened anew where it was other, or less, when it was opened last."""
        key = layer.where, layer.about.layer, layer.about.pooling
        revision, states = self._states.get(key, ("", None))
        if states is None or revision != layer.revision:
            store = self._stores.get(layer.where)
            if store is None or not grows_from(store, layer.about):
                store = self._stores[layer.where] = StoreReader(layer.where)
            if not grows_from(store, layer.about):
                raise StoreError(
                    f"{layer.where} is another store on the node {platform.node()}; put it where every node reaches "
                    "it: an object store (s3://bucket/x.hub), or a file system that they share"
                )
            states = store.hidden(layer.about.layer, layer.about.pooling)
            self._states[key] = layer.revision, states
        return states


@dataclass(frozen=True, eq=False)
class Searchers:
    """The actors that search; from `searchers`."""

    ray: Any
    actors: Sequence[Any]

    def layers(
        self, store: StoreReader, layers: Sequence[str | int], pooling: str | None = None
    ) -> dict[str, LayerRanges]:
        """Layers of the store as it is now, by name, each in as many ranges of rows as there are actors."""
        every = [exact_description(store, store.hidden(layer, pooling)) for layer in layers]
        where = store.path.absolute()
        return {about.layer: LayerRanges(_Layer(where, store.digest, about), self) for about in every}


@dataclass(frozen=True, eq=False)
class LayerRanges:
    """A layer whose rows several actors search; what a `LayerIndex` of kind "exact" is in one process.

    Args:
        layer: what is searched.
        searchers: who searches.
    """

    layer: _Layer
    searchers: Searchers

    @property
    def description(self) -> IndexDescription:
        """Of the layer."""
        return self.layer.about

    @property
    def kind(self) -> str:
        """ "exact"."""
        return self.description.kind

    @property
    def rows(self) -> int:
        """Rows searched."""
        return self.description.rows

    def search(
        self, queries: torch.Tensor, k: int, allowed: Allowed | None = None, *, effort: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LayerIndex.search`, of a layer without an index.

        Raises:
            QueryError, NonFiniteError: as there.
            EngineError: an actor was lost, and could not be started elsewhere.
        """
        about = self.description
        check_queries(queries, k, effort, about.layer, about.width)
        everything = Allowed.everything(self.rows)
        within = everything if allowed is None else allowed & everything
        actors, ray = self.searchers.actors, self.searchers.ray
        calls = []
        asked = ray.put(queries.cpu())
        for number, actor in enumerate(actors):
            own = within & Allowed.from_ranges([_share(self.rows, number, len(actors))])
            if own.size:
                calls.append(actor.search.remote(self.layer, asked, k, own.ranges))
        return merge([self._found(call) for call in calls], len(queries), k)

    def _found(self, call: Any) -> Found:
        try:
            found, error = self.searchers.ray.get(call)
        except self.searchers.ray.exceptions.RayError as lost:
            raise EngineError(
                f"rows of layer {self.description.layer} of {self.layer.where} could not be searched: "
                f"{first_line(lost)}; ask again when the cluster is whole"
            ) from lost
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]


def _share(rows: int, number: int, parts: int) -> tuple[int, int]:
    """Start and stop of one of `parts` ranges of nearly as many rows each."""
    return rows * number // parts, rows * (number + 1) // parts


def merge(parts: Sequence[Found], queries: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of what was found in parts of a layer, in the order of a search of the whole.

    Args:
        parts: float64 scores and positions [queries, k] of each.
        queries: how many there are.
        k: rows wanted.

    Returns:
        scores float32 [queries, k], descending, and positions int64 [queries, k], ties to the smaller; -infinity and
        -1 where there are fewer.
    """
    scores = np.concatenate([np.full((queries, k), -np.inf), *(part[0] for part in parts)], axis=1)
    rows = np.concatenate([np.full((queries, k), -1), *(part[1] for part in parts)], axis=1)
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return torch.from_numpy(best[0]).float(), torch.from_numpy(best[1])


@contextlib.contextmanager
def searchers(*, address: str | None = None, device: str = "auto", actors: int | None = None) -> Iterator[Searchers]:
    """Actors that search stores which every node reaches, until the end of the block.

    One that is lost is started again elsewhere, and asked again.

    Args:
        address: see `hubstore.engines.cluster.connected`.
        device: "auto", "cpu" or "cuda": what an actor computes on.
        actors: how many; by default as many as the cluster has room for now.

    Raises:
        EngineError: no cluster is there, or it has no room for an actor.
        MissingDependencyError: Ray is not installed.
    """
    computing = resolve_device(device)
    needs = Needs.of(computing)
    with connected(address) as ray:
        wanted = actors or needs.room(ray.nodes())
        kind = ray.remote(Searcher).options(**needs.options(), max_restarts=-1, max_task_retries=3)
        started = [kind.remote(computing.type, needs.cpus) for _ in range(wanted)]
        try:
            yield Searchers(ray, _ready(ray, started, needs, all_of_them=actors is not None))
        finally:
            for actor in started:
                ray.kill(actor)


def _ready(ray: Any, started: Sequence[Any], needs: Needs, all_of_them: bool) -> Sequence[Any]:
    """Those that have started when there was time; EngineError where none has.

    Others may hold some of the room, so that after the first no more are waited for than as long again, unless
    `all_of_them` are wanted.
    """
    calls = {actor.ready.remote(): actor for actor in started}
    began = time.monotonic()
    if calls:
        ray.wait(list(calls), num_returns=1, timeout=PATIENCE_S)
    patience = PATIENCE_S if all_of_them else 2.0 + time.monotonic() - began
    ready = ray.wait(list(calls), num_returns=len(calls), timeout=patience)[0] if calls else []
    if not ready:
        raise EngineError(
            f"no node of the Ray cluster has room to search ({needs}); wait until it has, add one, or choose another "
            "--device"
        )
    return [calls[call] for call in ready]
