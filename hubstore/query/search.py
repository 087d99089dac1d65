"""A query (ids, texts, images, audio or vectors) to a ranked Arrow table of neighbors, layer by layer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.corpus import Item, Media
from hubstore.corpus.remote import medium_name
from hubstore.devices import resolve_device
from hubstore.errors import Parameter, QueryError
from hubstore.index import Allowed, SearchableLayer, load_or_exact
from hubstore.index.layer import load_centered
from hubstore.options import SearchOptions, refuse_others, strings, take
from hubstore.query.centered import CenteredLayer, centered_queries, origins
from hubstore.query.filters import allowed_items, items_where
from hubstore.query.queries import Encoder, Queries, Vectors, from_ids, from_items, from_vectors, query_languages
from hubstore.store import StoreReader
from hubstore.version import __version__

Medium = str | os.PathLike[str] | bytes | Media
"""An image or an audio clip: a path, encoded bytes, or where it is."""

RESULT_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("layer", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("id", pa.string()),
        ("concept", pa.string()),
        ("language", pa.string()),
        ("modality", pa.string()),
        ("text", pa.string()),
        ("media", pa.string()),
    ]
)
"""What `search` returns; `media` is where an image or audio clip is, null for a text.

Over `tokens` pooling, `token` (int32), the hit's place in its item, follows.
"""


@dataclass(frozen=True, eq=False)
class _Hits:
    """The neighbors found at one layer, [hits] each: query number, rank from 1, cosine and row."""

    layer: str
    query: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    row: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryInputs:
    """What is looked for: exactly one of the fields is given.

    Args:
        ids: items of the store.
        texts: texts, which the store's model reads.
        images: paths, encoded bytes or places of images, which the model reads.
        audio: the same of audio.
        vectors: [width] or [queries, width] for every layer alike, or such an array by layer.

    Raises:
        QueryError: none is given, or several, or one that is empty.
    """

    ids: Sequence[str] | None = None
    texts: Sequence[str] | None = None
    images: Sequence[Medium] | None = None
    audio: Sequence[Medium] | None = None
    vectors: Vectors | None = None

    def __post_init__(self) -> None:
        """Check that there is something to look for, and turn lists into tuples."""
        object.__setattr__(self, "ids", strings("ids", self.ids))
        object.__setattr__(self, "texts", strings("texts", self.texts))
        object.__setattr__(self, "images", _media(self.images))
        object.__setattr__(self, "audio", _media(self.audio))
        fields = {name: value for name, value in vars(self).items() if value is not None}
        if len(fields) != 1:
            raise QueryError("give exactly one of ids, texts, images, audio and vectors")
        if self.vectors is None and len(next(iter(fields.values()))) == 0:
            raise QueryError(f"there is no query: {next(iter(fields))} is empty")

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return next(name for name, value in vars(self).items() if value is not None)

    def items(self) -> list[Item]:
        """Texts, images and audio as items; none of ids and vectors."""
        items = [Item(text, text, "und") for text in self.texts or ()]
        for modality, media in (("image", self.images), ("audio", self.audio)):
            items += [Item.given(modality, one) for one in media or () if isinstance(one, Media)]
        return items


def search(
    store: StoreReader,
    inputs: QueryInputs | None = None,
    options: SearchOptions | None = None,
    *,
    encoder: Encoder | None = None,
    indexes: Mapping[str, SearchableLayer] | None = None,
    device: str = "auto",
    **named: Any,
) -> pa.Table:
    """The k nearest items to each query by cosine, at each layer.

    Args:
        store: where to look.
        inputs: what is looked for; its fields may be given by name too.
        options: how to search; its fields may be given by name too. With pooling `tokens`, neighbors are single tokens,
            and a query by id is one query for each token of the item. `centered` takes vectors as they are, and
            searches exactly where no index of centered rows was built.
        encoder: items to [items, width] by layer, for texts, images and audio; called once.
        indexes: loaded indexes by layer, for callers that search often or elsewhere; else each layer's is loaded, and
            a layer without one is searched exactly. With `centered`, those of centered rows.
        device: "auto", "cpu" or "cuda".
        named: fields of `QueryInputs` and `SearchOptions`.

    Returns:
        RESULT_SCHEMA, ordered by query, layer and rank; a query whose state is all zeros has no neighbors. The schema's
        metadata holds, as JSON under b"hubstore", the store, its model, pooling, layers, the kind of index used at
        each, the recall@10 that it was measured to have when it was built (null where nobody measured, or
        `search_effort` is given), and the filters.

    Raises:
        QueryError: an id, language, modality, concept, layer or pooling that is not there, k < 1, vectors of another
            width or of zeros, filters that leave nothing, or a `where` that is no condition on the items' columns.
        NonFiniteError: NaN or infinity in a vector.
        StaleIndexError: an index is older than the store.
        CorruptStoreError: an index's file is not as it was written.
        MissingDependencyError: an index needs FAISS, which is not installed.

    Example:
        >>> search(store, ids=["en-17"], k=3, layers=[6], exclude_same_language=True).to_pandas()
    """
    options = take(SearchOptions, named, options)
    inputs = inputs or take(QueryInputs, named)
    refuse_others("search", named)
    names = store.layer_names(options.layers)
    pooled = store.pooling_name(options.pooling)
    queries = _queries(store, inputs, options, names, pooled, encoder)
    if options.exclude_same_language and None in queries.languages:
        raise QueryError(
            "to leave out the query's own language, say which it is: ", Parameter("query_languages", "...")
        )
    groups = _groups(store, queries, options, pooled)
    if options.centered:
        # An index has the means too, by which a query is moved.
        indexes = _centered_indexes(store, names, pooled, options, device) if indexes is None else dict(indexes)
        exact = (name for name in names if name not in indexes)
        indexes |= {name: CenteredLayer(store, name, pooled, resolve_device(device)) for name in exact}
        queries = centered_queries(store, queries, pooled)
    found, kinds, recalls = [], {}, {}
    for layer in names:
        index = (indexes or {}).get(layer) or load_or_exact(
            store, layer, pooled, allow_stale=options.allow_stale, device=device
        )
        kinds[layer] = index.kind
        recalls[layer] = _recall(index, options)
        found.append(_search_layer(index, queries, groups, options))
    provenance = {
        "store": str(store.path),
        "model": store.attributes.get("model"),
        "pooling": pooled,
        "layers": names,
        "indexes": kinds,
        "recalls": recalls,
        "filters": options.filters(),
        "centered": options.centered,
        "centred": options.centered,  # deprecated: `centered`
        "k": options.k,
        "version": __version__,
    }
    return _table(store, queries, found, pooled).replace_schema_metadata({b"hubstore": json.dumps(provenance)})


def _centered_indexes(
    store: StoreReader, layers: Sequence[str], pooling: str, options: SearchOptions, device: str
) -> dict[str, SearchableLayer]:
    loaded = {
        name: load_centered(store, name, pooling, allow_stale=options.allow_stale, device=device) for name in layers
    }
    return {name: index for name, index in loaded.items() if index is not None}


def _recall(index: SearchableLayer, options: SearchOptions) -> float | None:
    """Share of the true neighbors that the index was measured to find as it is searched; exact search finds all."""
    if index.kind == "exact":
        return 1.0
    measured = index.description.recall
    return None if measured is None or options.search_effort is not None else measured.measured


def _media(media: Sequence[Medium] | Medium | None) -> tuple[Media, ...] | None:
    if media is None:
        return None
    several = (media,) if isinstance(media, str | os.PathLike | bytes | Media) else media
    return tuple(
        one
        if isinstance(one, Media)
        else Media(f"{len(one)} bytes", one)
        if isinstance(one, bytes)
        else Media(medium_name(one))
        for one in several
    )


def _queries(
    store: StoreReader,
    inputs: QueryInputs,
    options: SearchOptions,
    layers: Sequence[str],
    pooling: str,
    encoder: Encoder | None,
) -> Queries:
    if inputs.ids is not None:
        return from_ids(store, list(inputs.ids), pooling)
    if inputs.vectors is not None:
        return from_vectors(inputs.vectors, layers, store.width, options.query_languages)
    if encoder is None:
        raise QueryError(f"{inputs.kind} need an encoder: the store's model. Query by id or by vector without one")
    items = inputs.items()
    spoken = query_languages(options.query_languages, len(items))
    if options.centered:  # before a model is loaded
        for item, language in zip(items, spoken, strict=True):
            origins(store, item.modality, language)
    return from_items(items, encoder, layers, store.width, spoken)


def _groups(
    store: StoreReader, queries: Queries, options: SearchOptions, pooling: str
) -> list[tuple[Allowed, npt.NDArray[np.int64]]]:
    """Queries that may be answered by the same rows: those rows, and the queries' numbers."""
    languages = queries.languages if options.exclude_same_language else (None,) * len(queries)
    order = sorted(range(len(queries)), key=lambda number: languages[number] or "")
    passing, groups = items_where(store, options.where), []
    for language, numbers in groupby(order, key=lambda number: languages[number]):
        allowed = allowed_items(store, options, language, passing)
        if pooling == "tokens":
            allowed = Allowed.from_ranges(store.token_ranges()[allowed.positions()])
        groups.append((allowed, np.array(list(numbers), np.int64)))
    return groups


