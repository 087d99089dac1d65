"""Corpora of what is in memory already: rows as dictionaries, a DataFrame, an Arrow table, a dataset of `datasets`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Unpack

import pyarrow as pa
import xxhash

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.item import Item
from hubstore.corpus.row import Row
from hubstore.corpus.rows import items_of, kept_columns
from hubstore.corpus.streams import types_of, with_exact_times
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError, Parameter

BLOCK = 4096
"""Rows that are Python objects at once."""


def is_table(source: Any) -> bool:
    """Whether something is rows in memory, and no name of a corpus."""
    return (
        isinstance(source, pa.Table | pa.RecordBatch)
        or hasattr(source, "__arrow_c_stream__")
        or _is_dataset(source)
        or _is_frame(source)
        or (isinstance(source, Sequence) and bool(source) and all(isinstance(row, Mapping | Item) for row in source))
    )


def read_memory(
    source: Any,
    *,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read rows that are in memory; they are kept, so that they can be streamed more than once.

    Args:
        source: a list of dictionaries or of `Item`, a DataFrame of pandas or polars, an Arrow table, or a `Dataset` of
            `datasets`.
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: It is none of these, or the options contradict each other. What is wrong in a row is raised by
            `Corpus.batches`, with its number (the first is 1) and column.

    Example:
        >>> rows = [{"id": "1", "text": "Hello", "language": "en"}, {"id": "2", "text": "Bonjour", "language": "fr"}]
        >>> [item.text for item in read_memory(rows).items()]
        ['Hello', 'Bonjour']
    """
    if isinstance(source, Sequence) and any(isinstance(row, Item) for row in source):
        if columns:
            given = [part for option in columns for part in (Parameter(option), " ")]
            raise CorpusError("these are items already, not rows; leave out: ", *given[:-1])
        return Corpus.from_items(source, name or "items", limit=limit, on_error=on_error)
    limit = check_options(limit, on_error)
    table, chosen = _table(source), Columns(**columns)
    called = name or "rows"

    types = types_of(table.schema)

    def rows(refuse: Refuse) -> Generator[Row]:
        number = 0
        for start in range(0, len(table), BLOCK):
            for values in with_exact_times(table.slice(start, BLOCK), chosen, called).to_pylist():
                number += 1
                yield Row(called, "row", number, values, None, types)

    kept = kept_columns(chosen, rows)

    def read(refuse: Refuse) -> Iterator[Item]:
        return items_of(rows(refuse), chosen, refuse, limit, kept=kept())

    def described() -> dict[str, Any]:
        return {
            "kind": "memory",
            "rows": table.num_rows,
            "xxh3": _digest(table),
            "columns": chosen.source(),
            "limit": limit,
            "on_error": on_error,
        }

    return Corpus(called, described, read, skip_errors=on_error == "skip", kept=kept)


def _table(source: Any) -> pa.Table:
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if isinstance(source, pa.Table):
        return source
    try:
        if _is_dataset(source):
            return source.with_format("arrow")[:]
        if _is_frame(source):
            return pa.Table.from_pandas(source, preserve_index=False)
        if isinstance(source, Sequence):
            names = dict.fromkeys(name for row in source for name in row)
            return pa.table({name: [row.get(name) for row in source] for name in names})
        return pa.table(source)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise CorpusError(f"the rows are no table: {error}; give each column values of one type") from error


def _is_dataset(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "with_format")


def _is_frame(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns")


def _digest(table: pa.Table) -> str:
    """Of the rows' values, however they are chunked."""
    digest = xxhash.xxh3_128(str(table.schema.remove_metadata()).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=BLOCK):
        digest.update(repr(batch.to_pylist()).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
