"""A store as of its commits at one moment, with what its requests share: items, lookups, indexes and the lens."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.errors import CorruptStoreError, IndexNotFoundError, QueryError
from hubstore.index import IndexDescription, LayerIndex, SearchableLayer, load_or_exact
from hubstore.index.cache import IndexCache
from hubstore.index.description import check_fresh, read_description
from hubstore.serve.http_errors import NeedsModelError, NotFoundError
from hubstore.serve.lru import LRUCache
from hubstore.serve.quota import quota_storage
from hubstore.storage.location import Location, shell_word
from hubstore.store import HiddenStates, Partition, StoreReader
from hubstore.store.commit import Commit
from hubstore.store.layout import LENS, previews_key
from hubstore.store.partition import Positions
from hubstore.store.reader import read_items, read_previews

if TYPE_CHECKING:
    from hubstore.lens import Lens
    from hubstore.query.ray import Searchers

T = TypeVar("T")

CACHED = 8
"""Results that are cached for the next page, or the same request again."""

PREVIEWS = 256 << 20
"""Bytes of the shards of previews that stay in memory."""


class Snapshot(StoreReader):
    """A store's commits at one moment. All of one answer comes from one snapshot.

    Args:
        path: the store's folder or URL.
        name: what clients call it.
        device: where searches and lenses compute.
        allow_stale: whether to search an index that lacks the newest rows.
        results: tables of one analysis that the store holds before no more are kept.
        results_bytes: bytes of all of them likewise.
        searchers: actors of a cluster that search in the place of this process.
        previous: the snapshot before; what has not changed since is taken from it.
    """

    def __init__(
        self,
        path: Location,
        name: str,
        *,
        device: str = "auto",
        allow_stale: bool = False,
        results: int = 500,
        results_bytes: int = 1 << 30,
        searchers: Searchers | None = None,
        previous: Snapshot | None = None,
    ) -> None:
        super().__init__(path, quota_storage(path, results, results_bytes))
        self.name = name
        self.device = device
        self.revision = self.digest
        self._allow_stale = allow_stale
        self._searchers = searchers
        self._reading, self._mapping, self._loading, self._caching = (threading.RLock() for _ in range(4))
        self._hidden: dict[tuple[str, str], HiddenStates] = {}
        self._indexes: dict[tuple[str, str], SearchableLayer] = {}
        self._older_indexes: Mapping[tuple[str, str], SearchableLayer] = {}
        older = None if previous is None else previous._centered
        self._centered: IndexCache = IndexCache(self, older, follows=False)
        self._lens: tuple[bytes, Lens] | None = None
        self._cache: LRUCache[Any, Any] = LRUCache(CACHED)
        self._files: dict[str, tuple[int, Any]] = {}
        self._shown: LRUCache[int, pa.Table] = LRUCache(PREVIEWS, lambda table: min(int(table.nbytes), PREVIEWS))
        if previous is not None:
            self._take_over(previous)

    @property
    def items(self) -> pa.Table:
        """As `StoreReader.items`; read once, whoever asks."""
        read: pa.Table | None = self.__dict__.get("items")
        if read is not None:
            return read
        with self._reading:
            return super().items

    # A name of a client's that the store does not have is 404, without the closest names: finding those takes long.

    def positions(self, ids: Sequence[str]) -> Positions:
        """As `StoreReader.positions`; NotFoundError for an id that is not there."""
        with _translate_errors():
            return super().positions(ids)

    def layer_name(self, layer: str | int) -> str:
        """As `StoreReader.layer_name`; NotFoundError for a layer that is not kept."""
        with _translate_errors():
            return super().layer_name(layer)

    def pooling_name(self, pooling: str | None) -> str:
        """As `StoreReader.pooling_name`; NotFoundError for a pooling that is not kept."""
        with _translate_errors():
            return super().pooling_name(pooling)

    def partition(self, name: str) -> Partition:
        """As `StoreReader.partition`; NotFoundError for one that is not there."""
        with _translate_errors():
            return super().partition(name)

    def hidden(self, layer: str | int, pooling: str | None = None) -> HiddenStates:
        """As `StoreReader.hidden`, with the shards that were mapped for earlier requests."""
        key = self.layer_name(layer), self.pooling_name(pooling)
        with self._mapping:
            if key not in self._hidden:
                self._hidden[key] = super().hidden(*key)
            return self._hidden[key]

    def indexes(self, layers: Sequence[str], pooling: str) -> dict[str, SearchableLayer]:
        """The loaded index of each layer.

        Raises:
            StaleIndexError: an index lacks the newest rows, and that is not allowed.
            CorruptStoreError: a file of an index is not as it was written.
            MissingDependencyError: FAISS is needed and not installed.
        """
        return {layer: self._index(layer, pooling) for layer in layers}

    def centered_indexes(self, layers: Sequence[str], pooling: str) -> dict[str, SearchableLayer]:
        """Of those layers that have one, the loaded index of rows less their partition's mean; raises as `indexes`."""
        return self._centered.centered(layers, pooling, device=self.device, allow_stale=self._allow_stale)

    def lens(self) -> Lens:
        """The lens that the store keeps; NeedsModelError where it keeps none."""
        from hubstore.devices import resolve_device
        from hubstore.lens import Lens

        with self._loading:
            if not self.keeps_lens:
                command = f"hubstore lens {shell_word(self.path)} --keep"
                raise NeedsModelError(f"{self.path} keeps no lens; `{command}` adds it")
            description = self.storage.read(LENS)
            if self._lens is None or self._lens[0] != description:
                self._lens = description, Lens.of_store(self, resolve_device(self.device))
            return self._lens[1]

    def rows_of(self, positions: Positions, pooling: str) -> int:
        """Rows of the items at `positions`: one each, or under "tokens" one for each of their tokens."""
        if pooling != "tokens":
            return len(positions)
        ranges = self.token_ranges()[positions]
        return int((ranges[:, 1] - ranges[:, 0]).sum())

    @property
    def keeps_lens(self) -> bool:
        """Whether it keeps an unembedding."""
        return self.storage.exists(LENS)

    @property
    def keeps_previews(self) -> bool:
        """Whether any item has a thumbnail or a clip."""
        return any(previews_key(commit.shard) in commit.files for commit in self.commits)

    @cached_property
    def has_preview(self) -> npt.NDArray[np.bool_]:
        """bool [items]: whether an item has a thumbnail or a clip."""
        found = np.zeros(len(self), np.bool_)
        start = 0
        for commit in self.commits:
            if previews_key(commit.shard) in commit.files:
                stored = read_previews(self.storage, commit, ["id"])["id"]
                ids = self.items["id"].slice(start, commit.items)
                found[start : start + commit.items] = pc.is_in(ids, value_set=stored.combine_chunks()).to_numpy()
            start += commit.items
        return found

    def cached(self, key: Any, make: Callable[[], T]) -> T:
        """The value that `make` has returned for `key` lately, or returns now; it is never None."""
        with self._caching:
            found: T | None = self._cache.get(key)
        if found is None:
            found = make()
            with self._caching:
                self._cache.put(key, found)
        return found

    def read_once(self, key: str, stamp: int, read: Callable[[], T]) -> T:
        """What `read` returned of a file, until the file's `stamp` changes."""
        known = self._files.get(key)
        if known is None or known[0] != stamp:
            known = self._files[key] = stamp, read()
        found: T = known[1]
        return found

    def _previews(self, commit: Commit) -> pa.Table:
        with self._reading:
            found = self._shown.get(commit.shard)
            return self._shown.put(commit.shard, read_previews(self.storage, commit)) if found is None else found

    def _index(self, layer: str, pooling: str) -> SearchableLayer:
        key = layer, pooling
        found = self._indexes.get(key)
        if found is None:
            with self._loading:
                found = self._indexes.get(key) or self._taken_over(key) or self._loaded(key)
                self._indexes[key] = found
        return found

    def _loaded(self, key: tuple[str, str]) -> SearchableLayer:
        if self._searchers is not None:
            return self._searchers.layers(self, key[:1], key[1])[key[0]]
        for attempt in range(2):
            try:
                return load_or_exact(self, *key, allow_stale=self._allow_stale, device=self.device)
            except CorruptStoreError:
                if attempt:  # at first it may have been put there between the look at its description and at itself
                    raise
        raise AssertionError("unreachable")

    def _taken_over(self, key: tuple[str, str]) -> LayerIndex | None:
        """The index that an earlier snapshot loaded, where it is still the layer's."""
        older = self._older_indexes.get(key)
        if not isinstance(older, LayerIndex) or older.kind == "exact":
            return None
        description = self._description(key)
        if description != older.description:
            return None
        check_fresh(self, description, self._allow_stale)
        return dataclasses.replace(older, states=self.hidden(*key))

    def _description(self, key: tuple[str, str]) -> IndexDescription | None:
        try:
            return read_description(self, *key)
        except IndexNotFoundError:
            return None

    def _take_over(self, previous: Snapshot) -> None:
        self._older_indexes = dict(previous._indexes)
        self._lens = previous._lens
        known = [commit.digest for commit in previous.commits]
        if [commit.digest for commit in self.commits[: len(known)]] != known or self.columns != previous.columns:
            return
        if len(self.commits) == len(known):
            names = ("items", "lookup", "has_preview", "partitions")
            self.__dict__ |= {name: previous.__dict__[name] for name in names if name in previous.__dict__}
            return
        if "items" in previous.__dict__:
            schema = self.item_schema
            newer = [read_items(self.storage, commit, schema) for commit in self.commits[len(known) :]]
            self.__dict__["items"] = pa.concat_tables(
                [previous.items, *newer], promote_options="default"
            ).combine_chunks()
        if "lookup" in previous.__dict__:
            _ = self.lookup  # now, rather than in a request


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except QueryError as error:
        raise NotFoundError(str(error)) from None
