"""Memory that an extraction goes round in: shards being assembled, and batches on their way to the device.

All of it is allocated once. On a GPU a shard is assembled on the device, every pooled row at its place, and
leaves it whole for pinned memory; elsewhere it is assembled where it is written from.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import ModelError, StoreError
from hubstore.forward.batch import Batch, HostBatch
from hubstore.forward.capture import States
from hubstore.models import Model
from hubstore.reading.layout import Integers
from hubstore.store import DTYPES, Layout

SIGNS = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory", "out of memory", "ALLOC_FAILED")
"""Words with which torch, CUDA and its libraries say that memory does not suffice."""

SLOTS = 2
"""Shards in memory: one is assembled while the other is written."""

STAGED = 4
"""Batches whose copy to the device may be on its way."""


@dataclass(frozen=True)
class Slot:
    """Room for one shard's states, flat, by pooling.

    Args:
        assembled: where the model puts pooled rows.
        written: where the shard is written from: pinned memory, or the same as `assembled`.
    """

    assembled: Mapping[str, torch.Tensor]
    written: Mapping[str, torch.Tensor]


class ShardMemory:
    """A few slots, and the way from the device to where shards are written from.

    Args:
        layout: the store's shapes.
        rows: by pooling, rows of the largest shard.
        device: where states are computed.

    Raises:
        StoreError: the device has no room for one slot.
    """

    def __init__(self, layout: Layout, rows: Mapping[str, int], device: torch.device) -> None:
        self._layout = layout
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.free: queue.Queue[Slot] = queue.Queue()
        for number in range(SLOTS):
            try:
                self.free.put(self._slot(rows))
            except torch.cuda.OutOfMemoryError as error:
                if number:  # one slot will do, without overlap
                    break
                held = sum(rows.values()) * len(layout.layers) * layout.width * DTYPES[layout.dtype].itemsize
                raise StoreError(
                    f"{device} has no room beside the model for a shard of {held / 1e9:.1f} GB; make shards smaller "
                    f"(`--memory {held / (1 << 32):.2g}`), or leave out layers or poolings"
                ) from error

    def _slot(self, rows: Mapping[str, int]) -> Slot:
        sizes = {pooling: len(self._layout.layers) * count * self._layout.width for pooling, count in rows.items()}
        dtype = DTYPES[self._layout.dtype]
        assembled = {pooling: torch.empty(size, dtype=dtype, device=self._device) for pooling, size in sizes.items()}
        if self._stream is None:
            return Slot(assembled, assembled)
        return Slot(
            assembled, {pooling: torch.empty(size, dtype=dtype, pin_memory=True) for pooling, size in sizes.items()}
        )

    def shaped(self, flat: Mapping[str, torch.Tensor], rows: Mapping[str, int]) -> States:
        """A slot's memory as [layers, rows, width] for a shard of so many rows."""
        layers, width = len(self._layout.layers), self._layout.width
        return {
            pooling: memory[: layers * rows[pooling] * width].view(layers, rows[pooling], width)
            for pooling, memory in flat.items()
        }

    def send(self, slot: Slot, rows: Mapping[str, int]) -> torch.cuda.Event | None:
        """Start a finished shard on its way off the device; the event says when it is there."""
        if self._stream is None:
            return None
        computed = torch.cuda.current_stream(self._device).record_event()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(computed)
            on_device, on_host = self.shaped(slot.assembled, rows), self.shaped(slot.written, rows)
            for pooling in on_device:
                on_host[pooling].copy_(on_device[pooling], non_blocking=True)
            done: torch.cuda.Event = self._stream.record_event()
            return done


@dataclass(frozen=True)
class StagedBatch:
    """A batch on its way to the device; there when `copied` says so."""

    batch: Batch
    copied: torch.cuda.Event | None = None

    def wait(self) -> Batch:
        """The batch, for what is given to the device from here on; nothing waits in this process."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.batch.first.device)
            stream.wait_event(self.copied)
            for tensor in self.batch.tensors:
                tensor.record_stream(stream)
        return self.batch


def run_in_halves(
    members: Integers, run: Callable[[Integers], None], lengths: npt.NDArray[np.integer[Any]], model: Model
) -> None:
    """Run a batch; where memory does not suffice, each half of it, down to one item.

    Args:
        members: [items], which items are in it.
        run: what runs a batch of some of them.
        lengths: [all items], in tokens.
        model: whose device it is.

    Raises:
        ModelError: there is no memory for one item alone.
    """
    try:
        run(members)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(members) == 1:
            raise ModelError(
                f"{model.identity['id']}: an item of {lengths[members[0]]:,} tokens, run alone, does not fit the "
                f"memory of {model.device}; cut items shorter (`--max-tokens`), compute in bfloat16 "
                "(`--model-dtype`), or use a device with more memory"
            ) from error
    else:
        return
    if model.device.type == "cuda":  # what the batch held is let go of by now
        torch.cuda.empty_cache()
    for half in np.array_split(members, 2):
        run_in_halves(half, run, lengths, model)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or torch's allocator for the CPU, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in SIGNS)


class Staging:
    """Pinned memory through which batches go to a GPU beside what it computes; elsewhere they are made in place.

    Args:
        device: the model's.
        tokens: of the largest batch; a larger one goes without.
    """

    def __init__(self, device: torch.device, tokens: int) -> None:
        self._device = device
        self._size = 10 * tokens  # ids, positions, rows and places of tokens; bounds and four numbers of every item
        self._ring: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._ring = [
                (torch.empty(self._size, dtype=torch.int64, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
                for _ in range(STAGED)
            ]

    def send(self, batch: HostBatch) -> StagedBatch:
        """The batch on its way; waits while all staging memory is."""
        if not self._ring:
            return StagedBatch(batch.to(self._device))
        memory, copied = self._ring.pop(0)
        copied.synchronize()
        try:
            with torch.cuda.stream(self._stream):
                sent = batch.to(self._device, memory if batch.elements <= self._size else None)
                copied = self._stream.record_event()
        finally:
            self._ring.append((memory, copied))
        return StagedBatch(sent, copied)
