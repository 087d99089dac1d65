"""The model of an extraction on the first of several devices, and what loads it on the others."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hubstore.devices import resolve_device
from hubstore.errors import EngineError
from hubstore.extraction.encoding import load_model_of
from hubstore.extraction.engines import Compute, extraction_engine
from hubstore.extraction.job import Callbacks
from hubstore.extraction.readers import Processes, media_ahead
from hubstore.extraction.workers import Engine
from hubstore.models import Model, load_model
from hubstore.models.fetched import fetched_model
from hubstore.models.files import has_processor
from hubstore.options import ModelOptions
from hubstore.storage import Location
from hubstore.store import StoreReader


def load_on_devices(
    model: Model | str | None,
    devices: Sequence[str],
    compute: Compute,
    load: functools.partial[Model],
    watch: Callbacks | None = None,
) -> tuple[Model, Engine | None]:
    """The model on the first device, and the engine that shares the work with others; None where there is none.

    Args:
        model: loaded already, or where to load it from.
        devices: of this host.
        compute: which engine.
        load: `load_named` or `load_of_store` with all but a device and a source.
        watch: called when it is loaded.

    Raises:
        EngineError: a cluster cannot share a model that is loaded here.
        ModelError: it cannot be loaded.
    """
    if isinstance(model, Model):
        if compute.engine != "local":
            raise EngineError(
                f"{model.identity['id']} is loaded here, and every worker of a cluster loads its own; give the model's "
                "folder, or its id on a hub, that all nodes reach"
            )
        return model, None
    first, *others = devices
    loaded = load(first, model)
    if watch is not None:
        watch.loaded(loaded)
    same = functools.partial(load_same, load=load, identity=loaded.identity, named=model is not None)
    return loaded, extraction_engine(compute.engine, compute.address, same, others)


@contextlib.contextmanager
def readers_ahead(
    model: Model | str | None, devices: Sequence[str], compute: Compute, readers: int | None
) -> Iterator[Processes]:
    """Start the processes that read media before their model is loaded, where one device is to run it.

    Args:
        model: loaded already, or where to load it from.
        devices: of this host.
        compute: which engine.
        readers: how many; None to choose.
    """
    ahead = isinstance(model, str) and compute.engine == "local" and len(devices) == 1
    if not ahead or not has_processor(fetched_model(str(model))):
        yield readers
        return
    with media_ahead(resolve_device(devices[0]), readers, reads_media=True) as processes:
        yield processes


def load_named(device: str, source: str, options: ModelOptions, head: bool) -> Model:
    """A model by its folder or hub id, on a device."""
    return load_model(source, device=device, head=head, **options.arguments())


def load_of_store(device: str, source: str | None, path: Location, trust: bool) -> Model:
    """The model that a store was made with, on a device."""
    return load_model_of(StoreReader(path), source, device, trust_remote_code=trust)


def load_same(device: str, load: functools.partial[Model], identity: Mapping[str, Any], named: bool) -> Model:
    """The model that `load` has loaded, from where it was then, on another device; `named`, a user has said which."""
    if "options" in load.keywords:
        options = replace(load.keywords["options"], extra_models=tuple(identity.get("also", ())))
        load = functools.partial(load, options=options)
    return load(device, identity["source"] if named else None)
