"""Example items with their nearest neighbours in other languages, at the first, a middle and the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hubstore.analysis.pairs import Concepts, Pair
from hubstore.query import search

if TYPE_CHECKING:
    from hubstore.store import StoreReader

COUNT = 4
NEIGHBOURS = 5


@dataclass(frozen=True)
class Example:
    """An item and what lies near it.

    Args:
        item: id, concept, language, modality and text.
        hits: for each layer, its neighbours' rank, score, id, concept, language, modality and text.
    """

    item: dict[str, Any]
    hits: dict[str, list[dict[str, Any]]]

    def is_match(self, hit: dict[str, Any]) -> bool:
        """Whether a neighbour has the item's concept."""
        return self.item["concept"] is not None and hit["concept"] == self.item["concept"]


def choose_examples(store: StoreReader, pairs: Sequence[Pair] | None, seed: int) -> list[str]:
    """Ids of a few items drawn from partitions spread over those compared; such as have a concept, if any has."""
    names = list(store.partitions) if pairs is None else list(dict.fromkeys(name for pair in pairs for name in pair))
    spread = np.linspace(0, len(names) - 1, COUNT).round().astype(int)
    concepts, rng = Concepts(store), np.random.default_rng(seed)
    chosen: list[int] = []
    for place in spread:
        _, positions = concepts.first_items(names[place])
        if not len(positions):
            positions = store.partition(names[place]).positions()
        left = np.setdiff1d(positions, chosen)
        if len(left):
            chosen.append(int(rng.choice(left)))
    ids: list[str] = store.items["id"].take(pa.array(chosen, pa.int64())).to_pylist()
    return ids


def example_layers(layers: Sequence[str]) -> list[str]:
    """The first, the middle and the last of `layers`, each once."""
    return list(dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]))


def find_examples(store: StoreReader, ids: Sequence[str], layers: Sequence[str], pooling: str) -> tuple[Example, ...]:
    """The items called `ids`, with their nearest items in other languages (in any, where there is one only)."""
    if not ids:
        return ()
    shown = example_layers(layers)
    many = len({partition.language for partition in store.partitions.values()}) > 1
    found = search(store, ids=ids, k=NEIGHBOURS, layers=shown, pooling=pooling, exclude_same_language=many)
    hits: dict[str, dict[str, list[dict[str, Any]]]] = {name: {layer: [] for layer in shown} for name in ids}
    for row in found.to_pylist():
        hits[row["query"]][row["layer"]].append(row)
    columns = ["id", "concept", "language", "modality", "text"]
    items = store.items.select(columns).take(pa.array(store.positions(ids))).to_pylist()
    return tuple(Example(item, hits[item["id"]]) for item in items)
