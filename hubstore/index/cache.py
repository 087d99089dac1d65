"""The indexes of an open store: each file is opened and checked once, and again only where it has been replaced."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import torch

from hubstore.devices import resolve_device
from hubstore.errors import CorruptStoreError, IndexNotFoundError
from hubstore.index.description import IndexDescription, check_fresh, read_description
from hubstore.index.layer import LayerIndex, SearchableLayer, exact_description, indexed_rows, open_index
from hubstore.store import StoreReader

GPU_SHARE = 0.5
"""Of a GPU's memory that cached indexes may take."""

Key = tuple[str, str, str, bool]
"""Layer, pooling and device, and whether rows are less their partition's mean."""


class IndexCache:
    """The indexes of a store's layers. Several threads may use one.

    Args:
        store: whose they are, as of the commits that it was opened with.
        older: of the same store as it was before; an index that has not been replaced since is taken from there.
        follows: whether each use looks if an index was replaced; a server that opens a changed store anew need not.
    """

    def __init__(self, store: StoreReader, older: IndexCache | None = None, *, follows: bool = True) -> None:
        self._store = store
        self._follows = follows
        self._older: Mapping[Key, LayerIndex] = {} if older is None else dict(older._loaded)
        self._loaded: OrderedDict[Key, LayerIndex] = OrderedDict()
        self._lock = threading.RLock()

    def layers(
        self, layers: Sequence[str], pooling: str, *, device: str = "auto", allow_stale: bool = False
    ) -> Mapping[str, SearchableLayer]:
        """The layers' indexes by name; each is loaded when it is taken out of the mapping."""
        return _Layers(self, layers, pooling, device, allow_stale)

    def centered(
        self, layers: Sequence[str], pooling: str, *, device: str = "auto", allow_stale: bool = False
    ) -> dict[str, SearchableLayer]:
        """Of those layers that have one, the index of their rows less their partition's mean; raises as `layer`."""
        found = {layer: self._index((layer, pooling, device, True), allow_stale) for layer in layers}
        return {layer: index for layer, index in found.items() if index is not None}

    def layer(self, layer: str, pooling: str, *, device: str = "auto", allow_stale: bool = False) -> LayerIndex:
        """The index of a layer; a layer without one is searched exactly.

        Raises:
            StaleIndexError: it lacks the newest rows, and that is not allowed.
            CorruptStoreError: a file of the index is not as it was written.
            MissingDependencyError: FAISS is needed and not installed.
        """
        found = self._index((layer, pooling, device, False), allow_stale)
        assert found is not None
        return found

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._older = {}
            self._loaded.clear()

    def _index(self, key: Key, allow_stale: bool) -> LayerIndex | None:
        if not self._follows and (loaded := self._loaded.get(key)) is not None:
            return loaded
        with self._lock:
            try:
                return self._current(key, allow_stale)
            except CorruptStoreError:  # the file may have been replaced after its description was read
                return self._current(key, allow_stale)

    def _current(self, key: Key, allow_stale: bool) -> LayerIndex | None:
        layer, pooling, _, centered = key
        description = self._description(layer, pooling, centered=centered)
        if centered and (description is None or description.kind == "exact"):
            return None
        exact = exact_description(self._store, self._store.hidden(layer, pooling))
        return self._opened(key, description or exact, allow_stale)

    def _opened(self, key: Key, description: IndexDescription, allow_stale: bool) -> LayerIndex:
        check_fresh(self._store, description, allow_stale)
        older = self._older.get(key)
        loaded = self._loaded.get(key) or older
        if loaded is None or loaded.description != description:
            loaded = open_index(self._store, description, resolve_device(key[2]))
        # Centered ones take long to make; those of an older store may have other means.
        made = key[3] and loaded is not older
        states = loaded.states if made else indexed_rows(self._store, description, loaded.source)
        found = dataclasses.replace(loaded, states=states)
        # States that are searched hold a file descriptor for each shard; an index that is looked at again has others.
        self._loaded[key] = loaded if self._follows else found
        self._loaded.move_to_end(key)
        self._make_room(loaded)
        return found

    def _description(self, layer: str, pooling: str, *, centered: bool = False) -> IndexDescription | None:
        try:
            return read_description(self._store, layer, pooling, centered=centered)
        except IndexNotFoundError:
            return None

    def _make_room(self, newest: LayerIndex) -> None:
        """Drop the indexes on the newest one's GPU that were unused for longest, where they take too much of it."""
        if not newest.gpu_bytes:
            return
        on_device = [key for key, one in self._loaded.items() if one.gpu_bytes and one.device == newest.device]
        most = GPU_SHARE * torch.cuda.get_device_properties(newest.device).total_memory
        while len(on_device) > 1 and sum(self._loaded[key].gpu_bytes for key in on_device) > most:
            del self._loaded[on_device.pop(0)]


class _Layers(Mapping[str, SearchableLayer]):
    def __init__(self, cache: IndexCache, layers: Sequence[str], pooling: str, device: str, allow_stale: bool) -> None:
        self._cache, self._layers, self._pooling = cache, layers, pooling
        self._device, self._allow_stale = device, allow_stale

    def __getitem__(self, layer: str) -> SearchableLayer:
        return self._cache.layer(layer, self._pooling, device=self._device, allow_stale=self._allow_stale)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)
