"""Memory that reading processes write into and this one reads from: used again and again, so that sending is one copy.

A piece is an anonymous file in memory that this process makes and another opens by way of /proc; it grows when a
writer needs more, and is gone with the processes that have it, however they end. Handles of other kinds cost a talk
with a busy process for every piece.
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
import torch

ALIGNED: Final = 64
"""Bytes to whose multiples tensors are laid."""

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

    def received(self, piece: int) -> torch.Tensor:
        """uint8 [size]: what was written into a piece, mapped. When no tensor is left over it, the piece is free."""
        size = os.fstat(piece).st_size
        if size == 0:
            self._free.put(piece)
            return torch.empty(0, dtype=torch.uint8)
        mapped = self._mapped[piece]
        if mapped is None or len(mapped) < size:
            mapped = self._mapped[piece] = mmap.mmap(piece, size)
        held: Bytes = np.frombuffer(mapped, np.uint8)
        weakref.finalize(held, self._free.put, piece).atexit = False
        return torch.from_numpy(held)

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

    def write(self, piece: int, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Lay tensors of the CPU into a piece; the first byte of each."""
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += tensor.nbytes + -tensor.nbytes % ALIGNED
        if size:
            whole: Bytes = np.frombuffer(self._room(piece, size), np.uint8)
            for start, tensor in zip(starts, tensors, strict=True):
                flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
                whole[start : start + len(flat)] = flat
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
