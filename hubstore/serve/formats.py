"""Tables as JSON, Arrow, CSV or Parquet, as a request would have them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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


def table_response(
    table: pa.Table, about: Mapping[str, Any], form: Format, *, name: str, revision: str | None, most: int
) -> Response:
    """A table and what is to be known about it.

    Args:
        table: the rows.
        about: JSON-able; beside the columns in JSON, in the schema's metadata under b"hubstore" elsewhere.
        form: how to write it.
        name: of the file that a browser saves, without its suffix.
        revision: the snapshot that it was computed from, where it is a store's.
        most: the most bytes that it may have in memory.

    Raises:
        TooLargeError: it has more.
    """
    if table.nbytes > most:
        raise TooLargeError(
            f"the answer would have {table.nbytes / MIB:.0f} MiB, and this server sends {most / MIB:.0f} at most; "
            "ask for fewer rows or layers"
        )
    headers = {} if revision is None else {REVISION: revision}
    if form.attached:
        headers["Content-Disposition"] = f'attachment; filename="{_file_name(name)}.{SUFFIXES[form.name]}"'
    return Response(_encoded(table, about, form.name), headers=headers, media_type=MEDIA_TYPES[form.name])


def _encoded(table: pa.Table, about: Mapping[str, Any], name: FormatName) -> bytes:
    if name == "json":
        columns = {column: values.to_pylist() for column, values in zip(table.column_names, table.columns, strict=True)}
        return to_json({"about": about, "columns": columns, "rows": len(table)})
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    described = table.replace_schema_metadata({b"hubstore": to_json(about)})
    if name == "arrow":
        with pa.ipc.new_stream(sink, described.schema) as writer:
            writer.write_table(described)
    elif name == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(described, sink)
    else:
        from pyarrow import csv

        csv.write_csv(_flat(table), sink)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _flat(table: pa.Table) -> pa.Table:
    """Lists as JSON in a string: CSV has none."""
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            cells = [None if cell is None else to_json(cell).decode() for cell in table.column(number).to_pylist()]
            table = table.set_column(number, field.name, pa.array(cells, pa.string()))
    return table


def to_json(value: Any) -> bytes:
    """JSON in UTF-8; what JSON has no number for (NaN, infinity) is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_response(value: Any, *, revision: str | None = None, status: int = 200) -> Response:
    """An answer that is no table."""
    headers = {} if revision is None else {REVISION: revision}
    return Response(to_json(value), status, headers, MEDIA_TYPES["json"])


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "hubstore"
