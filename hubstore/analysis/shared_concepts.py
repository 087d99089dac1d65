"""Items of several partitions that have the same concepts, divided by concept into fitted and tested ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.analysis.pairs import Concepts, Selection
from hubstore.analysis.states import States
from hubstore.errors import AnalysisError, Parameter

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Ints = npt.NDArray[np.int64]
FEWEST = 24
"""Concepts of which a half is fitted and a half tested."""


@dataclass(frozen=True)
class SharedConcepts:
    """One item for each concept and partition, of concepts that all partitions have, in one order.

    Args:
        selections: of each partition.
        fitted: places of the concepts that are fitted, in order.
        tested: places of all others.
    """

    selections: tuple[Selection, ...]
    fitted: Ints
    tested: Ints

    @classmethod
    def of(cls, store: StoreReader, partitions: Sequence[str], seed: int) -> SharedConcepts:
        """Those of some partitions, half of the concepts drawn to be fitted.

        Raises:
            QueryError: a partition that the store does not have.
            AnalysisError: fewer than two partitions, or they share fewer than 24 concepts.
        """
        if len(partitions) < 2:
            raise AnalysisError(f"{store.path}: one partition has no language to tell from another; name two or more")
        every = [Concepts(store).first_items(name) for name in partitions]
        shared = functools.reduce(np.intersect1d, (concepts for concepts, _ in every))
        if len(shared) < FEWEST:
            counts = ", ".join(f"{name} {len(of)}" for name, (of, _) in zip(partitions, every, strict=True))
            raise AnalysisError(
                f"the partitions of {store.path} share {len(shared)} concepts, at least {FEWEST} are needed (each has: "
                f"{counts}); name those of one parallel corpus with ",
                Parameter("partitions", "..."),
            )
        selections = [
            Selection.of(name, positions[np.searchsorted(concepts, shared)])
            for name, (concepts, positions) in zip(partitions, every, strict=True)
        ]
        order = np.random.default_rng([seed, len(shared)]).permutation(len(shared))
        half = len(shared) // 2
        return cls(tuple(selections), np.sort(order[:half]), np.sort(order[half:]))

    @property
    def names(self) -> tuple[str, ...]:
        """The partitions."""
        return tuple(selection.partition for selection in self.selections)

    def states(self, states: States, layer: str) -> Tensor:
        """float64 [partitions, concepts, width]."""
        return torch.stack([states.rows(layer, selection) for selection in self.selections]).to(torch.float64)

    def held(self, device: torch.device) -> Tensor:
        """bool [fitted]: every fourth of the fitted concepts, for choosing between fits."""
        return torch.arange(len(self.fitted), device=device) % 4 == 3
