"""States in places that are not theirs: what an experiment says then, it says of no model.

A difference that stays when every item gets another item's states comes from what is looked up or from which items
there are, such as how often a word is written, and not from what the states hold.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch

from hubstore.store import HiddenStates, StoreReader

Ints = npt.NDArray[np.int64]
TRIES = 200
"""Random partners that a place which got its own is exchanged with, before all places are looked at."""

PIECE = 8192
"""Rows that are read at once where all are asked for."""


def others(
    own: Sequence[frozenset[Hashable]], rng: np.random.Generator, of: Sequence[frozenset[Hashable]] | None = None
) -> Ints:
    """For each of n places another one that it shares nothing with, a permutation where there is one.

    Args:
        own: what each place must not share, such as the tokens of its meaning.
        rng: of the draws.
        of: what each place gives to the one that it is chosen for; None where that is `own`.

    Returns:
        int64 [n]. Where no permutation will do, some are chosen more than once, as often as they come; a place that
        shares something with all others keeps one: see `clashes`.
    """
    meanings = own if of is None else of
    chosen = rng.permutation(len(own))
    hopeless = set()  # what has no partner among all, as where one kind is more than half, is looked up once
    for place in clashes(own, chosen, of):
        kind = own[place], meanings[chosen[place]]
        if kind in hopeless or not own[place] & meanings[chosen[place]]:
            continue  # or exchanged with an earlier one
        for partners in (rng.integers(len(own), size=TRIES), rng.permutation(len(own))):
            fits = (
                one
                for one in partners
                if not own[place] & meanings[chosen[one]] and not own[one] & meanings[chosen[place]]
            )
            partner = next(fits, None)
            if partner is not None:
                chosen[[place, partner]] = chosen[[partner, place]]
                break
        else:
            hopeless.add(kind)
    fitting: dict[frozenset[Hashable], Ints] = {}
    for place in clashes(own, chosen, of):  # where one kind is more than half there is no such permutation
        if own[place] not in fitting:
            fits = (one for one, meaning in enumerate(meanings) if not own[place] & meaning)
            fitting[own[place]] = np.fromiter(fits, np.int64)
        if len(fitting[own[place]]):
            chosen[place] = rng.choice(fitting[own[place]])
    return np.asarray(chosen, np.int64)


def clashes(
    own: Sequence[frozenset[Hashable]], chosen: Ints, of: Sequence[frozenset[Hashable]] | None = None
) -> list[int]:
    """The places that share something with the one chosen for them."""
    meanings = own if of is None else of
    return [place for place, other in enumerate(chosen) if own[place] & meanings[other]]


def other_places(groups: npt.ArrayLike, seed: int | Sequence[int]) -> Ints:
    """int64 [n]: for each of n places one of another group, or at least another place where one group is too large."""
    several = [frozenset([one]) for one in np.asarray(groups).tolist()]
    return others(several, np.random.default_rng(seed))


class ShuffledStore(StoreReader):
    """A store whose items have the states of other items: of the same partition, and of other concepts.

    States of tokens stay in their places: which of them are read, and so which may be exchanged, an experiment knows.

    Args:
        store: the store as it is.
        seed: of the draws.
    """

    def __init__(self, store: StoreReader, seed: int) -> None:
        super().__init__(store.path, store.storage)
        self._seed = seed

    @property
    def digest(self) -> str:
        """The store's own, marked, so that no analysis takes what was found of one for the other's."""
        return f"{super().digest} shuffled {self._seed}"

    def hidden(self, layer: str | int, pooling: str | None = None) -> HiddenStates:
        """The states of a layer, those of whole items exchanged."""
        name = self.pooling_name(pooling)
        if name == "tokens":
            return super().hidden(layer, name)
        return _Exchanged(self._places, self.storage, self.layout, self.commits, self.layer_name(layer), name)

    @cached_property
    def _places(self) -> Ints:
        places = np.arange(len(self))
        concepts = np.array(pc.coalesce(self.items["concept"], self.items["id"]).to_pylist())
        for number, name in enumerate(self.partitions):
            positions = self.partition(name).positions()
            # Partitions differ in their draws: matched items would stay matched.
            places[positions] = positions[other_places(concepts[positions], (self._seed, number))]
        return places


class _Exchanged(HiddenStates):
    """States read at other places."""

    def __init__(self, places: Ints, *of_layer: Any) -> None:
        super().__init__(*of_layer)
        self._places = places

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        return super().take(self._places[np.asarray(positions)])

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows in order, as `take` gives them."""
        start, stop = self._range(start, stop)
        for first in range(start, stop, PIECE):
            yield first, self.take(np.arange(first, min(first + PIECE, stop)))
