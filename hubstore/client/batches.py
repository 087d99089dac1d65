"""One search as the requests that a server takes: so many queries at once, an image or a recording at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.arrow import rows_as_lists
from hubstore.checks import check_array
from hubstore.client.connection import ARROW, Answer, Request
from hubstore.errors import CorpusError, NonFiniteError, QueryError

if TYPE_CHECKING:
    from hubstore.query import Medium

MOST = 512
"""Queries of a request."""

BYTES = 1 << 24
"""Of a request's vectors."""

DEDUPLICATED = ("ids", "texts")
"""Queries that a server answers once, however often a request has them."""

MEDIA = {"images": "image", "audio": "audio"}
OCTETS = "application/octet-stream"
Vectors = npt.NDArray[np.float32]
SINGULAR = {"layers": "layer", "languages": "language", "modalities": "modality", "concepts": "concept"}
"""What an option of a body is called as a parameter."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries of one request.

    Args:
        what: "ids", "texts", "images", "audio" or "vectors".
        values: ids, texts, one image or recording, or vectors [queries, width].
        first: the number of the first among all queries.
        language: of all of them.
        layer: the one layer that vectors are for; None for every layer.
    """

    what: str
    values: Any
    first: int
    language: str | None
    layer: str | None = None

    def request(self, store: str, options: Mapping[str, Any]) -> Request:
        """What to send to the server's `store`, a path."""
        options = {**options, "query_language": self.language}
        if self.layer is not None:
            options["layers"] = [self.layer]
        if self.what not in MEDIA and self.what != "vectors":
            return Request(f"{store}/neighbors", body=json.dumps({**options, self.what: self.values}).encode())
        lists = [(name, value) for field, name in SINGULAR.items() for value in options.pop(field, ())]
        query = [*lists, *options.items()]
        if self.what == "vectors":
            return Request(f"{store}/neighbors", query, _stream(self.values), ARROW)
        return Request(f"{store}/neighbors/{MEDIA[self.what]}", query, _bytes_of(self.values), OCTETS)

    def table(self, answer: Answer) -> pa.Table:
        """The answer as `search` would have given it as part of a larger one."""
        found = answer.table()
        found = found.drop_columns([name for name in ("preview",) if name in found.column_names])
        if self.what in MEDIA:
            return _called(found, [_label(self.values)] * len(found))
        if self.what == "vectors" and self.first:
            return _called(found, [f"vector {self.first + _number(label)}" for label in found["query"].to_pylist()])
        return found


