"""Delimited values (CSV, TSV) with a header: every value is a string as it stands."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubstore.corpus.columns import Columns
from hubstore.corpus.corpus import Refuse
from hubstore.corpus.files import File
from hubstore.corpus.readers.lines import NotUtf8Error, decoded, raw_lines
from hubstore.corpus.row import AS_TEXT, Row
from hubstore.corpus.suffixes import format_suffix
from hubstore.errors import CorpusError, Parameter

Message = tuple[str | Parameter, ...]
"""Of a message."""

_TAB_SUFFIXES: Final = (".tsv", ".tab")
_DELIMITERS: Final = ";\t|,"
_NAMED_DELIMITERS: Final = {"\\t": "\t", "tab": "\t"}  # how a tab is written on a command line
_LONGEST: Final = 1 << 26
"""Characters of a row of several lines; a quotation mark that is never closed would hold the rest of the file."""

_PLAIN: Final = ("or read quotation marks as they stand with ", Parameter("quotes", False))
_OLD_MAC: Final = (
    "the lines end with a carriage return alone, as on old Macs; convert them: tr '\\r' '\\n' < old.csv > new.csv"
)
_REMEDY: Final = ("double a quotation mark inside a quoted field, ", *_PLAIN)


DIALECT_OUT: Final = (Parameter("delimiter", "..."), " and ", Parameter("quotes", "..."), " out")
"""How an error ends that tells to leave these options out."""


@dataclass(frozen=True)
class Dialect:
    """How delimited values are read.

    Args:
        delimiter: between the fields, one character; None for a tab in .tsv and .tab, else a comma.
        quotes: whether `"` encloses a field. False where quotation marks are characters like others. None is True, but
            that a field of several lines, each of which would be a row by itself, is refused: its quotation mark is
            most likely a stray one, and lines would be joined.

    Raises:
        CorpusError: the delimiter is none.
    """

    delimiter: str | None = None
    quotes: bool | None = None

    def __post_init__(self) -> None:
        if self.delimiter is None:
            return
        delimiter = _NAMED_DELIMITERS.get(self.delimiter, self.delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise CorpusError(f"the delimiter is {self.delimiter!r}; give one character, such as ';' or tab")
        object.__setattr__(self, "delimiter", delimiter)

    def source(self) -> dict[str, Any]:
        """Describe it as JSON can hold it. What is only stricter gives the same rows."""
        return {"delimiter": self.delimiter, "quotes": self.quotes is not False}


class _TooLongError(Exception):
    """A row has more lines than a row can have."""


class Delimited:
    """A file of delimited values; see `TableReader`."""

    def __init__(self, file: File, columns: Columns, refuse: Refuse, dialect: Dialect) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))  # else a text of 131 KB is an error
        self._file = file
        self._columns = columns
        self._refuse = refuse
        self._quotes = dialect.quotes
        self._delimiter = dialect.delimiter or ("\t" if format_suffix(file.name) in _TAB_SUFFIXES else ",")
        self._lines = enumerate(raw_lines(file), start=1)
        self._again: deque[tuple[int, str]] = deque()
        self._record: list[tuple[int, str]] = []
        self._number = 0
        self._header: list[str] = []  # until it is read
        self._records = self._fields() if self._quotes is False else self._quoted()
        self._header = self._read_header()

    def seek(self, rows: int) -> int:
        """Pass over rows, which are split into fields but not turned into items."""
        if not self._columns.items_per_row(lambda name: name in self._header):
            return 0
        passed = 0
        while passed < rows and next(self._records, None) is not None:
            passed += 1
        self._number += passed
        return passed

    def rows(self) -> Iterator[Row]:
        """The next rows."""
        folder = self._file.parent if isinstance(self._file, Path) else None
        name, header, width = self._file.name, self._header, len(self._header)
        for fields in self._records:
            self._number += 1
            if len(fields) == width:
                yield Row(name, "row", self._number, dict(zip(header, fields, strict=True)), folder, AS_TEXT)
            else:
                remedy = "; quote fields that hold the delimiter, or name another with "
                count = f"{len(fields)} fields" if len(fields) > 1 else "1 field"
                self._refuse_row(
                    self._error(f"{count}, but the header has {width}", remedy, Parameter("delimiter", "..."))
                )

    def _read_header(self) -> list[str]:
        header = next(self._records, None)
        if header is None:
            raise CorpusError(f"{self._file}: the file is empty; give a file with a header and at least one row")
        if any("\r" in name for name in header):
            raise CorpusError(f"{self._file}: {_OLD_MAC}")
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise CorpusError(f"{self._file}: the header has the column {twice!r} twice; rename one")
        likely = next((d for d in _DELIMITERS if d in header[0] and d != self._delimiter), None)
        if len(header) == 1 and likely and header[0] not in self._columns.names():
            shown = "tab" if likely == "\t" else likely
            raise CorpusError(
                f"{self._file}: the header is one column, {header[0]!r}, whose names seem to be separated by "
                f"{likely!r}; say so with ",
                Parameter("delimiter", shown),
            )
        return header

    def _fields(self) -> Iterator[list[str]]:
        """The fields of each line, where quotation marks are characters like others."""
        for number, line in self._lines:
            try:
                text = decoded(line, self._file, number).removesuffix("\n").removesuffix("\r")
            except NotUtf8Error as error:
                self._number += 1
                self._refuse_row(error)
                continue
            if text and (self._delimiter in text or len(self._header) < 2 or not text.isspace()):
                yield text.split(self._delimiter)

    def _quoted(self) -> Iterator[list[str]]:
        """The fields of each row. After one that is none, its lines but the first are read once more."""
        reader = csv.reader(self._feed(), delimiter=self._delimiter, strict=True)
        record = self._record
        while True:
            problem: Message | None = None
            refused: CorpusError | None = None
            try:
                fields = next(reader, None)
                problem = self._joined() if len(record) > 1 and fields else None
            except csv.Error as error:
                problem = self._problem(str(error))
            except _TooLongError:
                problem = (
                    f"a quotation mark opens a field that does not end within {_LONGEST:,} characters; ",
                    *_REMEDY,
                )
            except NotUtf8Error as error:
                refused = error
            if problem is not None or refused is not None:
                self._number += 1
                self._refuse_row(refused or self._error(*(problem or ())))
                self._again.extendleft(reversed(record[1:]))
                record.clear()
                reader = csv.reader(self._feed(), delimiter=self._delimiter, strict=True)
                continue
            record.clear()
            if fields is None:
                return
            if fields and (len(fields) > 1 or len(self._header) < 2 or not (fields[0].isspace() or not fields[0])):
                yield fields

    def _feed(self) -> Iterator[str]:
        """The lines of the file, noting those of the row that is being read."""
        size = 0
        while True:
            if self._again:
                number, line = self._again.popleft()
            else:
                found = next(self._lines, None)
                if found is None:
                    return
                number, line = found[0], decoded(found[1], self._file, found[0])
            size = len(line) if not self._record else size + len(line)
            self._record.append((number, line))
            if size > _LONGEST and len(self._record) > 1:
                raise _TooLongError
            yield line

    def _joined(self) -> Message | None:
        """Say where a row of several lines joins what are rows by themselves."""
        if self._quotes:
            return None
        first, last = self._record[0][0], self._record[-1][0]
        for number, line in self._record[1:]:
            if self._is_row(line, last=number == last):
                return (
                    f"a quotation mark opens a field in line {first} that ends in line {last}, and line {number} would "
                    "be a row by itself; say so with ",
                    *(Parameter("quotes", True), " if the field is meant to have several lines; else ", *_REMEDY),
                )
        return None

    def _is_row(self, line: str, *, last: bool) -> bool:
        """Whether a line within a quoted field looks like a row; prose has commas too, with a space behind them."""
        fields = line.rstrip("\r\n").split(self._delimiter)
        prose = self._delimiter == "," and ", " in line
        closes = last and fields[0].endswith('"') and len(fields) > 1
        return len(fields) == len(self._header) and not prose and not closes

    def _problem(self, message: str) -> Message:
        """What Python's reader tripped over, in our words."""
        lines = f"line {self._record[0][0]}" if self._record else "its line"
        if "new-line character" in message and not self._header:
            return (_OLD_MAC,)
        if "new-line character" in message:
            return f"a carriage return stands in a field of {lines} that is not quoted; quote the field, ", *_PLAIN
        if "unexpected end" in message:
            return f"a quotation mark opens a field in {lines} that no other closes; ", *_REMEDY
        if "expected after" in message:
            return f"a quotation mark opens a field in {lines}, and text follows the one that closes it; ", *_REMEDY
        return f"{lines} cannot be read: {message}; ", *_REMEDY

    def _error(self, *problem: str | Parameter) -> CorpusError:
        if not self._header:
            return CorpusError(f"{self._file}: the header cannot be read: ", *problem)
        return CorpusError(f"{self._file.name}, row {self._number}: ", *problem)

    def _refuse_row(self, error: CorpusError) -> None:
        if not self._header:
            raise error  # nothing can be read without it
        self._refuse.count()
        self._refuse(error)
