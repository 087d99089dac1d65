"""The columns that the items of a corpus keep: the type of each, by its first rows, and their values row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from hubstore.corpus.item import Item
from hubstore.corpus.keep import SEVERAL, Keep, converted, supported, type_at, type_of_texts, type_of_values
from hubstore.corpus.row import Row, Types
from hubstore.errors import CorpusError, Parameter
from hubstore.store.columns import MOST_COLUMNS, MOST_ITEM_BYTES, RESERVED, name_problem, type_name

SAMPLE_ROWS: Final = 4096
"""Rows at the start of a corpus by which columns get their types, where its files do not say them."""


@dataclass(frozen=True)
class Kept:
    """The columns that a corpus keeps, and the type of each.

    Args:
        types: by name, in order.
        declared: those whose type was said.
        first: the file that gave the others theirs.
    """

    types: Types
    declared: frozenset[str] = frozenset()
    first: str = ""

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
        types = {}
        for name in names:
            found = keep.types.get(name) or _type_of(name, sample, strict=keep.names is not None)
            if found is not None:
                types[name] = found
        if len(types) > MOST_COLUMNS:
            raise CorpusError(f"{sample[0].file} has {len(types)} columns, and {MOST_COLUMNS} are kept; ", *_naming())
        for name in types if keep.names is not None else ():
            _require_there(name, sample)
        return cls(types, frozenset(keep.types), sample[0].file)


class KeptReader:
    """Reads the kept columns of rows in one pass over a corpus."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._file: tuple[str, Types | None] = "", None

    def values(self, row: Row) -> dict[str, Any]:
        """The row's values by column, as `pyarrow.array` takes them.

        Raises:
            CorpusError: naming file, row and column: a value is not of the column's type, or they are too large. That a
                file lacks a column, or has it of another type, is a `ColumnsChangedError`.
        """
        if row.schema is not None and not (self._file[1] is row.schema and self._file[0] == row.file):
            self._check_file(row)
            self._file = row.file, row.schema
        found, size = {}, 0
        for name, kind in self._kept.types.items():
            value = row.get(name) if row.has(name) else None
            try:
                value = converted(value, kind, declared=name in self._kept.declared, text=row.is_text)
            except ValueError as error:
                raise CorpusError(
                    f"{row.place(name)}: {error}, and the column is kept as {type_name(kind)}; if it has other "
                    "values too, say its type: ",
                    Parameter("keep_columns", f"{name}:string"),
                ) from None
            size += len(value.encode()) if isinstance(value, str) else 8
            found[name] = value
        if size > MOST_ITEM_BYTES:
            largest = max(found, key=lambda name: len(str(found[name])))
            raise CorpusError(
                f"{row.place(largest)}: the kept columns of the row have {size:,} bytes, and {MOST_ITEM_BYTES:,} are "
                f"the most; leave {largest!r} out: ",
                *_naming(),
            )
        return found

    def _check_file(self, row: Row) -> None:
        for name, kind in self._kept.types.items():
            if not row.has(name):
                raise ColumnsChangedError(f"{row.file}: there is no column {name!r}, which is to be kept; ", *_naming())
            found = type_at(row.schema or {}, name) if row.is_typed else None
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


def kept_of_items(items: Sequence[Item], called: str) -> Kept:
    """The columns that items given as Python objects have, and their types.

    Raises:
        CorpusError: a column cannot be called so, or has values of several types or of one that cannot be kept.
    """
    names = dict.fromkeys(name for item in items for name in item.columns or ())
    types = {}
    for name in names:
        values = [item.columns.get(name) for item in items if item.columns]
        try:
            found = type_of_values(values) or pa.string()
            types[name] = found
            if problem := name_problem(name):
                raise ValueError(problem)
            for value in values:
                converted(value, found, declared=False, text=False)
        except ValueError as error:
            raise CorpusError(f"{called}: column {name!r} {error}; correct it, or leave it out") from None
    return Kept(types)


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
