"""Corpora of tables in files: JSON Lines, delimited values, Parquet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import File, PathLike, paths_of
from hubstore.corpus.item import Item
from hubstore.corpus.readers import DIALECT_OUT, Dialect, TableReader, kind_of, open_table
from hubstore.corpus.row import Row
from hubstore.corpus.rows import ItemMaker, kept_columns
from hubstore.corpus.source import file_identities
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError
from hubstore.storage.location import Url


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
    return table_corpus(paths_of(paths), "jsonl", None, limit, on_error, name, columns)


def read_csv(
    paths: PathLike | Url | Sequence[PathLike | Url],
    *,
    delimiter: str | None = None,
    quotes: bool | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    r"""Read delimited values with a header; every value is a string as it stands, `NA` and `007` too.

    Args:
        paths: The file, or several that are read one after the other; they may be compressed (.gz, .bz2, .xz).
        delimiter: Between the fields; by default a tab for .tsv and .tab, else a comma.
        quotes: Whether `"` encloses a field, which may then hold delimiters and line ends. False for files that hold
            quotation marks as they are. By default it does, but a mark that seems to be a stray one is refused: a
            field of several lines each of which would be a row by itself.
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
    return table_corpus(paths_of(paths), "csv", Dialect(delimiter, quotes), limit, on_error, name, columns)


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
        paths: The file, or several that are read one after the other. Each may have columns of its own.
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the file's name.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: A file is not there, or the options contradict each other. What is wrong inside a file
            is raised by `Corpus.batches`, with its row (the first is 1) and column.
    """
    return table_corpus(paths_of(paths), "parquet", None, limit, on_error, name, columns)


def table_corpus(
    files: Sequence[File],
    kind: str | None,
    dialect: Dialect | None,
    limit: int | None,
    on_error: str,
    name: str | None,
    column_options: ColumnOptions,
    identity: Callable[[], Mapping[str, Any]] | None = None,
) -> Corpus:
    """Make a corpus of tables that are read one after the other.

    Args:
        files: the tables.
        kind: their format; None where each has that of its suffix.
        dialect: how delimited values are read, where it was said.
        limit: most rows to read.
        on_error: "stop" or "skip".
        name: what to call the corpus; None for the first file.
        column_options: which columns to read.
        identity: says what the files are; None for their names and contents.

    Raises:
        CorpusError: the options contradict each other.
    """
    limit = check_options(limit, on_error)
    columns = Columns(**column_options)
    kinds = {kind or kind_of(file.name) for file in files}
    if dialect not in (None, Dialect()) and "csv" not in kinds:
        raise CorpusError(f"{files[0]}: is no table of delimited values; leave ", *DIALECT_OUT)
    chosen = dialect or Dialect()

    def tables(refuse: Refuse) -> Iterator[TableReader]:
        return (open_table(file, kind, columns, refuse, chosen) for file in files)

    kept = kept_columns(columns, lambda refuse: (row for table in tables(refuse) for row in table.rows()))

    def read(refuse: Refuse) -> Iterator[Item]:
        return seek(refuse, 0)

    def seek(refuse: Refuse, start: int) -> Iterator[Item]:
        return _items(tables(refuse), columns, ItemMaker(columns, refuse, kept=kept()), limit, start)

    def source() -> dict[str, Any]:
        return {
            "kind": next(iter(kinds)) if len(kinds) == 1 else "tables",
            **({"files": file_identities(files)} if identity is None else identity()),
            "columns": columns.source(),
            **(chosen.source() if "csv" in kinds else {}),
            "limit": limit,
            "on_error": on_error,
        }

    skips = on_error == "skip"
    called = files[0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    return Corpus(name or called, source, read, skips, None if skips or columns.media else seek, kept)


def table_rows(path: Path, columns: Columns, refuse: Refuse, dialect: Dialect) -> Iterator[Row]:
    """Read the rows of a table whose suffix says its format.

    Raises:
        CorpusError: The suffix is no table's, or the file cannot be read; or, through `refuse`, a row is not valid.
    """
    return open_table(path, None, columns, refuse, dialect).rows()


def _items(
    tables: Iterator[TableReader], columns: Columns, maker: ItemMaker, limit: int | None, start: int
) -> Iterator[Item]:
    """The items of the tables' rows, but the first `start`."""
    per_row = len(columns.texts())
    for table in tables:
        rows = table.rows()
        while start:
            maker.skip(passed := table.seek(start // per_row))
            start -= passed * per_row
            row = next(rows, None) if start else None
            if row is None:
                break
            for item in maker.items(row):
                if start:
                    start -= 1
                else:
                    yield item
        for row in islice(rows, None if limit is None else limit - maker.number):
            yield from maker.items(row)
        if maker.number == limit:
            return
