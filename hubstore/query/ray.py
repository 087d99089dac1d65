"""Search of a layer that is too large for one host: actors have its rows in ranges, and what they find is merged.

The search is exact, whatever index a layer has, and its answer the very one of a single process: rows are scored in
float64, each on its own, and merged by those scores and then by position, before they are rounded.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.devices import resolve_device
from hubstore.errors import EngineError, HubstoreError, StoreError
from hubstore.extraction.cluster import Needs, connected, first_line
from hubstore.extraction.workers import sendable
from hubstore.index import Allowed, IndexDescription
from hubstore.index.description import grows_from
from hubstore.index.exact import exact_search
from hubstore.index.layer import check_queries, exact_description
from hubstore.kernels.cpu.threads import limited
from hubstore.storage.location import Location
from hubstore.store import HiddenStates, StoreReader

PATIENCE_S = 60.0
"""That the first actor has to start."""

ATTEMPTS = 4
"""How often rows are asked for whose actor is lost meanwhile."""

Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Scores and positions [q, k], best first; -infinity and -1 where there are fewer."""


@dataclass(frozen=True)
class _Layer:
    """What is searched: a layer of a store, as of its commits at one moment.

    Args:
        where: the store.
        revision: digest of those commits.
        description: of the layer, with those commits.
    """

    where: Location
    revision: str
    description: IndexDescription


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
            states = self._rows(layer)
            with limited(self._threads):
                scores, rows = exact_search(states, queries, k, Allowed(ranges), self._device, dtype=torch.float64)
            return (scores.numpy(), rows.numpy()), None
        except HubstoreError as error:
            return None, sendable(error, f"the search of layer {layer.description.layer}")

    def _rows(self, layer: _Layer) -> HiddenStates:
        """The layer's states; the store is opened anew where it was other, or less, when it was opened last."""
        key = layer.where, layer.description.layer, layer.description.pooling
        revision, states = self._states.get(key, ("", None))
        if states is None or revision != layer.revision:
            store = self._stores.get(layer.where)
            if store is None or not grows_from(store, layer.description):
                store = self._stores[layer.where] = StoreReader(layer.where)
            if not grows_from(store, layer.description):
                raise StoreError(
                    f"{layer.where} is another store on the node {platform.node()}; put it where every node reaches "
                    "it: an object store (s3://bucket/x.hub), or a file system that they share"
                )
            states = store.hidden(layer.description.layer, layer.description.pooling)
            self._states[key] = layer.revision, states
        return states


