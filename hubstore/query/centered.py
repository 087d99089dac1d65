"""Neighbors with means removed: each partition's from its rows, and that of the query's own partition from the query.

Languages, and modalities more so, lie in places of their own, which a cosine mostly sees. Without their means, what is
left of a state is what sets it apart from others of its partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import Parameter, QueryError
from hubstore.index import Allowed, IndexDescription
from hubstore.index.exact import BLOCK_ROWS, exact_search
from hubstore.index.layer import check_queries, exact_description
from hubstore.index.means import partition_mean, rows_of
from hubstore.query.filters import shown
from hubstore.query.queries import Queries
from hubstore.store import HiddenStates, StoreReader


def centered_queries(store: StoreReader, queries: Queries, pooling: str) -> Queries:
    """Queries without the mean of what they are of (`origins`); vectors stay as they are."""
    every = [origins(store, *of) for of in zip(queries.modalities, queries.languages, strict=True)]

    def vectors(layer: str) -> torch.Tensor:
        means = {names: _mean_of(store, names, layer, pooling) for names in set(every)}
        return queries.vectors(layer).double() - torch.stack([means[names] for names in every])

    return replace(queries, vectors=vectors)


def origins(store: StoreReader, modality: str | None, language: str | None) -> tuple[str, ...]:
    """The partitions that a query is of; none for a vector, which may be of anything.

    Raises:
        QueryError: a text whose language is not known, or a query of which the store has no partition.
    """
    if modality is None:
        return ()
    if modality == "text" and language is None:
        raise QueryError(
            "to remove the mean of a text's language, say which it is: ", Parameter("query_languages", "...")
        )
    same = [one for one in store.partitions.values() if one.modality == modality]
    names = tuple(one.name for one in same if language in (None, one.language))
    if not names:
        what = f"{modality} items" + ("" if language is None else f" in {language}")
        raise QueryError(
            f"{store.path} has no {what} whose mean could be removed from a query; it has {shown(store.partitions)}. "
            "Ask for raw cosines instead"
        )
    return names


def _mean_of(store: StoreReader, names: Sequence[str], layer: str, pooling: str) -> torch.Tensor:
    total = torch.zeros(store.width, dtype=torch.float64)
    rows = {name: rows_of(store, store.partition(name), pooling).size for name in names}
    for name, count in rows.items():
        total += partition_mean(store, name, layer, pooling) * (count / sum(rows.values()))
    return total


@dataclass(frozen=True)
class _Moved:
    """Rows of a layer without a mean, float32."""

    states: HiddenStates
    mean: torch.Tensor

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """As `HiddenStates.segments`, in copies."""
        for first, rows in self.states.segments(start, stop):
            for at in range(0, len(rows), BLOCK_ROWS):
                yield first + at, self._without(rows[at : at + BLOCK_ROWS])

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """As `HiddenStates.take`."""
        return self._without(self.states.take(positions))

    def _without(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows.double() - self.mean).float()


@dataclass(frozen=True)
class CenteredLayer:
    """A layer whose rows are searched exactly, each partition's without their mean.

    A row that is its partition's only one is nothing without the mean: its cosine with anything is 0.

    Args:
        store: where it is.
        layer: its name.
        pooling: which rows.
        device: where to compute.
    """

    store: StoreReader
    layer: str
    pooling: str
    device: torch.device

    @property
    def description(self) -> IndexDescription:
        """Of a layer that is searched exactly."""
        return exact_description(self.store, self.store.hidden(self.layer, self.pooling))

    @property
    def kind(self) -> str:
        """ "exact": an index is of the raw states."""
        return "exact"

    def search(
        self, queries: torch.Tensor, k: int, allowed: Allowed | None = None, *, search_effort: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest rows to each of `queries`, whose means are removed already; see `LayerIndex.search`."""
        queries = check_queries(queries, k, search_effort, self.layer, self.store.width)
        states = self.store.hidden(self.layer, self.pooling)
        scores, rows = [torch.empty(len(queries), 0, dtype=torch.float64)], [np.empty((len(queries), 0), np.int64)]
        for partition in self.store.partitions.values():
            own = rows_of(self.store, partition, self.pooling)
            inside = own if allowed is None else allowed & own
            if inside.size:
                moved = _Moved(states, partition_mean(self.store, partition.name, self.layer, self.pooling))
                found = exact_search(moved, queries, k, inside, self.device, dtype=torch.float64)
                scores.append(found[0])
                rows.append(found[1].numpy())
        every, places = torch.cat(scores, 1).numpy(), np.concatenate(rows, 1)
        missing = max(0, k - places.shape[1])
        every = np.pad(every, ((0, 0), (0, missing)), constant_values=-np.inf)
        places = np.pad(places, ((0, 0), (0, missing)), constant_values=-1)
        order = np.lexsort((places, -every), axis=-1)[:, :k]
        best, nearest = np.take_along_axis(every, order, 1), np.take_along_axis(places, order, 1)
        return torch.from_numpy(best).float(), torch.from_numpy(nearest)
