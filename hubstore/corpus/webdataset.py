"""Reader of WebDatasets: tar archives in which the members of a sample share a name."""

import posixpath
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, Unpack

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import PathLike, files_of, refuse_pointer
from hubstore.corpus.item import MEMBER, Item, Media
from hubstore.corpus.readers.jsonl import json_object
from hubstore.corpus.remote import RemoteFile, medium_name
from hubstore.corpus.row import Row
from hubstore.corpus.rows import items_of, kept_columns
from hubstore.corpus.source import file_identities
from hubstore.corpus.streams import first_line
from hubstore.corpus.suffixes import modality_of
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError
from hubstore.storage.location import Url

_TEXT: Final = "txt"
_FIELDS: Final = "json"

MOST_BYTES: Final = 1 << 30
"""Of a member that is read: one of a few bytes in its archive may be of any size when it is unpacked."""


def read_webdataset(
    paths: PathLike | Url | Sequence[PathLike | Url],
    *,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read a WebDataset: the members of a tar archive whose names are the same up to the first dot are a sample.

    A sample is a row. Its columns are named by what follows the dot: `jpg`, `flac`, `txt`; `json` is an
    object whose fields are columns too. `image` and `audio` are its first image and audio clip, `text` is `txt`.
    Members of other kinds are left out, unless `image` or `audio` names them.
    Its id and its concept, where no column has them, are its name; in a corpus of several archives, that of
    its archive before it, as many number their samples anew.

    The bytes of images and audio travel with their items: they could be found again in a tar archive only
    by reading it from its start.

    Args:
        paths: The archive, or several that are read one after the other; they may be compressed (.gz, .bz2, .xz).
        limit: Read only the first samples.
        on_error: `"stop"` at a sample that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the archive's name.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: A file is not there, or the options contradict each other. What is wrong inside an archive
            is raised by `Corpus.batches`, with its sample (the first is 1) and column.

    Example:
        >>> read_webdataset(["00000.tar", "00001.tar"], language_tag="en")
        >>> read_webdataset("speech.tar.gz", text={"en": "en.txt", "fr": "fr.txt"})
    """
    limit = check_options(limit, on_error)
    chosen = Columns(**columns)
    chosen = replace(chosen, image=chosen.image or "image", audio=chosen.audio or "audio")
    files = files_of(paths)

    def rows(refuse: Refuse) -> Generator[Row]:
        return (row for file in files for row in _rows(file, chosen, len(files) > 1, refuse))

    kept = kept_columns(chosen, rows)

    def read(refuse: Refuse) -> Iterator[Item]:
        return items_of(rows(refuse), chosen, refuse, limit, kept=kept())

    def source() -> dict[str, Any]:
        return {
            "kind": "webdataset",
            "files": file_identities(files),
            "columns": chosen.source(),
            "limit": limit,
            "on_error": on_error,
        }

    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Corpus(name or files[0].name + more, source, read, skip_errors=on_error == "skip", kept=kept)


class _Part(NamedTuple):
    """A member of a sample: its column, its name for a person, and its bytes; None where they are too many."""

    sample: str
    column: str
    name: str
    data: bytes | None


def _rows(file: Path | RemoteFile, columns: Columns, several: bool, refuse: Refuse) -> Iterator[Row]:
    number = 0
    try:
        for sample, parts in groupby(_parts(file, columns), attrgetter("sample")):
            number += 1
            row = Row(file.name, "sample", number, {})
            key = f"{file.name.partition('.')[0]}/{sample}" if several else sample
            yield row._replace(values={"id": key, "concept": key, **_values(list(parts), row, refuse)})
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise CorpusError(
            f"{file}: cannot be read as a tar archive, after sample {number}: {first_line(error)}; "
            "check that the file is whole"
        ) from error


def _parts(file: Path | RemoteFile, columns: Columns) -> Iterator[_Part]:
    refuse_pointer(file)
    archive = medium_name(str(file))
    with file.open("rb") as opened, tarfile.open(fileobj=opened, mode="r|*") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
            folder, base = posixpath.split(posixpath.normpath(member.name))
            stem, _, column = base.partition(".")
            if stem and member.isfile() and _is_read(column.lower(), columns):
                content = tar.extractfile(member) if member.size <= MOST_BYTES else None
                data = None if content is None else content.read()
                if data is not None and len(data) < member.size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                yield _Part(posixpath.join(folder, stem), column.lower(), f"{archive}{MEMBER}{member.name}", data)


def _is_read(column: str, columns: Columns) -> bool:
    kind = _kind(column)
    return (
        kind == _TEXT or column == _FIELDS or modality_of(f"x.{kind}") is not None or column in columns.media.values()
    )


def _kind(column: str) -> str:
    return column.rpartition(".")[-1]


def _values(parts: Sequence[_Part], row: Row, refuse: Refuse) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    members: dict[str, Any] = {"image": None, "audio": None}
    for part in parts:
        try:
            if part.data is None:
                raise CorpusError(
                    f"{row.place(part.column)}: {part.name} has more than the {MOST_BYTES >> 30} GiB that are read of "
                    "a member; split it, or leave it out"
                )
            if part.column == _FIELDS:
                fields = _fields(part, row, part.data)
            elif _kind(part.column) == _TEXT:
                members[part.column] = _text(part, row, part.data)
            else:
                media = members[part.column] = Media(part.name, part.data)
                modality = modality_of(f"x.{part.column}") if "." not in part.column else None
                if modality is not None and members[modality] is None:
                    members[modality] = media
        except CorpusError as error:
            refuse(error)
    if _TEXT in members:
        members["text"] = members[_TEXT]
    return fields | members


def _text(part: _Part, row: Row, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{row.place(part.column)}: {part.name} is not UTF-8: {error.reason}") from None


def _fields(part: _Part, row: Row, data: bytes) -> dict[str, Any]:
    try:
        return json_object(data.decode("utf-8-sig"))
    except ValueError as error:
        raise CorpusError(f"{row.place(part.column)}: {part.name}: {error}") from None
