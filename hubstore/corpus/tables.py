"""Readers of tables in files: JSON Lines, delimited values, Parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Unpack

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import PathLike, format_suffix, paths_of, read_lines
from hubstore.corpus.item import Item
from hubstore.corpus.rows import Row, items_of
from hubstore.corpus.source import file_identities
from hubstore.corpus.streams import MEDIA_ROWS, ROWS, file_tables, first_line
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError
from hubstore.location import Url

_LINES_CHUNK: Final = 1 << 20  # characters; the default of `datasets`, ten times that, holds 100 MB
_PARQUET_BUFFER: Final = 1 << 20  # bytes; without one, a column of a whole row group is read at once
_TAB_SUFFIXES: Final = (".tsv", ".tab")


def read_jsonl(
    paths: PathLike | Url | Sequence[PathLike | Url],
    *,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read JSON Lines: an object on each line, of UTF-8, blank lines aside.

    Args:
        paths: The file, or several that are read one after the other; they may be compressed (.gz, .bz2, .xz).
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the file's name.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: A file is not there, or the options contradict each other. What is wrong inside a file
            is raised by `Corpus.batches`, with its line and column.

    Example:
        >>> read_jsonl("captions.jsonl.gz", text="caption", language_tag="en", concept="image_id")
    """
    return _table("jsonl", paths, _json_rows, {}, limit, on_error, name, columns)


