"""Readers of tables: one a format, the same for a file, a folder and a dataset. Each can begin at a later row."""

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from hubstore.corpus.columns import Columns
from hubstore.corpus.corpus import Refuse
from hubstore.corpus.files import File
from hubstore.corpus.readers.array import JsonArray, is_array
from hubstore.corpus.readers.delimited import DIALECT_OUT, Delimited, Dialect
from hubstore.corpus.readers.jsonl import JsonLines
from hubstore.corpus.readers.parquet import ParquetTable
from hubstore.corpus.row import Row
from hubstore.corpus.suffixes import format_suffix
from hubstore.errors import CorpusError

__all__ = ["DIALECT_OUT", "KINDS", "Dialect", "TableReader", "kind_of", "open_table"]


class TableReader(Protocol):
    """A table being read, from its first row to its last."""

    def seek(self, rows: int) -> int:
        """Pass over at most so many of the next rows, and return how many.

        Only those are passed over that give as many items as there are columns of text, with ids that depend on no
        row before. All have been read before, so none is checked.
        """

    def rows(self) -> Iterator[Row]:
        """The next rows. One that is none goes to `refuse`, and the next follows."""


_READERS: Final[dict[str, Callable[[File, Columns, Refuse, Dialect], TableReader]]] = {
    "jsonl": lambda file, columns, refuse, dialect: _json(file, columns, refuse),
    "csv": Delimited,
    "parquet": lambda file, columns, refuse, dialect: ParquetTable(file, columns),
}

KINDS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""The format of a table by its suffix."""


def _json(file: File, columns: Columns, refuse: Refuse) -> TableReader:
    """A file of the suffix .json may be either."""
    if format_suffix(file.name) == ".json" and is_array(file):
        return JsonArray(file, refuse)
    return JsonLines(file, columns, refuse)


def kind_of(name: str) -> str | None:
    """The format of a table by its name, compressed or not; None for what is none."""
    return KINDS.get(format_suffix(name))


def open_table(file: File, kind: str | None, columns: Columns, refuse: Refuse, dialect: Dialect) -> TableReader:
    """Begin to read a table.

    Args:
        file: the table.
        kind: its format, one of the values of `KINDS`; None to go by its suffix.
        columns: the columns to read.
        refuse: takes the error of a row.
        dialect: how delimited values are read.

    Raises:
        CorpusError: its suffix is no table's, or the file cannot be read.
    """
    kind = kind or kind_of(file.name)
    if kind is None:
        raise CorpusError(f"{file}: is no table by its name; give one that ends with {', '.join(KINDS)}")
    return _READERS[kind](file, columns, refuse, dialect)
