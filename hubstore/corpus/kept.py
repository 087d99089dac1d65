"""The columns that the items of a corpus keep: the type of each, by its first rows, and their values row by row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from hubstore.corpus.item import Item
from hubstore.corpus.keep import SEVERAL, Keep, converted, supported, type_at, type_of_texts, type_of_values
from hubstore.corpus.row import MISSING, Row, Types
from hubstore.errors import CorpusError, CorpusWarning, Parameter
from hubstore.store.columns import MOST_ITEM_BYTES, RESERVED, name_problem, type_name

SAMPLE_ROWS: Final = 4096
"""Rows at the start of a corpus by which columns get their types, where its files do not say them."""


@dataclass(frozen=True)
class Kept:
    """The columns that a corpus keeps, and the type of each.

    Args:
        types: by name, in order.
        declared: those whose type was said.
        first: the file that gave the others theirs.
        known: where all columns are kept, those that had a value in the first rows, and those that make the items.
    """

    types: Types
    declared: frozenset[str] = frozenset()
    first: str = ""
    known: frozenset[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no column is kept, nor any looked for."""
        return not self.types and self.known is None

    @classmethod
    def of(cls, keep: Keep, rows: Iterator[Row], used: frozenset[str]) -> Kept:
        """The types of what is asked for, by the first rows of a corpus.

        Args:
            keep: what is asked for.
            rows: of the corpus, from the first.
            used: columns that make the items, which "all" leaves out.

        Raises:
            CorpusError: a column is not there, has values of several types or of one that cannot be kept, or none.
        """
        if not keep.asked or keep.names == ():
            return cls({})
        sample: list[Row] = []
        for row in islice(rows, SAMPLE_ROWS):
            if sample and row.file != sample[0].file:
                break
            sample.append(row)
        if not sample:  # which reading it says
            return cls({name: keep.types.get(name, pa.string()) for name in keep.names or ()})
        names = keep.names
        if names is None:
            names = tuple(dict.fromkeys(name for row in sample for name in row.columns))
            names = tuple(name for name in names if name not in used and name not in RESERVED)
            names = (*names, *(name for name in keep.types if name not in names))
        types = {}
        for name in names:
            found = keep.types.get(name) or _type_of(name, sample, strict=keep.names is not None)
            if found is not None:
                types[name] = found
        for name in types if keep.names is not None else ():
            _require_there(name, sample)
        known = {name for row in sample for name in row.columns if not row.is_empty(name)}
        known |= {*types, *used, *RESERVED}
        return cls(types, frozenset(keep.types), sample[0].file, None if keep.names is not None else frozenset(known))


class KeptReader:
    """Reads the kept columns of rows in one pass over a corpus."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._known = None if kept.known is None else set(kept.known)
        self._schema: Types | None = None

    def values(self, row: Row) -> dict[str, Any]:
        """The row's values by column, as `pyarrow.array` takes them.

        Raises:
            CorpusError: naming file, row and column: a value is not of the column's type, or they are too large. That a
                file lacks a column, or has it of another type, is a `ColumnsChangedError`.
        """
        if row.is_typed and row.schema is not self._schema:
            self._check_types(row)
            self._schema = row.schema
        if self._known is not None and not self._known.issuperset(row.values):
            self._warn(row, self._known)
        values = {name: row.get(name) for name in self._kept.types}
        for name, value in values.items():
            if value is MISSING:
                if row.schema is not None:  # of which every row has all columns
                    what = f"{row.file}: there is no column {name!r}, which is to be kept; "
                    raise ColumnsChangedError(what, *_naming())
                values[name] = None
        try:
            return _converted(self._kept, values, row.place, text=row.is_text)
        except _SizeProblem as error:
            raise CorpusError(f"{error}; leave {error.column!r} out: ", *_naming()) from None
        except _ValueProblem as error:
            remedy = Parameter("keep_columns", f"{error.column}:string")
            raise CorpusError(f"{error}; if it has other values too, say its type: ", remedy) from None

    def _warn(self, row: Row, known: set[str]) -> None:
        """Say that a column is left out that has a value after the first rows only."""
        for name in row.values.keys() - known:
            if not row.is_empty(name):
                known.add(name)
                warnings.warn(
                    f'{row.place(name)}: the column has no value in the first rows of the corpus, by which "all" keeps '
                    f'columns, and is left out; to keep it too, say its type: keep_columns="all,{name}:string"',
                    CorpusWarning,
                    stacklevel=2,
                )

    def _check_types(self, row: Row) -> None:
        for name, kind in self._kept.types.items():
            found = type_at(row.schema or {}, name)
            if found is None or name in self._kept.declared:
                continue
            if supported(found) != kind and not pa.types.is_null(found):
                raise ColumnsChangedError(
                    f"{row.file}: column {name!r} is of {found}, and of {type_name(kind)} in {self._kept.first}; say "
                    "what it is to be kept as: ",
                    Parameter("keep_columns", f"{name}:string"),
                )


class ColumnsChangedError(CorpusError):
    """A file of a corpus lacks a column that is kept, or has it of another type: no fault of one row."""


class _ValueProblem(ValueError):  # noqa: N818
    """A value is none of its column; the message says where."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class _SizeProblem(_ValueProblem):
    """The values of an item are too large, of which the column's is the largest."""


