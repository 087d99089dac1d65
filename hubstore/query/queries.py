"""Queries: ids, items given now or vectors, as one row for each at each layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hubstore.checks import check_array, check_strings
from hubstore.corpus import Item
from hubstore.errors import NonFiniteError, QueryError
from hubstore.query.filters import closest
from hubstore.store import StoreReader

Encoder = Callable[[Sequence[Item]], Mapping[str, torch.Tensor]]
"""Items to their hidden states [items, width] by layer, from the model and pooling of the store."""

Vectors = torch.Tensor | npt.NDArray[np.floating] | Mapping[str, torch.Tensor]
"""[width] or [queries, width], for every layer alike; or one such array by layer."""


@dataclass(frozen=True, eq=False)
class Queries:
    """What is looked for.

    Args:
        labels: what the result calls each query.
        languages: each query's language, None where it is not known.
        modalities: each query's modality, None for a vector.
        self_rows: int64 [queries, 2], start and stop of the query's own item among the rows; empty where it has none.
        vectors: gives a layer's queries [queries, width].
    """

    labels: tuple[str, ...]
    languages: tuple[str | None, ...]
    modalities: tuple[str | None, ...]
    self_rows: npt.NDArray[np.int64]
    vectors: Callable[[str], torch.Tensor]

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)


class EncodedItems:
    """The states of the texts that were encoded last: who searches each language asks for the same ones again."""

    MOST_BYTES = 64 << 20

    def __init__(self) -> None:
        self._last: tuple[object, Hashable, Sequence[Item], Mapping[str, torch.Tensor]] | None = None

    def of(
        self, model: object, settings: Hashable, items: Sequence[Item], encode: Encoder
    ) -> Mapping[str, torch.Tensor]:
        """`encode(items)`, or what it gave for the same model, settings and texts a moment ago."""
        last = self._last
        if last is not None and last[0] is model and last[1] == settings and last[2] == list(items):
            return last[3]
        self.clear()
        states = encode(items)
        small = sum(one.nbytes for one in states.values()) <= self.MOST_BYTES
        if small and all(item.media is None for item in items):
            self._last = (model, settings, list(items), states)
        return states

    def clear(self) -> None:
        """Let go of them, and of the model."""
        self._last = None


def from_ids(store: StoreReader, ids: Sequence[str], pooling: str) -> Queries:
    """Each item's own stored row; with `tokens` pooling, each of its tokens, called `id[0]`, `id[1]`, ..."""
    positions = _positions(store, ids)
    named = store.items_at(positions, ["language", "modality"])
    languages, modalities = (named[name].to_pylist() for name in ("language", "modality"))
    if pooling != "tokens":
        own = np.stack([positions, positions + 1], axis=1)
        return Queries(
            tuple(ids),
            tuple(languages),
            tuple(modalities),
            own,
            lambda layer: store.hidden(layer, pooling).take(positions),
        )
    ranges = store.token_ranges()[positions]
    lengths = ranges[:, 1] - ranges[:, 0]
    rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return Queries(
        tuple(f"{name}[{token}]" for name, count in zip(ids, lengths, strict=True) for token in range(count)),
        tuple(np.repeat(np.array(languages, object), lengths)),
        tuple(np.repeat(np.array(modalities, object), lengths)),
        np.repeat(ranges, lengths, axis=0),
        lambda layer: store.hidden(layer, pooling).take(rows),
    )


def from_items(
    items: Sequence[Item],
    encoder: Encoder,
    layers: Sequence[str],
    width: int,
    languages: Sequence[str | None],
) -> Queries:
    """Texts, images and audio through the model, once for all layers."""
    states = encoder(items)
    missing = [layer for layer in layers if layer not in states]
    if missing:
        raise QueryError(f"the encoder gave no states of layer {missing[0]}; it gave {', '.join(states)}")
    checked = {layer: _checked(states[layer], layer, len(items), width) for layer in layers}
    labels = tuple(item.media.name if item.media else item.text for item in items)
    modalities = tuple(item.modality for item in items)
    return Queries(labels, tuple(languages), modalities, _no_rows(len(items)), checked.__getitem__)


