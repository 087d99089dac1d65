"""hubstore in Python: the command line's verbs as functions and as methods of an open store."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from hubstore.corpus import Corpus, open_corpus
from hubstore.corpus.memory import is_table, read_memory
from hubstore.extraction import Callbacks, Settings
from hubstore.extraction import append as append_items
from hubstore.extraction import extract as extract_items
from hubstore.extraction.engines import Compute
from hubstore.extraction.estimate import Estimate, estimate, memory_available
from hubstore.extraction.job import timed
from hubstore.extraction.loading import load_named, load_of_store, load_on_devices, readers_ahead
from hubstore.index.cost import IndexCost, index_costs, search_speed
from hubstore.lens import TokenLanguages, Variant
from hubstore.models import Model, devices_of, load_model
from hubstore.named import ComputeNamed, ExtractCall
from hubstore.opened.notebook import bar
from hubstore.opened.store import Store, open
from hubstore.options import ModelOptions, refuse_others, renamed, take
from hubstore.signatures import takes
from hubstore.storage.location import Location, location

__all__ = ["CostEstimate", "Rows", "Store", "append", "extract", "open", "plan", "trends"]

Rows = Any
"""Rows in memory: a list of dictionaries or of `Item`, a DataFrame, an Arrow table, a `Dataset` of `datasets`."""


@takes(Settings, ModelOptions, Compute)
def extract(  # noqa: PLR0913
    corpus: Corpus | str | Path | Rows,
    model: Model | str,
    path: str | Location,
    *,
    settings: Settings | None = None,
    with_lens: bool = False,
    watch: Callbacks | None = None,
    readers: int | None = None,
    ignore_space: bool = False,
    part: str | None = None,
    **named: Unpack[ExtractCall],
) -> Store:
    """Extract every layer of a model over a corpus into a new store, or go on where an earlier run stopped.

    Args:
        corpus: a `Corpus`; what `open_corpus` takes: a file, a dataset's id, "sample:ntrex"; or rows in memory, with
            the columns text and language, and id and concept where there are such: a list of dictionaries, a
            DataFrame, an Arrow table, a `Dataset` of `datasets`. Of rows with other columns, see `read_memory`.
        model: a loaded model, which stays on its device, a folder, or a hub's model id.
        path: the store's folder, or its URL: s3://bucket/x.hub.
        settings: poolings, layers, dtype, template, ...; its fields may be given by name too.
        with_lens: keep the unembedding in the store too, so that a lens needs no model. A loaded model must have its
            head.
        watch: called as the run goes.
        readers: processes that tokenize texts and read images and audio beside a GPU; all spare CPUs by default.
        ignore_space: begin even where the disk has no room for the store.
        part: "3/16": do one part of several; as many processes share the store, and the last to finish closes it.
        named: fields of `Settings`, of `ModelOptions` (model_dtype, extra_models, stack, trust_remote_code, ...) and of
            `Compute`. Of several devices, each but the first gets a process of its own, which loads the model again;
            with the engine "ray" each device of a cluster does. The store is the same to the byte. A script that uses
            several guards its entry with `if __name__ == "__main__":`, since those processes import it.

    Returns:
        The store, whose `extraction` says what this run did.

    Example:
        >>> corpus = hubstore.open_corpus("sample:ntrex", limit=5)
        >>> store = hubstore.extract(corpus, "intfloat/multilingual-e5-small", "ntrex.hub",
        ...                          poolings=("mean",), template="query: {text}", layers=("0", "2"))
        >>> len(store), store.layers
        (70, ('0', '2'))
        >>> rows = [{"text": "A shark.", "language": "en"}, {"text": "Un requin.", "language": "fr"}]
        >>> hubstore.extract(rows, "intfloat/multilingual-e5-small", "two.hub").items["text"].to_pylist()
        ['A shark.', 'Un requin.']
    """
    rest: dict[str, Any] = {**named}
    compute, options = take(Compute, rest), take(ModelOptions, rest)
    settings = take(Settings, rest, settings)
    refuse_others("extract", rest)
    items = _corpus(corpus)
    load = functools.partial(load_named, options=options, head=with_lens)
    devices = _devices(model, compute)
    with readers_ahead(model, devices, compute, readers) as processes, bar("extracting") as drawn:
        stages: dict[str, float] = {}
        with timed(stages, "loading"):
            loaded, engine = load_on_devices(model, devices, compute, load, watch)
        if with_lens:
            loaded.require_head()  # before a long run, not after it
        watch = watch or (Callbacks(progress=drawn.items) if drawn else None)
        done = extract_items(
            items,
            loaded,
            path,
            settings,
            watch=watch,
            engine=engine,
            processes=processes,
            ignore_space=ignore_space,
            part=part,
        )
    store = Store(path)
    store.extraction = replace(done, stages={**stages, **done.stages})
    if with_lens and not done.missing:
        store.keep_lens(loaded)
    return store


@takes(Compute)
def append(
    corpus: Corpus | str | Path | Rows,
    path: str | Location,
    *,
    model: Model | str | None = None,
    trust_remote_code: bool = False,
    watch: Callbacks | None = None,
    readers: int | None = None,
    ignore_space: bool = False,
    part: str | None = None,
    **named: Unpack[ComputeNamed],
) -> Store:
    """Add a corpus to a store, with its own model and settings; see `extract`, and `Compute` for what is named.

    Example:
        >>> rows = [{"id": "new", "text": "A new sentence.", "language": "en"}]
        >>> hubstore.append(rows, "grown.hub")["new"].position
        36
    """
    rest: dict[str, Any] = {**named}
    compute = take(Compute, rest)
    refuse_others("append", rest)
    items = _corpus(corpus)
    load = functools.partial(load_of_store, path=location(path).absolute(), trust=trust_remote_code)
    devices = _devices(model, compute)
    with readers_ahead(model, devices, compute, readers) as processes, bar("extracting") as drawn:
        stages: dict[str, float] = {}
        with timed(stages, "loading"):
            loaded, engine = load_on_devices(model, devices, compute, load, watch)
        watch = watch or (Callbacks(progress=drawn.items) if drawn else None)
        done = append_items(
            items, loaded, path, watch=watch, engine=engine, processes=processes, ignore_space=ignore_space, part=part
        )
    store = Store(path)
    store.extraction = replace(done, stages={**stages, **done.stages})
    return store


@dataclass(frozen=True)
class CostEstimate:
    """What lies ahead of a corpus and a model.

    Args:
        model: its id.
        devices: what it would run on.
        extraction: items, tokens, bytes, files, time and room.
        rows: of one layer under the store's first pooling.
        indexes: what an index of such a layer would take, by kind.
    """

    model: str
    devices: tuple[str, ...]
    extraction: Estimate
    rows: int
    indexes: tuple[IndexCost, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**self.extraction.to_json(), "layer_rows": self.rows, "indexes": [asdict(one) for one in self.indexes]}


@takes(Settings, ModelOptions, Compute)
def plan(
    corpus: Corpus | str | Path | Rows,
    model: Model | str,
    *,
    settings: Settings | None = None,
    folder: str | Path | None = ".",
    refresh: bool = False,
    **named: Unpack[ExtractCall],
) -> CostEstimate:
    """What extracting a corpus through a model would take. Nothing is written but what was measured, in a cache.

    Args:
        corpus, model, settings: as for `extract`.
        folder: where the store would be, on a local disk; None for an object store.
        refresh: measure this machine whatever the cache has.
        named: fields of `Settings`, `ModelOptions` and `Compute`; of several devices, the first is measured. `again` is
            `refresh`: deprecated.

    Example:
        >>> corpus = hubstore.open_corpus("sample:ntrex", limit=5)
        >>> ahead = hubstore.plan(corpus, "intfloat/multilingual-e5-small")
        >>> ahead.extraction.counted.items, ahead.extraction.layout.dtype
        (70, 'float16')
    """
    rest: dict[str, Any] = {**named}
    refresh = renamed("again", "refresh", rest, refresh)
    compute, options = take(Compute, rest), take(ModelOptions, rest)
    settings = take(Settings, rest, settings)
    refuse_others("plan", rest)
    items = _corpus(corpus)
    devices = _devices(model, compute)
    if not isinstance(model, Model):
        model = load_model(model, device=devices[0], **options.arguments())
    found = estimate(items, model, settings, folder=folder, devices=len(devices), refresh=refresh)
    layout, counted = found.layout, found.counted
    rows = round(counted.total_tokens) if layout.poolings[0] == "tokens" else counted.items
    place = None if found.speed.write_seconds is None else found.place  # where nothing may be written, nothing is read
    speed = search_speed(layout.width, layout.dtype, place, refresh=refresh)
    costs = index_costs(rows, layout.width, layout.dtype, speed, memory_available())
    return CostEstimate(model.identity["id"], devices, found, rows, tuple(costs))


def _devices(model: Model | str | None, compute: Compute) -> tuple[str, ...]:
    return (str(model.device),) if isinstance(model, Model) else tuple(devices_of(compute.one_device))


def _corpus(corpus: Corpus | str | Path | Rows) -> Corpus:
    if isinstance(corpus, Corpus):
        return corpus
    return read_memory(corpus) if is_table(corpus) else open_corpus(corpus if _several(corpus) else str(corpus))


def _several(corpus: object) -> bool:
    """Whether these are the names of several files."""
    return isinstance(corpus, list | tuple) and all(isinstance(one, str | Path) for one in corpus)


def trends(  # noqa: PLR0913
    store: Store | str | Location,
    counts: Corpus | TokenLanguages | str | Path | None = None,
    *,
    words: Sequence[str] | None = None,
    layers: str | int | Sequence[str | int] | None = None,
    partitions: Sequence[str] | None = None,
    pooling: str | None = None,
    variant: Variant = "raw",
    seed: int = 0,
    bootstrap: int = 1000,
    device: str = "auto",
    progress: Any = None,
) -> pa.Table:
    """In which language the lens reads each partition of a store, layer by layer; see `Store.trends`.

    Example:
        >>> found = hubstore.trends("demo.hub", "sample:ntrex", layers=[3], partitions=["en"], bootstrap=0)
        >>> found["language"].to_pylist()[:3]
        ['en', 'ar', 'de']
    """
    return (store if isinstance(store, Store) else Store(store)).trends(
        counts,
        words=words,
        layers=layers,
        partitions=partitions,
        pooling=pooling,
        variant=variant,
        seed=seed,
        bootstrap=bootstrap,
        device=device,
        progress=progress,
    )
