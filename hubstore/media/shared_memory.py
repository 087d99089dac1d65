"""Memory between this process and those that read for it: used again and again, so that sending is one copy each way.

A piece is an anonymous file in memory that this process makes and another opens by way of /proc. What is to be read
lies in it on the way there, what was read on the way back. It grows when more is to be laid into it, and is gone with
the processes that have it, however they end. Handles of other kinds cost a talk with a busy process for every piece.
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
"""A piece that must grow grows by a quarter more than needed: the next items may be a little larger."""

Bytes = npt.NDArray[np.uint8]


class Shared:
    """The pieces, in the process that made them and reads from them; each by its file descriptor."""

    def __init__(self) -> None:
        self._mapped: dict[int, mmap.mmap | None] = {}
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()

    def take(self) -> int:
        """A piece that nobody uses."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            piece = os.memfd_create("hubstore")
            self._mapped[piece] = None
            return piece

    def send(self, piece: int, request: pa.Buffer) -> None:
        """Lay what another process is to read into a piece that nobody uses."""
        if os.fstat(piece).st_size < request.size:
            os.ftruncate(piece, request.size + request.size // SPARE)
        np.frombuffer(self._whole(piece), np.uint8)[: request.size] = np.frombuffer(request, np.uint8)

    def received(self, piece: int) -> torch.Tensor:
        """uint8 [size]: what was written into a piece, mapped. When no tensor is left over it, the piece is free."""
        if os.fstat(piece).st_size == 0:
            self._free.put(piece)
            return torch.empty(0, dtype=torch.uint8)
        held: Bytes = np.frombuffer(self._whole(piece), np.uint8)
        weakref.finalize(held, self._free.put, piece).atexit = False
        return torch.from_numpy(held)

    def _whole(self, piece: int) -> mmap.mmap:
        size = os.fstat(piece).st_size
        mapped = self._mapped[piece]
        if mapped is None or len(mapped) < size:
            mapped = self._mapped[piece] = mmap.mmap(piece, size)
        return mapped

    def close(self) -> None:
        """Give every piece back; what a tensor still lies over stays readable."""
        for piece in self._mapped:
            os.close(piece)
        self._mapped.clear()


class Writer:
    """The pieces of another process, in one that writes into them.

    Args:
        owner: the process that made them.
    """

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._mapped: dict[int, mmap.mmap] = {}

    def request(self, piece: int, size: int) -> pa.Buffer:
        """What was sent in a piece: it stays until something is written there."""
        return pa.py_buffer(self._room(piece, size)).slice(0, size)

    def write(self, piece: int, stacks: Sequence[Sequence[torch.Tensor]]) -> list[int]:
        """Lay tensors of the CPU into a piece, those of a stack end to end; the first byte of each stack."""
        starts, size = [], 0
        for stack in stacks:
            starts.append(size)
            size += sum(tensor.nbytes for tensor in stack)
            size += -size % ALIGNED
        if size:
            whole: Bytes = np.frombuffer(self._room(piece, size), np.uint8)
            for start, stack in zip(starts, stacks, strict=True):
                at = start
                for tensor in stack:
                    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
                    whole[at : at + len(flat)] = flat
                    at += len(flat)
        return starts

    def _room(self, piece: int, size: int) -> mmap.mmap:
        mapped = self._mapped.get(piece)
        if mapped is None or len(mapped) < size:
            opened = os.open(f"/proc/{self._owner}/fd/{piece}", os.O_RDWR)
            try:
                if os.fstat(opened).st_size < size:
                    os.ftruncate(opened, size + size // SPARE)
                mapped = self._mapped[piece] = mmap.mmap(opened, os.fstat(opened).st_size)
            finally:
                os.close(opened)
        return mapped
