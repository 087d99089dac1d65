"""Example items and their nearest neighbors in other languages and modalities, at three layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hubstore.analysis.pairs import Concepts, Pair
from hubstore.query import search

if TYPE_CHECKING:
    from hubstore.store import StoreReader

COUNT = 4
NEIGHBORS = 5
TEXT = "text"
MOST_BYTES = 128 * 1024  # of a preview; those that extraction makes have less


@dataclass(frozen=True)
class Example:
    """An item and what lies near it.

    Args:
        item: id, concept, language, modality, text and media.
        hits: for each layer, its neighbors' rank, score, id, concept, language, modality, text and media.
        previews: thumbnails and clips of those of them that are images or audio clips, by id; not all have one.
    """

    item: dict[str, Any]
    hits: dict[str, list[dict[str, Any]]]
    previews: Mapping[str, bytes] = field(default_factory=dict)

    def is_match(self, hit: dict[str, Any]) -> bool:
        """Whether a neighbor has the item's concept."""
        return self.item["concept"] is not None and hit["concept"] == self.item["concept"]


def choose_examples(store: StoreReader, pairs: Sequence[Pair] | None, seed: int) -> list[str]:
    """Ids of a few items drawn from partitions spread over those compared; such as have a concept, if any has."""
    names = list(store.partitions) if pairs is None else list(dict.fromkeys(name for pair in pairs for name in pair))
    concepts, rng = Concepts(store), np.random.default_rng(seed)
    chosen: list[int] = []
    for name in _spread(store, names):
        _, positions = concepts.first_items(name)
        if not len(positions):
            positions = store.partition(name).positions()
        left = np.setdiff1d(positions, chosen)
        if len(left):
            chosen.append(int(rng.choice(left)))
    ids: list[str] = store.items["id"].take(pa.array(chosen, pa.int64())).to_pylist()
    return ids


def _spread(store: StoreReader, names: Sequence[str]) -> list[str]:
    """COUNT of `names`, far apart among those of their modality, so that no modality is lost among many languages."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(store.partition(name).modality, []).append(name)
    found = []
    for place, group in enumerate(groups.values()):
        count = COUNT // len(groups) + (place < COUNT % len(groups))
        found += [group[at] for at in np.linspace(0, len(group) - 1, count).round().astype(int)]
    return found


def example_layers(layers: Sequence[str]) -> list[str]:
    """The first, the middle and the last of `layers`, each once."""
    return list(dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]))


def find_examples(store: StoreReader, ids: Sequence[str], layers: Sequence[str], pooling: str) -> tuple[Example, ...]:
    """The items called `ids`, with their nearest items in other partitions (in any, where there is one only)."""
    if not ids:
        return ()
    shown = example_layers(layers)
    columns = ["id", "concept", "language", "modality", "text", "media"]
    items = store.items.select(columns).take(pa.array(store.positions(ids))).to_pylist()
    hits: dict[str, dict[str, list[dict[str, Any]]]] = {name: {layer: [] for layer in shown} for name in ids}
    for row in _search_elsewhere(store, items, shown, pooling):
        hits[row["query"]][row["layer"]].append(row)
    for by_layer in hits.values():
        for layer, rows in by_layer.items():
            nearest = sorted(rows, key=lambda row: -row["score"])[:NEIGHBORS]
            by_layer[layer] = [row | {"rank": rank} for rank, row in enumerate(nearest, 1)]
    return tuple(Example(item, hits[item["id"]], _previews(store, item, hits[item["id"]])) for item in items)


def _search_elsewhere(
    store: StoreReader, items: Sequence[Mapping[str, Any]], layers: Sequence[str], pooling: str
) -> list[dict[str, Any]]:
    """Neighbors in other languages, and in the own language those of other modalities."""
    parts = store.partitions.values()
    many = len({part.language for part in parts}) > 1
    if len({part.modality for part in parts}) == 1 or len(parts) == 1:
        ids = [item["id"] for item in items]
        rows: list[dict[str, Any]] = search(
            store, ids=ids, k=NEIGHBORS, layers=layers, pooling=pooling, exclude_same_language=many
        ).to_pylist()
        return rows
    rows = []
    # The partitions other than one's own are no product of languages and modalities, so two searches find them.
    for own in sorted({(item["language"], item["modality"]) for item in items}):
        ids = [item["id"] for item in items if (item["language"], item["modality"]) == own]
        language, modality = own
        others = sorted({part.modality for part in parts if part.language == language} - {modality})
        filters: list[dict[str, Any]] = [{"exclude_same_language": True}] if many else []
        filters += [{"languages": [language], "modalities": others}] if others else []
        for limits in filters:
            rows += search(store, ids=ids, k=NEIGHBORS, layers=layers, pooling=pooling, **limits).to_pylist()
    return rows


def _previews(
    store: StoreReader, item: Mapping[str, Any], hits: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, bytes]:
    """Previews of the images and audio among an item and its neighbors; none that would swell the page."""
    shown = [item, *(hit for rows in hits.values() for hit in rows)]
    names = dict.fromkeys(one["id"] for one in shown if one["modality"] != TEXT)
    found = {name: store.preview(name) for name in names}
    return {name: data for name, data in found.items() if data and len(data) <= MOST_BYTES}
