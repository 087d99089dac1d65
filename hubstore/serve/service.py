"""All that a running server has: its stores, its threads, its model, its limits and its counters."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hubstore.errors import HubstoreError
from hubstore.extraction.engines import check_engine
from hubstore.serve.batching import Batcher
from hubstore.serve.computations import Computations
from hubstore.serve.encoders import Encoders
from hubstore.serve.limits import Limits
from hubstore.serve.metrics import Metrics
from hubstore.serve.pools import Pool
from hubstore.serve.served import ServedStore
from hubstore.serve.state import require_store
from hubstore.storage.location import Location, location

if TYPE_CHECKING:
    from hubstore.models import Model
    from hubstore.query.ray import Searchers

log = logging.getLogger("hubstore.serve")


@dataclass(frozen=True, eq=False)
class Service:
    """What requests are answered with.

    Args:
        stores: by the name that clients call them.
        experiments: folders that `hubstore experiment --out` wrote.
        originals: whether items' own files are given.
        limits: what it takes on.
        metrics: what it has done.
        encoders: the model, if any.
        work: short work.
        computing: long work.
        searches: batched searches.
        opener: the thread that opens stores and loads the model.
        held: what is let go of at the end: actors of a cluster.
    """

    stores: Mapping[str, ServedStore]
    experiments: Sequence[Path]
    originals: bool
    limits: Limits
    metrics: Metrics
    encoders: Encoders
    work: Pool
    computing: Pool
    computations: Computations
    searches: Batcher
    opener: ThreadPoolExecutor
    held: contextlib.ExitStack

    @classmethod
    def of(
        cls,
        stores: Sequence[str | Location],
        *,
        model: Model | str | None,
        trust_remote_code: bool,
        device: str,
        limits: Limits,
        experiments: Sequence[str | Path],
        originals: bool,
        allow_stale: bool,
        engine: str,
        address: str | None,
    ) -> Service:
        """A service that has opened nothing yet; StoreNotFoundError where there is no store."""
        check_engine(engine, address)
        metrics = Metrics()
        opener = ThreadPoolExecutor(1, thread_name_prefix="hubstore-open")
        served: dict[str, ServedStore] = {}
        places = [location(store).absolute() for store in stores]
        for path in places:
            require_store(path)
        held = contextlib.ExitStack()
        searchers = None if engine == "local" else held.enter_context(_searchers(address, device))
        for path in places:
            name = _free_name(path, served)
            served[name] = ServedStore(
                path,
                name,
                device=device,
                allow_stale=allow_stale,
                results=limits.results,
                searchers=searchers,
                check_s=limits.check_s,
                metrics=metrics,
                opener=opener,
            )
        computing = Pool("computations", limits.computations, limits.waiting, None)
        return cls(
            stores=served,
            experiments=tuple(Path(folder).absolute() for folder in experiments),
            originals=originals,
            limits=limits,
            metrics=metrics,
            encoders=Encoders(model, device, trust_remote_code),
            work=Pool("requests", limits.threads, limits.waiting, limits.timeout_s),
            computing=computing,
            computations=Computations(computing, limits.timeout_s),
            searches=Batcher(limits.searches, limits.batch, limits.waiting, limits.timeout_s, metrics),
            opener=opener,
            held=held,
        )

    @property
    def names(self) -> Mapping[str, str]:
        """Paths that no client need see, and what to say in their place."""
        shown = {str(store.path): name for name, store in self.stores.items()}
        shown |= {str(store.path.absolute()): name for name, store in self.stores.items()}
        shown |= {str(store.path.resolve()): name for name, store in self.stores.items()}
        folders = {str(form): folder.name for folder in self.experiments for form in (folder, folder.absolute())}
        return {**shown, **folders, **self.encoders.names}

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
            if self.encoders.given:
                with contextlib.suppress(HubstoreError):  # said to whoever asks
                    await asyncio.get_running_loop().run_in_executor(self.opener, self.encoders.load, snapshot)
        await asyncio.get_running_loop().run_in_executor(self.opener, _settle)

    def close(self) -> None:
        """Start nothing any more."""
        self.work.close()
        self.computing.close()
        self.searches.close()
        self.opener.shutdown(wait=False, cancel_futures=True)
        self.held.close()
        gc.unfreeze()


def _searchers(address: str | None, device: str) -> contextlib.AbstractContextManager[Searchers]:
    from hubstore.query.ray import searchers

    return searchers(address=address, device=device)


def _settle() -> None:
    """Leave what was imported and loaded out of the garbage collector's rounds: one of all of it takes 0.2 s, in which
    nothing is answered."""
    gc.collect()
    gc.freeze()


def _free_name(path: Location, taken: Mapping[str, ServedStore]) -> str:
    """The folder's name without ".hub", with -2 or more behind it where another store has it."""
    name = path.absolute().name.removesuffix(".hub") or "store"
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 2))
    return name if name not in taken else next(free for free in numbered if free not in taken)
