"""Answers: JSON, and tables as JSON, Arrow, CSV or Parquet."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from starlette.responses import Response

from hubstore.arrow import csv_bytes
from hubstore.errors import HubstoreError
from hubstore.serve.http_errors import RequestError, error_body, kind_of, status_of
from hubstore.serve.limits import Limits
from hubstore.serve.redaction import redact_message

FormatName = Literal["json", "arrow", "csv", "parquet"]

MEDIA_TYPES: Mapping[FormatName, str] = {
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
SUFFIXES: Mapping[FormatName, str] = {"json": "json", "arrow": "arrows", "csv": "csv", "parquet": "parquet"}
REVISION = "Hubstore-Revision"


@dataclass(frozen=True)
class Format:
    """How an answer is written.

    Args:
        name: of the format.
        attached: whether a browser is to save it, rather than show it.
    """

    name: FormatName
    attached: bool = False

    @classmethod
    def negotiated(cls, accept: str, chosen: str | None) -> Format:
        """The format that `?format=` has chosen, else the best of the Accept header, else JSON."""
        names = {media: name for name, media in MEDIA_TYPES.items()}
        for name in names.values():
            if name == chosen:
                return cls(name, attached=True)
        if not accept:
            return cls("json")
        weights = {names[kind]: weight for kind, weight in weighted(accept).items() if kind in names and weight > 0}
        return cls(max(weights, key=weights.__getitem__, default="json"))


def weighted(header: str) -> dict[str, float]:
    """What an Accept or Accept-Encoding header names, in lower case, with its weights (RFC 9110, 12.4.2)."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        try:
            weights[name] = float(next((one[2:] for one in parameters if one.startswith("q=")), "1"))
        except ValueError:
            weights[name] = 0.0
    return weights


@dataclass(frozen=True, eq=False)
class TableResponse:
    """A table to answer one request, or several, each with some of its rows.

    Args:
        table: the rows.
        provenance: JSON-able, where they are from and how they were made; beside the columns in JSON, in the schema's
            metadata under b"hubstore" elsewhere.
        form: how to write them.
        name: of the file that a browser saves, without its suffix.
        revision: the snapshot that they were computed from, where it is a store's.
        limits: with the most bytes that an answer may have.
        csv_safe: whether CSV has no formulas.
    """

    table: pa.Table
    provenance: Mapping[str, Any]
    form: Format
    name: str
    revision: str | None
    limits: Limits
    csv_safe: bool = True

    def whole(self) -> Response:
        """All rows; TooLargeError where they are too many."""
        return self._written(self.table)

    def rows(self, ranges: Sequence[tuple[int, int]], first: Sequence[str] | None = None) -> Response:
        """The rows of some ranges, in their order, perhaps with other values in the first column."""
        if self.form.name == "json" and self.table.nbytes <= self.limits.answer:
            columns = {name: _sliced(values, ranges) for name, values in self._values.items()}
            if first is not None:
                columns[self.table.column_names[0]] = list(first)
            return self._response(self._json(columns))
        part = self.table.take(pa.array(np.concatenate([np.arange(*bounds) for bounds in [(0, 0), *ranges]])))
        if first is not None:
            part = part.set_column(0, part.column_names[0], pa.array(first, pa.string()))
        return self._written(part)

    @cached_property
    def _values(self) -> dict[str, list[Any]]:
        """Every column as Python's values, made once for all answers."""
        return _values(self.table)

    @cached_property
    def _provenance(self) -> str:
        return json_text(self.provenance)

    def _written(self, part: pa.Table) -> Response:
        self.limits.check_answer(part.nbytes)
        return self._response(self._json(_values(part)) if self.form.name == "json" else self._encoded(part))

    def _json(self, columns: Mapping[str, Sequence[Any]]) -> bytes:
        rows = len(next(iter(columns.values()), ()))
        return utf8(f'{{"about":{self._provenance},"columns":{json_text(columns)},"rows":{rows}}}')

    def _encoded(self, part: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        described = part.replace_schema_metadata({b"hubstore": utf8(self._provenance)})
        if self.form.name == "arrow":
            with pa.ipc.new_stream(sink, described.schema) as writer:
                writer.write_table(described)
        elif self.form.name == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(described, sink)
        else:
            return csv_bytes(_flat(part), safe=self.csv_safe)
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def _response(self, body: bytes) -> Response:
        headers = _headers(self.revision) | {"Vary": "Accept"}
        if self.form.attached:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "hubstore"
            headers["Content-Disposition"] = f'attachment; filename="{stem}.{SUFFIXES[self.form.name]}"'
        return Response(body, headers=headers, media_type=MEDIA_TYPES[self.form.name])


def _values(table: pa.Table) -> dict[str, list[Any]]:
    return {name: values.to_pylist() for name, values in zip(table.column_names, table.columns, strict=True)}


def _sliced(values: list[Any], ranges: Sequence[tuple[int, int]]) -> list[Any]:
    if len(ranges) == 1:
        return values[slice(*ranges[0])]
    return [value for bounds in ranges for value in values[slice(*bounds)]]


def _flat(table: pa.Table) -> pa.Table:
    """Lists as JSON in a string: CSV has none."""
    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            cells = [None if cell is None else json_text(cell) for cell in table.column(number).to_pylist()]
            table = table.set_column(number, field.name, pa.array(cells, pa.string()))
    return table


def json_text(value: Any) -> str:
    """JSON; what JSON has no number for (NaN, infinity) is null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def utf8(text: str) -> bytes:
    """UTF-8; what a client sent of half a surrogate pair is a question mark."""
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_response(value: Any, *, revision: str | None = None, status: int = 200) -> Response:
    """An answer that is no table."""
    return Response(utf8(json_text(value)), status, _headers(revision), MEDIA_TYPES["json"])


def error_response(error: HubstoreError, names: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that fails with `error`; the server's folders are called by their `names`."""
    response = json_response(
        error_body(kind_of(error), redact_message(str(error), names or {})), status=status_of(error)
    )
    if isinstance(error, RequestError):
        response.headers.update(error.headers)
    return response


def _headers(revision: str | None) -> dict[str, str]:
    return {"Cache-Control": "private, no-cache", **({} if revision is None else {REVISION: revision})}


def has_tag(seen: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names an answer's entity tag; compared weakly (RFC 9110, 13.1.2)."""
    named = {one.strip().removeprefix("W/") for one in (seen or "").split(",")}
    return "*" in named or tag.removeprefix("W/") in named
