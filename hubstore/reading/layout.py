"""Token ids into the arrays of a batch, padded or packed end to end: one piece of memory that goes to the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hubstore.reading.batching import Batching, Padding
from hubstore.reading.texts import Added, positions_of

Integers = npt.NDArray[np.int64]

ROUNDED: Final = 64
"""A packed batch that is not full has a multiple of this many tokens."""


@dataclass(frozen=True)
class TextLayout:
    """What the arrays of a batch of texts depend on of a model.

    Args:
        pad_id: a token to pad with.
        added: the special tokens around every text.
        bos_id: the token that a causal model's sequences begin with; None where there is none.
        causal: whether special tokens before a text are no tokens of the text.
        fixed_tokens: the length that every text is padded to; None for that of the longest.
        unmasked: whether a batch that is padded to the right needs no mask.
        takes_positions: whether the model can be told its tokens' positions.
    """

    pad_id: int
    added: Added
    bos_id: int | None
    causal: bool
    fixed_tokens: int | None
    unmasked: bool
    takes_positions: bool

    def leading(self, ids: npt.NDArray[np.integer[Any]], bounds: Integers) -> Integers:
        """int64 [items]: special tokens before the text of a causal model (its BOS), of one state in every item."""
        if not self.causal:
            return np.zeros(len(bounds) - 1, np.int64)
        return self.added.leading(ids, bounds, self.bos_id)


@dataclass(frozen=True)
class TextItems:
    """The items of a batch of texts.

    Args:
        ids: [tokens], item after item.
        lengths: [items], in tokens.
        places: int64 [items], where their pooled rows go; None for their own order.
        token_starts: int64 [items], where the rows of their tokens begin; None for their own order.
    """

    ids: npt.NDArray[np.integer[Any]]
    lengths: npt.NDArray[np.integer[Any]]
    places: Integers | None = None
    token_starts: Integers | None = None

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[int]]) -> TextItems:
        """Of the ids of each item."""
        lengths = np.fromiter(map(len, token_ids), np.int64, len(token_ids))
        return cls(np.concatenate([np.asarray(ids, np.int64) for ids in token_ids]), lengths)

    def part(self, chosen: Integers) -> TextItems:
        """Some of the items, bound for the same places."""
        bounds = np.concatenate([[0], np.cumsum(self.lengths)])
        return TextItems(
            self.ids[positions_of(bounds[chosen], self.lengths[chosen])],
            self.lengths[chosen],
            np.arange(len(self.lengths))[chosen] if self.places is None else self.places[chosen],
            bounds[chosen] if self.token_starts is None else self.token_starts[chosen],
        )


@dataclass(frozen=True)
class TextArrays:
    """A batch of texts in host memory.

    Args:
        buffer: int64, all of its arrays end to end.
        shapes: of each array, by its name.
        lengths: int64, of the items, and where packed of the fillers behind them.
        items: how many items there are.
        packed: whether the items lie end to end.
        padded_tokens: tokens that the model reads, padding and fillers included.
    """

    buffer: Integers
    shapes: Mapping[str, tuple[int, ...]]
    lengths: Integers
    items: int
    packed: bool
    padded_tokens: int

    @property
    def arrays(self) -> dict[str, Integers]:
        """The arrays by name, each a part of the buffer."""
        arrays, start = {}, 0
        for name, shape in self.shapes.items():
            size = shape[0] * shape[1] if len(shape) == 2 else shape[0]
            arrays[name] = self.buffer[start : start + size].reshape(shape)
            start += size
        return arrays

    def read(self) -> TextItems:
        """The items that it was made of."""
        arrays, lengths = self.arrays, self.lengths[: self.items]
        starts = arrays["token_places"][np.cumsum(lengths) - lengths]
        ids = arrays["input_ids"].reshape(-1)[arrays["token_rows"]]
        return TextItems(ids, lengths, arrays["item_places"], starts)


def lay_out(layout: TextLayout, items: TextItems, batching: Batching, batch_tokens: int) -> TextArrays:
    """A batch as `batching` has it."""
    if batching.kind == "packed":
        return pack_items(layout, items, batch_tokens, first_position=batching.first_position)
    return pad_items(layout, items, batching.padding, explicit_positions=batching.explicit_positions)


def lay_out_batches(
    layout: TextLayout, items: TextItems, counts: Integers, batching: Batching, batch_tokens: int
) -> list[TextArrays]:
    """Several batches: the first of `counts[0]` items, and so on."""
    bounds = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(items.lengths)])
    batches = []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own = TextItems(
            items.ids[tokens[start] : tokens[stop]],
            items.lengths[start:stop],
            None if items.places is None else items.places[start:stop],
            None if items.token_starts is None else items.token_starts[start:stop],
        )
        batches.append(lay_out(layout, own, batching, batch_tokens))
    return batches


def pad_items(
    layout: TextLayout, items: TextItems, padding: Padding, *, explicit_positions: bool = False
) -> TextArrays:
    """Pad items to the longest one's length.

    Right padding leaves every token's position, and in a causal model every state, as it is without
    padding. Left padding moves tokens, so models with absolute positions must be given them
    (`explicit_positions`); the self-check finds out which models.
    """
    lengths = np.asarray(items.lengths, np.int64)
    width = layout.fixed_tokens or int(lengths.max())
    start = np.zeros_like(lengths) if padding == "right" else width - lengths
    columns = np.arange(width)
    mask = (columns >= start[:, None]) & (columns < (start + lengths)[:, None])
    ids = np.full(mask.shape, layout.pad_id, np.int64)
    ids[mask] = items.ids
    arrays: dict[str, Any] = {"input_ids": ids}
    if not (padding == "right" and layout.unmasked) and layout.fixed_tokens is None:
        arrays["attention_mask"] = mask.astype(np.int64)
    if explicit_positions and layout.takes_positions:
        arrays["position_ids"] = np.clip(mask.cumsum(axis=1) - 1, 0, None)
    begin = np.arange(len(lengths)) * width + start
    first = begin + layout.leading(items.ids, np.concatenate([[0], np.cumsum(lengths)]))
    arrays |= {"first": first, "last": begin + lengths - 1, "token_rows": np.flatnonzero(mask)}
    return _text_arrays(arrays, items, lengths, ids.size, packed=False)


def pack_items(
    layout: TextLayout, items: TextItems, batch_tokens: int = 0, *, first_position: int = 0, full: bool = False
) -> TextArrays:
    """Lay items end to end.

    A batch that is nearly full (or any, where `full`) is filled up to `batch_tokens` tokens, so that compiled
    blocks see one shape; another to a multiple of `ROUNDED`. Fillers are items of padding that nothing is pooled
    from, none longer than the longest item: attention costs the square of the length.
    """
    count, tokens, longest = len(items.lengths), int(items.lengths.sum()), int(items.lengths.max())
    full = full or 8 * tokens >= 7 * batch_tokens
    total = batch_tokens if full and tokens <= batch_tokens else -(-tokens // ROUNDED) * ROUNDED
    fillers = [longest] * ((total - tokens) // longest) + [(total - tokens) % longest]
    every = np.concatenate([items.lengths, [*filter(None, fillers)]]).astype(np.int64)
    bounds = np.concatenate([[0], every.cumsum()])
    ids = np.full((1, total), layout.pad_id, np.int64)
    ids[0, :tokens] = items.ids
    positions = np.arange(total) - np.repeat(bounds[:-1], every) + first_position
    arrays = {
        "input_ids": ids,
        "position_ids": positions[None],
        "first": bounds[:count] + layout.leading(items.ids, bounds[: count + 1]),
        "last": bounds[1 : count + 1] - 1,
        "token_rows": np.arange(tokens),
        "bounds": bounds,
    }
    return _text_arrays(arrays, items, every, total, packed=True)


def _text_arrays(
    arrays: dict[str, Any], items: TextItems, lengths: Integers, padded_tokens: int, *, packed: bool
) -> TextArrays:
    """The arrays of a batch and the places that its rows are bound for, in one buffer."""
    count, tokens = len(items.lengths), len(arrays["token_rows"])
    arrays["item_places"] = np.arange(count) if items.places is None else items.places
    starts = items.token_starts
    arrays["token_places"] = np.arange(tokens) if starts is None else positions_of(starts, items.lengths)
    buffer = np.concatenate([array.reshape(-1) for array in arrays.values()]).astype(np.int64, copy=False)
    shapes = {name: array.shape for name, array in arrays.items()}
    return TextArrays(buffer, shapes, lengths, count, packed, padded_tokens)
