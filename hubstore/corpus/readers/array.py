"""JSON files that are one array of objects."""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from hubstore.corpus.corpus import Refuse
from hubstore.corpus.files import File
from hubstore.corpus.readers.jsonl import TOO_DEEP, checked_object
from hubstore.corpus.readers.lines import BLOCK, raw_blocks
from hubstore.corpus.row import Row
from hubstore.errors import CorpusError

_SPACE: Final = " \t\r\n"
_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
"""A bracket, or a text, which may hold some."""


def is_array(file: File) -> bool:
    """Whether a JSON file begins as an array does."""
    first = next((block for block in raw_blocks(file) if block.strip()), b"")
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
                self._refuse(CorpusError(f"{name}, element {number}: {value}"))

    def _values(self) -> Iterator[object]:
        """The array's elements; of one that is no object, or not valid by itself, what is wrong with it."""
        decode = json.JSONDecoder().raw_decode
        blocks, text, at, number, comma = self._text(), "", 0, 0, True
        text = next(blocks, "").lstrip(_SPACE).removeprefix("[")
        while True:
            at = _next_place(text, at)
            if at < len(text) and text[at] == "]" and (not comma or not number):
                if text[at + 1 :].strip() or any(block.strip() for block in blocks):
                    raise self._error(number, "it stands behind the end of the array; write one array a file")
                return
            if not comma and at < len(text):
                if text[at] != ",":
                    raise self._error(number, "no comma is before it; check that the file is whole")
                at, comma = at + 1, True
                continue
            try:
                value, end = decode(text, at)
                whole = end < len(text)  # what ends with the block may be the beginning of a longer number
            except RecursionError:
                end = _end_of_nested(text, at)
                value, whole, problem = ValueError(TOO_DEEP), end > at, "it does not end"
            except ValueError as error:
                value, end, whole, problem = None, at, False, getattr(error, "msg", str(error))
            if not whole:
                # As much again as what is there: an object of many blocks is not parsed once for each.
                more = "".join(islice(blocks, 1 + (len(text) - at) // BLOCK))
                if more:
                    text, at = text[at:] + more, 0
                    continue
                if end == at:
                    raise self._error(number, f"not valid JSON: {problem}; check that the file is whole")
            number, comma = number + 1, False
            yield self._checked(value, text[at:end])
            at = end

    def _text(self) -> Iterator[str]:
        """The file in blocks; a byte that is not UTF-8 is half of a surrogate pair, which no text holds."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        yield from map(decoder.decode, raw_blocks(self._file))
        yield decoder.decode(b"", True)

    @staticmethod
    def _checked(value: object, text: str) -> object:
        """An element that was parsed of a text; a ValueError saying why it is no row."""
        if isinstance(value, ValueError):
            return value
        try:
            text.encode()
        except UnicodeEncodeError as error:
            byte = ord(text[error.start]) - 0xDC00
            return ValueError(f"holds the byte 0x{byte:02x}, which is not UTF-8; convert the file to UTF-8")
        try:
            return checked_object(value, text)
        except ValueError as error:
            return error

    def _error(self, number: int, problem: str) -> CorpusError:
        return CorpusError(f"{self._file.name}, element {number + 1}: {problem}")


def _end_of_nested(text: str, at: int) -> int:
    """Where a value ends that begins with a bracket, found without parsing it; `at` where it does not end here."""
    depth = 0
    for found in _BRACKET.finditer(text, at):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if not depth:
            return found.end()
    return at


def _next_place(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
