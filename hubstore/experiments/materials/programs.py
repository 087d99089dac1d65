"""MBPP's Python programs as text and as syntax: where in the text a comma, an argument or a call of range stands."""

from __future__ import annotations

import ast
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hubstore.experiments.materials import shipped_bytes
from hubstore.lens import Encoded
from hubstore.quiet import ignored_warnings

SHIPPED = "mbpp/mbpp.jsonl.xz"
MEANINGLESS = ("obj", "object")
SIGNATURES = """
    abs number; all iterable; any iterable; bin integer; bool object; chr codepoint; complex real imag;
    enumerate iterable start; filter function iterable; float number; hex integer; int number base;
    isinstance object classinfo; iter object sentinel; len object; list iterable; map function iterable;
    next iterator default; oct integer; ord character; pow base exp mod; reversed object; round number ndigits;
    set iterable; sorted iterable; str object encoding errors; sum iterable start; tuple iterable
"""
BUILT_IN = {name: tuple(parameters) for name, *parameters in map(str.split, SIGNATURES.split(";"))}
"""Parameters of built-in functions as the reference of Python 3.14 names them; signatures differ between versions."""


@dataclass(frozen=True)
class Program:
    """A program of MBPP.

    Args:
        task: its number there, from 1.
        code: Python, with line feeds.
        tests: assertions, each a line or more of Python.
    """

    task: int
    code: str
    tests: tuple[str, ...]


class Argument(NamedTuple):
    """A positional argument of a call.

    Args:
        opening: the character before it: of the parenthesis or the comma.
        span: its own (start, stop) characters.
        parameter: its parameter's name.
    """

    opening: int
    span: tuple[int, int]
    parameter: str


class Range(NamedTuple):
    """A call of range with one argument.

    Args:
        item: its id, unique.
        task: the program's number in MBPP.
        prompt: the program up to the opening parenthesis.
    """

    item: str
    task: int
    prompt: str


def programs() -> list[Program]:
    """The 974 programs of MBPP (Austin et al., 2021), in its order."""
    lines = lzma.decompress(shipped_bytes(SHIPPED)).decode().splitlines()
    return [Program(row["task_id"], row["code"], tuple(row["tests"])) for row in map(json.loads, lines)]


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

    def list_commas(self) -> Iterator[int]:
        """The characters that are commas between the elements of list literals."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.List):
                continue
            for element in node.elts[:-1]:
                place = self.after(element, " \n\t)")
                if self.text[place : place + 1] == ",":  # a comment may stand in between
                    yield place

    def arguments(self) -> Iterator[Argument]:
        """Positional arguments of named functions whose parameter's name is known and says something."""
        own = {node.name: node.args for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            function = own.get(node.func.id)
            parameters = (
                BUILT_IN.get(node.func.id, ())
                if function is None
                else tuple(one.arg for one in (*function.posonlyargs, *function.args))
            )
            for before, argument, parameter in zip([node.func, *node.args], node.args, parameters, strict=False):
                if isinstance(argument, ast.Starred):
                    break  # it may be any number of arguments
                opening = self.after(before, " )\n\t")
                if self.text[opening : opening + 1] in ("(", ",") and parameter not in MEANINGLESS:
                    yield Argument(opening, self.span(argument), parameter)

    def range_openings(self) -> Iterator[int]:
        """Characters of the parentheses that open the single argument of range."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
                place = self.after(node.func, " ")
                if len(node.args) == 1 and not node.keywords and self.text[place] == "(":
                    yield place

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


def ranges() -> Iterator[Range]:
    """The calls of range with one argument in MBPP, in its order."""
    for program in programs():
        source = Source(program.code)
        for number, place in enumerate(source.range_openings()):
            yield Range(f"mbpp:{program.task}:{number}", program.task, source.text[: place + 1])


def token_that_is(text: str, encoded: Encoded, place: int, expected: str) -> int | None:
    """The place of the token that holds character `place` and is `expected` but for spaces; None if it holds more."""
    found = encoded.covering(place)
    return found if found is not None and text[slice(*encoded.offsets[found])].strip(" ") == expected else None


def token_that_ends(encoded: Encoded, place: int) -> int | None:
    """The place of the token whose last character is `place`; None where it goes on."""
    found = encoded.covering(place)
    return found if found is not None and encoded.offsets[found][1] == place + 1 else None


def range_arguments(continuation: str) -> tuple[str, ...] | None:
    """The arguments of the call that "range(" and a continuation make, up to the parenthesis that closes it.

    Returns:
        Each as Python prints its syntax; None where none closes it or what stands between is no Python.
    """
    for place, character in enumerate(continuation):
        if character == ")":
            call = _parsed(f"range({continuation[: place + 1]}")
            if isinstance(call, ast.Call):
                return tuple(ast.unparse(argument) for argument in call.args)
    return None


def _parsed(expression: str) -> ast.expr | None:
    try:
        with ignored_warnings():  # of what a model writes
            return ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
