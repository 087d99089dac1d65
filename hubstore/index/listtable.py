"""Where the inverted lists of an index file are, which follows from how many rows each has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hubstore.kernels.cpu.shuffle import BLOCK_ROWS

__all__ = ["BLOCK_ROWS", "ListTable", "Numbers"]

Numbers = npt.NDArray[np.int64]

ALIGNED = 64
"""Bytes that a list begins at a multiple of: FAISS reads codes as aligned vectors."""

ID_BYTES = 8


@dataclass(frozen=True, eq=False)
class ListTable:
    """Where the lists of a file are.

    Args:
        sizes: int64 [lists], rows of each.
        code_size: bytes of a row's code.
        start: byte where the first list may begin.
    """

    sizes: Numbers
    code_size: int
    start: int

    @cached_property
    def capacities(self) -> Numbers:
        """int64 [lists], rows that each has room for: whole blocks."""
        return -(-self.sizes // BLOCK_ROWS) * BLOCK_ROWS

    @cached_property
    def lengths(self) -> Numbers:
        """int64 [lists], bytes of each."""
        return self.capacities * (self.code_size + ID_BYTES)

    @cached_property
    def offsets(self) -> Numbers:
        """int64 [lists], where each begins."""
        padded = -(-self.lengths // ALIGNED) * ALIGNED
        first = -(-self.start // ALIGNED) * ALIGNED
        return first + np.cumsum(padded) - padded

    @property
    def stop(self) -> int:
        """Where the last one ends."""
        return int((self.offsets + self.lengths)[self.sizes > 0].max(initial=self.start))
