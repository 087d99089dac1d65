"""A store on a server: the verbs of `hubstore.Store` that need no writing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from hubstore.client.batches import Options, batches_of, joined
from hubstore.client.connection import JSON, Answer, Connection, Query, described, each
from hubstore.errors import QueryError, ServerError

if TYPE_CHECKING:
    import torch

    from hubstore.query import Medium

TIMEOUT = 60.0
TOKEN = "HUBSTORE_TOKEN"
PAGE = 1000
"""Items asked for at once: the most that a server gives."""

SNAPSHOTS = 5
"""Times that what needs several requests is asked for anew where the store changes between them."""

IDS = 64
"""Items of one request for what is read of each."""

LINE = 4000
"""Characters of the ids of one request; some proxies allow 8000 in all."""

PAIRED = ("similarity", "retrieval", "alignment")
ANALYSES = ("similarity", "retrieval", "clustering", "alignment", "geometry")


@dataclass(frozen=True)
class RemotePartition:
    """All items of one (modality, language) of a store on a server.

    Args:
        name: "en" for text, "image/en" for another modality.
        modality: "text", "image" or "audio".
        language: BCP 47 tag.
        size: items in it.
    """

    name: str
    modality: str
    language: str
    size: int


def connect(url: str, token: str | None = None, store: str | None = None, timeout: float = TIMEOUT) -> RemoteStore:
    """A store that `hubstore serve` serves.

    Args:
        url: the server's address, such as http://127.0.0.1:8000.
        token: its bearer token, where it wants one; by default that of HUBSTORE_TOKEN in the environment.
        store: the store's name; may be left out where the server has one.
        timeout: seconds to wait for an answer, and in all for a server that is busy or works on the answer.

    Raises:
        QueryError: an address that is none, or a store that the server does not have.
        ServerError: no server answers there, or none of hubstore's.
        TokenError: the token is missing or wrong.

    Example:
        >>> hubstore.connect("http://127.0.0.1:8000").search(ids=["en:1"], k=3).to_pandas()
    """
    connection = Connection(url, token or os.environ.get(TOKEN) or None, timeout)
    answer = connection.get("/healthz", accept=JSON)
    health = answer.json()
    if not (isinstance(health, dict) and {"status", "version", "stores"} <= set(health)):
        raise ServerError(
            f"{answer.place} does not answer as a hubstore server does; check the address. `hubstore serve STORE` "
            "starts a server"
        )
    names = [one["name"] for one in connection.get("/api/stores", accept=JSON).json()["stores"]]
    there = ", ".join(names) or "none"
    if store is None and len(names) != 1:
        raise QueryError(f"{url} serves {len(names)} stores; name one of them: {there}")
    if store is not None and store not in names:
        raise QueryError(f"{url} has no store {store!r}; it has {there}")
    return RemoteStore(connection, names[0] if store is None else store)


class RemoteStore:
    """A store on a server, with what can be asked of a `hubstore.Store`; made by `hubstore.connect`.

    A local store is as it was when it was opened. A server's gains commits while it is asked: every answer is of one
    state of the store, and so is every table here that takes several answers.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self._connection = connection
        self._path = f"/api/stores/{quote(name, safe='')}"

    def __repr__(self) -> str:
        return f"<RemoteStore {self.name} of {self.url}>"

    def __enter__(self) -> RemoteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    def info(self) -> dict[str, Any]:
        """What the server says of the store now: items, model, partitions, indexes, analyses, provenance, ..."""
        found: dict[str, Any] = self._connection.get(self._path, accept=JSON).json()
        return found

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """What of it no commit changes: layers, poolings, dtype, width, model."""
        return self.info()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers kept: "0" is the embedding output, "final" is after the final norm."""
        return tuple(self._fixed["layers"])

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings kept; the first is the default."""
        return tuple(self._fixed["poolings"])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every hidden state in the store; answers are float32."""
        from hubstore.store import DTYPES

        return DTYPES[self._fixed["dtype"]]

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self._fixed["width"])

    def __len__(self) -> int:
        """Items committed, now."""
        return int(self.info()["items"])

    @property
    def digest(self) -> str:
        """Of the store's content, now; answers have it in their metadata."""
        return str(self.info()["revision"])

    @property
    def partitions(self) -> Mapping[str, RemotePartition]:
        """Every partition by name, in the store's order, now."""
        found = (
            RemotePartition(one["name"], one["modality"], one["language"], one["items"])
            for one in self.info()["partitions"]
        )
        return {partition.name: partition for partition in found}

    @property
    def items(self) -> pa.Table:
        """One row per item, in position order: all of them, in pages of a thousand; `find_items` gives some."""

        def pages() -> list[Answer]:
            answers: list[Answer] = []
            read, total = 0, 1
            while read < total:
                answers.append(self._get("/items", [("offset", read), ("limit", PAGE)]))
                page = answers[-1].table()
                read, total = read + len(page), int(described(page)["total"])
                if len(page) == 0 and read < total:
                    raise ServerError(f"{self.url} gave {read} of the {total} items of {self.name}, and then none")
            return answers

        tables = [answer.table() for answer in self._of_one_revision(pages)]
        return pa.concat_tables(tables).combine_chunks().replace_schema_metadata()

    def find_items(
        self,
        text: str | None = None,
        *,
        languages: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        concepts: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> pa.Table:
        """Items in position order, some of those that match; `total` in the metadata says of how many.

        Args:
            text: what an item's text or id holds, in whatever case.
            languages: only in one of these.
            modalities: only of one of these.
            concepts: only of one of these.
            partitions: only in one of these.
            offset: matches to leave out.
            limit: the most to give; the server gives at most a thousand.
        """
        query = [
            ("q", text),
            *each("language", languages),
            *each("modality", modalities),
            *each("concept", concepts),
            *each("partition", partitions),
            ("offset", offset),
            ("limit", limit),
        ]
        return self._get("/items", query).table()

    def preview(self, item: str) -> bytes | None:
        """The thumbnail (WebP) or clip of an item; None where none is kept. QueryError when there is no such item."""
        found = self._get("/item", [("id", item)], accept=JSON).json()
        return self._get("/preview", [("id", item)], accept="*/*").body if found["preview"] else None

    def search(
        self,
        *,
        ids: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        images: Sequence[Medium] | None = None,
        audio: Sequence[Medium] | None = None,
        vectors: Any = None,
        k: int = 10,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        languages: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        concepts: Sequence[str] | None = None,
        exclude_same_language: bool = False,
        exclude_self: bool = True,
        centred: bool = False,
        query_languages: str | Sequence[str] | None = None,
        effort: int | None = None,
    ) -> pa.Table:
        """The k nearest items by cosine at each layer; as `hubstore.Store.search`, with the server's model and indexes.

        Vectors travel as float32. `media` in the answer is a file's name: where it is, the server keeps to itself.
        """
        given = {"ids": ids, "texts": texts, "images": images, "audio": audio, "vectors": vectors}
        asked = {name: value for name, value in given.items() if value is not None}
        if len(asked) != 1:
            raise QueryError("give exactly one of ids, texts, images, audio and vectors")
        options = Options(
            k=k,
            layers=None if layers is None else [str(layer) for layer in layers],
            pooling=pooling,
            languages=_listed(languages),
            modalities=_listed(modalities),
            concepts=_listed(concepts),
            exclude_same_language=exclude_same_language,
            exclude_self=exclude_self,
            centred=centred,
            effort=effort,
        )
        ((what, values),) = asked.items()
        named = self.layers if options.layers is None else options.layers
        batches = batches_of(what, values, query_languages, named, self.width)
        return joined(batches, self._of_one_revision(lambda: [self._post(*b.request(options)) for b in batches]))

    def vectors(
        self, ids: Sequence[str], *, layers: Sequence[str | int] | None = None, pooling: str | None = None
    ) -> pa.Table:
        """Hidden states of items: id, layer and vector; see `hubstore.Store.vectors`."""
        return self._by_ids("/hidden", ids, layers, [("pooling", pooling)])

    def analyze(
        self,
        names: Sequence[str] | None = None,
        *,
        pairs: Sequence[tuple[str, str]] | None = None,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
    ) -> dict[str, pa.Table]:
        """The tables of several analyses, with their defaults; see `hubstore.analysis.analyze`.

        The server takes them from what the store keeps, or computes and keeps them.

        Args:
            names: some of similarity, retrieval, clustering, alignment and geometry; None is all.
            pairs: partitions to compare, whichever is named first. Clustering and geometry are of all partitions; of
                their rows, those of the partitions named are given. None is all.
            layers: None is all.
            pooling: None is the store's first that has a row per item.
        """
        common = [*each("layer", layers), ("pooling", pooling)]
        partitions = each("partition", dict.fromkeys(itertools.chain.from_iterable(pairs or ())))
        compared = each("pair", [f"{x}:{y}" for x, y in pairs or ()])
        return {
            name: self._get(
                "/curves", [("analysis", name), *common, *(compared if name in PAIRED else partitions)]
            ).table()
            for name in dict.fromkeys(names or ANALYSES)
        }

    def analyses(self) -> list[dict[str, Any]]:
        """The tables that the store keeps: analysis, key, parameters, seed, rows, and whether it has changed since."""
        found: list[dict[str, Any]] = self._get("/analyses", accept=JSON).json()["analyses"]
        return found

    def analysis(self, name: str, key: str) -> pa.Table:
        """A table that the store keeps."""
        return self._get(f"/analyses/{quote(name, safe='')}/{quote(key, safe='')}").table()

    def lens(
        self,
        ids: Sequence[str],
        *,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        variant: str = "raw",
        targets: Sequence[str] = (),
        k: int = 5,
    ) -> pa.Table:
        """What the logit lens reads in stored states, with the lens that the store keeps; see `hubstore.Store.lens`."""
        options = [("pooling", pooling), ("variant", variant), *each("target", targets), ("k", k)]
        return self._by_ids("/lens", ids, layers, options)

    def lens_summary(
        self,
        *,
        partitions: Sequence[str] | None = None,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        variant: str = "raw",
        targets: Sequence[str] = (),
    ) -> pa.Table:
        """Entropy, agreement and targets of every partition; see `hubstore.lens.lens_summary`."""
        options = [("pooling", pooling), ("variant", variant), *each("target", targets)]
        return self._get("/lens/summary", [*each("partition", partitions), *each("layer", layers), *options]).table()

    def projection(
        self,
        *,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        method: str = "pca",
        points: int = 20_000,
        seed: int = 0,
        languages: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> pa.Table:
        """A map of a sample of items at each layer, by PCA or UMAP; see `hubstore.analysis.projection`."""
        query = [
            *each("layer", self.layers if layers is None else layers),
            ("pooling", pooling),
            ("method", method),
            ("points", points),
            ("seed", seed),
            *each("language", languages),
            *each("modality", modalities),
        ]
        return self._get("/projection", query).table()

    def _get(self, path: str, query: Query = (), **options: str) -> Answer:
        return self._connection.get(self._path + path, query, **options)

    def _post(self, path: str, body: bytes, kind: str, query: Query) -> Answer:
        return self._connection.post(self._path + path, body, kind, query)

    def _by_ids(
        self, path: str, ids: Sequence[str], layers: Sequence[str | int] | None, options: Sequence[tuple[str, object]]
    ) -> pa.Table:
        """A table by layer and item, asked for some items at a time: the line of a request has an end."""
        names = list(dict.fromkeys(map(str, self.layers if layers is None else layers)))
        query = [*each("layer", names), *options]
        parts = list(_that_fit(ids))
        answers = self._of_one_revision(lambda: [self._get(path, [*each("id", part), *query]) for part in parts])
        tables = [answer.table() for answer in answers]
        if len(tables) == 1:
            return tables[0]
        found = pa.concat_tables(tables)
        place = {name: number for number, name in enumerate(dict.fromkeys(found["layer"].to_pylist()))}
        numbers = np.array([place[name] for name in found["layer"].to_pylist()])
        return found.take(pa.array(np.argsort(numbers, kind="stable"))).combine_chunks()

    def _of_one_revision(self, ask: Callable[[], list[Answer]]) -> list[Answer]:
        """Several answers about one state of the store: all are asked for again where it changed between them."""
        for _ in range(SNAPSHOTS):
            answers = ask()
            if len({answer.revision for answer in answers}) == 1:
                return answers
        raise ServerError(
            f"{self.name} of {self.url} changed each of the {SNAPSHOTS} times that it was read; it is being extended: "
            "ask for less at once, or later"
        )


def _listed(names: Sequence[str] | None) -> list[str] | None:
    """Names as a list, one alone too."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


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
