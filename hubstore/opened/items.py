"""The items of an opened store, as a table whose columns are read when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from hubstore.errors import MissingDependencyError


class ItemTable:
    """One row per item, in position order: an Arrow table that is read a column at a time, or whole where need be.

    It has the methods of a `pyarrow.Table`, which read all of it where they are not named here; Arrow's own functions,
    such as `pyarrow.parquet.write_table`, take `to_arrow()`.

    Args:
        schema: of the table.
        rows: how many there are.
        read: the table of some columns, by their names.
    """

    def __init__(self, schema: pa.Schema, rows: int, read: Callable[[Sequence[str]], pa.Table]) -> None:
        self.schema = schema
        self.num_rows = rows
        self._read = read
        self._columns: dict[str, pa.Table] = {}

    @property
    def column_names(self) -> list[str]:
        """What a store keeps of every item."""
        return list(self.schema.names)

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, column: str | int | slice) -> Any:
        """A column by its name or place, or a table of some rows; KeyError for a column that is not there."""
        if isinstance(column, slice):
            return self.to_arrow()[column]
        name = self.column_names[column] if isinstance(column, int) else column
        return self._columns[name][name] if name in self._columns else self.select([name])[name]

    def column(self, column: str | int) -> pa.ChunkedArray:
        """A column by its name or place."""
        return self[column]

    def select(self, columns: Sequence[str]) -> pa.Table:
        """A table of some columns, of which only those are read that were not before."""
        names = list(columns)
        unknown = [name for name in names if name not in self.column_names]
        if unknown:
            raise KeyError(f"there is no column {unknown[0]!r}; there are {', '.join(self.column_names)}")
        missing = [name for name in dict.fromkeys(names) if name not in self._columns]
        if missing:
            found = self._read(missing)
            self._columns.update((name, found.select([name])) for name in missing)
        fields = [self._columns[name].schema.field(0) for name in names]
        return pa.table([self._columns[name][name] for name in names], schema=pa.schema(fields))

    def to_arrow(self) -> pa.Table:
        """All of it."""
        return self.select(self.column_names)

    def to_pandas(self, **options: Any) -> Any:
        """A `pandas.DataFrame`; `options` are those of `pyarrow.Table.to_pandas`.

        Example:
            >>> store.items.to_pandas()["language"].nunique()
            3
        """
        return self.to_arrow().to_pandas(**options)

    def to_polars(self) -> Any:
        """A `polars.DataFrame`; MissingDependencyError where polars is not installed."""
        try:
            polars = importlib.import_module("polars")
        except ImportError as error:
            raise MissingDependencyError("items as a polars table need polars: `pip install polars`") from error
        return polars.from_arrow(self.to_arrow())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def equals(self, other: pa.Table | ItemTable, *, check_metadata: bool = False) -> bool:
        """Whether another table has the same columns and rows."""
        whole = other.to_arrow() if isinstance(other, ItemTable) else other
        return bool(self.to_arrow().equals(whole, check_metadata=check_metadata))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, pa.Table | ItemTable) and self.equals(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.num_rows:,} items: {', '.join(self.column_names)}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copies and pickles ask for is not the table's
            raise AttributeError(name)
        return getattr(self.to_arrow(), name)
