"""Token ids in, padded batches out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from hubstore.errors import ModelError
from hubstore.models.model import Model

Padding = Literal["right", "left"]


@dataclass(frozen=True)
class Batch:
    """A padded batch on its device.

    Args:
        input_ids: int64 [items, length].
        attention_mask: int64 [items, length]; 1 where a token is.
        position_ids: int64 [items, length], or None to leave positions to the model.
        first: int64 [items]: column of each item's first token.
        last: int64 [items]: column of each item's last token.
        token_rows: int64 [tokens]: rows of the flattened [items x length] that hold tokens, item after item.
        skip: leading special tokens that `first` and `mean` leave out.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor | None
    first: torch.Tensor
    last: torch.Tensor
    token_rows: torch.Tensor
    skip: int

    def inputs(self) -> dict[str, torch.Tensor]:
        """Arguments for the trunk."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.position_ids is not None:
            inputs["position_ids"] = self.position_ids
        return inputs


def tokenize(model: Model, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
    """Token ids of each text with the model's special tokens, and whether it was cut to `max_tokens`.

    Raises:
        ModelError: a text has no token at all.
    """
    # A tokenizer warns of every text beyond the model's context; hubstore counts and reports them itself.
    options: dict[str, Any] = {"padding": False, "return_attention_mask": False, "verbose": False}
    whole = model.tokenizer(list(texts), truncation=False, **options)["input_ids"]
    cut = [len(ids) > max_tokens for ids in whole]
    if any(cut):
        long = [text for text, is_cut in zip(texts, cut, strict=True) if is_cut]
        short = iter(model.tokenizer(long, truncation=True, max_length=max_tokens, **options)["input_ids"])
        whole = [next(short) if is_cut else ids for ids, is_cut in zip(whole, cut, strict=True)]
    for text, ids in zip(texts, whole, strict=True):
        if len(ids) <= model.leading_special:
            raise ModelError(f"the tokenizer makes no token of {text[:80]!r}; leave the item out")
    return whole, cut


def make_batch(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    padding: Padding = "right",
    *,
    explicit_positions: bool = False,
    pin: bool = False,
) -> Batch:
    """Pad token ids to a batch on the model's device.

    Right padding leaves every token's position, and in a causal model every state, as it is without
    padding. Left padding moves tokens, so models with absolute positions must be told them
    (`explicit_positions`); the self-check finds out which models.
    """
    lengths = np.array([len(ids) for ids in token_ids])
    width = int(lengths.max())
    first = np.zeros_like(lengths) if padding == "right" else width - lengths
    columns = np.arange(width)
    mask = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])
    ids = np.full(mask.shape, model.pad_id, np.int64)
    ids[mask] = np.concatenate([np.asarray(part, np.int64) for part in token_ids])
    positions = None
    if explicit_positions and model.takes_position_ids:
        positions = np.clip(mask.cumsum(axis=1) - 1, 0, None)

    def to_device(array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.int64))
        if pin:
            tensor = tensor.pin_memory()
        return tensor.to(model.device, non_blocking=pin)

    return Batch(
        input_ids=to_device(ids),
        attention_mask=to_device(mask),
        position_ids=None if positions is None else to_device(positions),
        first=to_device(first),
        last=to_device(first + lengths - 1),
        token_rows=to_device(np.flatnonzero(mask)),
        skip=model.leading_special,
    )
