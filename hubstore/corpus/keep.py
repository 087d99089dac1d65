"""Which columns of a corpus its items keep, as they are asked for; the types of values, and values of a type."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.corpus.row import Types
from hubstore.corpus.validate import unicode_problem
from hubstore.errors import CorpusError, Parameter
from hubstore.store.columns import column_type, name_problem, time_range, type_name

ALL: Final = "all"
NONE: Final = "none"

_COMMA: Final = re.compile(r",(?![^\[]*\])")
_INTEGER: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,18})")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan|NaN")
SEVERAL: Final = "has values of several types"
_BOOLS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Keep:
    """Which columns are asked for.

    Args:
        names: in order; None for all that there are.
        types: of those whose type is said.
        asked: whether anything was said; "none" says that no column is kept.
    """

    names: tuple[str, ...] | None = ()
    types: Types = field(default_factory=dict)
    asked: bool = False

    @classmethod
    def of(cls, asked: str | Sequence[str] | Mapping[str, str] | Keep | None) -> Keep:
        """Read "year,source:string", a sequence of such parts, a mapping of names to types, "all" or "none".

        Raises:
            CorpusError: a name is given twice or cannot be one, or a type is none.
        """
        if asked is None or isinstance(asked, Keep):
            return asked or cls()
        if isinstance(asked, Mapping):
            pairs: list[tuple[str, str | None]] = list(asked.items())
        else:
            parts = _COMMA.split(asked) if isinstance(asked, str) else list(asked)
            pairs = [_typed(part.strip()) for part in parts if part.strip()]
        if [name for name, _ in pairs] == [NONE]:
            return cls(asked=True)
        if not pairs:
            raise CorpusError(Parameter("keep_columns"), " names no column; give some, all, or none")
        types = {}
        for name, kind in pairs:
            if name != ALL and (problem := name_problem(name)):
                raise CorpusError(Parameter("keep_columns"), f": {name!r} {problem}")
            if kind is not None:
                types[name] = _declared(name, kind)
        names = tuple(name for name, _ in pairs if name != ALL)
        if len(set(names)) < len(names):
            raise CorpusError(Parameter("keep_columns"), f" {', '.join(names)}: name each column once")
        return cls(None if len(names) < len(pairs) else names, types, True)

    def source(self) -> Any:
        """As a corpus is described with it."""
        names = [ALL, *self.types] if self.names is None else [*self.names] if self.names else [NONE]
        return [f"{name}:{type_name(self.types[name])}" if name in self.types else name for name in names]

    def wanted(self, columns: Iterable[str], types: Types | None) -> list[str]:
        """Of a table's top-level columns those to read for the ones that are kept, some of which may be nested."""
        there = list(columns)
        if self.names is None:
            return there if types is None else [name for name in there if supported(types[name]) is not None]
        tops = {name if name in there else name.split(".", maxsplit=1)[0] for name in self.names}
        return [name for name in there if name in tops]


def type_at(types: Types, name: str) -> pa.DataType | None:
    """The type of a column by its name or its dotted path; None where there is none."""
    if name in types:
        return types[name]
    top, *rest = name.split(".")
    found = types.get(top)
    for part in rest:
        if found is None or not pa.types.is_struct(found) or found.get_field_index(part) < 0:
            return None
        found = found.field(part).type
    return found


def exact_times(table: Any, keep: Keep, where: str) -> Any:
    """A table or batch whose kept times have the types that were said.

    Timestamps are then the integers that they are stored as, since Python has no nanoseconds.

    Raises:
        CorpusError: naming the table, `where`: times cannot be made into what was said.
    """
    for name in table.schema.names if keep.names is None else keep.names:
        place = table.schema.get_field_index(name)
        if place < 0 or not pa.types.is_temporal(table.schema.field(place).type):
            continue
        column = table.column(place)
        if name in keep.types:
            column = _cast(column, keep.types[name], f"{where}, column {name!r}")
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        table = table.set_column(place, name, column)
    return table


def _cast(column: Any, kind: pa.DataType, place: str) -> Any:
    """Times as another type; what is finer than its unit is cut off."""
    try:
        return pc.cast(column, options=pc.CastOptions(target_type=kind, allow_time_truncate=True))
    except pa.ArrowException as error:
        what = f"{place}: is of {column.type}, and cannot all be kept as {type_name(kind)} ({error!s:.100})"
        raise CorpusError(f"{what}; keep it as it is, or as a string") from None


