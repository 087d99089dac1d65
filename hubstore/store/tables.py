"""Parquet tables of a store, read only where their files can hold what they say they do."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from hubstore.arrow import parquet_file
from hubstore.decoding import one_line
from hubstore.errors import CorruptStoreError
from hubstore.parquet import ParquetContent, parquet_content
from hubstore.storage import Location
from hubstore.store.columns import check_times

FREE_BYTES = 128 << 20
"""Of a table in memory, however small its file: values that are all the same take next to no room there."""

MOST_TIMES = 256
"""That a table may be larger in memory than its file, beyond `FREE_BYTES`."""

VALUE_BYTES = 16
"""Of a value with its offset, counted before any is decoded."""


def decode_table(
    data: bytes,
    where: Location | str,
    remedy: str,
    columns: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    schema: pa.Schema | None = None,
) -> pa.Table:
    """The table of a Parquet file, or some of its columns.

    Args:
        data: the file.
        where: names it in messages.
        remedy: follows what is wrong.
        columns: None is all.
        rows: that it has to have, which is seen before any are decoded; None for any number.
        schema: types of the columns that it may have; None for any. A column without null there has to be there.

    Raises:
        CorruptStoreError: it is no such file, or would take memory out of all proportion to it.
    """
    try:
        content = parquet_content(data)
        if rows is not None and content.rows != rows:
            raise ValueError(f"it has {content.rows} rows, {rows} were committed")
        with parquet_file(data) as file:
            _check(file, schema, columns)
            table = _read(file, content, columns, FREE_BYTES + MOST_TIMES * len(data))
        if columns is not None:
            table = table.select([name for name in columns if name in table.column_names])
        if schema is not None:
            table = _in_seconds(table, schema)
            check_times(table)
        for field in schema or ():
            if not field.nullable and field.name in table.column_names and table[field.name].null_count:
                raise ValueError(f"its column {field.name!r} has a null")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        what = f"is not a readable Parquet file of its kind: {one_line(error)}"
        raise CorruptStoreError(f"{where} {what}; {remedy}") from error
    return table


def _check(file: pq.ParquetFile, schema: pa.Schema | None, columns: Sequence[str] | None) -> None:
    """ValueError where a column is of another type than it has to be, or is not there."""
    schema_found = file.schema_arrow
    if len(set(schema_found.names)) < len(schema_found.names):
        raise ValueError("it has two columns of one name")
    for field in schema or ():
        if columns is not None and field.name not in columns:
            continue
        found = schema_found.field(field.name).type if field.name in schema_found.names else None
        if found is None and not field.nullable:
            raise ValueError(f"it has no column {field.name!r}")
        if found not in (None, field.type, _in_file(field.type)) and not (
            pa.types.is_large_string(found) and field.type == pa.string()
        ):
            raise ValueError(f"its column {field.name!r} is of {found}, and not of {field.type}")


def _in_file(kind: pa.DataType) -> pa.DataType:
    """The type that a column has in a Parquet file, which has no times in seconds."""
    return pa.timestamp("ms", kind.tz) if pa.types.is_timestamp(kind) and kind.unit == "s" else kind


def _in_seconds(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns in seconds that `schema` has; ArrowInvalid where one has parts of a second."""
    for number, name in enumerate(table.column_names):
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and _in_file(kind) != kind and table[name].type != kind:
            table = table.set_column(number, name, table[name].cast(kind))
    return table


def _read(file: pq.ParquetFile, content: ParquetContent, columns: Sequence[str] | None, most: int) -> pa.Table:
    """The table, read in so many rows at a time as cannot take more than `most` bytes, and until all of them do.

    A value that a column has again and again stands in its file once, and may be as large as all of the column there.
    """
    within = (
        None if columns is None else tuple(f"{name}." for name in columns)
    )  # Arrow reads "a.b" where it is told "a"
    selected = [chunk for chunk in content.chunks if within is None or f"{chunk.name}.".startswith(within)]
    values = VALUE_BYTES * sum(chunk.values for chunk in selected)
    largest = max((chunk.size for chunk in selected), default=0)
    if values > most or largest > most:
        raise ValueError(f"it would take more than {most:,} bytes of memory")
    names = None if columns is None else list(columns)
    if largest * content.rows <= most:
        return file.read(columns=names)
    batches, total = [], 0
    for batch in file.iter_batches(batch_size=max(1, most // max(largest, 1)), columns=names):
        batches.append(batch)
        total += batch.nbytes
        if total > most:
            raise ValueError(f"it would take more than {most:,} bytes of memory")
    return pa.Table.from_batches(batches, batches[0].schema if batches else None)
