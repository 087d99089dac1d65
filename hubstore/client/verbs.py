"""What can be asked of a store on a server, without I/O: each verb yields the requests of a step and gets the answers.

`RemoteStore` sends them one after another, `AsyncRemoteStore` at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.client.base import BaseRemoteStore, RemotePartition
from hubstore.client.batches import batches_of, concat_batches, provenance
from hubstore.client.connection import JSON, Answer, Endpoint, Request, Steps
from hubstore.errors import AnalysisError, QueryError, ServerError
from hubstore.named import SearchNamed
from hubstore.options import CompareOptions, SearchOptions, http_options, refuse_others, strings, take
from hubstore.signatures import takes

if TYPE_CHECKING:
    from hubstore.query import Medium

PAGE = 1000
"""Items of a request: the most that a server gives."""

SNAPSHOTS = 5
"""Times that the requests of a verb are sent anew where the store changes between them."""

IDS = 64
"""Items of one request for what is read of each."""

LINE = 4000
"""Characters of the ids of one request; some proxies allow 8000 in all."""

PAIRED = ("similarity", "retrieval", "alignment")
ANALYSES = ("similarity", "retrieval", "clustering", "alignment", "geometry")

Layers = Sequence[str | int]


def connect(endpoint: Endpoint, store: str | None) -> Steps[tuple[str, dict[str, Any]]]:
    """The name of the server's store, or its only one, and what the server says of it."""
    [health] = yield [Request("/healthz", accept=JSON)]
    said = health.json()
    if not (isinstance(said, dict) and {"status", "version", "stores"} <= set(said)):
        raise ServerError(
            f"{health.place} does not answer as a hubstore server does; check the address. `hubstore serve STORE` "
            "starts a server"
        )
    [listed] = yield [Request("/api/v1/stores", accept=JSON)]
    names = [one["name"] for one in listed.json()["stores"]]
    listed_names = ", ".join(names) or "none"
    if store is None and len(names) != 1:
        raise QueryError(f"{endpoint.url} serves {len(names)} stores; name one of them: {listed_names}")
    if store is not None and store not in names:
        raise QueryError(f"{endpoint.url} has no store {store!r}; it has {listed_names}")
    name = names[0] if store is None else store
    return name, (yield from info(BaseRemoteStore(endpoint, name, {})))


def info(store: BaseRemoteStore) -> Steps[dict[str, Any]]:
    """What the server says of the store now: items, model, partitions, indexes, analyses, provenance, ..."""
    [answer] = yield [store.get("", accept=JSON)]
    found: dict[str, Any] = answer.json()
    return found


def partitions(store: BaseRemoteStore) -> Steps[Mapping[str, RemotePartition]]:
    """Every partition by name, in the store's order, now."""
    found = yield from info(store)
    return {
        one["name"]: RemotePartition(one["name"], one["modality"], one["language"], one["items"])
        for one in found["partitions"]
    }


def partition(store: BaseRemoteStore, name: str) -> Steps[RemotePartition]:
    """A partition with the positions of its items; QueryError, naming those there are, when there is none."""
    found = yield from partitions(store)
    if name not in found:
        raise QueryError(f"{store.place} has no partition {name!r}; it has {', '.join(found)}")
    one, table = found[name], (yield from items(store))
    own = pc.and_(pc.equal(table["language"], one.language), pc.equal(table["modality"], one.modality))
    return replace(one, items=np.flatnonzero(own.to_numpy()))


def items(store: BaseRemoteStore, *filters: tuple[str, str]) -> Steps[pa.Table]:
    """One row per item that passes `filters`, in position order, in pages of a thousand; `find_items` gives some."""

    def pages() -> Steps[list[Answer]]:
        first = yield [store.get("/items", *filters, ("offset", 0), ("limit", PAGE))]
        offsets = range(PAGE, int(provenance(first[0].table())["total"]), PAGE)
        rest = [store.get("/items", *filters, ("offset", offset), ("limit", PAGE)) for offset in offsets]
        return first + (yield rest)

    tables = [answer.table() for answer in (yield from _of_one_revision(store, pages))]
    found, total = pa.concat_tables(tables), int(provenance(tables[0])["total"])
    if len(found) != total:
        raise ServerError(f"{store.url} gave {len(found)} of the {total} items of {store.name}")
    return found.combine_chunks().replace_schema_metadata()


