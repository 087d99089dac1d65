"""The dtypes that a store can have, in numpy; in torch, they are in `torch_dtypes`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return NUMPY_DTYPES[name].itemsize


def nan_element(name: str) -> bytes:
    """The bytes of one NaN, which fills what no row was written to."""
    return np.array(np.nan, NUMPY_DTYPES[name]).tobytes()
