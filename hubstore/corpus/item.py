"""One input to a model, and the Arrow schema in which items travel."""

from dataclasses import dataclass

import pyarrow as pa

ITEM_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""The columns of every batch of items. Only `concept` may be null."""


@dataclass(frozen=True, slots=True)
class Item:
    """One input to the model.

    Args:
        id: What names the item; no two items of a corpus share it.
        text: What the model reads.
        language: BCP 47 tag, kept as it was given: `en` and `EN` are two languages. Private-use
            tags (`x-python`) name other kinds of data, `zxx` none.
        concept: The id that semantically equivalent items share; None for an item without one.
        modality: How the model reads the item: `text`, `image` or `audio`.
    """

    id: str
    text: str
    language: str
    concept: str | None = None
    modality: str = "text"
