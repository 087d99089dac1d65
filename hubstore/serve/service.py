"""What a running server has: its stores, threads, model, limits and counters."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hubstore.errors import HubstoreError
from hubstore.serve.batching import Batcher
from hubstore.serve.encoders import Encoders
from hubstore.serve.fingerprint import require_store
from hubstore.serve.handle import StoreHandle
from hubstore.serve.limits import Limits
from hubstore.serve.metrics import Metrics
from hubstore.serve.originals import Originals
from hubstore.serve.pools import Computations, Pool
from hubstore.storage.location import Location, location

if TYPE_CHECKING:
    from hubstore.models import Model
    from hubstore.query.ray import Searchers
    from hubstore.serve.snapshot import Snapshot

log = logging.getLogger("hubstore.serve")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How stores are served.

    Args:
        model: reads queries of texts, images and audio: loaded already, or where to load it from.
        trust_remote_code: run the code that comes with the model; only where you trust its authors.
        device: where searches compute and the model is loaded: "auto", "cpu", "cuda" or "cuda:1".
        limits: what the server takes on; None for the defaults.
        originals: a folder; items' own files that are below it are given, beside their previews. None gives none.
        csv_safe: whether a text that a spreadsheet would compute with has an apostrophe before it in CSV.
        experiment_folders: folders that `hubstore experiment --out` wrote.
        allow_stale: whether to search indexes that lack a store's newest rows.
        engine: "local", or "ray": actors of a cluster search, exactly, each a range of a layer's rows.
        address: of the Ray cluster; see `hubstore.extraction.cluster.connected`.
    """

    model: Model | str | None = None
    trust_remote_code: bool = False
    device: str = "auto"
    limits: Limits | None = None
    originals: str | Path | None = None
    csv_safe: bool = True
    experiment_folders: Sequence[str | Path] = ()
    allow_stale: bool = False
    engine: str = "local"
    address: str | None = None


class Service:
    """What requests are answered with; it has opened nothing yet.

    Args:
        stores: the stores' folders or URLs.
        options: how to serve them.

    Raises:
        StoreNotFoundError: there is no store at a path.
        ServeError: `originals` is no folder.
    """

    def __init__(self, stores: Sequence[str | Location], options: ServeOptions) -> None:
        if (options.engine, options.address) != ("local", None):
            from hubstore.extraction.engines import check_engine  # transformers, which a start does not wait for

            check_engine(options.engine, options.address)
        places = [location(store).absolute() for store in stores]
        for path in places:
            require_store(path)
        limits = options.limits or Limits()
        self.options = options
        self.originals = None if options.originals is None else Originals(options.originals, limits.upload)
        self.limits = limits
        self.metrics = Metrics()
        self.experiments = [Path(folder).absolute() for folder in options.experiment_folders]
        self.encoders = Encoders(options.model, options.device, options.trust_remote_code)
        self.work = Pool("requests", limits.threads, limits.waiting, limits.timeout_s)
        self.computing = Pool("computations", limits.computations, limits.waiting, None)
        self.computations = Computations(self.computing, limits.timeout_s)
        self.searches = Batcher(limits.searches, limits.batch, limits.waiting, limits.timeout_s, self.metrics)
        self.opener = ThreadPoolExecutor(1, thread_name_prefix="hubstore-open")
        self._resources = contextlib.ExitStack()
        self._searchers = None if options.engine == "local" else self._resources.enter_context(_searchers(options))
        self.stores: dict[str, StoreHandle] = {}
        for path in places:
            name = _free_name(path, self.stores)
            self.stores[name] = StoreHandle(
                path,
                name,
                functools.partial(self._snapshot, path, name),
                check_s=limits.check_s,
                metrics=self.metrics,
                opener=self.opener,
            )

    def _snapshot(self, path: Location, name: str, previous: Snapshot | None) -> Snapshot:
        from hubstore.serve.snapshot import Snapshot

        return Snapshot(
            path,
            name,
            device=self.options.device,
            allow_stale=self.options.allow_stale,
            results=self.limits.results,
            results_bytes=self.limits.results_bytes,
            searchers=self._searchers,
            previous=previous,
        )

    @property
    def names(self) -> Mapping[str, str]:
        """Paths that no client need see, and what to say in their place."""
        shown = {
            str(form): name
            for name, store in self.stores.items()
            for form in (store.path, store.path.absolute(), store.path.resolve())
        }
        return {**shown, **{str(folder): folder.name for folder in self.experiments}, **self.encoders.names}

    @property
    def working(self) -> bool:
        """Whether a thread has something to do."""
        return self.work.taken + self.computing.taken + self.searches.running > 0

    async def warm(self) -> None:
        """Import what is heavy, open the stores and load the model, while requests are answered already."""
        for store in self.stores.values():
            try:
                snapshot = await store.snapshot()
            except HubstoreError as error:
                log.error("%s cannot be opened: %s", store.name, error)
                continue
            if snapshot.keeps_lens:
                await asyncio.get_running_loop().run_in_executor(self.opener, import_module, "hubstore.lens")
            if self.encoders.available:
                with contextlib.suppress(HubstoreError):  # each request that needs it raises it again
                    await asyncio.get_running_loop().run_in_executor(self.opener, self.encoders.load, snapshot)
        await asyncio.get_running_loop().run_in_executor(self.opener, _settle)

    def close(self) -> None:
        """Start nothing any more."""
        self.work.close()
        self.computing.close()
        self.searches.close()
        self.opener.shutdown(wait=False, cancel_futures=True)
        self._resources.close()
        gc.unfreeze()


def _searchers(options: ServeOptions) -> contextlib.AbstractContextManager[Searchers]:
    from hubstore.query.ray import searchers

    return searchers(address=options.address, device=options.device)


def _settle() -> None:
    """Leave what was imported and loaded out of the garbage collector's rounds: a round over all of it stops every
    answer for 0.2 s."""
    gc.collect()
    gc.freeze()


def _free_name(path: Location, taken: Mapping[str, StoreHandle]) -> str:
    """The folder's name without ".hub", with -2 or more behind it where another store has it."""
    name = path.absolute().name.removesuffix(".hub") or "store"
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 2))
    return name if name not in taken else next(free for free in numbered if free not in taken)