def _typed(part: str) -> tuple[str, str | None]:
    """A name and, behind its last colon, a type."""
    name, colon, kind = part.rpartition(":") if "[" not in part else part.partition(":")
    return (name, kind) if colon else (part, None)


def _declared(name: str, kind: str) -> pa.DataType:
    try:
        return column_type("timestamp[us]" if kind == "timestamp" else kind)
    except ValueError as error:
        raise CorpusError(Parameter("keep_columns"), f" {name}: {error}") from None


def supported(kind: pa.DataType) -> pa.DataType | None:
    """The type in which values of a type are kept; None for one that is not."""
    if pa.types.is_dictionary(kind):
        return supported(kind.value_type)
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    try:
        return column_type(type_name(kind))
    except ValueError:  # of another kind, or a time in a zone that nobody knows
        return None


def type_of_values(values: Iterable[Any]) -> pa.DataType | None:
    """The type that Python values have; None where all are None.

    Raises:
        ValueError: they have several types, or one that is not kept.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        raise ValueError(SEVERAL)
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), datetime.date: pa.date32()}
    for kind in kinds:
        if kind not in plain and not issubclass(kind, datetime.datetime):
            raise ValueError(f"holds a {kind.__name__}, which is not kept")
        return plain.get(kind, pa.timestamp("us"))
    return None


def type_of_texts(values: Iterable[str]) -> pa.DataType:
    """The type that every text can be read as; of texts that are all empty, string."""
    found = {value.strip() for value in values} - {""}
    if not found:
        return pa.string()
    if all(value in _BOOLS for value in found):
        return pa.bool_()
    if all(_INTEGER.fullmatch(value) and _fits(int(value)) for value in found):
        return pa.int64()
    numbers = (_NUMBER.fullmatch(value) and not re.match(r"[+-]?0[0-9]", value) for value in found)
    return pa.float64() if all(numbers) else pa.string()


def _fits(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def converted(value: Any, kind: pa.DataType, *, declared: bool, text: bool) -> Any:
    """A row's value as one of a column; ValueError, beginning with "is", where it is none.

    Args:
        value: of the row.
        kind: the column's type.
        declared: whether it was said, so that other values may be made into it.
        text: whether texts stand for numbers.
    """
    if value is None:
        return None
    if pa.types.is_string(kind):
        found = value if isinstance(value, str) else str(value) if declared and _is_plain(value) else _refuse(value)
        if problem := unicode_problem(found):
            raise ValueError(problem)
        return found
    if isinstance(value, str) and (text or declared):
        return _parsed(value.strip(), kind)
    if pa.types.is_boolean(kind):
        good = isinstance(value, bool)
    elif pa.types.is_integer(kind):
        good = type(value) is int and _fits(value)
    elif pa.types.is_floating(kind):
        return _float(value)
    else:
        return _time(value, kind)
    return value if good else _refuse(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | datetime.date) and not isinstance(value, bool)


def _float(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _refuse(value)
    except OverflowError:
        _refuse(value)


def _time(value: Any, kind: pa.DataType) -> int:
    """The integer that a type of times stores for a value."""
    try:
        stored: int = value if type(value) is int else pa.scalar(value, kind).value
    except (pa.ArrowException, OverflowError, TypeError):
        _refuse(value)
    return stored if stored in time_range(kind) else _refuse(value)


def _parsed(value: str, kind: pa.DataType) -> Any:
    """What a text says; None where it is empty."""
    if not value:
        return None
    if pa.types.is_boolean(kind):
        return _BOOLS[value] if value in _BOOLS else _refuse(value)
    if pa.types.is_integer(kind):
        return int(value) if re.fullmatch(r"[+-]?[0-9]{1,19}", value) and _fits(int(value)) else _refuse(value)
    if pa.types.is_floating(kind):
        return float(value) if _NUMBER.fullmatch(value) else _refuse(value)
    try:
        stored = pa.scalar(value).cast(kind).value
    except pa.ArrowException:
        _refuse(value)
    return stored if stored in time_range(kind) else _refuse(value)


def _refuse(value: Any) -> NoReturn:
    raise ValueError(f"is {_shown(value)}")


def _shown(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
