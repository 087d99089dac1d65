"""One item of a store: `store["en:3"]`."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import torch

SHOWN_CHARACTERS = 200


@dataclass(frozen=True, eq=False)
class ItemRecord:
    """What a store says of an item.

    Args:
        id: names it in the store.
        text: what the model read; perhaps empty beside an image or audio clip.
        language: BCP 47 tag.
        concept: the id that equivalent items share; None for an item without one.
        modality: "text", "image" or "audio".
        media: where an image or audio clip is; None for a text.
        position: of the item in the store.
        columns: all columns of the item's row by name.
    """

    id: str
    text: str
    language: str
    concept: str | None
    modality: str
    media: str | None
    position: int
    columns: Mapping[str, Any] = field(repr=False)

    def _repr_html_(self) -> str:
        shown = {"id": self.id, "language": self.language, "concept": self.concept, "modality": self.modality}
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in shown.items())
        return (
            f'<table>{cells}</table><p dir="auto">{html.escape((self.text or self.media or "")[:SHOWN_CHARACTERS])}</p>'
        )


@dataclass(frozen=True, eq=False, repr=False)
class StoredItem(ItemRecord):
    """An item of a store, opened here or on a server, with its states and its equivalents."""

    _states: Callable[[str, Any, str | None], pa.Table] = field(repr=False)
    _others: Callable[[], pa.Table] = field(repr=False)

    def hidden(self, layer: str | int, pooling: str | None = None) -> torch.Tensor:
        """Its hidden state at a layer, float32 [width]; under "tokens" [tokens, width].

        Example:
            >>> store["en:3"].hidden(2).shape
            torch.Size([32])
        """
        return states_of(self._states(self.id, [layer], pooling))

    def equivalents(self) -> pa.Table:
        """The other items of its concept, in the store's order.

        Example:
            >>> store["en:3"].equivalents()["id"].to_pylist()
            ['es:3', 'ar:3']
        """
        return self._others()


def states_of(found: pa.Table) -> torch.Tensor:
    """The states of one item at one layer, from a table of `vectors`: float32 [width]; of tokens [tokens, width]."""
    import torch

    rows = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    states = torch.from_numpy(rows.copy()).reshape(len(found), -1)
    return states if "token" in found.column_names else states[0]
