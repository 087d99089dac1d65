"""Which columns of a table make an item, in a long table (a row is an item) or a wide one (a row is
a concept, with a column for each language)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypedDict

from hubstore.corpus.corpus import Refuse
from hubstore.corpus.item import Item
from hubstore.corpus.validate import (
    label,
    label_problem,
    language_problem,
    modality_problem,
    text_problem,
)
from hubstore.errors import CorpusError

_MISSING: Final = object()
_SHOWN_COLUMNS: Final = 20


class ColumnOptions(TypedDict, total=False):
    """The options that every table reader takes. A dotted path (`translation.en`) names a nested column.

    Attributes:
        text: The column of the text, `"text"` if not given; or, for a wide table, a mapping of
            language to column: `{"en": "translation.en", "fr": "translation.fr"}`.
        id: The column of the ids, `"id"` if not given; None to make them. The default may be absent. Ids
            are made as `<concept>/<language>` where the row has a concept (`<concept>/<language>/<row>`
            for the second item and on of one concept and language), else as the row's number.
        concept: The column of the concepts, `"concept"` if not given; None for none. The default may be
            absent; null or empty is no concept. In a wide table the id stands in for it, or the row's number.
        language: The column of the BCP 47 tags, `"language"` if not given.
        language_tag: The tag of all items, in place of a column.
        modality: The column of the modalities; all are `text` if not given.
    """

    text: str | Mapping[str, str]
    id: str | None
    concept: str | None
    language: str
    language_tag: str
    modality: str


@dataclass(frozen=True)
class Row:
    """A row of a table, and where it stands."""

    file: str
    unit: str  # what the number counts: "line" or "row"
    number: int
    values: Mapping[str, Any]

    def place(self, column: str | None = None) -> str:
        """Say where the row, or one of its columns, is."""
        place = f"{self.file}, {self.unit} {self.number}"
        return place if column is None else f"{place}, column {column!r}"

    def get(self, column: str) -> Any:
        """Return the value of a column, by its name or its dotted path; a marker where it is not there."""
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for name in column.split("."):
            if value is None:
                return None  # a null struct: its fields are null
            if not isinstance(value, Mapping) or name not in value:
                return _MISSING
            value = value[name]
        return value

    def has(self, column: str) -> bool:
        """Tell whether the row has the column, null or not."""
        return self.get(column) is not _MISSING


@dataclass(frozen=True)
class Columns:
    """The columns to read; see `ColumnOptions`."""

    text: str | Mapping[str, str] = "text"
    id: str | None = "id"
    concept: str | None = "concept"
    language: str | None = None
    language_tag: str | None = None
    modality: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.text, Mapping):
            if not self.text:
                raise CorpusError("text is an empty mapping; give a column for each language")
            if self.language is not None or self.language_tag is not None:
                raise CorpusError("text names the languages already; leave language and language_tag out")
        elif self.language is not None and self.language_tag is not None:
            raise CorpusError("give language (a column) or language_tag (one tag for all items), not both")
        for tag in self.tags():
            if problem := language_problem(tag):
                raise CorpusError(f"the language of the corpus {problem}")

    def tags(self) -> tuple[str, ...]:
        """Return the languages that are named in the options rather than in the table."""
        if isinstance(self.text, Mapping):
            return tuple(self.text)
        return () if self.language_tag is None else (self.language_tag,)

    def required(self) -> list[tuple[str, str]]:
        """Return the option and name of every column that must be there: all but the default optional ones."""
        names = self.text.values() if isinstance(self.text, Mapping) else (self.text,)
        required = [("text", name) for name in names]
        if not self.tags():
            required.append(("language", self.language or "language"))
        for option, name, default in (("id", self.id, "id"), ("concept", self.concept, "concept")):
            if name is not None and name != default:
                required.append((option, name))
        if self.modality is not None:
            required.append(("modality", self.modality))
        return required

    def needed(self, there: Sequence[str]) -> list[str]:
        """Select from a table's top-level columns those to read: all where one that must be there is not, so
        that the error can list them.
        """
        required = {name if name in there else name.split(".")[0] for _, name in self.required()}
        if not required.issubset(there):
            return list(there)
        optional = {name if name in there else name.split(".")[0] for name in (self.id, self.concept) if name}
        return [column for column in there if column in required | optional]

    def source(self) -> dict[str, Any]:
        """Describe the choice of columns as JSON can hold it."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}


def items_of(rows: Iterable[Row], columns: Columns, refuse: Refuse) -> Iterator[Item]:
    """Turn the rows of a table into items, in order.

    Raises:
        CorpusError: A required column is not in the first row; or, through `refuse`, a row is not valid.
    """
    ids = _Ids()
    for number, row in enumerate(rows, start=1):
        if number == 1:
            _check_columns(row, columns)
        for tag, column in _texts(row, columns):
            try:
                yield _item(row, number, tag, column, columns, ids)
            except CorpusError as error:
                refuse(error)


def _texts(row: Row, columns: Columns) -> Iterable[tuple[str | None, str]]:
    if isinstance(columns.text, Mapping):
        return columns.text.items()
    return ((columns.language_tag, columns.text),)


def _item(row: Row, number: int, tag: str | None, column: str, columns: Columns, ids: "_Ids") -> Item:
    wide = isinstance(columns.text, Mapping)
    text = _checked(row, column, text_problem)
    language = tag if tag is not None else _checked(row, columns.language or "language", language_problem)
    modality = "text" if columns.modality is None else _checked(row, columns.modality, modality_problem)
    given = _id(row, columns)
    concept = _concept(row, columns)
    if wide:
        concept = concept or given or str(number)
        given = None
    return Item(given or ids.make(concept, language, number), text, language, concept, modality)


def _checked(row: Row, column: str, problem_of: Any) -> Any:
    value = row.get(column)
    if value is _MISSING:
        raise CorpusError(f"{row.place()}: {_not_there(row, column)}")
    if problem := problem_of(value):
        raise CorpusError(f"{row.place(column)}: {problem}")
    return value


def _id(row: Row, columns: Columns) -> str | None:
    if columns.id is None or (columns.id == "id" and not row.has("id")):
        return None
    return label(_checked(row, columns.id, label_problem))


def _concept(row: Row, columns: Columns) -> str | None:
    if columns.concept is None:
        return None
    value = row.get(columns.concept)
    if value is None or value is _MISSING or (isinstance(value, str) and not value.strip()):
        return None
    return label(_checked(row, columns.concept, label_problem))


def _check_columns(row: Row, columns: Columns) -> None:
    for option, column in columns.required():
        if not row.has(column):
            also = "; or give language_tag for a corpus of one language" if option == "language" else ""
            raise CorpusError(f"{row.file}: {_not_there(row, column)}; name another with the option {option!r}{also}")


def _not_there(row: Row, column: str) -> str:
    there = list(_leaves(row.values))
    shown = ", ".join(there[:_SHOWN_COLUMNS]) + (", ..." if len(there) > _SHOWN_COLUMNS else "")
    return f"there is no column {column!r}; the columns are {shown or 'none'}"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


class _Ids:
    """Makes ids that are unique and, for the same rows, the same.

    Remembers a hash of each (concept, language) that it named, about 70 bytes each; a corpus of a
    hundred million rows had better bring its own ids.
    """

    def __init__(self) -> None:
        self._named: set[int] = set()

    def make(self, concept: str | None, language: str, number: int) -> str:
        if concept is None:
            return str(number)
        key = hash((concept, language))
        if key in self._named:
            return f"{concept}/{language}/{number}"
        self._named.add(key)
        return f"{concept}/{language}"