def batches_of(
    what: str, values: Any, languages: str | Sequence[str] | None, layers: Sequence[str], width: int
) -> list[Batch]:
    """The requests of a search, in the order of its queries.

    Raises:
        QueryError: no query, another number of languages than of queries, or vectors of another shape.
        NonFiniteError: NaN or infinity in a vector.
    """
    if what == "vectors":
        most = max(1, min(MOST, BYTES // (4 * width)))
        return [
            batch
            for layer, rows in _by_layer(values, layers, width).items()
            for batch in _parts(what, rows, _languages(languages, len(rows)), most, layer)
        ]
    single = isinstance(values, str | bytes | os.PathLike) or (what in MEDIA and hasattr(values, "data"))
    several = [values] if single else list(values)
    if not several:
        raise QueryError(f"there is no query: {what} is empty")
    return list(_parts(what, several, _languages(languages, len(several)), 1 if what in MEDIA else MOST))


def concat_batches(batches: Sequence[Batch], answers: Sequence[Answer]) -> pa.Table:
    """One table of the answers, by query, layer and rank."""
    tables = [batch.table(answer) for batch, answer in zip(batches, answers, strict=True)]
    if len(tables) == 1:
        return tables[0]
    record = provenance(tables[0])
    kinds = {layer: kind for table in tables for layer, kind in provenance(table)["indexes"].items()}
    found = pa.concat_tables(table.replace_schema_metadata() for table in tables)
    if batches[0].layer is not None:
        place = {layer: number for number, layer in enumerate(kinds)}
        layer_numbers = [place[layer] for layer in found["layer"].to_pylist()]
        query_numbers = [_number(label) for label in found["query"].to_pylist()]
        found = found.take(pa.array(np.lexsort((found["rank"].to_numpy(), layer_numbers, query_numbers))))
    record |= {"layers": list(kinds), "indexes": kinds}
    if "recalls" in record:
        record["recalls"] = {layer: of for table in tables for layer, of in provenance(table)["recalls"].items()}
    return found.replace_schema_metadata({b"hubstore": json.dumps(record)}).combine_chunks()


def provenance(table: pa.Table) -> dict[str, Any]:
    """How a table was made, from its metadata."""
    found: dict[str, Any] = json.loads(table.schema.metadata[b"hubstore"])
    return found


def _parts(
    what: str, values: Any, languages: Sequence[str | None], most: int, layer: str | None = None
) -> Iterator[Batch]:
    """Batches of at most `most` queries, each in one language; an id or a text that comes again is in another one."""
    start, seen = 0, set[str]()
    for number, language in enumerate(languages):
        repeated = what in DEDUPLICATED and values[number] in seen
        if number - start == most or repeated or language != languages[start]:
            yield _batch(what, values, slice(start, number), languages, layer)
            start, seen = number, set()
        if what in DEDUPLICATED:
            seen.add(values[number])
    yield _batch(what, values, slice(start, len(languages)), languages, layer)


def _batch(what: str, values: Any, part: slice, languages: Sequence[str | None], layer: str | None) -> Batch:
    queries = values[part.start] if what in MEDIA else values[part]
    return Batch(what, queries, part.start, languages[part.start], layer)


def _languages(languages: str | Sequence[str] | None, count: int) -> list[str | None]:
    if languages is None or isinstance(languages, str):
        return [languages] * count
    if len(languages) != count:
        raise QueryError(f"there are {count} queries and {len(languages)} query languages; give one, or one each")
    return list(languages)


def _by_layer(vectors: Any, layers: Sequence[str], width: int) -> dict[str | None, Vectors]:
    if not isinstance(vectors, Mapping):
        return {None: _rows(vectors, width)}
    missing = [layer for layer in layers if layer not in vectors]
    if missing:
        raise QueryError(f"there are no vectors for layer {missing[0]}; there are for {', '.join(vectors)}")
    found: dict[str | None, Vectors] = {layer: _rows(vectors[layer], width) for layer in layers}
    counts = {len(rows) for rows in found.values()}
    if len(counts) != 1:
        raise QueryError(f"every layer needs as many vectors; there are {sorted(counts)}")
    return found


def _rows(vectors: Any, width: int) -> Vectors:
    """float32 [queries, width] of an array or a tensor, wherever it is."""
    rows = np.atleast_2d(check_array("vectors", vectors, error=QueryError)).astype(np.float32)
    if not rows.size:
        raise QueryError("there is no query: vectors is empty")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise QueryError(f"vectors have shape {list(rows.shape)}; the store needs [queries, {width}]")
    if not np.isfinite(rows).all():
        raise NonFiniteError("a query vector holds NaN or infinity")
    return rows


def _stream(rows: Vectors) -> bytes:
    """An Arrow stream of one column, "vector"."""
    table, sink = pa.table({"vector": rows_as_lists(rows)}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _bytes_of(medium: Medium) -> bytes:
    """The encoded bytes of an image or a recording."""
    if isinstance(medium, bytes):
        return medium
    name, data = _label(medium), getattr(medium, "data", None)
    if data is not None:
        return bytes(data)
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{name} cannot be read: {error.strerror}; give the path of an image or a recording"
        ) from error


def _label(medium: Medium) -> str:
    """What a local store's answer calls the query."""
    if isinstance(medium, bytes):
        return f"{len(medium)} bytes"
    return os.path.abspath(medium) if isinstance(medium, str | os.PathLike) else medium.name


def _called(table: pa.Table, labels: Sequence[str]) -> pa.Table:
    return table.set_column(0, table.schema.field(0), pa.array(labels, pa.string()))


def _number(label: str) -> int:
    return int(label.rpartition(" ")[2])
