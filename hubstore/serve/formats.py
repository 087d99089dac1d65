"""Tables as JSON, Arrow, CSV or Parquet, as a request would have them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from starlette.responses import Response

from hubstore.serve.failures import TooLargeError
from hubstore.serve.limits import MIB

if TYPE_CHECKING:
    import pyarrow as pa

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
    def wanted(cls, accept: str, asked: FormatName | None) -> Format:
        """What `?format=` asks for, else the best that the Accept header names, else JSON."""
        if asked is not None:
            return cls(asked, attached=True)
        return cls(_best(accept))


def _best(accept: str) -> FormatName:
    found: list[tuple[float, int, FormatName]] = []
    for place, part in enumerate(accept.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        name = next((name for name, media in MEDIA_TYPES.items() if media == kind), None)
        weight = next((_weight(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
        if name is not None and weight > 0:
            found.append((-weight, place, name))
    return min(found)[2] if found else "json"


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@dataclass(frozen=True, eq=False)
class Answers:
    """A table whose rows are one answer, or several.

    Args:
        table: the rows.
        about: JSON-able, what is to be known of them; beside the columns in JSON, in the schema's metadata under
            b"hubstore" elsewhere.
        form: how to write them.
        name: of the file that a browser saves, without its suffix.
        revision: the snapshot that they were computed from, where it is a store's.
        most: the most bytes that an answer may have in memory.
    """

    table: pa.Table
    about: Mapping[str, Any]
    form: Format
    name: str
    revision: str | None
    most: int

    def whole(self) -> Response:
        """All rows; TooLargeError where they are too many."""
        return self._response(self.table)

    def rows(self, ranges: Sequence[tuple[int, int]], first: Sequence[str] | None = None) -> Response:
        """The rows of some ranges, in their order, perhaps with other values in the first column."""
        if self.form.name == "json" and self.table.nbytes <= self.most:
            columns = {name: _sliced(values, ranges) for name, values in self._values.items()}
            if first is not None:
                columns[self.table.column_names[0]] = list(first)
            return self._sent(self._json(columns))
        import numpy as np
        import pyarrow as pa

        part = self.table.take(pa.array(np.concatenate([np.arange(*bounds) for bounds in [(0, 0), *ranges]])))
        if first is not None:
            part = part.set_column(0, part.column_names[0], pa.array(first, pa.string()))
        return self._response(part)

    @cached_property
    def _values(self) -> dict[str, list[Any]]:
        """Every column as Python's values, made once for all answers."""
        return _values(self.table)

    @cached_property
    def _about(self) -> str:
        return json_text(self.about)

    def _response(self, part: pa.Table) -> Response:
        if part.nbytes > self.most:
            raise TooLargeError(
                f"the answer would have {part.nbytes / MIB:.0f} MiB, and this server sends {self.most / MIB:.0f} at "
                "most; ask for fewer rows or layers"
            )
        return self._sent(self._json(_values(part)) if self.form.name == "json" else self._encoded(part))

    def _json(self, columns: Mapping[str, Sequence[Any]]) -> bytes:
        rows = len(next(iter(columns.values()), ()))
        return encoded(f'{{"about":{self._about},"columns":{json_text(columns)},"rows":{rows}}}')

    def _encoded(self, part: pa.Table) -> bytes:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        described = part.replace_schema_metadata({b"hubstore": encoded(self._about)})
        if self.form.name == "arrow":
            with pa.ipc.new_stream(sink, described.schema) as writer:
                writer.write_table(described)
        elif self.form.name == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(described, sink)
        else:
            from pyarrow import csv

            csv.write_csv(_flat(part), sink)
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def _sent(self, body: bytes) -> Response:
        headers = _headers(self.revision) | {"Vary": "Accept"}
        if self.form.attached:
            file = f"{_file_name(self.name)}.{SUFFIXES[self.form.name]}"
            headers["Content-Disposition"] = f'attachment; filename="{file}"'
        return Response(body, headers=headers, media_type=MEDIA_TYPES[self.form.name])


def _values(table: pa.Table) -> dict[str, list[Any]]:
    return {name: values.to_pylist() for name, values in zip(table.column_names, table.columns, strict=True)}


def _sliced(values: list[Any], ranges: Sequence[tuple[int, int]]) -> list[Any]:
    if len(ranges) == 1:
        return values[slice(*ranges[0])]
    return [value for bounds in ranges for value in values[slice(*bounds)]]


def _flat(table: pa.Table) -> pa.Table:
    """Lists as JSON in a string: CSV has none."""
    import pyarrow as pa

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


def encoded(text: str) -> bytes:
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
    return Response(encoded(json_text(value)), status, _headers(revision), MEDIA_TYPES["json"])


def _headers(revision: str | None) -> dict[str, str]:
    return {"Cache-Control": "private, no-cache", **({} if revision is None else {REVISION: revision})}


def has_tag(seen: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names an answer's entity tag; compared weakly (RFC 9110, 13.1.2)."""
    named = {one.strip().removeprefix("W/") for one in (seen or "").split(",")}
    return "*" in named or tag.removeprefix("W/") in named


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "hubstore"
