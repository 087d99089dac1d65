"""Part of a forward pass: the blocks below a layer, or only those above it from states that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hubstore.models import Model


@dataclass(frozen=True)
class Reached:
    """Where a forward pass was ended.

    Args:
        states: [rows, length, width], at the layer.
        extras: what blocks of this model return extras their states; None where they return the states alone.
    """

    states: Tensor
    extras: tuple[Any, ...] | None


class _Stopped(Exception):  # noqa: N818 - no error: it carries what was reached out of the forward pass
    def __init__(self, reached: Reached) -> None:
        self.reached = reached


@torch.inference_mode()
def run_to(model: Model, layer: int, inputs: Mapping[str, Any]) -> Reached:
    """Run the blocks up to `layer`, and none above.

    Args:
        model: the model.
        layer: 0 is the embedding output, i the output of block i.
        inputs: of the trunk; a cache among them keeps keys and values of the blocks that ran.
    """

    def before_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Stopped(Reached(args[0] if args else kwargs["hidden_states"], None))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Stopped(Reached(output[0], output[1:]) if isinstance(output, tuple) else Reached(output, None))

    if layer:
        handle = model.blocks[layer - 1].register_forward_hook(after)
    else:
        handle = model.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)
    try:
        model.trunk(**inputs)
    except _Stopped as stopped:
        return stopped.reached
    finally:
        handle.remove()
    raise AssertionError("a trunk runs all its blocks")


@contextmanager
def resumed_at(model: Model, layer: int, reached: Reached) -> Iterator[None]:
    """Within it the blocks up to `layer`, which is 1 at least, do nothing but hand on the states reached there."""
    output = reached.states if reached.extras is None else (reached.states, *reached.extras)
    below = list(model.blocks)[:layer]
    replaced = [vars(block).get("forward") for block in below]
    for block in below:
        block.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for block, forward in zip(below, replaced, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward
