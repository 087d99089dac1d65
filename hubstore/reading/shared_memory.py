"""Memory between this process and those that work for it: objects are pickled into it, and their arrays read in place.

A segment is an anonymous file in memory. Its descriptor goes to the other process through a socket; no name in a file
system is needed, and it is gone with the processes that have it, however they end.
"""

from __future__ import annotations

import mmap
import os
import pickle
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ALIGNED: Final = 64
"""Bytes to whose multiples arrays are laid."""

SPARE: Final = 4
"""A segment that must grow grows by a quarter more than needed: the next objects may be a little larger."""


class Segment:
    """An anonymous file in memory that two processes map, and that grows with what is written.

    Args:
        descriptor: of the file; the segment owns it from here on.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    @classmethod
    def make(cls) -> Segment:
        """A new segment; OSError where the system has no more memory or descriptors."""
        return cls(os.memfd_create("hubstore"))

    def write(self, value: Any) -> tuple[int, ...]:
        """Pickle an object into the segment, its arrays and Arrow buffers beside it; their sizes in bytes."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        sizes = tuple(part.nbytes for part in parts)
        *starts, size = _starts(sizes)
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size + size // SPARE)
        memory = self._memory()
        for start, part in zip(starts, parts, strict=True):
            memory[start : start + part.nbytes] = np.frombuffer(part, np.uint8)
        return sizes

    def read(self, sizes: Sequence[int], free: deque[Segment] | None = None) -> Any:
        """The object that was written: its arrays lie over the segment, until something else is written there.

        Args:
            sizes: as `write` gave them.
            free: gets the segment as soon as nothing lies over it.
        """
        memory = self._memory()
        if free is not None:
            weakref.finalize(memory, free.append, self).atexit = False
        laid = memoryview(memory)  # type: ignore[arg-type]
        head, *buffers = (laid[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=False))
        return pickle.loads(head, buffers=buffers)

    def _memory(self) -> npt.NDArray[np.uint8]:
        size = os.fstat(self.descriptor).st_size
        if self._mapped is None or len(self._mapped) < size:
            self._mapped = mmap.mmap(self.descriptor, size)
        return np.frombuffer(self._mapped, np.uint8)

    def close(self) -> None:
        """Give the file back; what lies over it stays readable."""
        os.close(self.descriptor)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where parts of these sizes begin, and the end."""
    return list(accumulate((size + -size % ALIGNED for size in sizes), initial=0))
