"""Float32 and bfloat16 as the integers that hold their bits: numba knows no bfloat16, which is float32's first half."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def as_stored(values: Tensor) -> npt.NDArray[Any]:
    """A float32 or bfloat16 tensor as integers of its size."""
    return values.view(torch.int16 if values.dtype == torch.bfloat16 else torch.int32).numpy()


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def value(stored: Any, lacking: int) -> Any:
    """The float32 whose first 32 - `lacking` bits these are, as float32."""
    return np.int32(np.int32(stored) << np.int32(lacking)).view(np.float32)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def stored(number: Any, lacking: int) -> Any:
    """The first 32 - `lacking` bits, 0 or 16, of a float32, rounded to the nearest; of two as near, to the even one."""
    whole = np.float32(number).view(np.int32)
    half = np.int32((np.int32(1) << np.int32(lacking)) >> np.int32(1))
    odd = np.int32((whole >> np.int32(lacking)) & np.int32(1))
    upward = np.int32(half - np.int32(1) + odd) if lacking else np.int32(0)
    return np.int32(np.int32(whole + upward) >> np.int32(lacking))
