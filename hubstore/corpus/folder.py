"""Reader of a folder of images and audio, with a table of captions where there is one."""

import hashlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Unpack

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import PathLike, broken_problem, existing_file, is_broken, walk, warn_of_others
from hubstore.corpus.item import Item
from hubstore.corpus.readers import DIALECT_OUT, Dialect, kind_of
from hubstore.corpus.row import Row
from hubstore.corpus.rows import check_columns, checked, items_of, kept_columns
from hubstore.corpus.source import file_identities, sampled_content
from hubstore.corpus.suffixes import AUDIO_SUFFIXES, IMAGE_SUFFIXES, modality_of
from hubstore.corpus.tables import table_rows
from hubstore.corpus.validate import check_options, text_problem
from hubstore.errors import CorpusError, CorpusWarning, Parameter

METADATA: Final = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
FILE_COLUMN: Final = "file_name"

CONCEPTS: Final[dict[str, Callable[[PurePosixPath], str]]] = {
    "name": lambda path: path.stem,
    "folder": lambda path: path.parent.name or path.stem,
    "path": str,
}
"""What the concept of a file may be taken from."""


def read_media_folder(  # noqa: PLR0913
    folder: PathLike,
    *,
    metadata: PathLike | None = None,
    modality: str | None = None,
    concept_from: str = "name",
    delimiter: str | None = None,
    quotes: bool | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read a folder of images and audio, told apart by their suffixes, and those in its folders.

    A file's id is its path in the folder. Captions come from a table with a row for each file, or for each
    caption of a file; they are items of their own, of the file's concept. Items are in the order of the table,
    then of the paths of the files that it does not name.

    Args:
        folder: The folder. What is hidden in it, or has another suffix, is left out.
        metadata: The table: JSON Lines, delimited values or Parquet. `metadata.jsonl`, `.csv`, `.tsv` or
            `.parquet` in the folder, if not given. Its column `file_name`, or the one that `image` or
            `audio` names, has the files' paths in the folder.
        modality: Read only images (`image`) or only audio (`audio`).
        concept_from: The concept of a file that the table gives none: its `name` without the suffix, so that
            `cat.png`, `drawn/cat.png` and `cat.wav` share one; the name of its `folder`, so that all of
            `cat/` do; or its `path`, which it has for itself.
        delimiter: Of a table of delimited values; see `read_csv`.
        quotes: Likewise.
        limit: Read only the first rows of the table, and files that it does not name.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the folder's name.
        columns: Which columns of the table to read; see `ColumnOptions`.

    Raises:
        CorpusError: There is no such folder, or nothing to read in it; or the options contradict each other.
            What is wrong in the table is raised by `Corpus.batches`, with its row and column.

    Example:
        >>> read_media_folder("photographs", text="caption", language_tag="en")
    """
    limit = check_options(limit, on_error)
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise CorpusError(f"{folder}: there is no such folder; check the path")
    if concept_from not in CONCEPTS:
        raise CorpusError(Parameter("concept_from"), f" is {concept_from!r}; give {', '.join(CONCEPTS)}")
    if modality not in (None, "image", "audio"):
        raise CorpusError(Parameter("modality"), f" is {modality!r}; give image or audio, or leave it out for both")
    table = _metadata(folder, metadata)
    chosen = _columns(folder, table, columns)
    dialect = Dialect(delimiter, quotes)
    if dialect != Dialect() and (table is None or kind_of(table.name) != "csv"):
        raise CorpusError(f"{folder}: has no table of delimited values; leave ", *DIALECT_OUT)
    files, broken, digest = _listing(folder, modality, table)

    def rows(refuse: Refuse) -> Generator[Row]:
        return _Rows(folder, files, broken, table, dialect, modality, CONCEPTS[concept_from], chosen).read(refuse)

    kept = kept_columns(chosen, rows)

    def read(refuse: Refuse) -> Iterator[Item]:
        return items_of(rows(refuse), chosen, refuse, limit, kept=kept())

    def source() -> dict[str, Any]:
        return {
            "kind": "folder",
            "files": {"count": len(files), "names_and_sizes": digest, "samples": sampled_content(folder, files)},
            "metadata": file_identities([table])[0] if table else None,
            "modality": modality,
            "concept_from": concept_from,
            **(dialect.source() if dialect != Dialect() else {}),
            "columns": chosen.source(),
            "limit": limit,
            "on_error": on_error,
        }

    return Corpus(name or folder.name, source, read, skip_errors=on_error == "skip", kept=kept)


def _metadata(folder: Path, table: PathLike | None) -> Path | None:
    if table is not None:
        return existing_file(table)
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise CorpusError(
            f"{folder}: has {' and '.join(path.name for path in found)}; say which to read with ",
            Parameter("metadata", "..."),
        )
    return found[0] if found else None


def _columns(folder: Path, table: Path | None, options: ColumnOptions) -> Columns:
    columns = Columns(**options)
    if columns.id != "id":
        raise CorpusError(
            f"{folder}: the ids of files are their paths in the folder; leave ", Parameter("id", "..."), " out"
        )
    if len(set(columns.media.values())) > 1:
        raise CorpusError(f"{folder}: one column names images and audio alike; give image or audio")
    file = columns.image or columns.audio or FILE_COLUMN
    columns = replace(columns, id=None, image=file, audio=file)
    surplus = columns.required(lambda _: False)[2:]
    if table is None and surplus and not (columns.speech and surplus == [("language", "language")]):
        named = ", ".join(repr(column) for _, column in surplus)
        raise CorpusError(
            f"{folder}: has no table with the columns {named}; give it with ", Parameter("metadata", "...")
        )
    return columns


def _listing(folder: Path, modality: str | None, table: Path | None) -> tuple[list[str], list[str], str]:
    """The paths of all files to read, links to nothing, and a digest of the files with their sizes."""
    files, broken, tables = [], [], []
    digest = hashlib.sha256()
    skip = len(f"{folder}/")
    for entry in walk(folder):
        kind = modality_of(entry.name)
        path = entry.path[skip:]
        if is_broken(entry) and (kind is not None or "." not in entry.name):  # to a file, or to a folder of some
            broken.append(path)
            continue
        if kind is None and kind_of(entry.name) and entry.name not in METADATA and entry.path != str(table):
            tables.append(path)
        if kind is None or modality not in (None, kind):
            continue
        digest.update(f"{path}\0{entry.stat().st_size}\0".encode(errors="surrogateescape"))
        files.append(path)
    if not files and broken:
        raise CorpusError(broken_problem(folder / broken[0]))
    if not files:
        sought = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES}.get(modality or "", IMAGE_SUFFIXES + AUDIO_SUFFIXES)
        raise CorpusError(f"{folder}: holds no file that ends with {', '.join(sought)}; check the path")
    warn_of_others(folder, "images and audio", tables)
    return files, broken, digest.hexdigest()


class _Rows:
    """The rows of the table, and one for each file that it does not name."""

    def __init__(
        self,
        folder: Path,
        files: list[str],
        broken: list[str],
        table: Path | None,
        dialect: Dialect,
        modality: str | None,
        concept_of: Callable[[PurePosixPath], str],
        columns: Columns,
    ) -> None:
        self._folder = folder
        self._files = files
        self._broken = broken
        self._table = table
        self._dialect = dialect
        self._modality = modality
        self._concept_of = concept_of
        self._columns = columns
        self._file = str(columns.image)

    def read(self, refuse: Refuse) -> Generator[Row]:
        for path in self._broken:
            refuse.count()
            refuse(CorpusError(broken_problem(self._folder / path)))
        named: set[int] = set()
        if self._table is not None:
            for number, row in enumerate(table_rows(self._table, self._columns, refuse, self._dialect), start=1):
                if number == 1:
                    check_columns(row, self._columns.required(row.has))
                    self._warn_of_unread(row)
                try:
                    path = self._path(row)
                except CorpusError as error:
                    refuse.count()
                    refuse(error)
                    continue
                if self._modality in (None, modality_of(path)):
                    named.add(hash(path))
                    yield self._row(row, path)
        for number, path in enumerate(self._files, start=1):
            if hash(path) not in named:
                yield self._row(Row(self._folder.name, "file", number, {}), path)

    def _warn_of_unread(self, row: Row) -> None:
        """Say which columns of texts are left, where none is read as captions."""
        if self._columns.wide or row.has(str(self._columns.text)):
            return
        read = self._columns.names() | set(self._columns.keep.names or ())
        texts = [name for name, value in row.values.items() if isinstance(value, str) and name not in read]
        if texts and self._columns.keep.names is not None:
            warnings.warn(
                f"{row.file}: no captions are read; its columns {', '.join(map(repr, texts))} are left out. Name the "
                "one that has them: --text-column COLUMN and --language-tag TAG, or text= and language_tag= in Python",
                CorpusWarning,
                stacklevel=2,
            )

    def _path(self, row: Row) -> str:
        named = str(checked(row, self._file, text_problem))
        path = os.path.relpath(os.path.join(self._folder, named), self._folder)
        if path.partition(os.sep)[0] == os.pardir:
            raise CorpusError(
                f"{row.place(self._file)}: is {named!r}, outside the folder; a folder's table names files of the "
                "folder: move the file there, or name it in a table that is no folder's"
            )
        if modality_of(path) is None:
            raise CorpusError(f"{row.place(self._file)}: is {path!r}, by its suffix neither an image nor audio")
        return path

    def _row(self, row: Row, path: str) -> Row:
        values: dict[str, Any] = {**row.values, self._file: path}
        concept = self._columns.concept
        if concept is not None and row.is_empty(concept):
            values[concept] = self._concept_of(PurePosixPath(path))
        return row._replace(values=values, folder=self._folder)
