"""Attention over packed batches: items laid end to end without padding, none of which sees another.

transformers' models call it through their attention interface, under the name `PACKED`. It is one operation
of torch (`hubstore::packed_attention`), opaque to the compiler: item bounds reach it beside the model, so that a
compiled block is the same for every batch of as many tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from hubstore.errors import ModelError

PACKED = "hubstore_packed"

REFUSED = ("softcap", "s_aux", "position_bias", "head_mask", "block_mask")
"""What some models' attention takes beyond queries, keys and values, and packed attention does not."""


@dataclass(frozen=True)
class Packing:
    """Where the items of a packed batch lie.

    Args:
        bounds: int32 [items + 1] on the device: where each item starts, and the end.
        lengths: the items' lengths, on the host: what the plain path goes by.
        windows: sliding windows that attention was asked for, as seen so far.
    """

    bounds: torch.Tensor
    lengths: tuple[int, ...]
    windows: set[int] = field(default_factory=set)

    @cached_property
    def longest(self) -> int:
        """The longest item's length."""
        return max(self.lengths)


_current: ContextVar[Packing] = ContextVar("packing")


@contextlib.contextmanager
def packed_attention(trunk: Any, packing: Packing) -> Iterator[None]:
    """The trunk attends within the items of `packing` while this lasts."""
    config = trunk.config
    before = config._attn_implementation
    config._attn_implementation = PACKED
    token = _current.set(packing)
    try:
        yield
    finally:
        _current.reset(token)
        config._attn_implementation = before


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' interface has it, on one packed batch.

    Args:
        module: the attention module; its `is_causal` says whether later tokens are seen.
        query: [1, heads, tokens, head width].
        key: [1, key heads, tokens, head width].
        value: [1, key heads, tokens, head width].
        attention_mask: must be None; the bounds of the items are the mask.
        scaling: of the scores; None for 1 / sqrt(head width).
        sliding_window: a token sees those fewer than this away.
        is_causal: in the place of the module's.
        options: others of the interface; those that would change the states are refused.

    Returns:
        [1, tokens, heads, head width], and None for the weights.

    Raises:
        ModelError: the model's attention needs more than this.
    """
    needs = [name for name in REFUSED if options.get(name) is not None]
    if attention_mask is not None:
        needs.append("attention_mask")
    if needs:
        raise ModelError(f"{type(module).__name__} needs {', '.join(needs)}, which packed attention does not take")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    out = torch.ops.hubstore.packed_attention(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        bool(causal),
        int(sliding_window or 0),
    )
    return out[None], None


def _packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool, window: int
) -> torch.Tensor:
    """[tokens, heads, head width] of each; window 0 is none."""
    packing = _current.get()
    if window:
        packing.windows.add(window)
        if window >= packing.longest:
            window = 0
    if _flash_takes(query, value):
        return _flash(query, key, value, packing, scale, causal, window).contiguous()
    return plain_packed_attention(query, key, value, packing.lengths, scale, causal, window)


def plain_packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scale: float,
    causal: bool,
    window: int,
) -> torch.Tensor:
    """One scaled_dot_product_attention for every run of items of one length: the reference, and the CPU's way."""
    parts = []
    start = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        stop = start + count * length
        q, k, v = (
            whole[start:stop].reshape(count, length, *whole.shape[1:]).transpose(1, 2)  # [items, heads, length, width]
            for whole in (query, key, value)
        )
        mask = _window_mask(length, window, causal, query.device) if window else None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and not window, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(parts)


def _window_mask(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    at = torch.arange(length, device=device)
    away = at[:, None] - at
    return (away >= 0) & (away < window) if causal else away.abs() < window


def _flash_takes(query: torch.Tensor, value: torch.Tensor) -> bool:
    width = query.shape[-1]
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and width == value.shape[-1] and width % 8 == 0 and width <= 256


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scale: float,
    causal: bool,
    window: int,
) -> torch.Tensor:
    """torch's own FlashAttention; what `torch.nn.attention.varlen` calls, whose signature moves with every version."""
    left = window - 1 if window else -1
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        packing.bounds,
        packing.bounds,
        packing.longest,
        packing.longest,
        0.0,
        causal,
        False,
        scale=scale,
        window_size_left=left if left >= 0 else None,
        window_size_right=(0 if causal else left) if left >= 0 else None,
    )[0]
    return out


def _like(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool, window: int
) -> torch.Tensor:
    """What the compiler knows of the operation: its shape."""
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


_library = torch.library.Library("hubstore", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "packed_attention(Tensor query, Tensor key, Tensor value, float scale, bool causal, int window) -> Tensor"
)
_library.impl("packed_attention", _packed_attention, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("hubstore::packed_attention", _like, lib=_library)
AttentionInterface.register(PACKED, attend)
