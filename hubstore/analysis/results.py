"""Tables of results: their schema, the record of how they were made, and the store's memory of them."""

from __future__ import annotations

import errno
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hubstore.decoding import decode_object
from hubstore.errors import CorruptStoreError, ResultWarning, StoreError
from hubstore.store.result import METADATA, decode_result, encode_result, result_key, result_record
from hubstore.system import reason, remedy
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Row = Mapping[str, Any]
FIELDS = [
    pa.field("analysis", pa.string()),
    pa.field("layer", pa.string()),
    pa.field("x", pa.string()),
    pa.field("y", pa.string()),
    pa.field("metric", pa.string()),
    pa.field("variant", pa.string()),
    pa.field("value", pa.float64()),
    pa.field("low", pa.float64()),
    pa.field("high", pa.float64()),
    pa.field("n", pa.int64()),
]


@dataclass
class Findings:
    """What an analysis found.

    Args:
        rows: one mapping per row of the table, without the analysis's name.
        columns: the analysis's own columns and their types.
        notes: JSON-able things a reader should know: pairs that were skipped.
    """

    columns: Mapping[str, pa.DataType]
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def stored_or_computed(
    store: StoreReader,
    name: str,
    parameters: Mapping[str, Any],
    columns: Mapping[str, pa.DataType],
    make: Callable[[], Findings],
) -> pa.Table:
    """The findings stored under these parameters and the store's present commits, or new ones, which are then stored.

    Args:
        store: the store, which holds the table at analyses/<name>/<key>.parquet.
        name: the analysis.
        parameters: JSON-able; everything the result depends on beside the store's content.
        columns: of the findings beside `FIELDS`.
        make: computes it.

    Returns:
        The table; see `stored_table` for its metadata, in which the findings' notes are under "notes".
    """

    def compute() -> tuple[pa.Table, Mapping[str, Any]]:
        findings = make()
        return _table(name, findings), {"notes": findings.notes}

    return stored_table(store, name, parameters, _schema(columns), compute)


def stored_table(
    store: StoreReader,
    name: str,
    parameters: Mapping[str, Any],
    schema: pa.Schema,
    make: Callable[[], tuple[pa.Table, Mapping[str, Any]]],
    is_whole: Callable[[pa.Table], bool] | None = None,
) -> pa.Table:
    """The table stored under these parameters and the store's present commits, or a new one, which is then stored.

    Args:
        store: the store, which holds the table at analyses/<name>/<key>.parquet.
        name: the analysis.
        parameters: JSON-able; everything the result depends on beside the store's content.
        schema: of the table. One that is stored and has another, as from a stranger, is computed again.
        make: computes it: its columns, and what else its metadata says, JSON-able.
        is_whole: whether a stored table with the schema holds what `make` gives; another is computed again.

    Returns:
        The table, whose schema metadata has the JSON of parameters, seed, commits' digest, version and what `make`
        said under b"hubstore". A store that may not be written to keeps nothing; one on a full disk neither, with a
        `ResultWarning`.
    """
    stored = kept_table(store, name, parameters, schema, is_whole)
    if stored is not None:
        return stored
    provenance = _provenance(store, name, parameters)
    table, said = make()
    table = table.replace_schema_metadata({METADATA: json.dumps({**provenance, **said}).encode()})
    _write(store, result_key(provenance), table)
    return table


def kept_table(
    store: StoreReader,
    name: str,
    parameters: Mapping[str, Any],
    schema: pa.Schema,
    is_whole: Callable[[pa.Table], bool] | None = None,
) -> pa.Table | None:
    """The table that `stored_table` returns, where it is stored and whole; else None, and nothing is computed."""
    stored = _read(store, result_key(_provenance(store, name, parameters)), schema)
    return stored if stored is None or is_whole is None or is_whole(stored) else None


def _provenance(store: StoreReader, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "analysis": name,
        "parameters": {**parameters, **({} if store.partition_by is None else {"partition_by": store.partition_by})},
        "seed": parameters.get("seed"),
        "commits": store.digest,
        "version": __version__,
    }


def metadata(table: pa.Table) -> dict[str, Any]:
    """How a table of results was made: analysis, parameters, seed, commits, version, and notes or more."""
    return decode_object(table.schema.metadata[METADATA])


def has_fields(table: pa.Table) -> bool:
    """Whether a stored table, which may be a stranger's, has the columns of an analysis."""
    return table.schema.names[: len(FIELDS)] == [field.name for field in FIELDS] and all(
        table.schema.field(place).type == field.type for place, field in enumerate(FIELDS)
    )


def intervals(names: Iterable[str], values: Iterable[float], bounds: Iterable[Iterable[float]]) -> list[Row]:
    """Rows of metric, value, low and high from values [m] and bounds [2, m]."""
    low, high = bounds
    return [
        {"metric": name, "value": float(value), "low": float(below), "high": float(above)}
        for name, value, below, above in zip(names, values, low, high, strict=True)
    ]


def _table(name: str, findings: Findings) -> pa.Table:
    schema = _schema(findings.columns)
    columns = [[_known({"analysis": name, **row}.get(f.name)) for row in findings.rows] for f in schema]
    arrays = [pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def _schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema(FIELDS + [pa.field(column, kind) for column, kind in columns.items()])


def _known(value: Any) -> Any:
    """`value`, or null for a number that is none."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _read(store: StoreReader, key: str, schema: pa.Schema) -> pa.Table | None:
    if not store.storage.exists(key):
        return None
    try:
        table, _ = decode_result(store.storage.read(key), key)
        whole = result_key(result_record(table.schema.metadata or {}, key)) == key
    except CorruptStoreError:
        return None  # a damaged result is no loss: it is made again
    return table if whole and table.schema.equals(schema) else None


def _write(store: StoreReader, key: str, table: pa.Table) -> None:
    """Keep a table; where that fails, as on a full disk, it is answered all the same."""
    try:
        store.storage.write(key, encode_result(table))
    except (OSError, StoreError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if getattr(cause, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            return  # it may not be written to, and whoever reads it knows
        said, todo = (reason(cause), remedy(cause)) if isinstance(cause, OSError) else (error, "see that it is there")
        warnings.warn(
            f"{store.path / key}: the result could not be kept ({said}), and is computed again the next time; {todo} "
            "to keep it",
            ResultWarning,
            stacklevel=2,
        )
