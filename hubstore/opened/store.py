"""A store that is opened for reading, with everything that can be asked of it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import pyarrow as pa

from hubstore import index, query
from hubstore.corpus import Item
from hubstore.errors import EngineError, UnfinishedStoreWarning
from hubstore.extraction.engines import Compute
from hubstore.index import IndexCache
from hubstore.named import IndexCall, SearchCall
from hubstore.opened import display
from hubstore.opened.analyses import Analyses, Layers, Steps
from hubstore.opened.item import StoredItem
from hubstore.opened.items import ItemTable
from hubstore.opened.notebook import bar
from hubstore.options import IndexOptions, SearchOptions, refuse_others, take
from hubstore.query import Medium, QueryInputs
from hubstore.query.queries import EncodedItems
from hubstore.signatures import takes
from hubstore.storage import Storage
from hubstore.storage.location import Location
from hubstore.store import Problem, export, finding, verify

if TYPE_CHECKING:  # an id is looked for without any model, and models take seconds to import
    import torch

    from hubstore.extraction import Extraction
    from hubstore.lens import LensUpdate
    from hubstore.models import Model


class Store(Analyses):
    """A store opened for reading, with everything that can be asked of it.

    It has the items of the moment at which it was opened. The model, the indexes and the means that one search needs
    are kept for the next until `close`, or the end of a `with` block; an index that is replaced is loaded anew. Where a
    corpus of it is unfinished, an `UnfinishedStoreWarning` says so; what is asked is answered from the items so far.

    `items` is a table whose columns are read when they are asked for: `store.items["text"]`, `store.items.to_pandas()`,
    `store.items.to_polars()`; `store.items.to_arrow()` is a `pyarrow.Table`.

    Example:
        >>> store = hubstore.open("demo.hub")
        >>> store["en:3"].language, len(store), store.hidden(2)[0].shape
        ('en', 36, torch.Size([32]))
    """

    def __init__(self, path: str | Location, storage: Storage | None = None) -> None:
        super().__init__(path, storage)
        self.extraction: Extraction | None = None
        self._indexes = IndexCache(self)
        self._encoded = EncodedItems()
        self._item_table: ItemTable | None = None
        self._model: tuple[tuple[str | None, str, bool, bool], Model] | None = None
        if self.unfinished is not None:
            warnings.warn(f"{self.path}: {self.unfinished}", UnfinishedStoreWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def items(self) -> ItemTable:
        """One row per item, in position order; `item_schema` has its columns.

        Example:
            >>> store.items
            <36 items: id, concept, language, modality, text, media, tokens, truncated, media_ranges>
            >>> store.items["language"].unique().to_pylist()
            ['en', 'es', 'ar']
        """
        if self._item_table is None:
            self._item_table = ItemTable(self.item_schema, len(self), self._read_items)
        return self._item_table

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.items[name]

    def _read_items(self, names: Sequence[str]) -> pa.Table:
        return self._tables(self._committed(), names).combine_chunks()

    def __repr__(self) -> str:
        return display.store_text(self)

    def _repr_html_(self) -> str:
        return display.store_html(self)

    def __getitem__(self, item: str) -> StoredItem:
        """An item by its id, or by PARTITION:CONCEPT, which names one in any store; QueryError where there is none.

        Example:
            >>> store["es:4"].concept
            '4'
        """
        (position,) = self.positions([item]).tolist()
        (row,) = self.items.slice(position, 1).to_pylist()
        named = {name: row[name] for name in ("id", "text", "language", "concept", "modality", "media")}
        states = functools.partial(query.stored_vectors, self)
        others = functools.partial(finding.equivalents, self, position)
        return StoredItem(
            **named, position=position, columns=row, _states=lambda i, *rest: states([i], *rest), _others=others
        )

    def close(self) -> None:
        """Free the model, the indexes and the means; the next use loads them again."""
        self._model = None
        self._indexes.clear()
        self._encoded.clear()
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
        from hubstore.extraction import load_model_of

        key = source, device, head, trust_remote_code
        if self._model is None or self._model[0] != key:
            self._model = None  # two would not always fit
            loaded = load_model_of(self, source, device, head=head, trust_remote_code=trust_remote_code)
            self._model = key, loaded
        return self._model[1]

    @takes(IndexOptions, Compute)
    def index(
        self,
        layers: Layers = None,
        pooling: str | None = None,
        kind: str = "auto",
        *,
        options: IndexOptions | None = None,
        progress: Steps = None,
        **named: Unpack[IndexCall],
    ) -> tuple[index.IndexDescription, ...]:
        """Index layers, or bring their indexes up to date; see `hubstore.index.build`, `IndexOptions` and `Compute`.

        With the engine "ray" layers are built side by side on a Ray cluster; see `hubstore.index.ray`.

        Example:
            >>> [one.kind for one in store.index(layers=[2], kind="exact")]
            ['exact']
        """
        rest: dict[str, Any] = {**named}
        compute, options = take(Compute, rest), take(IndexOptions, rest, options)
        refuse_others("index", rest)
        chosen = None if layers is None else self.layer_names(layers)
        with bar("indexing") as drawn:
            progress = progress or (drawn and (lambda layer, done, total: drawn.layers(done, total)))
            how: dict[str, Any] = {"options": options, "progress": progress, "device": compute.one_device}
            if compute.engine == "ray":
                from hubstore.index.ray import build_on_ray

                return build_on_ray(self, chosen, pooling, kind, address=compute.address, **how)
            return index.build(self, chosen, pooling, kind, **how)

    @takes(SearchOptions, Compute)
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
        **named: Unpack[SearchCall],
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

        Example:
            >>> hits = store.search(ids=["en:3"], layers=[2], k=4, exclude_same_language=True)
            >>> hits["rank"].to_pylist(), set(hits["language"].to_pylist()) <= {"es", "ar"}
            ([1, 2, 3, 4], True)
        """
        rest: dict[str, Any] = {**named}
        compute, options = take(Compute, rest), take(SearchOptions, rest, options)
        refuse_others("search", rest)
        if compute.engine != "local" and options.centered:
            raise EngineError("centered neighbors are searched for in one process; leave --engine ray out")
        inputs = QueryInputs(ids=ids, texts=texts, images=images, audio=audio, vectors=vectors)
        names, pooled = self.layer_names(options.layers), self.pooling_name(options.pooling)

        def encoder(items: Sequence[Item]) -> Mapping[str, torch.Tensor]:
            from hubstore.extraction import encode
            from hubstore.models import Model

            loaded = model
            if not isinstance(loaded, Model):
                loaded = self.model(loaded, trust_remote_code=trust_remote_code)
            settings = tuple(names), pooled
            return self._encoded.of(loaded, settings, items, lambda some: encode(self, loaded, some, names, pooled))

        device = compute.one_device
        ask = functools.partial(query.search, self, inputs, options, encoder=encoder, device=device)
        if compute.engine == "local":
            of = self._indexes.centered if options.centered else self._indexes.layers
            return ask(indexes=of(names, pooled, device=device, allow_stale=options.allow_stale))
        from hubstore.query.ray import searchers

        with searchers(address=compute.address, device=device) as held:
            return ask(indexes=held.layers(self, names, pooled))

    def keep_lens(self, model: Model | str | None = None, *, trust_remote_code: bool = False) -> LensUpdate:
        """Keep the model's unembedding, final norm and tokenizer in the store, so that a lens needs no model.

        Args:
            model: loaded with its head, or where to load it from; by default from where it was at extraction.
            trust_remote_code: run the code that comes with the model; see `hubstore.load_model`.

        Returns:
            Whether it was added, mended where it was damaged, or there already.
        """
        from hubstore.lens import keep_lens
        from hubstore.models import Model

        if not isinstance(model, Model):
            model = self.model(model, "cpu", head=True, trust_remote_code=trust_remote_code)
        return keep_lens(self, model)

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

        Example:
            >>> store.vectors(["en:1", "ar:2"], layers=[0, 2])["layer"].to_pylist()
            ['0', '0', '2', '2']
        """
        return query.stored_vectors(self, ids, layers, pooling)

    def export(
        self,
        out: str | Path,
        *,
        layers: Layers = None,
        pooling: str | None = None,
        partition: str | None = None,
        format: str = "npy",
        states: bool = True,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write hidden states or items for other tools; see `hubstore.store.export.export`.

        Example:
            >>> [path.name for path in store.export("exported", layers=[2], partition="es")]
            ['items.parquet', 'layer-2.npy']
        """
        return export.export(
            self,
            Path(out),
            layers=layers,  # type: ignore[arg-type]  # one layer by itself, too
            pooling=pooling,
            partition=partition,
            format=format,
            states=states,
            overwrite=overwrite,
        )

    def verify(self) -> list[Problem]:
        """Read every committed file back; what is wrong, or nothing.

        Example:
            >>> store.verify()
            []
        """
        return verify(self.storage, check_index=index.index_problem)


def open(path: str | Location) -> Store:
    """Open a store for reading: a folder, or what an object store or a web server has (s3://, gs://, az://, https://).

    Example:
        >>> hubstore.open("demo.hub").layers
        ('0', '1', '2', '3')
    """
    return Store(path)
