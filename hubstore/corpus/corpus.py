"""The corpus: where items come from, as a stream that can be read again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from functools import cache, cached_property
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from hubstore.checks import check_count
from hubstore.corpus.item import ITEM_SCHEMA, Item, Media
from hubstore.corpus.kept import Kept, kept_of_items, with_kept
from hubstore.corpus.row import Types
from hubstore.corpus.validate import check_item, check_options
from hubstore.errors import CorpusError, CorpusUnreachableError, Parameter
from hubstore.store.columns import MOST_COLUMNS, with_columns

BATCH_BYTES: Final = 32 << 20
"""Bytes of images and audio after which a batch of items ends."""


@dataclass
class Skipped:
    """What one pass over a corpus read, and what it left out.

    Attributes:
        rows: How many rows, lines, files or samples were read, those left out among them.
        count: How many items or rows were left out.
        messages: Why, each with its place: the first `KEPT` of them.
    """

    KEPT: Final = 100

    rows: int = 0
    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, error: CorpusError) -> None:
        """Count one row left out."""
        self.count += 1
        if len(self.messages) < self.KEPT:
            self.messages.append(str(error))

    def clear(self) -> None:
        """Forget everything, as a new pass begins."""
        self.rows = self.count = 0
        self.messages.clear()


@dataclass(frozen=True)
class Refuse:
    """What a reader calls with the error of a row that cannot be an item: it raises, or the next row follows.

    Attributes:
        skipped: What is left out, and how many rows were read.
        skip_errors: Whether to go on.
    """

    skipped: Skipped
    skip_errors: bool = False

    def __call__(self, error: CorpusError) -> None:
        """Take the error of a row; what is wrong with the disk or the server, and not with the row, is raised."""
        if isinstance(error, CorpusUnreachableError):
            raise error
        if not self.skip_errors:
            remedy = "; correct the input, or leave such rows out with "
            raise CorpusError(*error.parts, remedy, Parameter("on_error", "skip")) from None
        self.skipped.add(error)

    def count(self, rows: int = 1) -> None:
        """Count rows that were read."""
        self.skipped.rows += rows


@dataclass(frozen=True, eq=False)
class Corpus:
    """Items from somewhere, streamed: nothing holds them all.

    The readers of `hubstore.corpus` make one; `Corpus.from_items` makes one of Python objects.

    Attributes:
        name: What a user would call it: a file's name, a dataset's id.
        described: What the items depend on, as JSON can hold it: kind, columns, files with their size and
            digest, dataset id and revision, limit; or a function that says so, called when `source` is asked for.
        read: Reads the items, from the first.
        skip_errors: Whether a row that is not valid is left out, rather than an end to all.
        seek: Reads the items after so many, which it need not parse; there where that is possible.
        kept: Gives the further columns that its items keep, with their types.
        skipped: What the latest pass left out; filled while `batches` is read.
    """

    name: str
    described: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(repr=False)
    read: Callable[[Refuse], Iterator[Item]] = field(repr=False)
    skip_errors: bool = False
    seek: Callable[[Refuse, int], Iterator[Item]] | None = field(default=None, repr=False)
    kept: Callable[[], Kept] = field(default=lambda: Kept({}), repr=False)
    skipped: Skipped = field(default_factory=Skipped, init=False, repr=False)

    @cached_property
    def source(self) -> Mapping[str, Any]:
        """What the items depend on; two corpora for which `same_source` holds of this give equal items.

        Local tables and archives are read to their end, once, for their digests.
        """
        return self.described() if callable(self.described) else self.described

    @cached_property
    def columns(self) -> Types:
        """The further columns that its items keep, and their types; the corpus's first rows are read for them.

        Raises:
            CorpusError: one that is asked for is not there, or has no one type, or there are too many.
        """
        types = self.kept().types
        if len(types) > MOST_COLUMNS:
            what = f"{self.name} has {len(types)} columns of its own, and {MOST_COLUMNS} are the most"
            raise CorpusError(f"{what}; leave some out, or name those to keep with ", Parameter("keep_columns", "..."))
        return types

    @property
    def keeps_said(self) -> bool:
        """Whether it was said which columns its items keep, be it none."""
        columns = self.source.get("columns")
        return bool(self.columns) or (isinstance(columns, Mapping) and "keep" in columns)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of its batches: ITEM_SCHEMA, and the columns that are kept."""
        return with_columns(ITEM_SCHEMA, self.columns)

    def batches(self, rows: int = 4096, start: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the items in corpus order, validated. May be called again: each call is a new pass.

        Args:
            rows: Items in a batch. The last may have fewer, and those whose images or audio come with
                them end early, after some `BATCH_BYTES`; none is empty.
            start: Items to leave out, as many as an earlier pass gave. What follows is what that pass would have
                given, in batches that end where its batches end. Rows that were refused are not counted. Text tables
                whose rows have ids, and line-aligned files, are not parsed up to there; others are read again.

        Returns:
            Record batches of `schema`.

        Raises:
            CorpusError: `rows` is below 1, or `start` below 0; or, while iterating, naming the file, row and column:
                an item is not valid (where errors are not skipped), the input cannot be read, or it holds no items
                at all.
        """
        rows = check_count("rows", rows, of="items", error=CorpusError)
        return self._batches(rows, check_count("start", start, least=0, of="items", error=CorpusError))

    def _batches(self, rows: int, start: int) -> Iterator[pa.RecordBatch]:
        self.skipped.clear()
        refuse = Refuse(self.skipped, self.skip_errors)
        left = start
        if self.seek is not None and start:
            items, first, left = self.seek(refuse, start), rows - start % rows, 0
        else:
            items, first = self.read(refuse), rows
        empty = not start
        while chunk := _next_items(items, first):
            first, empty = rows, False
            if left < len(chunk):
                yield _record_batch(chunk[left:], self.schema)
            left = max(left - len(chunk), 0)
        if empty:
            raise CorpusError(self._why_empty())

    def items(self) -> Iterator[Item]:
        """The items of `batches`, one at a time; it raises what that raises."""
        for batch in self.batches():
            for row in batch.to_pylist():
                name, data = row.pop("media"), row.pop("data")
                columns = {column: row.pop(column) for column in self.columns} or None
                yield Item(**row, media=None if name is None else Media(name, data), columns=columns)

    @classmethod
    def from_items(
        cls, items: Iterable[Item], name: str = "items", *, limit: int | None = None, on_error: str = "stop"
    ) -> "Corpus":
        """Make a corpus of items in memory.

        Args:
            items: The items; kept, so that they can be streamed more than once.
            name: What to call the corpus.
            limit: Take only the first.
            on_error: `"stop"` at an item that is not valid, or `"skip"` it and list it in `Corpus.skipped`.

        Example:
            >>> Corpus.from_items([Item("1", "Hello", "en", "hello"), Item("2", "Bonjour", "fr", "hello")])
        """
        held = tuple(islice(items, check_options(limit, on_error)))
        kept = cache(lambda: kept_of_items(held, name))

        def read(refuse: Refuse) -> Iterator[Item]:
            for number, item in enumerate(held, start=1):
                refuse.count()
                try:
                    good = with_kept(check_item(item, place := f"{name}, item {number}"), kept(), place)
                except CorpusError as error:
                    refuse(error)
                else:
                    yield good

        def source() -> dict[str, Any]:
            return {"kind": "items", "items": len(held), "sha256": _digest(held)}

        return cls(name, source, read, skip_errors=on_error == "skip", kept=kept)

    def _why_empty(self) -> str:
        if self.skipped.count:
            return (
                f"{self.name}: no item is left, {self.skipped.count} were skipped; "
                f"the first: {self.skipped.messages[0]}"
            )
        return f"{self.name}: the corpus is empty; give an input that has at least one item"


def _next_items(items: Iterator[Item], rows: int) -> list[Item]:
    chunk: list[Item] = []
    size = 0
    while len(chunk) < rows and size < BATCH_BYTES and (item := next(items, None)):
        chunk.append(item)
        size += len(item.media.data) if item.media and item.media.data else 0
    return chunk


def _record_batch(items: list[Item], schema: pa.Schema) -> pa.RecordBatch:
    values: dict[str, list[Any]] = {
        name: [getattr(item, name) for item in items] for name in ITEM_SCHEMA.names if name not in ("media", "data")
    }
    values["media"] = [item.media and item.media.name for item in items]
    values["data"] = [item.media and item.media.data for item in items]
    for name in schema.names[len(ITEM_SCHEMA) :]:
        values[name] = [(item.columns or {}).get(name) for item in items]
    columns = [pa.array(values[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _digest(items: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for item in items:
        fields = _fields(item) if isinstance(item, Item) else repr(item)
        digest.update(json.dumps(fields, default=_described).encode() + b"\n")
    return digest.hexdigest()


def _fields(item: Item) -> tuple[Any, ...]:
    """Of an item that keeps no columns as it was before there were any: stores keep the digest."""
    found = astuple(item)
    return found if item.columns else found[:-1]


def _described(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
