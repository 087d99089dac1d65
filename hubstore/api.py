"""hubstore in Python: the command line's verbs as functions and as methods of an open store."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch

from hubstore import analysis, index, query
from hubstore.corpus import Corpus, Item, open_corpus
from hubstore.devices import resolve_device
from hubstore.errors import EngineError, UnfinishedStoreWarning
from hubstore.extraction import Callbacks, Extraction, Settings, encode, load_model_of, require_same_model
from hubstore.extraction import append as append_items
from hubstore.extraction import extract as extract_items
from hubstore.extraction.engines import Compute
from hubstore.extraction.estimate import Estimate, estimate, memory_available
from hubstore.extraction.loading import load_named, load_of_store, load_on_devices
from hubstore.index import IndexCache
from hubstore.index.cost import IndexCost, index_costs, search_speed
from hubstore.lens import Lens, LensUpdate, keep_lens, lens_summary, read_store
from hubstore.models import Model, devices_of, load_model
from hubstore.options import CompareOptions, ModelOptions, SearchOptions, refuse_others, renamed, take
from hubstore.query import Medium, QueryInputs
from hubstore.storage import Storage
from hubstore.storage.location import Location, location
from hubstore.store import Problem, StoreReader, export, verify


class Store(StoreReader):
    """A store opened for reading, with everything that can be asked of it.

    It has the items of the moment at which it was opened. The model, the indexes and the means that one search needs
    are kept for the next until `close`, or the end of a `with` block; an index that is replaced is loaded anew. Where a
    corpus of it is unfinished, an `UnfinishedStoreWarning` says so; what is asked is answered from the items so far.
    """

    def __init__(self, path: str | Location, storage: Storage | None = None) -> None:
        super().__init__(path, storage)
        self.extraction: Extraction | None = None
        self._indexes = IndexCache(self)
        self._model: tuple[tuple[str | None, str, bool, bool], Model] | None = None
        if self.unfinished is not None:
            warnings.warn(f"{self.path}: {self.unfinished}", UnfinishedStoreWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model, the indexes and the means; the next use loads them again."""
        self._model = None
        self._indexes.clear()
        self.partition_means.clear()

    def model(
        self,
        source: str | None = None,
        device: str = "auto",
        *,
        head: bool = False,
        trust_remote_code: bool = False,
    ) -> Model:
        """The store's model, loaded from where it was at extraction or from `source`; with its head where `head`.

        A hub is contacted only where `source` names it: a store may be anybody's.
        The model that was loaded last is kept, and given again to whoever asks for the same. Code that comes with it is
        run only where `trust_remote_code` says so, whatever was said at extraction.
        """
        key = source, device, head, trust_remote_code
        if self._model is None or self._model[0] != key:
            self._model = None  # two would not always fit
            loaded = load_model_of(self, source, device, head=head, trust_remote_code=trust_remote_code)
            self._model = key, loaded
        return self._model[1]

    def index(
        self,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        kind: str = "auto",
        **options: Any,
    ) -> tuple[index.IndexDescription, ...]:
        """Index layers, or bring their indexes up to date; see `hubstore.index.build` and `Compute`.

        With the engine "ray" layers are built side by side on a Ray cluster; see `hubstore.index.ray`.
        """
        compute = take(Compute, options)
        options["device"] = compute.one_device
        if compute.engine == "ray":
            from hubstore.index.ray import build_on_ray

            return build_on_ray(self, layers, pooling, kind, address=compute.address, **options)
        return index.build(self, layers, pooling, kind, **options)

    def search(
        self,
        *,
        ids: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        images: Sequence[Medium] | None = None,
        audio: Sequence[Medium] | None = None,
        vectors: Any = None,
        options: SearchOptions | None = None,
        model: Model | str | None = None,
        trust_remote_code: bool = False,
        **named: Any,
    ) -> pa.Table:
        """The k nearest items by cosine at each layer; see `hubstore.query.search`.

        Args:
            ids, texts, images, audio, vectors: what is looked for, one of them; see `QueryInputs`.
            options: how to search.
            model: a model that is loaded already, or where to load it from; by default from where it was at
                extraction.
            trust_remote_code: run the code that comes with the model; see `hubstore.load_model`.
            named: fields of `SearchOptions` (k, layers, pooling, languages, ...) and of `Compute`; a cluster searches
                exactly.
        """
        compute, options = take(Compute, named), take(SearchOptions, named, options)
        refuse_others("search", named)
        if compute.engine != "local" and options.centered:
            raise EngineError("centered neighbors are searched for in one process; leave --engine ray out")
        inputs = QueryInputs(ids=ids, texts=texts, images=images, audio=audio, vectors=vectors)
        names, pooled = self.layer_names(options.layers), self.pooling_name(options.pooling)

        def encoder(items: Sequence[Item]) -> Mapping[str, torch.Tensor]:
            loaded = model
            if not isinstance(loaded, Model):
                loaded = self.model(loaded, trust_remote_code=trust_remote_code)
            return encode(self, loaded, items, names, pooled)

        device = compute.one_device
        ask = functools.partial(query.search, self, inputs, options, encoder=encoder, device=device)
        if compute.engine == "local":
            stale = options.allow_stale
            return ask(indexes=self._indexes.layers(names, pooled, device=device, allow_stale=stale))
        from hubstore.query.ray import searchers

        with searchers(address=compute.address, device=device) as held:
            return ask(indexes=held.layers(self, names, pooled))

    def vectors(
        self, ids: Sequence[str], *, layers: Sequence[str | int] | None = None, pooling: str | None = None
    ) -> pa.Table:
        """Hidden states of items.

        Args:
            ids: items of the store.
            layers: all by default.
            pooling: the store's first by default; under "tokens" an item has a row for each token.

        Returns:
            `id`, `layer` and `vector` (`width` float32), by layer and then in the order of `ids`; under "tokens"
            `token` too. Of no ids, no rows.

        Raises:
            QueryError: an id or a layer is not there, or no layer is named.
        """
        return query.stored_vectors(self, ids, layers, pooling)

    def analyze(
        self, names: str | Sequence[str] | None = None, options: CompareOptions | None = None, **named: Any
    ) -> dict[str, pa.Table]:
        """Similarity, retrieval, clustering, alignment and geometry; see `hubstore.analysis.analyze` and `Compute`.

        With the engine "ray" layers are shared out over a Ray cluster; the tables are the same.
        """
        compute = take(Compute, named)
        named["device"] = compute.one_device
        if compute.engine == "ray":
            from hubstore.analysis.ray import OnRay

            named["jobs"] = OnRay(compute.address)
        return analysis.analyze(self, names, options, **named)

    def projection(self, **options: Any) -> pa.Table:
        """A map of a sample of items at each layer, by PCA or UMAP; see `hubstore.analysis.projection`."""
        return analysis.projection(self, **options)

    def keep_lens(self, model: Model | str | None = None, *, trust_remote_code: bool = False) -> LensUpdate:
        """Keep the model's unembedding, final norm and tokenizer in the store, so that a lens needs no model.

        Args:
            model: loaded with its head, or where to load it from; by default from where it was at extraction.
            trust_remote_code: run the code that comes with the model; see `hubstore.load_model`.

        Returns:
            Whether it was added, mended where it was damaged, or there already.
        """
        if not isinstance(model, Model):
            model = self.model(model, "cpu", head=True, trust_remote_code=trust_remote_code)
        return keep_lens(self, model)

    def lens(
        self,
        ids: Sequence[str] | None = None,
        *,
        model: Model | None = None,
        device: str = "auto",
        **options: Any,
    ) -> pa.Table:
        """What the logit lens reads in stored states; see `hubstore.lens.read_store`.

        Args:
            ids: items; all by default.
            model: in the place of the lens that the store keeps.
            device: where to read: "auto", "cpu", "cuda" or "cuda:1"; a model's lens is read where the model is.
            options: layers, pooling, variant, targets, k.
        """
        return read_store(self, self._lens(model, device), ids=ids, **options)

    def lens_summary(self, *, model: Model | None = None, device: str = "auto", **options: Any) -> pa.Table:
        """Entropy, agreement and targets of every partition; see `hubstore.lens.lens_summary`."""
        return lens_summary(self, self._lens(model, device), **options)

    def _lens(self, model: Model | None, device: str) -> Lens:
        if model is None:
            return Lens.of_store(self, resolve_device(device))
        require_same_model(self, model)
        return Lens.of_model(model)

    def report(self, folder: str | Path, **options: Any) -> Path:
        """Write the report into `folder` and return the HTML file; see `hubstore.report.write_report`."""
        from hubstore.report import write_report

        return write_report(self, Path(folder), **options)

    def export(self, out: str | Path, **options: Any) -> list[Path]:
        """Write hidden states or items for other tools; see `hubstore.store.export.export`."""
        return export.export(self, Path(out), **options)

    def verify(self) -> list[Problem]:
        """Read every committed file back; what is wrong, or nothing."""
        return verify(self.storage, check_index=index.index_problem)