def _search_layer(
    index: SearchableLayer,
    queries: Queries,
    groups: Sequence[tuple[Allowed, npt.NDArray[np.int64]]],
    options: SearchOptions,
) -> _Hits:
    vectors = queries.vectors(index.description.layer)
    ranked = []
    for allowed, numbers in groups:
        own = queries.self_rows[numbers]
        # A query's own rows are dropped afterwards, so ask for as many more.
        extra = int((own[:, 1] - own[:, 0]).max()) if options.exclude_self else 0
        count = min(options.k + extra, allowed.size)
        scores, rows = index.search(
            vectors[torch.from_numpy(numbers)], count, allowed, search_effort=options.search_effort
        )
        # To a state of zeros no item is nearer than another: it has no neighbors.
        rows = rows.masked_fill(~vectors[torch.from_numpy(numbers)].any(1, keepdim=True), -1)
        ranked.append(_ranked(index.description.layer, numbers, scores, rows, own, options))
    return _Hits(
        index.description.layer,
        *(np.concatenate([getattr(part, name) for part in ranked]) for name in ("query", "rank", "score", "row")),
    )


def _ranked(
    layer: str,
    numbers: npt.NDArray[np.int64],
    scores: torch.Tensor,
    rows: torch.Tensor,
    own: npt.NDArray[np.int64],
    options: SearchOptions,
) -> _Hits:
    found = rows.numpy()
    shown = found >= 0
    if options.exclude_self:
        shown &= (found < own[:, :1]) | (found >= own[:, 1:])
    ranks = np.cumsum(shown, axis=1, dtype=np.int64)
    shown &= ranks <= options.k
    query = np.broadcast_to(numbers[:, None], found.shape)
    return _Hits(layer, query[shown], ranks[shown], scores.numpy()[shown], found[shown])


def _table(store: StoreReader, queries: Queries, found: Sequence[_Hits], pooling: str) -> pa.Table:
    layer_numbers = np.repeat(np.arange(len(found)), [len(hits.row) for hits in found])
    query, rank, score, row = (
        np.concatenate([getattr(hits, name) for hits in found]) for name in ("query", "rank", "score", "row")
    )
    order = np.lexsort((rank, layer_numbers, query))
    query, rank, score, row = query[order], rank[order], score[order], row[order]
    position, token = row, None
    if pooling == "tokens":
        starts = store.token_ranges()[:, 0]
        position = np.searchsorted(starts, row, side="right") - 1
        token = (row - starts[position]).astype(np.int32)
    columns: dict[str, object] = {
        "query": pa.array(np.array(queries.labels, object)[query], pa.string()),
        "layer": pa.array(np.array([hits.layer for hits in found], object)[layer_numbers[order]], pa.string()),
        "rank": rank.astype(np.int32),
        "score": score,
    }
    items = store.items_at(position, RESULT_SCHEMA.names[4:])
    columns |= {name: items[name] for name in items.column_names}
    table = pa.table(columns).cast(RESULT_SCHEMA)
    return table if token is None else table.append_column("token", pa.array(token))