def find_items(
    store: BaseRemoteStore,
    text: str | None = None,
    *,
    languages: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 50,
) -> Steps[pa.Table]:
    """Items in position order, some of those that match; `total` in the metadata says of how many.

    Args:
        store: where to look.
        text: part of an item's text or id, in whatever case.
        languages: only in one of these.
        modalities: only of one of these.
        concepts: only of one of these.
        partitions: only in one of these.
        offset: matches to leave out.
        limit: the most to give; the server gives at most a thousand.
    """
    filters = {"language": languages, "modality": modalities, "concept": concepts, "partition": partitions}
    return (yield from _table(store, "/items", ("q", text), *_each(**filters), ("offset", offset), ("limit", limit)))


def item(store: BaseRemoteStore, name: str) -> Steps[dict[str, Any]]:
    """All that the server says of an item; QueryError when there is no such item."""
    [answer] = yield [store.get("/item", ("id", name), accept=JSON)]
    found: dict[str, Any] = answer.json()
    return found


def preview(store: BaseRemoteStore, item: str) -> Steps[bytes | None]:
    """The thumbnail (WebP) or clip of an item; None where there is none. QueryError when there is no such item."""
    [found] = yield [store.get("/item", ("id", item), accept=JSON)]
    if not found.json()["preview"]:
        return None
    [answer] = yield [store.get("/preview", ("id", item), accept="*/*")]
    return answer.body


@takes(SearchOptions, without=("allow_stale",))
def search(
    store: BaseRemoteStore,
    /,
    *,
    ids: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    images: Sequence[Medium] | None = None,
    audio: Sequence[Medium] | None = None,
    vectors: Any = None,
    options: SearchOptions | None = None,
    **named: Unpack[SearchNamed],
) -> Steps[pa.Table]:
    """The k nearest items by cosine at each layer; as `hubstore.Store.search`, with the server's model and indexes.

    Vectors travel as float32. `media` in the answer is a file's name: where it is, the server does not say. `named`
    are fields of `SearchOptions`.
    """
    rest: dict[str, Any] = {**named}
    options = take(SearchOptions, rest, options)
    refuse_others("search", rest)
    inputs = {"ids": ids, "texts": texts, "images": images, "audio": audio, "vectors": vectors}
    queries = {name: value for name, value in inputs.items() if value is not None}
    if len(queries) != 1:
        raise QueryError("give exactly one of ids, texts, images, audio and vectors")
    if options.allow_stale:
        raise QueryError("allow_stale is the server's to choose: give it to `hubstore serve`")
    layers = store.layers if options.layers is None else [str(layer) for layer in options.layers]
    sent = http_options(options)
    languages = sent.pop("query_languages", None)  # each query's own travels with it
    if options.layers is not None:
        sent["layers"] = layers
    ((what, values),) = queries.items()
    batches = batches_of(what, values, languages, layers, store.width)
    requests = [batch.request(store.path, sent) for batch in batches]
    return concat_batches(batches, (yield from _of_one_revision(store, requests)))


def vectors(
    store: BaseRemoteStore, ids: Sequence[str], *, layers: Layers | None = None, pooling: str | None = None
) -> Steps[pa.Table]:
    """Hidden states of items: id, layer and vector; see `hubstore.Store.vectors`."""
    return (yield from _by_ids(store, "/hidden", ids, layers, ("pooling", pooling)))


def analyze(
    store: BaseRemoteStore,
    names: str | Sequence[str] | None = None,
    *,
    pairs: Any = None,
    pivot: str | None = None,
    layers: Layers | None = None,
    pooling: str | None = None,
) -> Steps[dict[str, pa.Table]]:
    """The tables of several analyses, with their defaults; see `hubstore.analysis.analyze`.

    The server takes them from what the store keeps, or computes and keeps them.

    Args:
        store: which store.
        names: one or some of similarity, retrieval, clustering, alignment and geometry; None is all.
        pairs: partitions to compare, whichever is named first: ("en", "es") or "en:es" each. Clustering and geometry
            are of all partitions; of their rows, those of the partitions named are given. None is all.
        pivot: one partition against all others that share concepts with it.
        layers: None is all.
        pooling: None is the store's first that has a row per item.
    """
    options = take(CompareOptions, {"pairs": pairs, "pivot": pivot, "layers": layers, "pooling": pooling})
    common = [*_each(layers=options.layers), ("pooling", pooling), ("pivot", pivot)]
    partitions = _each(partitions=dict.fromkeys(itertools.chain.from_iterable(options.pairs or ())))
    compared = _each(pairs=[f"{x}:{y}" for x, y in options.pairs or ()])
    chosen = list(dict.fromkeys(strings("names", names, error=AnalysisError) or ANALYSES))
    answers = yield [
        store.get("/curves", ("analysis", name), *common, *(compared if name in PAIRED else partitions))
        for name in chosen
    ]
    return {name: answer.table() for name, answer in zip(chosen, answers, strict=True)}


