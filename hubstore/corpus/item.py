"""One input to a model, and the Arrow schema in which items travel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

ITEM_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("media", pa.string()),
        pa.field("data", pa.large_binary()),
    ]
)
"""The columns of every batch of items. `concept` may be null; `media` is for text, and `data` where a file has it."""

MEMBER = "!"
"""Between the path of an archive and the name of a member of it, in a `Media.name`."""


@dataclass(frozen=True, slots=True)
class Media:
    """An image or audio clip, before it is decoded.

    Args:
        name: What names it to a person, and finds it again: the path of a file, or a place in one
            (`shard.tar!a/b.png`).
        data: Its bytes, encoded (PNG, JPEG, WAV, Ogg, ...); None where `name` is the path of a file.
    """

    name: str
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One input to the model.

    Args:
        id: What names the item; no two items of a corpus share it.
        text: What the model reads. Beside an image or audio clip it may be empty.
        language: BCP 47 tag, kept as it was given: `en` and `EN` are two languages. Private-use
            tags (`x-python`) name other kinds of data, `zxx` none.
        concept: The id that semantically equivalent items share; None for an item without one.
        modality: How the model reads the item: `text`, `image` or `audio`.
        media: The image or audio clip of an `image` or `audio` item.
        columns: Further columns that are kept beside the item, by name: int, float, bool, str, datetime or None.
    """

    id: str
    text: str
    language: str
    concept: str | None = None
    modality: str = "text"
    media: Media | None = None
    columns: Mapping[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def given(cls, modality: str, media: Media, text: str = "") -> "Item":
        """An image or audio clip given now, called by its name, with a text beside it; of no language."""
        return cls(media.name, text, "zxx", None, modality, media)
