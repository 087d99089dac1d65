"""Which items are compared: one item for each concept and partition, what is left out counted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hubstore.errors import AnalysisError, Parameter, QueryError

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Positions = npt.NDArray[np.int64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Selection:
    """Some items of one partition, in an order.

    Args:
        partition: its name.
        positions: int64 positions in the store; a tuple's bytes, so that equal selections are equal keys.
    """

    partition: str
    _bytes: bytes

    @classmethod
    def of(cls, partition: str, positions: Positions) -> Selection:
        """The items of `partition` at `positions` [n]."""
        return cls(partition, np.ascontiguousarray(positions, np.int64).tobytes())

    @property
    def positions(self) -> Positions:
        """int64 [n]."""
        return np.frombuffer(self._bytes, np.int64)

    def __len__(self) -> int:
        return len(self._bytes) // 8


@dataclass(frozen=True)
class Matched:
    """The items of two partitions that share a concept, in the same order of concepts.

    Args:
        x: items of the first partition.
        y: items of the second; item i has the concept of x's item i.
        left_out_x: items of the first partition that have no match, or whose concept an earlier item has.
        left_out_y: the same for the second.
    """

    x: Selection
    y: Selection
    left_out_x: int
    left_out_y: int

    def __len__(self) -> int:
        return len(self.x)

    def swapped(self) -> Matched:
        """The same items, the second partition first."""
        return Matched(self.y, self.x, self.left_out_y, self.left_out_x)

    def columns(self) -> dict[str, Any]:
        """What a row of results says of them."""
        return {
            "x": self.x.partition,
            "y": self.y.partition,
            "n": len(self),
            "left_out_x": self.left_out_x,
            "left_out_y": self.left_out_y,
        }


class Concepts:
    """The concepts of a store's items, as numbers in the order of their first appearance."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        encoded = store.items["concept"].combine_chunks().dictionary_encode()
        self._codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def codes(self, positions: Positions) -> npt.NDArray[np.int64]:
        """The concepts of the items at `positions`, -1 for none."""
        return np.asarray(self._codes[positions])

    def first_items(self, partition: str) -> tuple[npt.NDArray[np.int64], Positions]:
        """Concepts of a partition, ascending, and the position of the first item of each, in corpus order."""
        positions = self._store.partition(partition).positions()
        positions = positions[self._codes[positions] >= 0]
        concepts, first = np.unique(self._codes[positions], return_index=True)
        return concepts, positions[first]

    def match(self, x: str, y: str, at_least: int = 2) -> Matched:
        """Pair the items of partitions x and y by concept.

        Raises:
            QueryError: the store has no such partition.
            AnalysisError: they share fewer than `at_least` concepts.
        """
        (concepts_x, first_x), (concepts_y, first_y) = self.first_items(x), self.first_items(y)
        shared, in_x, in_y = np.intersect1d(concepts_x, concepts_y, assume_unique=True, return_indices=True)
        if len(shared) < at_least:
            raise AnalysisError(
                f"partitions {x!r} and {y!r} of {self._store.path} share {len(shared)} concepts, at least "
                f"{at_least} are needed; items match where their `concept` is the same: choose partitions of one "
                "parallel corpus with ",
                Parameter("pairs", "..."),
            )
        left_out = [self._store.partition(name).size - len(shared) for name in (x, y)]
        return Matched(Selection.of(x, first_x[in_x]), Selection.of(y, first_y[in_y]), left_out[0], left_out[1])

    def match_all(self, pairs: Sequence[Pair] | None, at_least: int = 2) -> tuple[list[Matched], list[Pair]]:
        """Match each of `pairs`; where it is None, all pairs of partitions, those that cannot be are skipped.

        Returns:
            What is matched, and the pairs that were skipped.

        Raises:
            AnalysisError: a pair that was asked for, or every pair, shares too few concepts.
        """
        if pairs is not None:
            return [self.match(*pair, at_least) for pair in pairs], []
        matched, skipped = [], []
        for pair in all_pairs(self._store):
            try:
                matched.append(self.match(*pair, at_least))
            except AnalysisError:
                skipped.append(pair)
        if not matched:
            raise AnalysisError(
                f"no two partitions of {self._store.path} share {at_least} concepts (it has "
                f"{', '.join(self._store.partitions)}); items match where their `concept` is the same. "
                "Extract a parallel corpus, or one with a concept column; geometry needs no concepts"
            )
        return matched, skipped


def all_pairs(store: StoreReader) -> list[Pair]:
    """Every two partitions of a store, in its order."""
    return list(itertools.combinations(store.partitions, 2))


def check_pairs(store: StoreReader, pairs: Sequence[Pair] | None, *, with_itself: bool = False) -> list[Pair] | None:
    """`pairs` as tuples, each once.

    Raises:
        QueryError: a partition that the store does not have.
        AnalysisError: no pair, or a partition paired with itself unless `with_itself`.
    """
    if pairs is None:
        return None
    checked = [(store.partition(x).name, store.partition(y).name) for x, y in pairs]
    if not checked:
        raise AnalysisError("no pair of partitions was given; leave pairs out to compare all")
    for x, y in checked:
        if x == y and not with_itself:
            raise AnalysisError(f"partition {x!r} is paired with itself; name two different partitions")
    return list(dict.fromkeys(checked))


def check_partitions(store: StoreReader, partitions: Sequence[str] | None) -> list[str]:
    """The names of `partitions`, or of all; QueryError for one that the store does not have."""
    names = store.partitions if partitions is None else partitions
    return list(dict.fromkeys(store.partition(name).name for name in names))


def chosen_pairs(store: StoreReader, pairs: Sequence[Pair] | None, pivot: str | None) -> list[Pair] | None:
    """`pairs` checked, or the pairs of a pivot; None, for all pairs, where neither is given.

    Raises:
        QueryError: a partition that the store does not have, a pivot that stands alone, or both given.
        AnalysisError: see `check_pairs`.
    """
    if pivot is None:
        return check_pairs(store, pairs)
    if pairs is not None:
        raise QueryError(f"pairs and the pivot {pivot!r} were both given; give one of them")
    return _pivot_pairs(store, pivot)


def _pivot_pairs(store: StoreReader, pivot: str) -> list[Pair]:
    """The pivot with every partition that shares concepts with it; with every one, where none does."""
    name, concepts = store.partition(pivot).name, Concepts(store)
    pairs, matched = [(name, other) for other in store.partitions if other != name], []
    for pair in pairs:
        try:
            concepts.match(*pair)
        except AnalysisError:
            continue
        matched.append(pair)
    if not pairs:
        raise QueryError(f"{store.path} has only the partition {pivot!r}; a pivot needs others to be compared with")
    return matched or pairs
