"""Which columns of a table make an item: in a long table (a row is an item), a wide one (a row is a concept, with
a column for each language), or one of images and audio (a row is a medium, and perhaps its captions)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

from hubstore.corpus.keep import Keep
from hubstore.corpus.row import Types
from hubstore.corpus.validate import language_problem
from hubstore.errors import CorpusError, Parameter

_TEXT: Final = "text"


class ColumnOptions(TypedDict, total=False):
    """The options that every table reader takes. A dotted path (`translation.en`) names a nested column.

    Attributes:
        text: The column of the text, `"text"` if not given; or, for a wide table, a mapping of
            language to column: `{"en": "translation.en", "fr": "translation.fr"}`.
        id: The column of the ids, `"id"` if not given; None to make them. The default may be absent. Ids
            are made as `<concept>/<language>` where the row has a concept (`<concept>/<language>/<row>`
            for the second item and on of one concept and language; a number more for the second of one
            row), else as the row's number.
        concept: The column of the concepts, `"concept"` if not given; None for none. The default may be
            absent; null or empty is no concept. In a wide table the id stands in for it, or the row's number.
        language: The column of the BCP 47 tags, `"language"` if not given.
        language_tag: The tag of all items, in place of a column.
        image: The column of images; none if not given. It holds paths (relative to the table's folder),
            bytes, or structs of `bytes` and `path`, as the Image and Audio features of `datasets` do.
        audio: The column of audio clips, likewise. It may be that of images; the paths' suffixes then tell them apart.
        speech: Whether audio clips are speech in the row's language; else their language is `zxx`, as an image's is.
        keep_columns: Further columns that items keep, and a store's item tables with them: `"year,source"`, or
            `["year", "source"]`; `"all"`, but those that make the items; `"none"`. Types are those of the file, or of
            its first rows (a table of delimited values: int64, float64, bool or string), unless they are said:
            `"year:int64,added:timestamp[us]"`, or `{"year": "int64"}`. Of `"all"` a column that has no value in the
            first rows is left out, with a `CorpusWarning` when one comes; say its type: `"all,year:int64"`. The values
            of one item have at most 8 KiB.

    Where `image` or `audio` is given, a row is a medium, and its texts are captions, items of their own:
    none where the text is null or empty, several where it is a list. All items of a row have one concept: that
    of its column, else the medium's path (a file that several rows name is one item), else the id, else the
    row's number. The id is the medium's; those of captions are made. A row may have texts only.
    """

    text: str | Mapping[str, str]
    id: str | None
    concept: str | None
    language: str
    language_tag: str
    image: str
    audio: str
    speech: bool
    keep_columns: str | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Columns:
    """The columns to read; see `ColumnOptions`."""

    text: str | Mapping[str, str] = _TEXT
    id: str | None = "id"
    concept: str | None = "concept"
    language: str | None = None
    language_tag: str | None = None
    image: str | None = None
    audio: str | None = None
    speech: bool = False
    keep_columns: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep_columns", Keep.of(self.keep_columns))
        if self.wide:
            if not self.text:
                raise CorpusError(Parameter("text"), " is an empty mapping; give a column for each language")
            if self.language is not None or self.language_tag is not None:
                raise CorpusError(
                    *(Parameter("text"), " names the languages already; leave ", Parameter("language")),
                    *(" and ", Parameter("language_tag"), " out"),
                )
            if self.speech:
                raise CorpusError(
                    *(Parameter("speech"), " is in one language, but ", Parameter("text"), " names several; "),
                    "leave it or all but one out",
                )
        elif self.language is not None and self.language_tag is not None:
            raise CorpusError(
                *("give ", Parameter("language"), " (a column) or ", Parameter("language_tag")),
                " (one tag for all items), not both",
            )
        for tag in self.tags():
            if problem := language_problem(tag):
                raise CorpusError(f"the language of the corpus {problem}")

    @property
    def keep(self) -> Keep:
        """Which further columns items keep."""
        found: Keep = self.keep_columns
        return found

    @property
    def wide(self) -> bool:
        """Whether there is a column of text for each language."""
        return isinstance(self.text, Mapping)

    @property
    def media(self) -> dict[str, str]:
        """The columns of images and audio, by modality."""
        by_modality = {"image": self.image, "audio": self.audio}
        return {modality: column for modality, column in by_modality.items() if column is not None}

    def texts(self) -> tuple[tuple[str | None, str], ...]:
        """Return the columns of text, each with its language where the options say it."""
        return tuple(self.text.items()) if isinstance(self.text, Mapping) else ((self.language_tag, self.text),)

    def tags(self) -> tuple[str, ...]:
        """Return the languages that are named in the options rather than in the table."""
        return tuple(tag for tag, _ in self.texts() if tag is not None)

    def required(self, has: Callable[[str], bool]) -> list[tuple[str, str]]:
        """Return the option and name of every column that a table must have, by default text and language.

        Args:
            has: Tells whether the table has a column. Beside media there need be no texts.
        """
        required = list(self.media.items())
        captioned = not self.media or self.text != _TEXT or has(_TEXT)
        if captioned:
            required += [("text", name) for _, name in self.texts()]
        if not self.tags() and (captioned or self.speech or self.language is not None):
            required.append(("language", self.language or "language"))
        for option, name, default in (("id", self.id, "id"), ("concept", self.concept, "concept")):
            if name is not None and name != default:
                required.append((option, name))
        return required

    def names(self) -> set[str]:
        """Return every column that the options name."""
        named = {name for _, name in self.texts()} | set(self.media.values())
        return named | {name for name in (self.id, self.concept, self.language or "language") if name}

    def items_per_row(self, has: Callable[[str], bool]) -> int:
        """Return how many items every row of a table gives, with ids that no row before can change; 0 if unknown.

        Args:
            has: Tells whether the table has a column.
        """
        named = self.id is not None and (self.id != "id" or has("id"))
        grouped = self.concept is not None and (self.concept != "concept" or has("concept"))
        if self.media:
            return 0
        if self.wide:
            return 0 if named or grouped else len(self.text)
        return 1 if named or not grouped else 0

    def needed(self, columns: Sequence[str], types: Types | None = None) -> list[str]:
        """Select from a table's top-level columns those to read: all where one that must be there is not, so
        that the error can list them.

        Args:
            columns: of the table.
            types: of all of them, where they are known: "all" then reads none that cannot be kept.
        """

        def top(name: str) -> str:
            return name if name in columns else name.split(".", maxsplit=1)[0]

        required = {top(name) for _, name in self.required(lambda name: top(name) in columns)}
        if not required.issubset(columns):
            return list(columns)
        optional = {top(name) for name in (self.id, self.concept) if name}
        kept = self.keep.wanted(columns, types) if self.keep.asked else ()
        return [column for column in columns if column in {*required, *optional, *kept}]

    def source(self) -> dict[str, Any]:
        """Describe the choice of columns as JSON can hold it."""
        described = {
            one.name: dict(value) if isinstance(value := getattr(self, one.name), Mapping) else value
            for one in fields(self)
            if one.name != "keep_columns"
        }
        return described | ({"keep": self.keep.source()} if self.keep.asked else {})