def from_vectors(vectors: Vectors, layers: Sequence[str], width: int, languages: str | Sequence[str] | None) -> Queries:
    """Vectors of the caller's, called `vector 0`, `vector 1`, ..."""
    if isinstance(vectors, Mapping):
        missing = [layer for layer in layers if layer not in vectors]
        if missing:
            raise QueryError(f"there are no vectors for layer {missing[0]}; there are for {', '.join(vectors)}")
        by_layer = {layer: _with_direction(_checked(vectors[layer], layer, None, width), layer) for layer in layers}
    else:
        by_layer = dict.fromkeys(layers, _with_direction(_checked(vectors, layers[0], None, width), layers[0]))
    counts = {len(rows) for rows in by_layer.values()}
    if len(counts) != 1:
        raise QueryError(f"every layer needs as many vectors; there are {sorted(counts)}")
    count = counts.pop()
    labels = tuple(f"vector {number}" for number in range(count))
    spoken = query_languages(languages, count)
    return Queries(labels, spoken, (None,) * count, _no_rows(count), by_layer.__getitem__)


def query_languages(languages: str | Sequence[str] | None, count: int) -> tuple[str | None, ...]:
    """One language for each of `count` queries, from one for all, one for each, or none."""
    if languages is None or isinstance(languages, str):
        return (languages,) * count
    languages = check_strings("query_languages", languages, error=QueryError)
    if len(languages) != count:
        raise QueryError(f"there are {count} queries and {len(languages)} query languages; give one, or one each")
    return tuple(languages)


def _positions(store: StoreReader, ids: Sequence[str]) -> npt.NDArray[np.int64]:
    found = store.find(ids)
    if found.min() >= 0:
        return found
    missing = ids[int(found.argmin())]
    try:
        return store.positions([missing])
    except QueryError as error:
        raise QueryError(f"{error}{closest(missing, store.items['id'])}") from None


def _checked(rows: object, layer: str, count: int | None, width: int) -> torch.Tensor:
    """Floating [queries, width] of what a caller gave as vectors."""
    tensor = _as_tensor(rows, layer)
    if not tensor.numel() and tensor.ndim in (1, 2):
        raise QueryError(
            f"vectors for layer {layer} have shape {list(tensor.shape)}, no query at all; give one at least"
        )
    if tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim != 2 or tensor.shape[1] != width or (count is not None and len(tensor) != count):
        expected = "queries" if count is None else count
        raise QueryError(
            f"vectors for layer {layer} have shape {list(tensor.shape)}; the store needs [{expected}, {width}]"
        )
    if not torch.isfinite(tensor).all():
        raise NonFiniteError(f"a query vector for layer {layer} holds NaN or infinity; search for finite vectors")
    return tensor


def _with_direction(rows: torch.Tensor, layer: str) -> torch.Tensor:
    """The rows; QueryError for one of zeros, to which every item has the cosine 0."""
    zeros = (~rows.any(1)).nonzero()[:, 0].tolist()
    if zeros:
        raise QueryError(
            f"query vector {zeros[0]} for layer {layer} is all zeros: it points nowhere, and no item is nearer to it "
            "than another; leave it out"
        )
    return rows


def _as_tensor(rows: object, layer: str) -> torch.Tensor:
    """Of real numbers, float32 unless they are floating already; QueryError, naming the dtype, for anything else."""
    if not isinstance(rows, torch.Tensor):
        rows = torch.from_numpy(check_array(f"vectors for layer {layer}", rows, error=QueryError))
    tensor = rows.detach().cpu()
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise QueryError(f"vectors for layer {layer} are of {tensor.dtype}; give real numbers, such as float32")
    return tensor if tensor.is_floating_point() else tensor.float()


def _no_rows(count: int) -> npt.NDArray[np.int64]:
    return np.zeros((count, 2), np.int64)
