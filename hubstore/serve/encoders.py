"""The model that texts, images and audio are read with, and that goes on from prompts: loaded once, used by one
batch at a time."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubstore.errors import HubstoreError, ModelError
from hubstore.serve.http_errors import NeedsModelError

if TYPE_CHECKING:
    import torch

    from hubstore.corpus import Item
    from hubstore.models import Model
    from hubstore.store import StoreReader


PAUSE_S = 5.0
"""After a load that failed, before the next request loads again: what failed may have been the disk, or a network."""


@dataclass(frozen=True)
class _Failed:
    """A load that failed, and when, by the monotonic clock; at infinity where the model is another, which it stays."""

    error: HubstoreError
    at: float

    @property
    def lately(self) -> bool:
        return time.monotonic() - self.at < PAUSE_S


class Encoders:
    """A model for the stores that were made with it. A load that fails is tried again by a later request.

    Args:
        model: loaded already, or where to load it from; None where the server has none.
        device: where to load it.
        trust_remote_code: run the code that comes with it.
    """

    def __init__(self, model: Model | str | None, device: str, trust_remote_code: bool = False) -> None:
        # Absolute: it may be loaded when the process has changed its folder.
        self._source = str(Path(model).absolute()) if isinstance(model, str) and Path(model).is_dir() else model
        self._device = device
        self._trust_remote_code = trust_remote_code
        self._lock = threading.Lock()
        self._models: dict[str, Model | _Failed] = {}
        self._headless: dict[str, _Failed] = {}

    @property
    def available(self) -> bool:
        """Whether the server has a model at all."""
        return self._source is not None

    @property
    def names(self) -> Mapping[str, str]:
        """Where the model is loaded from, and its name."""
        return {self._source: Path(self._source).name} if isinstance(self._source, str) else {}

    def reads(self, store: StoreReader) -> bool:
        """Whether queries of a store can be read; also yes while the model has not been loaded yet."""
        if self._source is None:
            return False
        loaded = self._models.get(_key(store))
        return not (isinstance(loaded, _Failed) and loaded.lately)

    def generates(self, store: StoreReader) -> bool:
        """Whether its model says next words; also yes for one that has not been loaded, if its tokens see no later."""
        kind = store.attributes.get("model", {}).get("kind")
        given = self._source is None or isinstance(self._source, str) or self._source.head is not None
        failed = self._headless.get(_key(store))
        return kind == "causal" and given and self.reads(store) and not (failed and failed.lately)

    @contextlib.contextmanager
    def generator(self, store: StoreReader) -> Iterator[Model]:
        """The model with its head, for one work at a time.

        Raises:
            NeedsModelError: the server has no model, one that is not the store's, or one without a head.
        """
        with self._lock:
            if self._loaded(store).head is None:
                self._load_head(store)
            yield self._loaded(store)

    def encoder(
        self, store: StoreReader, layers: Sequence[str], pooling: str
    ) -> Callable[[Sequence[Item]], Mapping[str, torch.Tensor]]:
        """An encoder as `hubstore.query.search` takes one.

        Raises:
            NeedsModelError: the server has no model, or one that is not the store's.
        """

        def encode_now(items: Sequence[Item]) -> Mapping[str, torch.Tensor]:
            from hubstore.extraction import encode

            with self._lock:  # its hooks are for one batch
                return encode(store, self._loaded(store), items, layers, pooling)

        return encode_now

    def load(self, store: StoreReader) -> None:
        """Load the model now, rather than with the first query; what goes wrong is said then too."""
        with self._lock:
            self._loaded(store)

    def _loaded(self, store: StoreReader) -> Model:
        key = _key(store)
        found = self._models.get(key)
        if found is None or (isinstance(found, _Failed) and not found.lately):
            found = self._models[key] = self._tried(store)
        if isinstance(found, _Failed):
            raise NeedsModelError(f"this server cannot read queries of this store: {found.error}")
        return found

    def _load_head(self, store: StoreReader) -> None:
        """Load the model anew with its head, in the place of the one without: two would not always fit."""
        key = _key(store)
        failed = self._headless.get(key)
        if (failed is None or not failed.lately) and isinstance(self._source, str):
            headless = self._models[key]
            self._models = {other: model for other, model in self._models.items() if model is not headless}
            del headless
            found = self._tried(store, head=True)
            if not isinstance(found, _Failed):
                self._models[key] = found
                return
            failed = self._headless[key] = found
        name = store.attributes.get("model", {}).get("id", "the model")
        reason = f"{failed.error}" if failed else "it was given to the server without its head"
        raise NeedsModelError(f"{name} says no words: {reason}")

    def _tried(self, store: StoreReader, head: bool = False) -> Model | _Failed:
        from hubstore.extraction import require_same_model

        try:
            model = self._load(store, head)
        except HubstoreError as error:
            return _Failed(error, time.monotonic())
        try:
            require_same_model(store, model)
        except ModelError as error:
            return _Failed(error, math.inf)
        return model

    def _load(self, store: StoreReader, head: bool) -> Model:
        from hubstore.extraction import load_model_of

        if self._source is None:
            raise ModelError("it was started without a model; start it with --model, or ask by id or by vector")
        if isinstance(self._source, str):
            loaded = [model for model in self._models.values() if not isinstance(model, _Failed)]
            loaded = [model for model in loaded if model.head is not None or not head]
            return next((model for model in loaded if _is_of(store, model)), None) or load_model_of(
                store, self._source, self._device, head=head, trust_remote_code=self._trust_remote_code
            )
        return self._source


def _is_of(store: StoreReader, model: Model) -> bool:
    from hubstore.extraction import require_same_model

    try:
        require_same_model(store, model)
    except ModelError:
        return False
    return True


def _key(store: StoreReader) -> str:
    """What a store says of its model: two that say the same were made with the same."""
    return json.dumps(store.attributes.get("model"), sort_keys=True)
