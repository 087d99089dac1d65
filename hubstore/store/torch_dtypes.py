"""The dtypes that a store can have, in torch."""

from __future__ import annotations

import torch

from hubstore.store.bfloat16 import register_bfloat16

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def dtype_name(dtype: torch.dtype) -> str:
    """A torch dtype's name in Zarr metadata: "float32", "float16" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


register_bfloat16()
