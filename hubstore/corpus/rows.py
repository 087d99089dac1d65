"""Turns the rows of tables into items."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count, islice
from typing import Any

from hubstore.corpus.columns import Columns
from hubstore.corpus.corpus import Refuse, Skipped
from hubstore.corpus.item import Item, Media
from hubstore.corpus.kept import ColumnsChangedError, Kept, KeptReader
from hubstore.corpus.quick import quick_item
from hubstore.corpus.remote import sibling_url, url_of
from hubstore.corpus.row import MISSING, Row
from hubstore.corpus.suffixes import modality_of
from hubstore.corpus.validate import (
    NO_LANGUAGE,
    TEXT,
    label,
    label_problem,
    language_problem,
    media_problem,
    text_problem,
)
from hubstore.errors import CorpusError, Parameter


def items_of(
    rows: Iterable[Row],
    columns: Columns,
    refuse: Refuse,
    limit: int | None = None,
    *,
    quickly: bool = True,
    kept: Kept | None = None,
) -> Iterator[Item]:
    """Turn the rows of a table into items, in order: of each row its media, then its texts.

    Args:
        rows: the rows.
        columns: the columns to read.
        refuse: takes the error of a row that is not valid.
        limit: most rows to read.
        quickly: whether rows of one text that is good go a shorter way, to equal items.
        kept: columns that the items keep.

    Raises:
        CorpusError: A required column is not in the first row; or, through `refuse`, a row is not valid.
    """
    maker = ItemMaker(columns, refuse, quickly=quickly, kept=kept)
    for row in islice(rows, limit):
        yield from maker.items(row)


class ItemMaker:
    """Makes the items of one pass over a table, or over several as if they were one.

    Attributes:
        number: Rows so far.
    """

    def __init__(self, columns: Columns, refuse: Refuse, *, quickly: bool = True, kept: Kept | None = None) -> None:
        self.number = 0
        self._kept = None if kept is None or kept.is_empty else KeptReader(kept)
        self._columns = columns
        self._refuse = refuse
        self._maker = _Maker(columns)
        self._quick = quick_item(columns) if quickly else None
        self._begun = False

    def skip(self, rows: int) -> None:
        """Count rows that were passed over."""
        self.number += rows
        self._refuse.count(rows)

    def items(self, row: Row) -> Iterable[Item]:
        """The items of the next row."""
        self.number += 1
        self._refuse.count()
        if not self._begun:
            check_columns(row, self._columns.required(row.has))
            self._begun = True
        if self._kept is None:
            return self._bare(row)
        try:
            values = self._kept.values(row)
        except ColumnsChangedError:
            raise
        except CorpusError as error:
            self._refuse(error)
            return ()
        return (replace(item, columns=values or None) for item in self._bare(row))

    def _bare(self, row: Row) -> Iterable[Item]:
        """The items of a row, without the columns that they keep."""
        if self._quick is not None and (item := self._quick(row.values)) is not None:
            return (item,)
        return self._items(row)

    def _items(self, row: Row) -> Iterator[Item]:
        cells = _cells(row, self._columns)
        if not cells:
            media_columns = ", ".join(map(repr, self._columns.media.values()))
            self._refuse(
                CorpusError(f"{row.place()}: has no image, audio or text; the media are sought in {media_columns}")
            )
        for cell in cells:
            try:
                item = self._maker.item(row, self.number, cell)
            except CorpusError as error:
                self._refuse(error)
            else:
                if item is not None:
                    yield item


def kept_columns(columns: Columns, rows: Callable[[Refuse], Generator[Row]]) -> Callable[[], Kept]:
    """What gives the columns that a corpus keeps, by its first rows, which are read when it is first called.

    Args:
        columns: which are asked for, and which make the items.
        rows: begins to read the corpus.
    """

    @cache
    def kept() -> Kept:
        if not columns.keep.asked:
            return Kept({})
        first = rows(Refuse(Skipped(), skip_errors=True))  # what is wrong in a row is said when it is read
        with closing(first):
            return Kept.of(columns.keep, first, frozenset(columns.names()))

    return kept


def check_columns(row: Row, required: Iterable[tuple[str, str]]) -> None:
    """Check that a table's first row has the columns, each given with the option that names it.

    Raises:
        CorpusError: Naming the column, those that are there and the option.
    """
    for option, column in required:
        if not row.has(column):
            named = {name: Parameter(name, "...") for name in (option, "language_tag", "image", "audio")}
            further = {
                "language": ("; or give ", named["language_tag"], " for a corpus of one language"),
                "text": ("; or name that of images or audio with ", named["image"], " or ", named["audio"]),
            }.get(option, ())
            raise CorpusError(f"{row.file}: {row.lacks(column)}; name another with ", named[option], *further)


def checked(row: Row, column: str, problem_of: Callable[[Any], str | None]) -> Any:
    """Return the value of a column that must be there and good.

    Raises:
        CorpusError: Naming the place.
    """
    value = row.get(column)
    if value is MISSING:
        raise CorpusError(f"{row.place()}: {row.lacks(column)}")
    if problem := problem_of(value):
        raise CorpusError(f"{row.place(column)}: {problem}")
    return value


@dataclass(frozen=True)
class _Cell:
    """What one item is made of.

    Attributes:
        column: Where it stands.
        modality: What it is.
        value: It; for a text of no list, it is read from the column.
        language: Where the options say it.
        takes_id: Whether the row's id is its id.
        grouped: Whether all items of the row have one concept.
    """

    column: str
    modality: str
    value: Any = None
    language: str | None = None
    takes_id: bool = False
    grouped: bool = False


def _cells(row: Row, columns: Columns) -> list[_Cell]:
    if not columns.media:
        return [_Cell(column, TEXT, None, tag, not columns.wide, columns.wide) for tag, column in columns.texts()]
    media = [(modality, column) for modality, column in _media_columns(row, columns) if not row.is_empty(column)]
    texts = [
        (tag, column, value)
        for tag, column in columns.texts()
        if not row.is_empty(column)
        for value in _listed(row.get(column))
    ]
    grouped = bool(media) or columns.wide or len(texts) > 1
    return [
        *(_Cell(column, modality, row.get(column), None, len(media) == 1, True) for modality, column in media),
        *(_Cell(column, TEXT, value, tag, not grouped, grouped) for tag, column, value in texts),
    ]


def _media_columns(row: Row, columns: Columns) -> Iterable[tuple[str, str]]:
    if columns.image is None or columns.image != columns.audio:
        return columns.media.items()
    path = _path(row.get(columns.image))
    return ((modality_of(path or "") or "image", columns.image),)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else (value,)


class _Maker:
    """Makes the items of one pass over a table.

    Remembers a hash of every file that rows name, about 70 bytes each, so that each is one item.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._ids = _Ids()
        self._files: set[int] = set()

    def item(self, row: Row, number: int, cell: _Cell) -> Item | None:
        """Make an item of a cell; None for a file that is an item already."""
        text, media = "", None
        if cell.modality == TEXT:
            text = self._text(row, cell)
        else:
            media = media_of(row, cell.column, cell.value)
            if media.data is None and self._is_known(media.name):
                return None
        language = self._language(row, cell)
        item_id = self._id(row)
        concept = self._concept(row)
        if cell.grouped:
            paths = (_path(row.get(column)) for column in self._columns.media.values())
            concept = concept or next(filter(None, paths), None) or item_id or str(number)
        own = item_id if cell.takes_id else None
        if media is not None:
            own = own or _path(cell.value)
        kind = language if media is None else cell.modality
        return Item(own or self._ids.make(concept, kind, number), text, language, concept, cell.modality, media)

    def _text(self, row: Row, cell: _Cell) -> str:
        if cell.value is None:
            return str(checked(row, cell.column, text_problem))
        if problem := text_problem(cell.value):
            raise CorpusError(f"{row.place(cell.column)}: {problem}")
        return str(cell.value)

    def _language(self, row: Row, cell: _Cell) -> str:
        if cell.modality == TEXT or (cell.modality == "audio" and self._columns.speech):
            tag = cell.language or self._columns.language_tag
            return tag or str(checked(row, self._columns.language or "language", language_problem))
        return NO_LANGUAGE

    def _id(self, row: Row) -> str | None:
        column = self._columns.id
        if column is None or (column == "id" and not row.has("id")):
            return None
        return label(checked(row, column, label_problem))

    def _concept(self, row: Row) -> str | None:
        column = self._columns.concept
        return None if column is None or row.is_empty(column) else label(checked(row, column, label_problem))

    def _is_known(self, name: str) -> bool:
        key = hash(name)
        known = key in self._files
        self._files.add(key)
        return known