def _converted(
    kept: Kept, values: Mapping[str, Any], place: Callable[[str], str], *, text: bool = False
) -> dict[str, Any]:
    """An item's kept values, as `pyarrow.array` takes them; a problem that names the place of a column."""
    found, size = {}, 0
    for name, kind in kept.types.items():
        try:
            value = converted(values.get(name), kind, declared=name in kept.declared, text=text)
        except ValueError as error:
            said = f"{place(name)}: {error}, and the column is kept as {type_name(kind)}"
            raise _ValueProblem(name, said) from None
        size += len(value.encode()) if isinstance(value, str) else 8
        found[name] = value
    if size > MOST_ITEM_BYTES:
        largest = max(found, key=lambda name: len(str(found[name])))
        said = f"the kept columns of the row have {size:,} bytes, and {MOST_ITEM_BYTES:,} are the most"
        raise _SizeProblem(largest, f"{place(largest)}: {said}")
    return found


def kept_of_items(items: Sequence[Item], called: str) -> Kept:
    """The columns that items given as Python objects have, and their types.

    Raises:
        CorpusError: a column cannot be called so, or has values of several types or of one that cannot be kept.
    """
    types = {}
    for name in dict.fromkeys(name for item in items for name in item.columns or ()):
        try:
            types[name] = type_of_values([(item.columns or {}).get(name) for item in items]) or pa.string()
            if problem := name_problem(name):
                raise ValueError(problem)
        except ValueError as error:
            raise CorpusError(f"{called}: column {name!r} {error}; correct it, or leave it out") from None
    return Kept(types)


def with_kept(item: Item, kept: Kept, place: str) -> Item:
    """An item with its columns as they are kept; CorpusError, naming the place, where one has no such value."""
    if not kept.types:
        return item
    try:
        return replace(item, columns=_converted(kept, item.columns or {}, lambda name: f"{place}, column {name!r}"))
    except _ValueProblem as error:
        raise CorpusError(f"{error}; correct column {error.column!r}, or leave it out of the items") from None


def _naming() -> tuple[str | Parameter, ...]:
    return "name those to keep with ", Parameter("keep_columns", "...")


def _require_there(name: str, sample: Sequence[Row]) -> None:
    if not any(row.has(name) for row in sample):
        row = sample[0]
        raise CorpusError(f"{row.file}: {row.lacks(name)}, and {name!r} is to be kept; ", *_naming())


def _type_of(name: str, sample: Sequence[Row], *, strict: bool) -> pa.DataType | None:
    """The type of a column by the first rows; None for one that "all" leaves out, which has no one type to keep."""
    if strict:
        _require_there(name, sample)
    first = sample[0]
    problem = None
    said = type_at(first.schema or {}, name) if first.is_typed else None
    if said is not None and not pa.types.is_null(said):
        found = supported(said)
        problem = None if found is not None else f"is of {said}, which is not kept"
    else:
        values = (row.get(name) for row in sample if row.has(name))
        try:
            found = type_of_texts(values) if first.is_text else type_of_values(values)
        except ValueError as error:
            found, problem = None, str(error)
    if found is None and problem is None:
        problem = f"has no value in the first {len(sample):,} rows"
    if found is None and (strict or problem == SEVERAL):
        raise CorpusError(
            f"{first.file}, column {name!r}: {problem}; say its type: ", Parameter("keep_columns", f"{name}:string")
        )
    return found
