"""Token ids in, padded or packed batches out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hubstore.errors import ModelError
from hubstore.forward.packed import Packing
from hubstore.media.shortcuts import PIXELS, DeferredNormalization
from hubstore.reading.batching import Batching, Padding
from hubstore.reading.layout import Integers, TextArrays, TextItems, lay_out, pack_items, pad_items

if TYPE_CHECKING:
    from hubstore.models.model import Model

ROW_FIELDS = ("first", "last", "token_rows", "item_places", "token_places")
"""The arrays of a batch that say where its items are; all others are the model's arguments."""


@dataclass(frozen=True)
class Spans:
    """Some of the tokens of every item of a batch.

    Args:
        rows: int64 [tokens]: their rows, item after item.
        bounds: int64 [items + 1]: where each item's begin among `rows`, and the end.
    """

    rows: torch.Tensor
    bounds: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """A batch on its device. Rows are those of the flattened [items x length], or of the packed tokens.

    Args:
        inputs: the model's arguments. Of texts: "input_ids", int64 [items, length], packed [1, tokens];
            "attention_mask", 1 where a token is, unless nothing must be masked; "position_ids", where the model is
            told them. Of images and audio: what their processor made.
        first: int64 [items]: row of each item's first token after the special ones that a causal model begins with.
        last: int64 [items]: row of each item's last token.
        token_rows: int64 [tokens]: rows that hold tokens, item after item.
        item_places: int64 [items]: where the items' pooled rows go.
        token_places: int64 [tokens]: where the tokens' rows go.
        packing: where the items lie in a packed batch; None for a padded one.
        modality: of all its items.
        media: the tokens of each image or audio clip; None in a batch of texts.
        text: the tokens beside them; None in a batch of texts, and where there are none.
    """

    inputs: Mapping[str, torch.Tensor]
    first: torch.Tensor
    last: torch.Tensor
    token_rows: torch.Tensor
    item_places: torch.Tensor
    token_places: torch.Tensor
    packing: Packing | None = None
    modality: str = "text"
    media: Spans | None = None
    text: Spans | None = None

    @cached_property
    def stops(self) -> torch.Tensor:
        """int64 [items]: the row after each item's last token."""
        return self.last + 1

    def spans_of(self, pooling: str) -> Spans | None:
        """The tokens that "media" or "text" pools; None where that is the mean over all, and for other poolings."""
        return {"media": self.media, "text": self.text}.get(pooling)

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """All that it holds on its device."""
        yield from self.inputs.values()
        yield from (getattr(self, name) for name in ROW_FIELDS)
        for spans in (self.media, self.text):
            if spans is not None:
                yield from (spans.rows, spans.bounds)
        if self.packing is not None:
            yield self.packing.bounds


def _whole_only(members: Integers) -> HostBatch:
    raise AssertionError("made without a way to make a part of it")


