"""What a self-check measured, as a run goes by it and a store keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hubstore.reading.batching import DEPRECATED_KINDS, Batching, BatchKind, Padding
from hubstore.store.records import of_known_fields

STRICT: tuple[BatchKind, ...] = ("packed", "padded", "same_shape", "single")
"""Ways to make batches, each of fewer items that could change one another than the one before."""

BORDERS = ("borders", "checked_borders")


@dataclass(frozen=True)
class SelfCheck:
    """What the self-check measured.

    Args:
        items: how many items it ran.
        deviation: the largest relative distance, over items and layers; see `sample.TOLERANCE`.
        layer: where that was.
        tolerance: what was allowed.
        reference: "own hidden states" when single states were also compared with the model's own
            `output_hidden_states`; "number of blocks" when the model gives none, and its blocks were counted; "none".
        padding: on which side they were padded.
        explicit_positions: whether the model had to be given its tokens' positions.
        batching: "packed", "padded", "same_shape" or "single": what the run uses.
        first_position: the position of an item's first token, where packed.
        compiled: whether full batches go through compiled blocks.
        refused: why a faster way to make batches is not used.
        borders: lengths at which the model changes: items of both sides share no batch.
        varies_beyond: items of more tokens share a batch with those of their own length only.
        restores: whether the model changes itself as it runs, and is put back after every batch.
        longest: tokens of the longest item that was run.
        checked_borders: those of which items of both sides were run: higher ones would take too long.
    """

    items: int
    deviation: float
    layer: str
    tolerance: float
    reference: str
    padding: Padding = "right"
    explicit_positions: bool = False
    batching: BatchKind = "padded"
    first_position: int = 0
    compiled: bool = False
    refused: str = ""
    borders: tuple[int, ...] = ()
    varies_beyond: int | None = None
    restores: bool = False
    longest: int = 0
    checked_borders: tuple[int, ...] = ()

    def to_batching(self) -> Batching:
        """The batching that the run uses."""
        return Batching(
            self.batching,
            self.padding,
            self.explicit_positions,
            self.first_position,
            self.compiled,
            self.borders,
            self.varies_beyond,
            self.restores,
        )

    def combine(self, later: SelfCheck) -> SelfCheck:
        """The check of a store of which a later one was made: batches are made as strictly as either wants."""
        kind = max(self.batching, later.batching, key=STRICT.index)
        return replace(
            later if kind != self.batching else self,
            compiled=later.compiled,
            borders=tuple(sorted({*self.borders, *later.borders})),
            varies_beyond=later.varies_beyond if self.varies_beyond is None else self.varies_beyond,
            restores=self.restores or later.restores,
            longest=max(self.longest, later.longest),
            checked_borders=tuple(sorted({*self.checked_borders, *later.checked_borders})),
        )

    def to_json(self) -> dict[str, Any]:
        """As kept in the store."""
        borders = {name: list(getattr(self, name)) for name in BORDERS}
        return {**asdict(self), "deviation": float(f"{self.deviation:.3e}"), **borders}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SelfCheck:
        """Back from the store; one without later fields was made when all batches were padded, whatever the borders."""
        batching = data.get("batching", cls.batching)
        borders = {name: tuple(data.get(name, ())) for name in BORDERS}
        values = {**data, "batching": DEPRECATED_KINDS.get(batching, batching), **borders}
        return of_known_fields(cls, values, "a self-check of")


def checks_of(attributes: Mapping[str, Any]) -> dict[str, SelfCheck]:
    """By modality, the self-checks that a store keeps."""
    kept = {"text": attributes.get("self_check"), **attributes.get("media_checks", {})}
    return {modality: SelfCheck.from_json(check) for modality, check in kept.items() if check is not None}


def batching_of(attributes: Mapping[str, Any], generation: int) -> dict[str, Batching]:
    """By modality, how the batches of a generation were made, where the store says so of each generation."""
    every = (one for corpus in attributes["corpora"] for one in corpus["generations"])
    kept = next(one.get("batching", {}) for one in every if one["generation"] == generation)
    return {modality: Batching.from_json(batching) for modality, batching in kept.items()}


def described_checks(checks: Mapping[str, SelfCheck]) -> dict[str, Any]:
    """The attributes of a store in which its self-checks are kept."""
    kept = {modality: check.to_json() for modality, check in checks.items()}
    text = kept.pop("text", None)
    return {"self_check": text, **({"media_checks": kept} if kept else {})}
