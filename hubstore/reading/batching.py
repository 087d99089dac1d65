"""How items become batches, as a self-check finds it and a store keeps it; to describe a store takes no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Padding = Literal["right", "left"]
BatchKind = Literal["packed", "padded", "same_shape", "single"]

DEPRECATED_KINDS: Mapping[str, BatchKind] = {"alike": "same_shape"}
"""Kinds of batches as stores of the release before spell them: deprecated."""


@dataclass(frozen=True)
class Batching:
    """How items become batches: what the self-check found to give the states of single items.

    Args:
        kind: "packed", items end to end in one sequence; "padded" to the longest item's length; "same_shape", only
            texts of one length, and images or audio of one shape, together; or "single", one item each.
        padding: the side of the padding, where padded.
        explicit_positions: whether a padded model gets its tokens' positions; a packed one always does.
        first_position: the position of an item's first token, where packed.
        compiled: whether full packed batches go through compiled blocks.
        borders: ascending lengths at which the model changes: items of both sides of one share no batch.
        varies_beyond: items of more tokens share a batch with those of their own length only.
        restores: whether the model changes itself as it runs, and is put back after every batch.
    """

    kind: BatchKind = "padded"
    padding: Padding = "right"
    explicit_positions: bool = False
    first_position: int = 0
    compiled: bool = False
    borders: tuple[int, ...] = ()
    varies_beyond: int | None = None
    restores: bool = False

    def to_json(self) -> dict[str, Any]:
        """As kept in a store."""
        return {**asdict(self), "borders": list(self.borders)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Batching:
        """Back from a store."""
        from hubstore.store.records import of_known_fields  # which imports torch, and other processes lay out texts

        kind = DEPRECATED_KINDS.get(data["kind"], data["kind"])
        values = {**data, "kind": kind, "borders": tuple(data.get("borders", ()))}
        return of_known_fields(cls, values, "batches of")
