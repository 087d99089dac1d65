"""A row of a table, as its reader found it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

Types = Mapping[str, pa.DataType]

MISSING: Final = object()
"""What `Row.get` returns of a column that is not there."""

_SHOWN_COLUMNS: Final = 20

AS_TEXT: Final[Types] = {"": pa.string()}
"""The `Row.schema` of tables all of whose values are texts."""


class Row(NamedTuple):
    """A row of a table, and where it stands.

    Attributes:
        file: The table's name.
        unit: What the number counts: "line" or "row".
        number: The row's, from 1.
        values: Its columns.
        folder: What paths in it are relative to.
        schema: The types of the table's columns, where it has some: every row then has all of them. `AS_TEXT` where
            all values are texts.
    """

    file: str
    unit: str
    number: int
    values: Mapping[str, Any]
    folder: Path | None = None
    schema: Types | None = None

    @property
    def is_text(self) -> bool:
        """Whether values are texts that may stand for numbers."""
        return self.schema is AS_TEXT

    @property
    def is_typed(self) -> bool:
        """Whether the schema says the types of the columns."""
        return self.schema is not None and not self.is_text

    @property
    def columns(self) -> Iterable[str]:
        """The names of the table's columns, as far as they are known."""
        return self.schema if self.schema is not None and not self.is_text else self.values

    def place(self, column: str | None = None) -> str:
        """Say where the row, or one of its columns, is."""
        place = f"{self.file}, {self.unit} {self.number}"
        return place if column is None else f"{place}, column {column!r}"

    def get(self, column: str) -> Any:
        """Return the value of a column, by its name or its dotted path; a marker where it is not there."""
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for name in column.split("."):
            if value is None:
                return None  # a null struct: its fields are null
            if not isinstance(value, Mapping) or name not in value:
                return MISSING
            value = value[name]
        return value

    def has(self, column: str) -> bool:
        """Tell whether the row has the column, null or not."""
        return self.get(column) is not MISSING

    def lacks(self, column: str) -> str:
        """Say that a column is not there, and which are."""
        names = list(self.columns) if self.is_typed else list(_leaves(self.values))
        shown = ", ".join(names[:_SHOWN_COLUMNS]) + (", ..." if len(names) > _SHOWN_COLUMNS else "")
        return f"there is no column {column!r}; the columns are {shown or 'none'}"

    def is_empty(self, column: str) -> bool:
        """Tell whether the column is absent, null, white space, an empty list or a struct of nulls."""
        value = self.get(column)
        if isinstance(value, Mapping):
            return all(part is None for part in value.values())
        return value is None or value is MISSING or value == [] or (isinstance(value, str) and not value.strip())


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
