"""Rows from anywhere into one buffer, each copied once."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]


def copy_rows(rows: torch.Tensor, places: Positions, out: torch.Tensor, to: Positions) -> None:
    """Copy `rows[places]` [n, width] to `out[to]`, each row once; both of one dtype and width."""
    _copy(_as_integers(out), to, _as_integers(rows), places)


def _as_integers(rows: torch.Tensor) -> npt.NDArray[Any]:
    """The rows as integers of their size: numpy and numba know no bfloat16."""
    return rows.view(torch.int32 if rows.dtype == torch.float32 else torch.int16).numpy()


# Fancy indexing on both sides would copy every row twice, and twice as slowly.
@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy(to: Any, to_rows: Positions, source: Any, rows: Positions) -> None:
    for i in range(len(rows)):
        row = source[rows[i]]
        target = to[to_rows[i]]
        for j in range(len(row)):
            target[j] = row[j]
