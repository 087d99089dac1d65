"""hubstore in Python: the command line's verbs as functions and as methods of an open store."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from hubstore import analysis, index, query
from hubstore.arrow import rows_as_lists
from hubstore.corpus import Corpus, Item, open_corpus
from hubstore.devices import resolve_device
from hubstore.errors import EngineError, UnfinishedStoreWarning
from hubstore.extraction import Engine, Settings, Watch, encode, load_model_of, require_same_model
from hubstore.extraction import append as append_items
from hubstore.extraction import extract as extract_items
from hubstore.extraction.engines import Compute, check_engine, extraction_engine
from hubstore.index import IndexCache
from hubstore.lens import Lens, keep_lens, lens_summary, read_store
from hubstore.models import Model, devices_of, load_model
from hubstore.options import CompareOptions, SearchOptions, refuse_others, take
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
        self._indexes = IndexCache(self)
        self._model: tuple[tuple[str | None, str, bool, bool], Model] | None = None
        if self.unfinished is not None:
            warnings.warn(f"{self.path}: {self.unfinished}", UnfinishedStoreWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model, the indexes and the means; what is asked afterwards loads them again."""
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
            raise EngineError("centred neighbours are searched for in one process; leave --engine ray out")
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
        pooled, positions = self.pooling_name(pooling), self.positions(ids)
        rows, labels, tokens = positions, pa.array(ids, pa.string()), None
        if pooled == "tokens":
            ranges = [np.arange(start, stop) for start, stop in self.token_ranges()[positions]]
            rows = np.concatenate([np.empty(0, np.int64), *ranges])
            tokens = np.concatenate([np.empty(0, np.int64), *(np.arange(len(own)) for own in ranges)])
            labels = labels.take(pa.array(np.repeat(np.arange(len(ids)), [len(own) for own in ranges])))
        tables = []
        for layer in self.layer_names(layers):
            states = self.hidden(layer, pooled).take(rows).float().numpy()
            columns = {
                "id": labels,
                "layer": pa.array([layer] * len(rows), pa.string()),
                "vector": rows_as_lists(states),
            }
            if tokens is not None:
                columns["token"] = pa.array(tokens, pa.int32())
            tables.append(pa.table(columns))
        return pa.concat_tables(tables).combine_chunks()

    def analyze(
        self, names: Sequence[str] | None = None, options: CompareOptions | None = None, **named: Any
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

    def keep_lens(self, model: Model | str | None = None, *, trust_remote_code: bool = False) -> None:
        """Keep the model's unembedding, final norm and tokenizer in the store, so that a lens needs no model.

        Args:
            model: loaded with its head, or where to load it from; by default from where it was at extraction.
            trust_remote_code: run the code that comes with the model; see `hubstore.load_model`.
        """
        if not isinstance(model, Model):
            model = self.model(model, "cpu", head=True, trust_remote_code=trust_remote_code)
        keep_lens(self, model)

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
        return verify(self.storage)


def open(path: str | Location) -> Store:
    """Open a store for reading: a folder, or what an object store or a web server has (s3://, gs://, az://, https://)."""
    return Store(path)


def extract(
    corpus: Corpus | str | Path,
    model: Model | str,
    path: str | Location,
    *,
    device: str | Sequence[str] = "auto",
    model_dtype: str = "auto",
    also: Sequence[str] = (),
    stack: str | None = None,
    trust_remote_code: bool = False,
    with_lens: bool = False,
    watch: Watch | None = None,
    engine: str = "local",
    address: str | None = None,
    **settings: Any,
) -> Store:
    """Extract every layer of a model over a corpus into a new store, or go on where an earlier run stopped.

    Args:
        corpus: a `Corpus`, or what `open_corpus` takes: a file, a dataset's id, "sample:ntrex".
        model: a loaded model, a folder, or a hub's model id.
        path: the store's folder, or its URL: s3://bucket/x.hub.
        device: "auto" (every GPU there is, else the CPU), "cpu", "cuda", or several: "cuda:0,cuda:1" or a sequence.
            Each but the first gets a process of its own, which loads the model again; the store is the same to the
            byte. A loaded model stays where it is. A script that uses several guards its entry with
            `if __name__ == "__main__":`, since those processes import it.
        model_dtype: "auto", "float32", "float16" or "bfloat16".
        also: further models over the same language model, which read other modalities; see `load_model`.
        stack: which of a model's stacks of blocks, where it has several; see `load_model`.
        trust_remote_code: run the code that comes with the model; only for models whose authors you trust. The store
            records that it did, and every later use of the model must say so again.
        with_lens: keep the unembedding in the store too, so that a lens needs no model. A loaded model must have its
            head.
        watch: called as the run goes.
        engine: "local", or "ray": the hosts of a Ray cluster share the work, each device of the first one's type with
            a model of its own; the store is the same to the byte.
        address: of the Ray cluster; see `hubstore.extraction.cluster.connected`.
        settings: of `hubstore.Settings`: poolings, layers, dtype, template, ...

    Example:
        >>> store = hubstore.extract("sample:ntrex", "intfloat/multilingual-e5-small", "ntrex.hub",
        ...                          poolings=("mean",), template="query: {text}")
        >>> store.search(ids=["en:1"], layers=[6], exclude_same_language=True)
    """
    check_engine(engine, address)
    dealing: Engine | None = None
    if isinstance(model, Model):
        _refuse_loaded(engine, model)
        loaded = model
    else:
        load = functools.partial(
            _load,
            source=model,
            dtype=model_dtype,
            head=with_lens,
            also=tuple(also),
            stack=stack,
            trust_remote_code=trust_remote_code,
        )
        loaded, others = _on_first(device, load)
        again = functools.partial(load, source=loaded.identity["source"], also=tuple(loaded.identity.get("also", ())))
        dealing = extraction_engine(engine, address, again, others)
    if with_lens:
        loaded.require_head()  # before a long run, not after it
    extract_items(_corpus(corpus), loaded, path, Settings(**settings), watch=watch, engine=dealing)
    store = Store(path)
    if with_lens:
        store.keep_lens(loaded)
    return store


def append(
    corpus: Corpus | str | Path,
    path: str | Location,
    *,
    model: Model | str | None = None,
    trust_remote_code: bool = False,
    device: str | Sequence[str] = "auto",
    watch: Watch | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Store:
    """Add a corpus to a store, with its own model and settings; devices and engine as for `extract`."""
    check_engine(engine, address)
    dealing: Engine | None = None
    if isinstance(model, Model):
        _refuse_loaded(engine, model)
        loaded = model
    else:
        load = functools.partial(_load_again, path=location(path).absolute(), source=model, trust=trust_remote_code)
        loaded, others = _on_first(device, load)
        dealing = extraction_engine(engine, address, functools.partial(load, source=loaded.identity["source"]), others)
    append_items(_corpus(corpus), loaded, path, watch=watch, engine=dealing)
    return Store(path)


def _on_first(device: str | Sequence[str], load: Callable[[str], Model]) -> tuple[Model, Sequence[str]]:
    """The model on the first of the devices, and the names of the others."""
    first, *others = devices_of(device if isinstance(device, str) else ",".join(device))
    return load(first), others


def _refuse_loaded(engine: str, model: Model) -> None:
    if engine != "local":
        raise EngineError(
            f"{model.identity['id']} is loaded here, and every worker of a cluster loads its own; give the model's "
            "folder, or its id on a hub, that all nodes reach"
        )


def _load(device: str, source: str, **options: Any) -> Model:
    return load_model(source, device=device, **options)


def _load_again(device: str, path: Location, source: str | None, trust: bool) -> Model:
    return load_model_of(StoreReader(path), source, device, trust_remote_code=trust)


def _corpus(corpus: Corpus | str | Path) -> Corpus:
    return corpus if isinstance(corpus, Corpus) else open_corpus(str(corpus))
