"""Token ids in, padded or packed batches out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import ModelError
from hubstore.forward.packed import Packing
from hubstore.media.shortcuts import PIXELS, DeferredNormalization
from hubstore.store.records import of_known_fields

if TYPE_CHECKING:
    from hubstore.models.model import Model

Padding = Literal["right", "left"]
BatchKind = Literal["packed", "padded", "same_shape", "single"]
Integers = npt.NDArray[np.int64]

DEPRECATED_KINDS: Mapping[str, BatchKind] = {"alike": "same_shape"}
"""Kinds of batches as stores of the release before spell them: deprecated."""

ROW_FIELDS = ("first", "last", "token_rows", "item_places", "token_places")
"""The arrays of a batch that say where its items are; all others are the model's arguments."""

ROUNDED = 64
"""A packed batch that is not full has a multiple of this many tokens."""


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
        kind = DEPRECATED_KINDS.get(data["kind"], data["kind"])
        values = {**data, "kind": kind, "borders": tuple(data.get("borders", ()))}
        return of_known_fields(cls, values, "batches of")


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
    """

    arrays: Mapping[str, Integers]
    lengths: tuple[int, ...] | None
    padded_tokens: int
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    modality: str = "text"
    normalization: DeferredNormalization | None = None
    part: Callable[[Integers], HostBatch] = _whole_only

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
        return replace(self, arrays={**self.arrays, "item_places": items, "token_places": tokens})

    def to(self, device: torch.device, staging: torch.Tensor | None = None) -> Batch:
        """Send it to `device`.

        Args:
            device: where the model is.
            staging: pinned int64 memory to send it through, without waiting; it must stay as it is until then.
        """
        held = torch.empty(self.elements, dtype=torch.int64) if staging is None else staging[: self.elements]
        np.concatenate([array.reshape(-1) for array in self.arrays.values()], out=held.numpy())
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
    texts = model.added.without(texts)
    # A tokenizer warns of every text beyond the model's context; hubstore counts and reports them itself.
    options: dict[str, Any] = {"padding": False, "return_attention_mask": False, "verbose": False}
    whole = model.tokenizer(texts, truncation=False, **options)["input_ids"]
    cut = [len(ids) > max_tokens for ids in whole]
    if any(cut):
        long = [text for text, is_cut in zip(texts, cut, strict=True) if is_cut]
        short = iter(model.tokenizer(long, truncation=True, max_length=max_tokens, **options)["input_ids"])
        whole = [next(short) if is_cut else ids for ids, is_cut in zip(whole, cut, strict=True)]
    fewest, beyond = max(len(model.added.before), 1), model.has_tokens_beyond
    for number, ids in enumerate(whole):
        if len(ids) > fewest and not beyond:
            continue
        problem = _problem(model, texts[number], ids)
        if problem is None:
            continue
        if problems is None:
            raise ModelError(problem)
        problems[number], whole[number] = problem, []
    return whole, cut


def _problem(model: Model, text: str, ids: Sequence[int]) -> str | None:
    """Why a model cannot read a text of these ids."""
    if len(ids) <= model.leading_special([ids])[0]:
        return f"the tokenizer makes no token of {text[:80]!r}; leave the item out"
    if model.has_tokens_beyond and max(ids) >= (model.rows or 0):
        token = model.tokenizer.convert_ids_to_tokens(max(ids))
        return (
            f"{text[:80]!r} holds the token {token!r} ({max(ids)}), beyond the {model.rows:,} embeddings of "
            f"{model.identity['id']}; leave the item out"
        )
    return None


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
    if batching.kind == "packed":
        return pack(model, token_ids, batch_tokens, first_position=batching.first_position)
    return pad(model, token_ids, batching.padding, explicit_positions=batching.explicit_positions)


def pad(
    model: Model, token_ids: Sequence[Sequence[int]], padding: Padding = "right", *, explicit_positions: bool = False
) -> HostBatch:
    """Pad token ids to the longest item's length.

    Right padding leaves every token's position, and in a causal model every state, as it is without
    padding. Left padding moves tokens, so models with absolute positions must be given them
    (`explicit_positions`); the self-check finds out which models.
    """
    lengths = np.array([len(ids) for ids in token_ids], np.int64)
    width = model.fixed_tokens or int(lengths.max())
    start = np.zeros_like(lengths) if padding == "right" else width - lengths
    columns = np.arange(width)
    mask = (columns >= start[:, None]) & (columns < (start + lengths)[:, None])
    ids = np.full(mask.shape, model.pad_id, np.int64)
    ids[mask] = _joined(token_ids)
    arrays: dict[str, Any] = {"input_ids": ids}
    # In a causal model no token sees padding to its right. Without a mask a GPU takes its fastest attention.
    unmasked = padding == "right" and model.kind == "causal" and model.device.type == "cuda"
    if not unmasked and model.fixed_tokens is None:
        arrays["attention_mask"] = mask.astype(np.int64)
    if explicit_positions and model.takes_position_ids:
        arrays["position_ids"] = np.clip(mask.cumsum(axis=1) - 1, 0, None)
    begin = np.arange(len(lengths)) * width + start
    first = begin + model.leading_special(token_ids)
    arrays |= {"first": first, "last": begin + lengths - 1, "token_rows": np.flatnonzero(mask)}
    return HostBatch(placed_in_order(arrays), None, ids.size)


def pack(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    batch_tokens: int = 0,
    *,
    first_position: int = 0,
    full: bool = False,
) -> HostBatch:
    """Lay items end to end.

    A batch that is nearly full (or any, where `full`) is filled up to `batch_tokens` tokens, so that compiled
    blocks see one shape; another to a multiple of `ROUNDED`. Fillers are items of padding that nothing is pooled
    from, none longer than the longest item: attention costs the square of the length.
    """
    lengths = [len(ids) for ids in token_ids]
    tokens = sum(lengths)
    full = full or 8 * tokens >= 7 * batch_tokens
    total = batch_tokens if full and tokens <= batch_tokens else -(-tokens // ROUNDED) * ROUNDED
    longest = max(lengths)
    fillers = [longest] * ((total - tokens) // longest) + [(total - tokens) % longest]
    every = np.array([*lengths, *filter(None, fillers)], np.int64)
    bounds = np.concatenate([[0], every.cumsum()])
    ids = np.full((1, total), model.pad_id, np.int64)
    ids[0, :tokens] = _joined(token_ids)
    positions = np.arange(total) - np.repeat(bounds[:-1], every) + first_position
    arrays = {
        "input_ids": ids,
        "position_ids": positions[None],
        "first": bounds[: len(lengths)] + model.leading_special(token_ids),
        "last": bounds[1 : len(lengths) + 1] - 1,
        "token_rows": np.arange(tokens),
        "bounds": bounds,
    }
    return HostBatch(placed_in_order(arrays), tuple(every.tolist()), ids.size)


def _joined(token_ids: Sequence[Sequence[int]]) -> Integers:
    return np.concatenate([np.asarray(ids, np.int64) for ids in token_ids])


def placed_in_order(arrays: dict[str, Any]) -> dict[str, Integers]:
    """The arrays of a batch, its rows bound for places in the batch's own order."""
    items, tokens = len(arrays["last"]), len(arrays["token_rows"])
    return {**arrays, "item_places": np.arange(items), "token_places": np.arange(tokens)}
