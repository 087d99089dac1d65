"""Tiles of rows: their bounds, and whole panels of them."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 1 << 21
"""Elements that are float64 at a time."""

PANEL = 64
"""Products of whole panels only, so that equal rows get equal products wherever they stand."""


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive tiles of `size` rows, the last one shorter."""
    return ((start, min(start + size, length)) for start in range(0, length, size))


def panelled(length: int) -> int:
    """`length` rounded up to whole panels."""
    return -(-length // PANEL) * PANEL
