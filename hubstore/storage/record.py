"""Sizes and checksums of files: what is read is held against what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

Buffer = bytes | memoryview
Bytes = npt.NDArray[np.uint8]

BLOCK = 1 << 24
"""Bytes that are checksummed at a time."""


@dataclass(frozen=True)
class FileRecord:
    """What a file was when it was committed: its size in bytes and its CRC32C."""

    size: int
    crc32c: int

    @classmethod
    def of(cls, *buffers: Buffer | Bytes) -> FileRecord:
        """The record of a file of the concatenated buffers."""
        return cls(sum(np.frombuffer(buffer, np.uint8).size for buffer in buffers), crc32c(*buffers))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> FileRecord:
        """Back from JSON; KeyError, TypeError or ValueError where it is no record."""
        return cls(int(said["size"]), int(said["crc32c"], 16))

    def to_json(self) -> dict[str, Any]:
        """As commits and other records hold it."""
        return {"size": self.size, "crc32c": f"{self.crc32c:08x}"}


def crc32c(*buffers: Buffer | Bytes) -> int:
    """CRC32C (Castagnoli) of the concatenated buffers."""
    value = 0
    for buffer in buffers:
        # The library takes numpy arrays of any kind, but no memoryview.
        content = np.frombuffer(buffer, np.uint8)
        for start in range(0, len(content), BLOCK):
            value = google_crc32c.extend(value, content[start : start + BLOCK])
    return value
