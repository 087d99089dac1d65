"""Memory between this process and those that read for it: used again and again, so that sending is one copy each way.

A segment is an anonymous file in memory that this process makes and another opens by way of /proc. What is to be read
lies in it on the way there, what was read on the way back. It grows when more is to be written, and is gone with
the processes that have it, however they end. Handles of other kinds cost a talk with a busy process for every segment.
"""

from __future__ import annotations

import mmap
import os
import queue
import weakref
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

ALIGNED: Final = 64
"""Bytes to whose multiples stacks are laid."""

SPARE: Final = 4
"""A segment that must grow grows by a quarter more than needed: the next items may be a little larger."""

Bytes = npt.NDArray[np.uint8]


class SharedMemoryPool:
    """The segments, in the process that made them and reads from them; each by its file descriptor."""

    def __init__(self) -> None:
        self._mapped: dict[int, mmap.mmap | None] = {}
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()

    def take(self) -> int:
        """A segment that nobody uses."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            segment = os.memfd_create("hubstore")
            self._mapped[segment] = None
            return segment

    def send(self, segment: int, request: pa.Buffer) -> None:
        """Lay what another process is to read into a segment that nobody uses."""
        if os.fstat(segment).st_size < request.size:
            os.ftruncate(segment, request.size + request.size // SPARE)
        np.frombuffer(self._map(segment), np.uint8)[: request.size] = np.frombuffer(request, np.uint8)

    def received(self, segment: int) -> torch.Tensor:
        """uint8 [size]: what was written into a segment, mapped. The segment is free when no tensor refers to it."""
        if os.fstat(segment).st_size == 0:
            self._free.put(segment)
            return torch.empty(0, dtype=torch.uint8)
        mapped_bytes: Bytes = np.frombuffer(self._map(segment), np.uint8)
        weakref.finalize(mapped_bytes, self._free.put, segment).atexit = False
        return torch.from_numpy(mapped_bytes)

    def _map(self, segment: int) -> mmap.mmap:
        size = os.fstat(segment).st_size
        mapped = self._mapped[segment]
        if mapped is None or len(mapped) < size:
            mapped = self._mapped[segment] = mmap.mmap(segment, size)
        return mapped

    def close(self) -> None:
        """Give every segment back; what a tensor still lies over stays readable."""
        for segment in self._mapped:
            os.close(segment)
        self._mapped.clear()


class SegmentWriter:
    """The segments of another process, in one that writes into them.

    Args:
        owner: the process that made them.
    """

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._mapped: dict[int, mmap.mmap] = {}

    def request(self, segment: int, size: int) -> pa.Buffer:
        """What was sent in a segment: it stays until something is written there."""
        return pa.py_buffer(self._map(segment, size)).slice(0, size)

    def write(self, segment: int, stacks: Sequence[Sequence[torch.Tensor]]) -> list[int]:
        """Lay tensors of the CPU into a segment, those of a stack end to end; the first byte of each stack."""
        starts, size = [], 0
        for stack in stacks:
            starts.append(size)
            size += sum(tensor.nbytes for tensor in stack)
            size += -size % ALIGNED
        if size:
            whole: Bytes = np.frombuffer(self._map(segment, size), np.uint8)
            for start, stack in zip(starts, stacks, strict=True):
                at = start
                for tensor in stack:
                    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
                    whole[at : at + len(flat)] = flat
                    at += len(flat)
        return starts

    def _map(self, segment: int, size: int) -> mmap.mmap:
        mapped = self._mapped.get(segment)
        if mapped is None or len(mapped) < size:
            opened = os.open(f"/proc/{self._owner}/fd/{segment}", os.O_RDWR)
            try:
                if os.fstat(opened).st_size < size:
                    os.ftruncate(opened, size + size // SPARE)
                mapped = self._mapped[segment] = mmap.mmap(opened, os.fstat(opened).st_size)
            finally:
                os.close(opened)
        return mapped