@dataclass(eq=False)
class Searchers:
    """The actors that search; from `searchers`. One that is lost is left out, and another joins when it has started.

    Args:
        ray: the Ray module.
        start: starts an actor, on whatever node has room, now or later.
        target_count: how many there are to be.
        actors: those that have started, and are asked.
        coming: those that have not, by what they answer when they have.
        lost: what the last one was lost to.
    """

    ray: Any
    start: Callable[[], Any]
    target_count: int
    actors: list[Any] = field(default_factory=list)
    coming: dict[Any, Any] = field(default_factory=dict)
    lost: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def layers(
        self, store: StoreReader, layers: Sequence[str | int], pooling: str | None = None
    ) -> dict[str, LayerRanges]:
        """Layers of the store as it is now, by name, each in as many ranges of rows as there are actors."""
        every = [exact_description(store, store.hidden(layer, pooling)) for layer in layers]
        where = store.path.absolute()
        return {description.layer: LayerRanges(_Layer(where, store.digest, description), self) for description in every}

    def living(self, patience: float = 0.0, *, all_of_them: bool = False) -> Sequence[Any]:
        """Whom to ask.

        Args:
            patience: seconds that those that have not started are waited for: the first, or
            all_of_them: every one.
        """
        with self.lock:
            while len(self.actors) + len(self.coming) < self.target_count:
                actor = self.start()
                self.coming[actor.ready.remote()] = actor
            if self.coming:
                awaited = len(self.coming) if all_of_them else 1
                self.ray.wait(list(self.coming), num_returns=awaited, timeout=patience)
                ready, _ = self.ray.wait(list(self.coming), num_returns=len(self.coming), timeout=0)
                for call in ready:
                    self._join(call, self.coming.pop(call))
            return tuple(self.actors)

    def _join(self, call: Any, actor: Any) -> None:
        try:
            self.ray.get(call)
            self.actors.append(actor)
        except self.ray.exceptions.RayError as error:
            self.lost = first_line(error)

    def lose(self, actor: Any, why: str) -> None:
        """Ask an actor no more."""
        with self.lock:
            if actor in self.actors:
                self.actors.remove(actor)
                self.lost = why
                self.ray.kill(actor)

    def end(self) -> None:
        """End all of them."""
        with self.lock:
            for actor in (*self.actors, *self.coming.values()):
                self.ray.kill(actor)


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
        return self.layer.description

    @property
    def kind(self) -> str:
        """ "exact"."""
        return self.description.kind

    @property
    def rows(self) -> int:
        """Rows searched."""
        return self.description.rows

    def search(
        self, queries: torch.Tensor, k: int, allowed: Allowed | None = None, *, search_effort: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LayerIndex.search`, of a layer without an index.

        Raises:
            QueryError, NonFiniteError: as there.
            EngineError: all who were asked were lost.
        """
        description = self.description
        check_queries(queries, k, search_effort, description.layer, description.width)
        everything = Allowed.everything(self.rows)
        left = everything if allowed is None else allowed & everything
        stored = self.searchers.ray.put(queries.cpu())
        results: list[Found] = []
        for _ in range(ATTEMPTS):
            missed = [np.empty((0, 2), np.int64)]
            for own, actor, call in self._calls(left, stored, k):
                found = self._found(actor, call)
                if found is None:
                    missed.append(own.ranges)
                else:
                    results.append(found)
            left = Allowed.from_ranges(np.concatenate(missed))
            if not left.size:
                return merge(results, len(queries), k)
        raise self._lost()

    def _calls(self, within: Allowed, queries: Any, k: int) -> list[tuple[Allowed, Any, Any]]:
        """Who is asked for which rows, and the call."""
        actors = self.searchers.living()
        if not actors:
            raise self._lost()
        shares = (Allowed.from_ranges([_share(self.rows, number, len(actors))]) for number in range(len(actors)))
        owned = [(within & share, actor) for share, actor in zip(shares, actors, strict=True)]
        return [
            (own, actor, actor.search.remote(self.layer, queries, k, own.ranges)) for own, actor in owned if own.size
        ]

    def _lost(self) -> EngineError:
        return EngineError(
            f"rows of layer {self.description.layer} of {self.layer.where} could not be searched: all who were asked "
            f"were lost, the last to this: {self.searchers.lost}; ask again when the cluster has room for others"
        )

    def _found(self, actor: Any, call: Any) -> Found | None:
        """What an actor answers; None where it was lost."""
        ray = self.searchers.ray
        try:
            found, error = ray.get(call)
        except ray.exceptions.RayTaskError as failed:  # and would fail elsewhere
            raise EngineError(
                f"rows of layer {self.description.layer} of {self.layer.where} could not be searched: "
                f"{first_line(failed)}; ask again, or use --engine local"
            ) from failed
        except ray.exceptions.RayError as lost:
            self.searchers.lose(actor, first_line(lost))
            return None
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]


def _share(rows: int, number: int, count: int) -> tuple[int, int]:
    """Start and stop of one of `count` ranges of nearly as many rows each."""
    return rows * number // count, rows * (number + 1) // count


def merge(results: Sequence[Found], queries: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of what was found in parts of a layer, in the order of a search of the whole.

    Args:
        results: float64 scores and positions [queries, k] of each.
        queries: how many there are.
        k: rows asked for.

    Returns:
        scores float32 [queries, k], descending, and positions int64 [queries, k], ties to the smaller; -infinity and
        -1 where there are fewer.
    """
    scores = np.concatenate([np.full((queries, k), -np.inf), *(part[0] for part in results)], axis=1)
    rows = np.concatenate([np.full((queries, k), -1), *(part[1] for part in results)], axis=1)
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return torch.from_numpy(best[0]).float(), torch.from_numpy(best[1])


@contextlib.contextmanager
def searchers(*, address: str | None = None, device: str = "auto", actors: int | None = None) -> Iterator[Searchers]:
    """Actors that search stores which every node reaches, until the end of the block.

    What one had that is lost is asked of the others, and another is started in its place.

    Args:
        address: see `hubstore.extraction.cluster.connected`.
        device: "auto", "cpu" or "cuda": what an actor computes on.
        actors: how many; by default as many as the cluster has room for now.

    Raises:
        EngineError: no cluster is there, or it has no room for an actor.
        MissingDependencyError: Ray is not installed.
    """
    computing = resolve_device(device)
    needs = Needs.of(computing)
    with connected(address) as ray:
        target_count = actors or needs.capacity(ray.nodes())
        kind = ray.remote(Searcher).options(**needs.options(), max_restarts=0, max_task_retries=0)
        running = Searchers(ray, lambda: kind.remote(computing.type, needs.cpus), target_count)
        try:
            _wait(running, needs, all_of_them=actors is not None)
            yield running
        finally:
            running.end()


def _wait(running: Searchers, needs: Needs, all_of_them: bool) -> None:
    """Until some have started; EngineError where none has when there was time.

    Others may hold some of the room, so that after the first no more are waited for than as long again, unless
    `all_of_them` are to be there; who comes later joins then.
    """
    began = time.monotonic()
    running.living(PATIENCE_S)
    running.living(PATIENCE_S if all_of_them else 2.0 + time.monotonic() - began, all_of_them=True)
    if not running.actors:
        problem = f"could start a searcher: {running.lost}" if running.lost else "has room to search"
        raise EngineError(
            f"no node of the Ray cluster {problem} ({needs}); wait until one has, add one, or choose another --device"
        )
