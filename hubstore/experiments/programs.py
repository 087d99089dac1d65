"""Python programs as text and as syntax: where in the text a node stands."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property

from hubstore.lens import Encoded
from hubstore.quiet import ignored_warnings


@dataclass(frozen=True)
class Source:
    """A program's text."""

    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax; SyntaxError where it is none."""
        with ignored_warnings():  # "\\d" in a program of others is no concern of the user's
            return ast.parse(self.text)

    def span(self, node: ast.expr) -> tuple[int, int]:
        """(start, stop) characters of a node, whose columns Python counts in bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._character(node.lineno, node.col_offset), self._character(node.end_lineno, node.end_col_offset)

    def after(self, node: ast.expr, skipped: str) -> int:
        """The first character after a node that is none of `skipped`."""
        place = self.span(node)[1]
        while place < len(self.text) and self.text[place] in skipped:
            place += 1
        return place

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self._lines:
            starts.append(starts[-1] + len(line) + 1)
        return starts

    def _character(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def token_that_is(source: Source, encoded: Encoded, place: int, text: str) -> int | None:
    """The place of the token that holds character `place` and is `text` but for spaces; None where it holds more."""
    found = encoded.covering(place)
    if found is None:
        return None
    start, stop = encoded.offsets[found]
    return found if source.text[start:stop].strip(" ") == text else None


def token_that_ends(encoded: Encoded, place: int) -> int | None:
    """The place of the token whose last character is `place`; None where it goes on."""
    found = encoded.covering(place)
    return found if found is not None and encoded.offsets[found][1] == place + 1 else None
