"""Memory that an extraction goes round in: shards being assembled, and batches on their way to the device.

All of it is allocated once. On a GPU a shard is assembled on the device, every pooled row at its place, and
leaves it whole for pinned memory; elsewhere it is assembled where it is written from.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping
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
"""Shards in memory: one is assembled while the other is written. Beside a GPU as many, on it and here."""

STAGED = 4
"""Batches whose copy to the device may be on its way."""

Flat = Mapping[str, torch.Tensor]
"""Room for one shard's states, flat, by pooling."""


@dataclass
class Slot:
    """Where the model puts pooled rows.

    Args:
        assembled: the memory, on the device.
        left: says when the shard that was assembled there before has left it.
    """

    assembled: Flat
    left: torch.cuda.Event | None = None


@dataclass(frozen=True)
class SentShard:
    """A shard on its way to the memory that it is written from.

    Args:
        states: by pooling, [layers, rows, width]; not there before `wait`.
        room: what they lie in, to be given back.
        arrived: says when they are there; None where they are.
        all_finite: bool [], there with them; None where nobody looked.
    """

    states: States
    room: Slot | Flat
    arrived: torch.cuda.Event | None = None
    all_finite: torch.Tensor | None = None

    def wait(self) -> None:
        """Wait until it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()

    @property
    def finite(self) -> bool:
        """Whether all states are known to be finite."""
        return self.all_finite is not None and bool(self.all_finite)


class ShardMemory:
    """A few slots, and the way from the device to where shards are written from.

    On a GPU a slot is free again as soon as its shard has left it for pinned memory, whether or not that is written.

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
        self.pinned: queue.Queue[Flat] = queue.Queue()
        for number in range(SLOTS):
            try:
                self.free.put(Slot(self._room(rows, device=device)))
            except torch.cuda.OutOfMemoryError as error:
                if number:  # one slot will do, without overlap
                    break
                held = sum(rows.values()) * len(layout.layers) * layout.width * DTYPES[layout.dtype].itemsize
                raise StoreError(
                    f"{device} has no room beside the model for a shard of {held / 1e9:.1f} GB; make shards smaller "
                    f"(`--memory {held / (1 << 32):.2g}`), or leave out layers or poolings"
                ) from error
            if self._stream is not None:
                self.pinned.put(self._room(rows, pin_memory=True))

    def _room(self, rows: Mapping[str, int], **where: Any) -> Flat:
        each, dtype = len(self._layout.layers) * self._layout.width, DTYPES[self._layout.dtype]
        return {pooling: torch.empty(each * count, dtype=dtype, **where) for pooling, count in rows.items()}

    def begin(self, slot: Slot, rows: Mapping[str, int]) -> States:
        """A slot's memory for a shard of so many rows: what is given to the device from here on may fill it."""
        if slot.left is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.left)
        return self._shaped(slot.assembled, rows)

    def send(self, slot: Slot, rows: Mapping[str, int], take: Callable[[queue.Queue[Flat]], Flat]) -> SentShard:
        """Start a finished shard on its way off the device, into memory that `take` gets from the queue of such."""
        assembled = self._shaped(slot.assembled, rows)
        if self._stream is None:
            return SentShard(assembled, slot)
        room = take(self.pinned)
        states = self._shaped(room, rows)
        all_finite = torch.empty((), dtype=torch.bool, pin_memory=True)
        computed = torch.cuda.current_stream(self._device).record_event()
        with torch.cuda.stream(self._stream), torch.inference_mode():
            self._stream.wait_event(computed)
            for pooling, on_device in assembled.items():
                states[pooling].copy_(on_device, non_blocking=True)
            all_finite.copy_(are_finite(assembled.values()), non_blocking=True)
            slot.left = self._stream.record_event()
        self.free.put(slot)
        return SentShard(states, room, slot.left, all_finite)

    def release(self, shard: SentShard) -> None:
        """What a shard lay in is free again."""
        if isinstance(shard.room, Slot):
            self.free.put(shard.room)
        else:
            self.pinned.put(shard.room)

    def _shaped(self, flat: Flat, rows: Mapping[str, int]) -> States:
        """Memory as [layers, rows, width] for a shard of so many rows."""
        layers, width = len(self._layout.layers), self._layout.width
        return {
            pooling: memory[: layers * rows[pooling] * width].view(layers, rows[pooling], width)
            for pooling, memory in flat.items()
        }


def are_finite(states: Iterable[torch.Tensor]) -> torch.Tensor:
    """bool []: whether no value of the tensors is NaN or infinite; each is read once, and nothing of its size is made.

    Both extremes are NaN where any value is.
    """
    extremes = [extreme for one in states if one.numel() for extreme in torch.aminmax(one)]
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)


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
