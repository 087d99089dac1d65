"""Parquet: only the columns asked for are decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hubstore.corpus.columns import Columns
from hubstore.corpus.files import File, refuse_pointer
from hubstore.corpus.row import Row
from hubstore.corpus.streams import MEDIA_ROWS, TABLE_ROWS, first_line, types_of, with_exact_times
from hubstore.errors import CorpusError
from hubstore.parquet import row_group_rows

_BUFFER: Final = 1 << 20  # bytes; without one, a column of a whole row group is read at once


class ParquetTable:
    """A Parquet file; see `TableReader`.

    Not read through `datasets`, whose scanner reads on in the background while a model is busy with the last batch,
    and then holds a good part of the file.
    """

    def __init__(self, file: File, columns: Columns) -> None:
        self._file = file
        self._columns = columns
        self._start = 0
        self._number = 0

    def seek(self, rows: int) -> int:
        """Pass over rows: whole row groups are not read, and rows of the next are not turned into items."""
        import pyarrow as pa

        if not rows or self._number:
            return 0
        try:
            with self._open() as (opened, groups):
                names = self._names(opened)
        except CorpusError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        if not self._columns.items_per_row(lambda name: name in names):
            return 0
        passed = min(rows, sum(groups) - self._start)
        self._start += passed
        return passed

    def rows(self) -> Iterator[Row]:
        """The next rows."""
        import pyarrow as pa

        rows = MEDIA_ROWS if self._columns.media else TABLE_ROWS
        folder = self._file.parent if isinstance(self._file, Path) else None
        name = self._file.name
        try:
            with self._open() as (opened, groups):
                names, types = self._names(opened), types_of(opened.schema_arrow)
                columns = self._columns.needed(names, types)
                left = range(self._pass_over(groups), len(groups))
                for batch in opened.iter_batches(rows, row_groups=left, columns=columns):
                    passed = min(max(self._start - self._number, 0), len(batch))
                    self._number += passed
                    for values in with_exact_times(batch.slice(passed), self._columns, name).to_pylist():
                        self._number += 1
                        yield Row(name, "row", self._number, values, folder, types)
        except CorpusError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, list[int]]]:
        """The open file, and the rows of each of its row groups."""
        import pyarrow.parquet as pq

        refuse_pointer(self._file)
        # Given a path, pyarrow would close the file; given a file, it leaves that to us.
        with self._file.open("rb") as source:
            groups = row_group_rows(source)
            source.seek(0)
            with pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER) as opened:
                yield opened, groups

    def _names(self, opened: Any) -> list[str]:
        names: list[str] = opened.schema_arrow.names
        needed = self._columns.needed(names, types_of(opened.schema_arrow))
        twice = next((name for name in needed if names.count(name) > 1), None)
        if twice is not None:
            raise CorpusError(f"{self._file}: has the column {twice!r} twice; rename one")
        return names

    def _pass_over(self, groups: list[int]) -> int:
        """The row group with the first row asked for; the number of rows is that before it."""
        first = self._number = 0
        while first < len(groups) and self._number + groups[first] <= self._start:
            self._number += groups[first]
            first += 1
        return first

    def _unreadable(self, error: Exception) -> CorpusError:
        return CorpusError(
            f"{self._file}: cannot be read as parquet, after row {self._number}: {first_line(error)}; "
            "check that the file is whole and of this format"
        )
