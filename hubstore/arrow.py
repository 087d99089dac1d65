"""Arrow tables: Parquet read in the one way that ends well, lists with places beyond int32, CSV without formulas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FORMULA = r"^[=+\-@\t\r]"
"""How a text begins that a spreadsheet takes for a formula."""


def parquet_file(source: bytes | Path) -> pq.ParquetFile:
    """A Parquet file, its schema read; OSError or pa.ArrowException where it is none.

    Nothing is read ahead: `pyarrow.parquet.read_table` leaves that to threads of Arrow's, in which a process that ends
    meanwhile is aborted.
    """
    return pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source, pre_buffer=False)


def read_parquet(source: bytes | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a Parquet file, or some of its columns; OSError or pa.ArrowException where it is none."""
    with parquet_file(source) as file:
        return file.read(columns=None if columns is None else list(columns))


def rows_as_lists(rows: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """A cell for each row of an array [n, width]. Lists of one size have no offsets, which 2^31 elements would wrap."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def equal_lists(flat: pa.Array | npt.NDArray[Any], n: int) -> pa.LargeListArray:
    """`flat` as n lists of one length, with int64 offsets."""
    values = flat if isinstance(flat, pa.Array) else pa.array(flat)
    width = len(values) // n if n else 0
    return pa.LargeListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int64) * width), values)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def csv_bytes(table: pa.Table, *, safe: bool = True) -> bytes:
    """A table as CSV with a header, strings quoted, null as nothing.

    Args:
        table: without nested columns.
        safe: put an apostrophe before texts, and names of columns, that a spreadsheet would take for a formula.
    """
    from pyarrow import csv

    if safe:
        for number, field in enumerate(table.schema):
            name, column = _without_formulas(pa.array([field.name]))[0].as_py(), table.column(number)
            if pa.types.is_dictionary(field.type):
                column = column.cast(field.type.value_type)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = _without_formulas(column)
            table = table.set_column(number, name, column)
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _without_formulas(texts: pa.Array | pa.ChunkedArray) -> Any:
    """Texts with an apostrophe before those that begin as a formula does."""
    marked = pc.binary_join_element_wise(pa.scalar("'", texts.type), texts, pa.scalar("", texts.type))
    return pc.if_else(pc.match_substring_regex(texts, FORMULA), marked, texts)
