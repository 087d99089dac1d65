"""Conditions on items as text, `year >= 2019 and source = 'wiki'`, parsed to an expression of `pyarrow.compute`.

condition  = term { "or" term }                         a term binds its parts with "and", "not" binds closest
comparison = column ("=" | "!=" | "<" | "<=" | ">" | ">=") value | column ["not"] "in" "(" value {"," value} ")"
           | column "is" ["not"] "null" | column        the last of a column of bool
column     = a name, or one in double quotes            value = a number, true, false, or text in single quotes

As in SQL, a comparison with null is neither true nor false, and an item passes where the condition is true.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.errors import QueryError
from hubstore.store.columns import type_name

MOST_NESTED: Final = 50
MOST_COMPARISONS: Final = 200
"""Arrow walks an expression by recursion."""

KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
COMPARE: Final[dict[str, Callable[[pc.Expression, pc.Expression], pc.Expression]]] = {
    "=": lambda x, y: x == y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "<>": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])
    |(?P<text>'(?:[^']|'')*')|(?P<quoted>"[^"]+")|(?P<word>[^\W\d][\w.]*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    """A part of the text: its kind, what stands there, and where."""

    kind: str
    text: str
    place: int

    def is_(self, *words: str) -> bool:
        """Whether it is one of these signs or keywords."""
        return self.kind in ("word", "sign") and self.text.lower() in words


def parse(where: str, schema: pa.Schema) -> pc.Expression:
    """The expression that a condition of `MOST_WHERE` characters at most stands for.

    Args:
        where: the condition.
        schema: of the items; columns of lists cannot be compared.

    Raises:
        QueryError: it is no condition on these columns; says at which character, and which columns there are.

    Example:
        >>> table.filter(parse("year >= 2019 and source in ('wiki', 'news')", table.schema))
    """
    return _Parser(where, schema).condition()


def columns_where(where: str, schema: pa.Schema) -> list[str]:
    """The columns of the schema that a condition compares; QueryError where it is none."""
    parser = _Parser(where, schema)
    parser.condition()
    return sorted(parser.compared)


def positions_where(items: pa.Table, where: str, schema: pa.Schema | None = None) -> np.ndarray:
    """int64, ascending: the rows of a table of items for which a condition is true; QueryError where it is none.

    Args:
        items: the table; the columns that the condition compares are enough.
        where: the condition.
        schema: of all columns that it may compare, for messages; those of the table by default.
    """
    expression = parse(where, items.schema if schema is None else schema)
    names = [field.name for field in items.schema if _comparable(field.type)]
    numbered = items.select(names).append_column("", pa.array(np.arange(len(items), dtype=np.int64)))
    try:
        return np.sort(numbered.filter(expression)[""].to_numpy())
    except pa.ArrowException as error:
        raise QueryError(f"where: {where:.200} cannot be found out for these items: {error!s:.200}") from None


class _Parser:
    def __init__(self, where: str, schema: pa.Schema) -> None:
        self._where = where
        self._types = {field.name: field.type for field in schema if _comparable(field.type)}
        self._comparisons = 0
        self.compared: set[str] = set()
        self._tokens = self._split()
        self._next = 0

    def condition(self) -> pc.Expression:
        """The whole text."""
        found = self._either(0)
        if self._token.kind != "end":
            raise self._fail("'and' or 'or'")
        return found

    def _split(self) -> list[_Token]:
        tokens, place, end = [], 0, len(self._where.rstrip())
        while place < end:
            found = _TOKEN.match(self._where, place)
            if found is None:
                place += len(self._where[place:]) - len(self._where[place:].lstrip())
                unclosed = self._where[place] in "'\""
                what = (
                    "a quotation mark that no other closes" if unclosed else f"{self._where[place]!r}, which is no part"
                )
                raise self._refuse(place, f"has {what}")
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            place = found.end()
        return [*tokens, _Token("end", "", end)]

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *words: str) -> bool:
        """Whether the next token is one of these, which is then passed."""
        taken = self._token.is_(*words)
        self._next += taken
        return taken

    def _either(self, depth: int) -> pc.Expression:
        found = self._both(depth)
        while self._take("or"):
            found = found | self._both(depth)
        return found

    def _both(self, depth: int) -> pc.Expression:
        found = self._one(depth)
        while self._take("and"):
            found = found & self._one(depth)
        return found

    def _one(self, depth: int) -> pc.Expression:
        if depth > MOST_NESTED:
            raise self._refuse(self._token.place, f"is nested in more than {MOST_NESTED} levels")
        if self._take("not"):
            return ~self._one(depth + 1)
        if self._take("("):
            found = self._either(depth + 1)
            if not self._take(")"):
                raise self._fail("')'")
            return found
        return self._comparison()

    def _comparison(self) -> pc.Expression:
        self._comparisons += 1
        if self._comparisons > MOST_COMPARISONS:
            raise self._refuse(self._token.place, f"has more than {MOST_COMPARISONS} comparisons; use `in`")
        token = self._token
        if token.kind not in ("word", "quoted") or token.is_(*KEYWORDS):
            raise self._fail("a column")
        name = token.text.strip('"')
        if name not in self._types:
            raise self._refuse(token.place, f"names {name!r}, which is no column")
        self._next += 1
        self.compared.add(name)
        field, kind = pc.field(name), self._types[name]
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                raise self._fail("null")
            return field.is_valid() if negated else field.is_null()
        negated = self._take("not")
        if self._take("in"):
            among = field.isin(pa.array(self._values(name, kind), kind))
            return pc.if_else(field.is_valid(), ~among if negated else among, pc.scalar(pa.scalar(None, pa.bool_())))
        if negated:
            raise self._fail("'in'")
        if self._token.is_(*COMPARE):
            compare = COMPARE[self._token.text]
            self._next += 1
            return compare(*_same_numbers(field, kind, self._value(name, kind)))
        if pa.types.is_boolean(kind):
            return field
        raise self._fail("a comparison")

    def _values(self, name: str, kind: pa.DataType) -> list[Any]:
        if not self._take("("):
            raise self._fail("'('")
        values = []
        while True:
            value = self._value(name, kind)
            with contextlib.suppress(pa.ArrowInvalid):  # a fraction is no whole number of the column
                values.append(value.cast(kind))
            if self._take(")"):
                return values
            if not self._take(","):
                raise self._fail("',' or ')'")

    def _value(self, name: str, kind: pa.DataType) -> pa.Scalar:
        """The next token as what a column of the type may be compared with."""
        token = self._token
        value = _read(token)
        if value is None:
            remedy = "; write `is null`" if token.is_("null") else "; put text in single quotes"
            raise self._fail("a value", remedy if token.kind in ("word", "quoted") else "")
        text, number, truth = isinstance(value, str), type(value) in (int, float), isinstance(value, bool)
        if pa.types.is_string(kind):
            good, wanted = text, "text, in single quotes"
        elif pa.types.is_boolean(kind):
            good, wanted = truth, "true or false"
        elif pa.types.is_temporal(kind):
            good, wanted = text, "a time in single quotes, such as '2024-12-31'"
        else:
            good, wanted = number, "a number"
        if good:
            try:
                found = pa.scalar(value)
                self._next += 1
                return _as_time(str(value), kind) if pa.types.is_temporal(kind) else found
            except (pa.ArrowException, OverflowError):
                raise self._refuse(token.place, f"has {token.text}, which is no {type_name(kind)}") from None
        raise self._refuse(token.place, f"compares {name!r}, of {type_name(kind)}, with {token.text}; give {wanted}")

    def _fail(self, wanted: str, remedy: str = "") -> QueryError:
        """The error of a token that stands where something else should."""
        token = self._token
        found = f"{token.text!r}" if token.text else "the end"
        return self._refuse(token.place, f"has {found} where {wanted} should be{remedy}")

    def _refuse(self, place: int, problem: str) -> QueryError:
        """The error of a problem at a character, from 0."""
        before = self._where[max(place - 20, 0) : place]
        columns = ", ".join(f"{name} ({type_name(kind)})" for name, kind in self._types.items())
        return QueryError(f"where, at character {place + 1}, after {before!r}, {problem}; the columns are {columns}")


def _read(token: _Token) -> str | float | bool | None:
    """The value that a token is; None where it is none."""
    if token.kind == "text":
        return token.text[1:-1].replace("''", "'")
    if token.is_("true", "false"):
        return token.text.lower() == "true"
    if token.kind == "number":
        return int(token.text) if re.fullmatch(r"-?[0-9]+", token.text) else float(token.text)
    return None


def _same_numbers(field: pc.Expression, kind: pa.DataType, value: pa.Scalar) -> tuple[pc.Expression, pc.Expression]:
    """A column and a value, of one type where they are numbers: of 0.5 Arrow makes float32, and of the column too."""
    if not (pa.types.is_floating(kind) or (pa.types.is_integer(kind) and pa.types.is_floating(value.type))):
        return field, pc.scalar(value)
    number = float(value.as_py())
    if pa.types.is_integer(kind) and number.is_integer() and -(2.0**63) <= number < 2.0**63:
        return field, pc.scalar(int(number))
    return field.cast(pa.float64(), safe=False), pc.scalar(pa.scalar(number, pa.float64()))


def _as_time(text: str, kind: pa.DataType) -> pa.Scalar:
    """A time as one of a column; one without a zone is of UTC."""
    if getattr(kind, "tz", None) is None or re.search(r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$", text[10:]):
        return pa.scalar(text).cast(kind)
    return pa.scalar(text).cast(pa.timestamp(kind.unit)).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)


def _comparable(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)