@dataclass(frozen=True)
class HostBatch:
    """A batch in host memory, to be sent to the device in one copy.

    Args:
        arrays: int64, by the names of `Batch`'s fields and inputs; of a packed batch also its "bounds", of spans
            "media.rows" and so on.
        lengths: of a packed batch, its items' and fillers'; else None.
        padded_tokens: tokens that the model reads, padding and fillers included.
        tensors: the inputs of images and audio, which go to the device each by itself.
        modality: of all its items.
        normalization: of pixels that are sent as bytes; None where they are sent normalized.
        part: makes the batch of some of its items, for where memory does not suffice for all; bound for the same
            places.
        buffer: the arrays end to end, where they lie so.
    """

    arrays: Mapping[str, Integers]
    lengths: tuple[int, ...] | None
    padded_tokens: int
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    modality: str = "text"
    normalization: DeferredNormalization | None = None
    part: Callable[[Integers], HostBatch] = _whole_only
    buffer: Integers | None = None

    @property
    def items(self) -> int:
        """Items in it, fillers left out."""
        return len(self.arrays["last"])

    @property
    def tokens(self) -> int:
        """Tokens of its items."""
        return len(self.arrays["token_rows"])

    @property
    def elements(self) -> int:
        """Numbers in its arrays, of 8 bytes."""
        return sum(array.size for array in self.arrays.values())

    def placed(self, items: Integers, tokens: Integers) -> HostBatch:
        """The same batch, its pooled rows bound for these places."""
        arrays = {**self.arrays, "item_places": items, "token_places": tokens}
        return replace(self, arrays=arrays, buffer=None)

    def to(self, device: torch.device, staging: torch.Tensor | None = None) -> Batch:
        """Send it to `device`.

        Args:
            device: where the model is.
            staging: pinned int64 memory to send it through, without waiting; it must stay as it is until then.
        """
        held = torch.empty(self.elements, dtype=torch.int64) if staging is None else staging[: self.elements]
        if self.buffer is None:
            np.concatenate([array.reshape(-1) for array in self.arrays.values()], out=held.numpy())
        else:
            held.copy_(torch.from_numpy(self.buffer))
        sent = held.to(device, non_blocking=staging is not None)
        parts: dict[str, torch.Tensor] = {}
        start = 0
        for name, array in self.arrays.items():
            parts[name] = sent[start : start + array.size].view(array.shape)
            start += array.size
        bounds = parts.pop("bounds", None)
        packing = None
        if bounds is not None and self.lengths is not None:
            packing = Packing(bounds.to(torch.int32), self.lengths)
        spans = {
            name: Spans(parts.pop(f"{name}.rows"), parts.pop(f"{name}.bounds"))
            for name in ("media", "text")
            if f"{name}.rows" in parts
        }
        fields = {name: parts.pop(name) for name in ROW_FIELDS}
        inputs = {**parts, **{name: _sent(tensor, device) for name, tensor in self.tensors.items()}}
        if self.normalization is not None and PIXELS in inputs:
            inputs[PIXELS] = self.normalization.finish(inputs[PIXELS])
        return Batch(
            inputs,
            **fields,  # the names are ROW_FIELDS
            packing=packing,
            modality=self.modality,
            media=spans.get("media"),
            text=spans.get("text"),
        )


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on its device; through pinned memory, which torch keeps for the next, so that nothing waits."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def tokenize(
    model: Model, texts: Sequence[str], max_tokens: int, *, problems: dict[int, str] | None = None
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of each text with the model's special tokens, and whether it was cut to `max_tokens`.

    A text or template that begins or ends with the special tokens that the tokenizer adds has them once. Others are
    tokens like any.

    Args:
        model: whose tokenizer it is.
        texts: one or more.
        max_tokens: of a text.
        problems: takes what is wrong with texts that the model cannot read, by their places; they have no ids then.

    Raises:
        ModelError: a text has no token at all, or one that the model has no embedding for, and `problems` is None.
    """
    read = model.text_reader(max_tokens).read(texts)
    if problems is None and read.problems:
        raise ModelError(next(iter(read.problems.values())))
    if problems is not None:
        problems.update(read.problems)
    return [ids.tolist() for ids in read.split()], read.cut.tolist()


def make_batch(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    padding: Padding = "right",
    *,
    explicit_positions: bool = False,
) -> Batch:
    """A padded batch on the model's device; see `pad`."""
    return pad(model, token_ids, padding, explicit_positions=explicit_positions).to(model.device)


def collate(model: Model, token_ids: Sequence[Sequence[int]], batching: Batching, batch_tokens: int) -> HostBatch:
    """A batch as `batching` has it."""
    return host_batch(lay_out(model.text_layout, TextItems.of(token_ids), batching, batch_tokens))


def pad(
    model: Model, token_ids: Sequence[Sequence[int]], padding: Padding = "right", *, explicit_positions: bool = False
) -> HostBatch:
    """Token ids padded to the longest item's length; see `hubstore.reading.layout.pad_items`."""
    items = TextItems.of(token_ids)
    return host_batch(pad_items(model.text_layout, items, padding, explicit_positions=explicit_positions))


def pack(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    batch_tokens: int = 0,
    *,
    first_position: int = 0,
    full: bool = False,
) -> HostBatch:
    """Items end to end; see `hubstore.reading.layout.pack_items`."""
    items = TextItems.of(token_ids)
    return host_batch(pack_items(model.text_layout, items, batch_tokens, first_position=first_position, full=full))


def host_batch(laid: TextArrays, part: Callable[[TextItems], TextArrays] | None = None) -> HostBatch:
    """A batch of texts whose arrays are made; `part` makes those of some of its items."""

    def part_of(chosen: Integers) -> HostBatch:
        assert part is not None, "made without a way to make a part of it"
        return host_batch(part(laid.read().part(chosen)), part)

    lengths = tuple(laid.lengths.tolist()) if laid.packed else None
    return HostBatch(laid.arrays, lengths, laid.padded_tokens, part=part_of, buffer=laid.buffer)


def placed_in_order(arrays: dict[str, Any]) -> dict[str, Integers]:
    """The arrays of a batch, its rows bound for places in the batch's own order."""
    items, tokens = len(arrays["last"]), len(arrays["token_rows"])
    return {**arrays, "item_places": np.arange(items), "token_places": np.arange(tokens)}