def open(path: str | Location) -> Store:
    """Open a store for reading: a folder, or what an object store or a web server has (s3://, gs://, az://, https://)."""
    return Store(path)


def extract(
    corpus: Corpus | str | Path,
    model: Model | str,
    path: str | Location,
    *,
    settings: Settings | None = None,
    with_lens: bool = False,
    watch: Callbacks | None = None,
    readers: int | None = None,
    ignore_space: bool = False,
    **named: Any,
) -> Store:
    """Extract every layer of a model over a corpus into a new store, or go on where an earlier run stopped.

    Args:
        corpus: a `Corpus`, or what `open_corpus` takes: a file, a dataset's id, "sample:ntrex".
        model: a loaded model, which stays on its device, a folder, or a hub's model id.
        path: the store's folder, or its URL: s3://bucket/x.hub.
        settings: poolings, layers, dtype, template, ...; its fields may be given by name too.
        with_lens: keep the unembedding in the store too, so that a lens needs no model. A loaded model must have its
            head.
        watch: called as the run goes.
        readers: processes that tokenize texts and read images and audio beside a GPU; all spare CPUs by default.
        ignore_space: begin even where the disk has no room for the store.
        named: fields of `Settings`, of `ModelOptions` (model_dtype, extra_models, stack, trust_remote_code, ...) and of
            `Compute`. Of several devices, each but the first gets a process of its own, which loads the model again;
            with the engine "ray" each device of a cluster does. The store is the same to the byte. A script that uses
            several guards its entry with `if __name__ == "__main__":`, since those processes import it.

    Returns:
        The store, whose `extraction` says what this run did.

    Example:
        >>> store = hubstore.extract("sample:ntrex", "intfloat/multilingual-e5-small", "ntrex.hub",
        ...                          poolings=("mean",), template="query: {text}")
        >>> store.search(ids=["en:1"], layers=[6], exclude_same_language=True)
    """
    compute, options = take(Compute, named), take(ModelOptions, named)
    settings = take(Settings, named, settings)
    refuse_others("extract", named)
    items = _corpus(corpus)
    load = functools.partial(load_named, options=options, head=with_lens)
    loaded, engine = load_on_devices(model, _devices(model, compute), compute, load, watch)
    if with_lens:
        loaded.require_head()  # before a long run, not after it
    done = extract_items(
        items, loaded, path, settings, watch=watch, engine=engine, processes=readers, ignore_space=ignore_space
    )
    store = Store(path)
    store.extraction = done
    if with_lens:
        store.keep_lens(loaded)
    return store


