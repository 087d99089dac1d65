"""Hooks that pool every block's output on the device: [items, width] leaves it, not [items, tokens, width]."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hubstore.errors import ModelError
from hubstore.forward.batch import Batch, make_batch
from hubstore.forward.packed import packed_attention
from hubstore.forward.pooling import pool_into
from hubstore.models import Model, Restorer, hidden_state, on_calls

States = Mapping[str, torch.Tensor]
"""For each pooling, [layers, rows, width]; rows are items, or tokens under "tokens"."""


class _StopForward(Exception):  # noqa: N818 - no error: what is wanted has been read
    """The deepest layer wanted was reached."""


@dataclass
class _Reading:
    """The forward that is being read.

    Args:
        batch: what it runs.
        rows: for each layer, by pooling [rows, width], where states go.
        left: layers that were not reached yet.
    """

    batch: Batch
    rows: Sequence[Mapping[str, torch.Tensor]]
    left: set[str]


class Capture:
    """Runs a model on batches and hands back the pooled states of the chosen layers.

    A forward ends at the deepest layer wanted; the model's head is not there at all. Layers are counted by the calls
    of blocks, so that a block which several layers share is read at each.

    Args:
        model: the model; it stays as it is.
        layers: layer names in the order wanted: "0" to the number of blocks, "final".
        poolings: any of "last", "mean", "first", "tokens".
        dtype: of the states handed back.
    """

    def __init__(self, model: Model, layers: Sequence[str], poolings: Sequence[str], dtype: torch.dtype) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.poolings = tuple(poolings)
        self.dtype = dtype
        self._deepest = None if "final" in self.layers else max(map(int, self.layers))
        self._restorer: Restorer | None = None
        self._time_first: bool | None = None
        self._numbers = {layer: number for number, layer in enumerate(self.layers)}
        self._reading: _Reading | None = None
        self._restart: Callable[[], None] | None = None

    def isolate_batches(self) -> None:
        """From now on the model is put back as it is now after every batch, for one that changes itself."""
        self._restorer = Restorer(self.model.trunk)

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
        self.capture_into(states, batch)
        return states

    @torch.inference_mode()
    def capture_into(self, states: States, batch: Batch) -> None:
        """Put the states of one batch into `states`, at the batch's places; nothing waits for the device.

        Raises:
            ModelError: a block gives something else than hidden states of the model's width.
        """
        if self.model.joint:
            vectors = self.model.joint[batch.modality](**batch.inputs).to(self.dtype)
            for pooling in self.poolings:
                states[pooling][0].index_copy_(0, batch.item_places, vectors)
            return
        if _is_square(batch) and self._time_first is None:
            self._time_first = _has_time_first(self.model)
        of_layers = zip(*(of_pooling.unbind() for of_pooling in states.values()), strict=True)
        rows = [dict(zip(states, of_layer, strict=True)) for of_layer in of_layers]
        self._reading = _Reading(batch, rows, set(self.layers))
        try:
            with self.hooked() as restart:
                restart()
                forward(self.model, batch)
        except _StopForward:
            pass
        finally:
            left, self._reading = self._reading.left, None
            if self._restorer is not None:
                self._restorer.restore()
        if left:
            raise ModelError(
                f"{self.model.identity['id']} cannot be read: its forward does not call the blocks of layers "
                f"{', '.join(sorted(left))}; leave the layers out, or use another model"
            )

    @contextlib.contextmanager
    def hooked(self) -> Iterator[Callable[[], None]]:
        """Leave the hooks on the model for all batches of this thread meanwhile; else each batch has its own."""
        if self._restart is not None:
            yield self._restart
            return
        trunk = [self.model.trunk] if "final" in self._numbers else []
        in_blocks = on_calls(self.model.blocks, self._before, self._after)
        with in_blocks as restart, on_calls(trunk, _nothing, self._after_trunk):
            self._restart = restart
            try:
                yield restart
            finally:
                self._restart = None

    def _before(self, number: int, module: nn.Module, hidden: Any) -> None:
        if number == 1:
            self._reached("0", hidden)

    def _after(self, number: int, module: nn.Module, output: Any) -> None:
        self._reached(str(number), output)

    def _after_trunk(self, number: int, module: nn.Module, output: Any) -> None:
        self._store("final", output)

    def _reached(self, layer: str, output: Any) -> None:
        if layer in self._numbers:
            self._store(layer, output)
        if int(layer) == self._deepest and self._reading is not None:
            raise _StopForward

    def _store(self, layer: str, output: Any) -> None:
        if self._reading is None:  # a forward that nobody reads
            return
        batch, rows = self._reading.batch, self._reading.rows[self._numbers[layer]]
        self._reading.left.discard(layer)
        pool_into(rows, self._arranged(layer, output, batch), batch)

    def _arranged(self, layer: str, output: Any, batch: Batch) -> torch.Tensor:
        """[items, tokens, width]: what blocks have padded inside is left out, and time goes second."""
        hidden = hidden_state(output)
        model = self.model
        if not isinstance(hidden, torch.Tensor) or hidden.ndim != 3 or hidden.shape[-1] != model.width:
            what = f"shape {tuple(hidden.shape)}" if isinstance(hidden, torch.Tensor) else type(hidden).__name__
            raise ModelError(
                f"{model.identity['id']} cannot be read: its state at layer {layer} is of {what}, where hubstore reads "
                f"[items, tokens, {model.width}]; leave the layer out, or use a model whose residual stream is one "
                "such state"
            )
        ids = batch.inputs.get("input_ids") if batch.modality == "text" else None
        if ids is None or (layer == "final" and hidden.shape[:2] == ids.shape):
            return hidden
        items, tokens = ids.shape
        square = items == tokens > 1
        if hidden.shape[:2] == (tokens, items) and (self._time_first if square else items != tokens):
            return hidden.transpose(0, 1)
        if len(hidden) == items and hidden.shape[1] >= tokens:
            return hidden[:, :tokens]
        raise ModelError(
            f"{model.identity['id']} cannot be read: its state at layer {layer} has {tuple(hidden.shape[:2])} items "
            f"and tokens where the batch has {(items, tokens)}; leave the layer out, or use a model that gives every "
            "token a state in every block"
        )


def _is_square(batch: Batch) -> bool:
    ids = batch.inputs.get("input_ids") if batch.modality == "text" else None
    return ids is not None and ids.shape[0] == ids.shape[1] > 1


def _has_time_first(model: Model) -> bool:
    """Whether blocks read [tokens, items, width], as XLNet's do: seen on two tokens of one item."""
    seen: list[torch.Size] = []

    def before(number: int, module: nn.Module, hidden: Any) -> None:
        seen.append(hidden.shape)
        raise _StopForward

    batch = make_batch(model, [[model.pad_id] * 2])
    with contextlib.suppress(_StopForward), on_calls(model.blocks, before, _nothing):
        forward(model, batch)
    return seen[0][:2] == (batch.inputs["input_ids"].shape[1], 1)


def _nothing(number: int, module: nn.Module, hidden: Any) -> None:
    """Before a module whose output alone is wanted."""


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
