"""Hooks that pool every block's output on the device: [items, width] leaves it, not [items, tokens, width]."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from hubstore.errors import ModelError
from hubstore.extraction.pooling import pool
from hubstore.models import Batch, Model, packed_attention

States = Mapping[str, torch.Tensor]
"""For each pooling, [layers, rows, width]; rows are items, or tokens under "tokens"."""


class Capture:
    """Runs a model on batches and hands back the pooled states of the chosen layers.

    The model is cut above the deepest layer asked for; its head is not there at all.

    Args:
        model: the model. Its trunk keeps only the blocks that are needed.
        layers: layer names in the order wanted: "0" to the number of blocks, "final".
        poolings: any of "last", "mean", "first", "tokens".
        dtype: of the states handed back.

    Raises:
        ModelError: an earlier capture of layers further down cut the model below what is asked for now.
    """

    def __init__(self, model: Model, layers: Sequence[str], poolings: Sequence[str], dtype: torch.dtype) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.poolings = tuple(poolings)
        self.dtype = dtype
        if model.joint:
            return
        deepest = model.depth if "final" in self.layers else max(int(layer) for layer in self.layers)
        if deepest > len(model.blocks):
            raise ModelError(
                f"{model.identity['id']} was cut to {len(model.blocks)} of its {model.depth} blocks, since no layer "
                f"above them was asked for before; load it again to read block {deepest}"
            )
        if "final" not in self.layers:
            del model.blocks[max(deepest, 1) :]

    def run(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The states of one batch on the model's device: for each pooling [layers, rows, width] in `dtype`."""
        items, tokens = len(batch.last), len(batch.token_rows)
        states = {
            pooling: torch.empty(
                (len(self.layers), tokens if pooling == "tokens" else items, self.model.width),
                dtype=self.dtype,
                device=self.model.device,
            )
            for pooling in self.poolings
        }
        self.run_into(states, batch)
        return states

    @torch.inference_mode()
    def run_into(self, states: States, batch: Batch) -> None:
        """Put the states of one batch into `states`, at the batch's places; nothing waits for the device."""

        if self.model.joint:
            vectors = self.model.joint[batch.modality](**batch.inputs).to(self.dtype)
            for pooling in self.poolings:
                states[pooling][0].index_copy_(0, batch.item_places, vectors)
            return

        def keep(layer: str, hidden: torch.Tensor) -> None:
            for pooling in self.poolings:
                places = batch.token_places if pooling == "tokens" else batch.item_places
                pooled = pool(hidden, batch, pooling).to(self.dtype)
                states[pooling][self.layers.index(layer)].index_copy_(0, places, pooled)

        with self._hooks(keep):
            forward(self.model, batch)

    @contextlib.contextmanager
    def _hooks(self, keep: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
        def before_first(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep("0", args[0] if args else kwargs["hidden_states"])

        def after(layer: str) -> Callable[[torch.nn.Module, tuple[Any, ...], Any], None]:
            def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
                keep(layer, output[0] if isinstance(output, tuple) else output)

            return hook

        def after_trunk(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
            keep("final", output.last_hidden_state)

        blocks = self.model.blocks
        handles = []
        if "0" in self.layers:
            handles.append(blocks[0].register_forward_pre_hook(before_first, with_kwargs=True))
        for number, block in enumerate(blocks, start=1):
            if str(number) in self.layers:
                handles.append(block.register_forward_hook(after(str(number))))
        if "final" in self.layers:
            handles.append(self.model.trunk.register_forward_hook(after_trunk))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def kept_whole(model: Model) -> Iterator[None]:
    """Puts back, at the end, the blocks that captures within it cut off: the model will be asked for other layers."""
    blocks = list(model.blocks)
    try:
        yield
    finally:
        model.blocks.extend(blocks[len(model.blocks) :])


def forward(model: Model, batch: Batch, **options: Any) -> Any:
    """The model on one batch, padded or packed, its head left out; call it in inference mode."""
    if batch.modality != "text":
        return model.adapters[batch.modality].whole(**batch.inputs, **_no_cache(model), **options)
    attention: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if batch.packing is not None:
        attention = packed_attention(model.trunk, batch.packing)
    with attention:
        return model.trunk(**batch.inputs, **_no_cache(model), **options)


def _no_cache(model: Model) -> dict[str, bool]:
    """Causal models would build a key-value cache that nobody reads."""
    return {"use_cache": False} if model.kind == "causal" and getattr(model.trunk.config, "use_cache", False) else {}
