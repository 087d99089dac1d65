"""What a value must be to enter an item, and the sentence that says why it may not.

Each `*_problem` function returns None for a good value, else the rest of a sentence that starts
with the value's place: `pairs.jsonl, line 3, column 'text': ` + `is null`.
"""

import math
import re
from typing import Any, Final

from hubstore.checks import check_count
from hubstore.corpus.item import Item, Media
from hubstore.errors import CorpusError, Parameter

TEXT: Final = "text"
MODALITIES: Final = (TEXT, "image", "audio")
NO_LANGUAGE: Final = "zxx"
"""The language tag of items in no language: images, and audio that is no speech."""

ON_ERROR: Final = ("stop", "skip")

# RFC 5646, section 2.1, without the irregular tags of its history. The primary subtag has two or
# three letters: the grammar allows eight, none was ever registered, and `english` is a mistake.
_LANGUAGE_TAG = re.compile(
    r"""
    [a-z]{2,3} (-[a-z]{3}){0,3}                      # language and extended language
    (-[a-z]{4})?                                     # script
    (-([a-z]{2}|[0-9]{3}))?                          # region
    (-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*             # variants
    (-[a-wyz0-9](-[a-z0-9]{2,8})+)*                  # extensions
    (-x(-[a-z0-9]{1,8})+)?                           # private use
    | x(-[a-z0-9]{1,8})+
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def text_problem(value: Any) -> str | None:
    """Say why a value cannot be an item's text."""
    if not isinstance(value, str):
        return _not_a_string(value)
    if not value or value.isspace():
        return "is empty" if not value else "holds white space only"
    return unicode_problem(value)


def language_problem(value: Any) -> str | None:
    """Say why a value cannot be an item's language."""
    if not isinstance(value, str):
        return _not_a_string(value)
    if _LANGUAGE_TAG.fullmatch(value):
        return None
    if not value.strip():
        return "is empty; give a BCP 47 language tag such as en or zh-Hans, or zxx for none"
    hyphened = value.strip().replace("_", "-")
    likely = hyphened if _LANGUAGE_TAG.fullmatch(hyphened) else "en, zh-Hans, or x-python for other data"
    return f"is {_shown(value)}, which is not a BCP 47 language tag; write {likely}"


def modality_problem(value: Any) -> str | None:
    """Say why a value cannot be an item's modality."""
    if value in MODALITIES:
        return None
    return f"is {_shown(value)}; the modalities are {', '.join(MODALITIES)}"


def media_problem(value: Any) -> str | None:
    """Say why a value cannot be an item's image or audio clip; whether it can be decoded is seen later."""
    if not isinstance(value, Media):
        return f"is {_shown(value)}, and not a hubstore.corpus.Media"
    if value.data is not None and not isinstance(value.data, bytes):
        return f"has data of the type {type(value.data).__name__}; give bytes, or None for a file"
    if value.data == b"":
        return "has no bytes"
    problem = text_problem(value.name)
    return f"has a name that {problem}" if problem else None


def label_problem(value: Any) -> str | None:
    """Say why a value cannot be an id or a concept. Numbers can: see `label`."""
    if isinstance(value, str):
        return unicode_problem(value) if value.strip() else "is empty"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _not_a_string(value)
    if not math.isfinite(value):
        return f"is {value}"
    return None


def label(value: str | float) -> str:
    """Turn an id or a concept into a string; a whole float is an integer that met a null."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def check_item(item: Any, place: str) -> Item:
    """Return the item if it is one, with every field good.

    Raises:
        CorpusError: Naming the place and the field.
    """
    if not isinstance(item, Item):
        raise CorpusError(f"{place} is a {type(item).__name__}; give hubstore.corpus.Item objects")
    problems = (
        ("id", None if isinstance(item.id, str) else _not_a_string(item.id)),
        ("id", label_problem(item.id)),
        ("concept", None if item.concept is None else text_problem(item.concept)),
        ("language", language_problem(item.language)),
        ("modality", modality_problem(item.modality)),
        *_content_problems(item),
    )
    for field, problem in problems:
        if problem:
            raise CorpusError(f"{place}, field {field!r}: {problem}")
    return item


def _content_problems(item: Item) -> tuple[tuple[str, str | None], ...]:
    if item.modality == TEXT:
        surplus = "is there, but the modality is text; give an image or audio clip an item of its own"
        return ("text", text_problem(item.text)), ("media", surplus if item.media is not None else None)
    missing = f"is null, but the modality is {item.modality}; give a hubstore.corpus.Media"
    return (
        ("text", None if item.text == "" else text_problem(item.text)),
        ("media", missing if item.media is None else media_problem(item.media)),
    )


def check_options(limit: int | None, on_error: str) -> int | None:
    """Check what every reader takes, and return the limit.

    Raises:
        CorpusError: The limit is no whole number of 1 or more, or `on_error` is neither `stop` nor `skip`.
    """
    if on_error not in ON_ERROR:
        raise CorpusError(Parameter("on_error"), f" is {on_error!r}; give 'stop' or 'skip'")
    return None if limit is None else check_count("limit", limit, of="rows", error=CorpusError)


def _not_a_string(value: Any) -> str:
    if value is None:
        return "is null"
    return f"is {_shown(value)}, a {type(value).__name__} and not a string"


def unicode_problem(value: str) -> str | None:
    """Say why a string cannot be written as UTF-8."""
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"has half of a surrogate pair at character {error.start + 1}, which is not valid Unicode"
    return None


def _shown(value: Any) -> str:
    shown = ascii(value) if isinstance(value, str) and unicode_problem(value) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