def append(
    corpus: Corpus | str | Path,
    path: str | Location,
    *,
    model: Model | str | None = None,
    trust_remote_code: bool = False,
    watch: Callbacks | None = None,
    readers: int | None = None,
    ignore_space: bool = False,
    **named: Any,
) -> Store:
    """Add a corpus to a store, with its own model and settings; see `extract`, and `Compute` for what is named."""
    compute = take(Compute, named)
    refuse_others("append", named)
    items = _corpus(corpus)
    load = functools.partial(load_of_store, path=location(path).absolute(), trust=trust_remote_code)
    loaded, engine = load_on_devices(model, _devices(model, compute), compute, load, watch)
    done = append_items(items, loaded, path, watch=watch, engine=engine, processes=readers, ignore_space=ignore_space)
    store = Store(path)
    store.extraction = done
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


def plan(
    corpus: Corpus | str | Path,
    model: Model | str,
    *,
    settings: Settings | None = None,
    folder: str | Path | None = ".",
    refresh: bool = False,
    **named: Any,
) -> CostEstimate:
    """What extracting a corpus through a model would take. Nothing is written but what was measured, in a cache.

    Args:
        corpus, model, settings: as for `extract`.
        folder: where the store would be, on a local disk; None for an object store.
        refresh: measure this machine whatever the cache has.
        named: fields of `Settings`, `ModelOptions` and `Compute`; of several devices, the first is measured. `again` is
            `refresh`: deprecated.

    Example:
        >>> ahead = hubstore.plan("sample:ntrex", "intfloat/multilingual-e5-small")
        >>> ahead.extraction.counted.items, ahead.extraction.store_bytes, ahead.extraction.between
    """
    refresh = renamed("again", "refresh", named, refresh)
    compute, options = take(Compute, named), take(ModelOptions, named)
    settings = take(Settings, named, settings)
    refuse_others("plan", named)
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


def _corpus(corpus: Corpus | str | Path) -> Corpus:
    return corpus if isinstance(corpus, Corpus) else open_corpus(str(corpus))
