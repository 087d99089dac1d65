"""JSON files that are one array of objects."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from hubstore.corpus.corpus import Refuse
from hubstore.corpus.files import File
from hubstore.corpus.readers.lines import decoded, raw_lines
from hubstore.corpus.rows import Row
from hubstore.errors import CorpusError

_LINES: Final = 1024  # read at once, and twice as many where an object has more
_SPACE: Final = " \t\r\n"


def is_array(file: File) -> bool:
    """Whether a JSON file begins as an array does."""
    first = next((line for line in raw_lines(file) if line.strip()), b"")
    return first.lstrip().startswith(b"[")


class JsonArray:
    """A file that is one JSON array, of which a part is in memory at a time; see `TableReader`."""

    def __init__(self, file: File, refuse: Refuse) -> None:
        self._file = file
        self._refuse = refuse

    def seek(self, rows: int) -> int:
        """Pass over none: where an object ends is known when it is parsed."""
        return 0

    def rows(self) -> Iterator[Row]:
        """The next rows."""
        name = self._file.name
        folder = self._file.parent if isinstance(self._file, Path) else None
        for number, value in enumerate(self._values(), start=1):
            if isinstance(value, dict):
                yield Row(name, "element", number, value, folder)
            else:
                self._refuse.count()
                problem = f"holds a JSON {type(value).__name__}, and no object"
                self._refuse(CorpusError(f"{name}, element {number}: {problem}"))

    def _values(self) -> Iterator[object]:
        decode = json.JSONDecoder().raw_decode
        lines = enumerate(raw_lines(self._file), start=1)
        text, at, number, size, begun, comma = "", 0, 0, _LINES, False, True
        while True:
            more = [decoded(line, self._file, line_number) for line_number, line in islice(lines, size)]
            text, at, size = text[at:] + "".join(more), 0, size * 2
            if not begun and text:
                text, begun = text.lstrip().removeprefix("["), True
            while True:
                while at < len(text) and text[at] in _SPACE:
                    at += 1
                if at < len(text) and text[at] == "]" and (not comma or not number):
                    self._require_end(text[at + 1 :], lines, number)
                    return
                if not comma and at < len(text):
                    if text[at] != ",":
                        raise self._error(number, "no comma is before it; check that the file is whole")
                    at, comma = at + 1, True
                    continue
                try:
                    value, at = decode(text, at)
                except RecursionError:
                    raise self._error(number, "the JSON is nested too deeply; flatten it") from None
                except ValueError as error:
                    if more:
                        break
                    shown = getattr(error, "msg", str(error))
                    raise self._error(number, f"not valid JSON: {shown}; check that the file is whole") from None
                number, size, comma = number + 1, _LINES, False
                yield value

    def _require_end(self, text: str, lines: Iterator[tuple[int, bytes]], number: int) -> None:
        """Raise where anything follows the array: it would be passed over."""
        if text.strip() or any(line.strip() for _, line in lines):
            raise self._error(number, "it stands behind the end of the array; write one array a file, or JSON Lines")

    def _error(self, number: int, problem: str) -> CorpusError:
        return CorpusError(f"{self._file.name}, element {number + 1}: {problem}")