def media_of(row: Row, column: str, value: Any) -> Media:
    """Make a medium of a path, of bytes, or of a struct of `path` and `bytes`.

    Raises:
        CorpusError: It is none of these, or the path is no file's.
    """
    content = _content(value)
    if isinstance(content, Media):
        media = content
    elif isinstance(content, bytes):
        media = Media(f"{row.file}!{row.unit} {row.number}!{column}", content)
    elif isinstance(content, str):
        media = Media(_file(row, column, content))
    else:
        raise CorpusError(f"{row.place(column)}: is a {type(content).__name__}, and neither a path nor bytes")
    if problem := media_problem(media):
        raise CorpusError(f"{row.place(column)}: {problem}")
    return media


def _path(value: Any) -> str | None:
    content = _content(value)
    return content if isinstance(content, str) and content else None


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get("path") if value.get("bytes") is None else value["bytes"]
    return value


def _file(row: Row, column: str, path: str) -> str:
    try:
        url = url_of(path)
    except CorpusError as error:
        raise CorpusError(f"{row.place(column)}: {error}") from None
    if url is not None:
        return str(url)
    if row.folder is not None and (found_there := sibling_url(row.folder, path)) is not None:
        return found_there
    if row.folder is None and not os.path.isabs(path):
        raise CorpusError(
            f"{row.place(column)}: is the path {path!r}, and its folder is not known; give a table with absolute "
            "paths, or with the bytes"
        )
    found = os.path.abspath(os.path.join(row.folder or "", path))
    if not os.path.isfile(found):
        raise CorpusError(f"{row.place(column)}: is {path!r}, and there is no file {found}")
    return found


class _Ids:
    """Makes ids that are unique and, for the same rows, the same.

    Remembers a hash of each that it made, about 70 bytes each; a corpus of a hundred million rows had
    better bring its own ids.
    """

    def __init__(self) -> None:
        self._named: set[int] = set()

    def make(self, concept: str | None, kind: str, number: int) -> str:
        """Name an item by its concept and its language or modality, else by the number of its row."""
        if concept is None:
            return str(number)
        first = f"{concept}/{kind}"
        further = (f"{first}/{number}/{repeat}" for repeat in count(2))
        return next(name for name in chain((first, f"{first}/{number}"), further) if self._is_new(name))

    def _is_new(self, name: str) -> bool:
        key = hash(name)
        known = key in self._named
        self._named.add(key)
        return not known
