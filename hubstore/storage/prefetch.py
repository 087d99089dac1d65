"""Having ranges of a local file read before they are used: all are asked of the disk at once, and none waits."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from hubstore.storage.mappings import MappedFile

PIECE = 128 << 10
"""Bytes asked for by one call: of more the kernel may leave the rest out."""

Numbers = npt.NDArray[np.int64]

Ask = Callable[[int, int], object]
"""Asks for bytes from a start, a multiple of the page size, and so many of them; waits for none."""


def of_descriptor(descriptor: int) -> Ask | None:
    """Of an open file; None where the system has no such call."""
    if not hasattr(os, "posix_fadvise"):
        return None
    return lambda start, length: os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)


def of_mapped(mapped: MappedFile) -> Ask:
    """Of a mapped file."""
    assert isinstance(mapped.base, mmap.mmap)
    return partial(mapped.base.madvise, mmap.MADV_WILLNEED)


def prefetch(ask: Ask | None, starts: Numbers, stops: Numbers) -> None:
    """Have the pages that hold bytes [start, stop) of a file read, without waiting for them.

    Args:
        ask: of the file; None does nothing.
        starts, stops: int64 [ranges], in any order; ranges whose pages touch are read as one.
    """
    if ask is None:
        return
    for start, stop in page_ranges(starts, stops).tolist():
        for first in range(start, stop, PIECE):
            ask(first, min(PIECE, stop - first))


def page_ranges(starts: Numbers, stops: Numbers) -> Numbers:
    """The whole pages that hold ranges of bytes, as ranges [n, 2], ascending, those that touch as one."""
    pages = np.empty((len(starts), 2), np.int64)
    pages[:, 0], pages[:, 1] = starts // mmap.PAGESIZE, -(-stops // mmap.PAGESIZE)
    if len(pages) == 1 and pages[0, 0] < pages[0, 1]:  # a lone row of a file, as most are of a large layer
        return pages * mmap.PAGESIZE
    pages = pages[pages[:, 0] < pages[:, 1]]
    if not len(pages):
        return pages
    pages = pages[np.argsort(pages[:, 0], kind="stable")]
    ends = np.maximum.accumulate(pages[:, 1])
    apart = np.flatnonzero(pages[1:, 0] > ends[:-1]) + 1
    return np.stack([pages[np.r_[0, apart], 0], ends[np.r_[apart - 1, len(pages) - 1]]], axis=1) * mmap.PAGESIZE
