"""JSON Lines: an object on each line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hubstore.corpus.columns import Columns
from hubstore.corpus.corpus import Refuse
from hubstore.corpus.files import File
from hubstore.corpus.readers.lines import NotUtf8Error, decoded, raw_lines
from hubstore.corpus.row import Row
from hubstore.decoding import is_nested
from hubstore.errors import CorpusError

_scan: Final = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # what `json.loads` calls, without its checks and regular expressions

_ID_FIRST: Final = b'{"id":'

MOST_NESTED: Final = 200
"""Objects and lists in one another; Python itself ends at some thousand, sooner or later by what calls what."""

TOO_DEEP: Final = f"the JSON is nested in more than {MOST_NESTED} levels; flatten it, or leave it out"


class JsonLines:
    """A file of JSON Lines; see `TableReader`.

    Values are as JSON has them: no type is guessed, of a text that looks like a date neither.
    """

    def __init__(self, file: File, columns: Columns, refuse: Refuse) -> None:
        self._file = file
        self._columns = columns
        self._refuse = refuse
        self._folder = file.parent if isinstance(file, Path) else None
        self._lines = raw_lines(file)
        self._number = 0
        self._next: bytes | None = None

    def seek(self, rows: int) -> int:
        """Pass over rows; where ids have a column of their own, or none, without parsing them."""
        columns = self._columns
        unparsed = columns.items_per_row(lambda name: name == "concept") and columns.items_per_row(lambda _: True)
        id_first = columns.id == "id" and not columns.wide
        passed = 0
        while passed < rows and (line := next(self._lines, None)) is not None:
            self._number += 1
            if line.isspace():
                continue
            if not (unparsed or (id_first and line.startswith(_ID_FIRST))):
                row = Row(self._file.name, "line", self._number, json_object(decoded(line, self._file, self._number)))
                if not columns.items_per_row(row.has):
                    self._next = line
                    return passed
            passed += 1
        return passed

    def rows(self) -> Iterator[Row]:
        """The next rows."""
        name, folder, file = self._file.name, self._folder, self._file
        while True:
            if self._next is not None:
                line, self._next = self._next, None
            else:
                found = next(self._lines, None)
                if found is None:
                    return
                line = found
                self._number += 1
            if line.isspace():
                continue
            try:
                values = json_object(decoded(line, file, self._number))
            except NotUtf8Error as error:
                self._refuse.count()
                self._refuse(error)
            except ValueError as error:
                self._refuse.count()
                self._refuse(CorpusError(f"{name}, line {self._number}: {error}"))
            else:
                yield Row(name, "line", self._number, values, folder)


def json_object(text: str) -> dict[str, Any]:
    """Parse one object; ValueError saying why it is none."""
    try:
        value, end = _scan(text, 0)
        if end < len(text) and not text[end:].isspace():
            value = _loads(text.rstrip())  # which says what is wrong
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except (ValueError, StopIteration):
        value = _loads(text.rstrip())
    return checked_object(value, text)


def checked_object(value: Any, text: str) -> dict[str, Any]:
    """What a text was parsed to; ValueError where it is no object, is nested deeply, or one in it has a key twice."""
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__}, and no object")
    if text.count("{") + text.count("[") > MOST_NESTED and is_nested(value, MOST_NESTED):
        raise ValueError(TOO_DEEP)
    if text.count(":") != len(value):  # else each key has its own, and none was lost
        json.loads(text, object_pairs_hook=_once)
    return value


def _once(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice; rename one, or remove it")


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = (
            "; the file looks like one JSON array: name it .json, or write an object on each line"
            if text.startswith("[")
            else ""
        )
        raise ValueError(f"not valid JSON: {error.msg} at character {error.colno}{whole}") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
