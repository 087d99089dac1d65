"""Rows from anywhere in memory-mapped pieces into one buffer, each copied once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]


def gather_rows(
    positions: Positions, starts: Sequence[int], piece: Callable[[int], torch.Tensor], out: torch.Tensor
) -> None:
    """Fill `out` [n, width] with the rows at `positions` [n], in their order.

    Args:
        positions: of rows, counted over all pieces.
        starts: first position of each piece, and one past the last.
        piece: a piece's rows [rows, width] by its number.
        out: where they go; same dtype and width as the pieces.
    """
    bounds = np.asarray(starts, np.int64)
    pieces = np.searchsorted(bounds, positions, side="right") - 1
    order = np.argsort(pieces, kind="stable")
    cuts = np.searchsorted(pieces[order], np.arange(len(bounds)))
    local = (positions - bounds[pieces])[order]
    destination = _as_integers(out)
    for number in np.flatnonzero(np.diff(cuts)).tolist():
        part = slice(cuts[number], cuts[number + 1])
        _copy_rows(destination, order[part], _as_integers(piece(number)), local[part])


def _as_integers(rows: torch.Tensor) -> npt.NDArray[Any]:
    """The rows as integers of their size: numpy and numba know no bfloat16."""
    return rows.view(torch.int32 if rows.dtype == torch.float32 else torch.int16).numpy()


# Fancy indexing on both sides would copy every row twice, and twice as slowly.
@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy_rows(to: Any, to_rows: Positions, source: Any, rows: Positions) -> None:
    for i in range(len(rows)):
        row = source[rows[i]]
        target = to[to_rows[i]]
        for j in range(len(row)):
            target[j] = row[j]
