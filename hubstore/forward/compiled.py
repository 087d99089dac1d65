"""Compiled blocks: one compilation, for full packed batches; any other batch goes through the blocks as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

from hubstore.models import Model

COMPILE_FROM = 5e16
"""Tokens x parameters from which compiling pays: below, a GPU is done before the compiler has saved what it took."""

RECORDERS = "transformers.utils.output_capturing"


@contextlib.contextmanager
def compiled_blocks(model: Model, batch_tokens: int) -> Iterator[None]:
    """Packed batches of `batch_tokens` tokens go through compiled blocks while this lasts.

    Only what is inside a block is compiled: hooks on blocks see its output as ever. All blocks are of one
    class and see one shape, so the first one's code serves the rest.
    """
    blocks = list(dict.fromkeys(model.blocks))  # one may be shared by several layers
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _switched(block.forward, batch_tokens)
    try:
        with _without_recorders(model.blocks):
            yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward  # the class's own shows again
            if forward is not None:
                block.forward = forward


@contextlib.contextmanager
def _without_recorders(blocks: nn.ModuleList) -> Iterator[None]:
    """Take away the hooks that transformers leaves inside blocks once it was asked for its own hidden states.

    They record nothing now, but the compiler cannot see through them, and would compile a block in pieces.
    """
    inside = (module for block in blocks for module in block.modules() if module is not block)
    taken = [
        (module._forward_hooks, key, hook)
        for module in inside
        for key, hook in module._forward_hooks.items()
        if hook.__module__ == RECORDERS
    ]
    for hooks, key, _ in taken:
        del hooks[key]
    try:
        yield
    finally:
        for hooks, key, hook in taken:
            hooks[key] = hook


def _switched(eager: Callable[..., Any], batch_tokens: int) -> Callable[..., Any]:
    compiled = torch.compile(eager, dynamic=False)

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        full = hidden_states.shape[:2] == (1, batch_tokens)
        return (compiled if full else eager)(hidden_states, *args, **kwargs)

    return forward


BATCH_WORK: Final = 4e12
"""Tokens x parameters of the blocks, of a packed batch: a GPU takes some 20 ms, and launching less."""

LEAST_TOKENS, MOST_TOKENS = 8192, 65536


def packed_tokens(blocks: nn.ModuleList) -> int:
    """Tokens of a packed batch that suit a model's size: a power of two, the same on every machine."""
    fitting = int(BATCH_WORK / max(block_parameters(blocks), 1))
    return min(MOST_TOKENS, max(LEAST_TOKENS, 1 << (fitting.bit_length() - 1) if fitting else 0))


def block_parameters(blocks: nn.ModuleList) -> int:
    """Parameters of all blocks: what every token is multiplied with."""
    return sum(parameter.numel() for parameter in blocks.parameters())