def read_csv(
    paths: PathLike | Url | Sequence[PathLike | Url],
    *,
    delimiter: str | None = None,
    quotes: bool = True,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    r"""Read delimited values with a header; every value is a string as it stands, `NA` and `007` too.

    Args:
        paths: The file, or several that are read one after the other; they may be compressed (.gz, .bz2, .xz).
        delimiter: Between the fields; by default a tab for .tsv and .tab, else a comma.
        quotes: Whether `"` encloses a field. Turn off for files that hold quotation marks as they are.
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the file's name.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: A file is not there, or the options contradict each other. What is wrong inside a file
            is raised by `Corpus.batches`, with its row (the first after the header is 1) and column.

    Example:
        >>> read_csv("pairs.tsv", text={"en": "English", "zh": "Chinese"})
    """
    options = {"delimiter": delimiter, "quotes": quotes}
    return _table("csv", paths, _csv_rows, options, limit, on_error, name, columns)


def read_parquet(
    paths: PathLike | Url | Sequence[PathLike | Url],
    *,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read Parquet; only the columns asked for are decoded.

    Args:
        paths: The file, or several that are read one after the other.
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the file's name.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: A file is not there, or the options contradict each other. What is wrong inside a file
            is raised by `Corpus.batches`, with its row (the first is 1) and column.
    """
    return _table("parquet", paths, _parquet_rows, {}, limit, on_error, name, columns)


def _table(
    kind: str,
    paths: PathLike | Url | Sequence[PathLike | Url],
    rows_of: Callable[..., Iterator[Row]],
    options: dict[str, Any],
    limit: int | None,
    on_error: str,
    name: str | None,
    column_options: ColumnOptions,
) -> Corpus:
    check_options(limit, on_error)
    columns = Columns(**column_options)
    files = paths_of(paths)

    def read(refuse: Refuse) -> Iterator[Item]:
        rows = (row for file in files for row in rows_of(file, columns, refuse, **options))
        return items_of(islice(rows, limit), columns, refuse)

    def source() -> dict[str, Any]:
        return {
            "kind": kind,
            "files": file_identities(files),
            "columns": columns.source(),
            **options,
            "limit": limit,
            "on_error": on_error,
        }

    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Corpus(name or files[0].name + more, source, read, skip_errors=on_error == "skip")


def table_rows(path: Path, columns: Columns, refuse: Refuse) -> Iterator[Row]:
    """Read the rows of a table whose suffix says its format.

    Raises:
        CorpusError: The suffix is no table's, or the file cannot be read; or, through `refuse`, a row is not valid.
    """
    if format_suffix(path) not in TABLES:
        raise CorpusError(f"{path}: is no table by its name; give one that ends with {', '.join(TABLES)}")
    return TABLES[format_suffix(path)][1](path, columns, refuse)


def _json_rows(path: Path, columns: Columns, refuse: Refuse) -> Iterator[Row]:
    # Lines, not `datasets`' JSON reader: that one guesses types, so that a column of texts that all look
    # like dates comes out rewritten, and for one bad line reads the whole file into memory.
    tables = file_tables(path, "text", chunksize=_LINES_CHUNK)
    lines = (line for table in tables for line in table["text"].to_pylist())
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix("\ufeff") if number == 1 else line
        if not content.strip():
            continue
        try:
            yield Row(path.name, "line", number, _json_object(content), path.parent)
        except ValueError as error:
            refuse(CorpusError(f"{path.name}, line {number}: {error}"))


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        whole = "; the file looks like one JSON array: write an object on each line" if line[0] == "[" else ""
        raise ValueError(f"not valid JSON: {error.msg} at character {error.colno}{whole}") from None
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__}; write an object on each line")
    return value


def _csv_rows(
    path: Path, columns: Columns, refuse: Refuse, *, delimiter: str | None = None, quotes: bool = True
) -> Iterator[Row]:
    dialect: dict[str, Any] = {
        "delimiter": delimiter or ("\t" if format_suffix(path) in _TAB_SUFFIXES else ","),
        "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
    }
    header = _header(path, dialect)
    tables = file_tables(
        path,
        "csv",
        chunksize=ROWS,
        keep_default_na=False,  # else the texts "NA" and "None" become null
        converters=dict.fromkeys(range(len(header)), str),  # else "007" becomes 7
        **dialect,
    )
    number = 0
    for table in tables:
        if table.num_columns > len(header):  # pandas took the first fields for an index, and shifted the rest
            raise CorpusError(
                f"{path.name}, row {number + 1}: {table.num_columns} fields, but the header has {len(header)}; "
                "quote fields that hold the delimiter"
            )
        for values in table.to_pylist():
            number += 1
            yield Row(path.name, "row", number, values, path.parent)


def _header(path: Path, dialect: dict[str, Any]) -> list[str]:
    lines = (f"{line}\n" for line in read_lines(path))
    try:
        header = next((fields for fields in csv.reader(lines, **dialect) if fields), [])
    except csv.Error as error:
        raise CorpusError(f"{path}: the header cannot be read: {error}; check the delimiter and the quotes") from error
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(f"{path}: the header has the column {twice!r} twice; rename one")
    if not header:
        raise CorpusError(f"{path}: the file is empty; give a file with a header and at least one row")
    return header


def _parquet_rows(path: Path, columns: Columns, refuse: Refuse) -> Iterator[Row]:
    # Not through `datasets`: its scanner reads on in the background while a model is busy with the last
    # batch, and then holds a good part of the file.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = MEDIA_ROWS if columns.media else ROWS
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER) as file:
            for batch in file.iter_batches(rows, columns=columns.needed(file.schema_arrow.names)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(path.name, "row", number, values, path.parent)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path}: cannot be read as parquet, after row {number}: {first_line(error)}; "
            "check that the file is whole and of this format"
        ) from error


TABLES: Final[dict[str, tuple[Callable[..., Corpus], Callable[..., Iterator[Row]]]]] = {
    ".jsonl": (read_jsonl, _json_rows),
    ".ndjson": (read_jsonl, _json_rows),
    ".json": (read_jsonl, _json_rows),
    ".csv": (read_csv, _csv_rows),
    ".tsv": (read_csv, _csv_rows),
    ".tab": (read_csv, _csv_rows),
    ".parquet": (read_parquet, _parquet_rows),
    ".pq": (read_parquet, _parquet_rows),
}
"""By suffix: the reader of a table, and that of its rows."""
