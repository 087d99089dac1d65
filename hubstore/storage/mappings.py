"""Which files stay mapped: a process may open only so many, and a removed file takes its disk until it is unmapped."""

from __future__ import annotations

import math
import mmap
import resource
import threading
import weakref
from collections import deque
from functools import cache
from typing import Any, Protocol

import numpy as np

MOST = 1 << 15
"""Mappings of a process: half of what the kernel gives one."""


MappedFile = np.memmap[Any, np.dtype[np.uint8]]


def size_of_mapped(mapped: MappedFile) -> int:
    """Bytes that a mapped file has now, removed or not. Reading beyond them kills the process (SIGBUS)."""
    assert isinstance(mapped.base, mmap.mmap)
    return mapped.base.size()


class Evictable(Protocol):
    """What holds mapped files by number."""

    def evict(self, file: int) -> None:
        """Hold a file no longer."""
        ...


class Mappings:
    """The files that stay mapped over all layers of a storage; the oldest are evicted first.

    Args:
        most: bytes of all together.
        count: how many, since each holds a file descriptor.
    """

    def __init__(self, most: float, count: int) -> None:
        self._most = most
        self._count = count
        self._mapped: deque[tuple[weakref.ref[Evictable], int, int]] = deque()
        self._total = 0
        self._guard = threading.Lock()

    def add(self, owner: Evictable, file: int, size: int) -> None:
        """Count a file that was mapped, and evict the oldest ones that are too many."""
        with self._guard:
            self._mapped.append((weakref.ref(owner), file, size))
            self._total += size
            while self._total > self._most or len(self._mapped) > self._count:
                first, old, freed = self._mapped.popleft()
                self._total -= freed
                holder = first()
                if holder is not None:
                    holder.evict(old)


@cache
def process_mappings() -> Mappings:
    """The local files that this process holds mapped: half of the files that it may open, `MOST` at most."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Mappings(math.inf, MOST if allowed == resource.RLIM_INFINITY else min(allowed // 2, MOST))