def analyses(store: BaseRemoteStore) -> Steps[list[dict[str, Any]]]:
    """The tables that the store keeps: analysis, key, parameters, seed, rows, and whether they are of its content."""
    [answer] = yield [store.get("/analyses", accept=JSON)]
    found: list[dict[str, Any]] = answer.json()["analyses"]
    return found


def analysis(store: BaseRemoteStore, name: str, key: str) -> Steps[pa.Table]:
    """A table that the store keeps."""
    return (yield from _table(store, f"/analyses/{quote(name, safe='')}/{quote(key, safe='')}"))


def lens(
    store: BaseRemoteStore,
    ids: Sequence[str],
    *,
    layers: Layers | None = None,
    pooling: str | None = None,
    variant: str = "raw",
    targets: Sequence[str] = (),
    k: int = 5,
) -> Steps[pa.Table]:
    """What the logit lens reads in stored states, with the lens that the store keeps; see `hubstore.Store.lens`."""
    options = [("pooling", pooling), ("variant", variant), *_each(target=targets), ("k", k)]
    return (yield from _by_ids(store, "/lens", ids, layers, *options))


def lens_summary(
    store: BaseRemoteStore,
    *,
    partitions: Sequence[str] | None = None,
    layers: Layers | None = None,
    pooling: str | None = None,
    variant: str = "raw",
    targets: Sequence[str] = (),
) -> Steps[pa.Table]:
    """Entropy, agreement and targets of every partition; see `hubstore.lens.lens_summary`."""
    lists = _each(partition=partitions, layer=layers, target=targets)
    return (yield from _table(store, "/lens/summary", *lists, ("pooling", pooling), ("variant", variant)))


def projection(
    store: BaseRemoteStore,
    *,
    layers: Layers | None = None,
    pooling: str | None = None,
    method: str = "pca",
    points: int = 20_000,
    seed: int = 0,
    languages: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
) -> Steps[pa.Table]:
    """A map of a sample of items at each layer, by PCA or UMAP; see `hubstore.analysis.projection`."""
    lists = _each(layer=store.layers if layers is None else layers, language=languages, modality=modalities)
    options = [("pooling", pooling), ("method", method), ("points", points), ("seed", seed)]
    return (yield from _table(store, "/projection", *lists, *options))


def _table(store: BaseRemoteStore, path: str, *query: tuple[str, object]) -> Steps[pa.Table]:
    [answer] = yield [store.get(path, *query)]
    return answer.table()


def _by_ids(
    store: BaseRemoteStore, path: str, ids: Sequence[str], layers: Layers | None, *options: tuple[str, object]
) -> Steps[pa.Table]:
    """A table by layer and item, some items to a request: its line has an end."""
    names = dict.fromkeys(map(str, store.layers if layers is None else layers))
    requests = [store.get(path, *_each(id=part, layer=names), *options) for part in _that_fit(ids)]
    tables = [answer.table() for answer in (yield from _of_one_revision(store, requests))]
    if len(tables) == 1:
        return tables[0]
    found = pa.concat_tables(tables)
    place = {name: number for number, name in enumerate(dict.fromkeys(found["layer"].to_pylist()))}
    numbers = np.array([place[name] for name in found["layer"].to_pylist()])
    return found.take(pa.array(np.argsort(numbers, kind="stable"))).combine_chunks()


def _of_one_revision(
    store: BaseRemoteStore, requests: Sequence[Request] | Callable[[], Steps[list[Answer]]]
) -> Steps[list[Answer]]:
    """Several answers about one state of the store: all are asked for again where it changed between them."""
    for _ in range(SNAPSHOTS):
        answers = (yield from requests()) if callable(requests) else (yield requests)
        if len({answer.revision for answer in answers}) == 1:
            return answers
    raise ServerError(
        f"{store.name} of {store.url} changed each of the {SNAPSHOTS} times that it was read; it is being extended: "
        "ask for less at once, or later"
    )


def _each(**lists: Iterable[object] | None) -> list[tuple[str, object]]:
    """A parameter for each value of some lists, by the parameters' names."""
    return [(name, value) for name, values in lists.items() for value in values or ()]


def _that_fit(ids: Sequence[str]) -> Iterator[list[str]]:
    """Runs of distinct ids, IDS at most, whose parameters have LINE characters at most where they are several."""
    if not ids:
        raise QueryError("there is no query: ids is empty")
    run: list[str] = []
    length = 0
    for name in ids:
        own = len("&id=") + len(quote(name, safe=""))
        if run and (length + own > LINE or len(run) == IDS or name in run):
            yield run
            run, length = [], 0
        run.append(name)
        length += own
    yield run
