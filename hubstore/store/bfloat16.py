"""bfloat16 for zarr-python, which does not know it yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np
from zarr.core.dtype.npy.float import BaseFloat
from zarr.dtype import data_type_registry

from hubstore.store.dtypes import NUMPY_DTYPES


@dataclass(frozen=True, kw_only=True)
class BFloat16(BaseFloat[Any, Any]):
    """zarr-python's description of bfloat16, under the Zarr v3 extension name "bfloat16"."""

    dtype_cls = type(np.dtype(ml_dtypes.bfloat16))
    _zarr_v3_name: ClassVar[Literal["bfloat16"]] = "bfloat16"
    _zarr_v2_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> BFloat16:
        """The Zarr data type of numpy's (ml_dtypes') bfloat16."""
        if dtype != NUMPY_DTYPES["bfloat16"]:
            from zarr.core.dtype.common import DataTypeValidationError

            raise DataTypeValidationError(f"{dtype} is not bfloat16")
        return cls()

    def to_native_dtype(self) -> Any:
        """ml_dtypes' bfloat16, which knows one byte order."""
        return NUMPY_DTYPES["bfloat16"]

    @property
    def item_size(self) -> int:
        """Bytes of one element."""
        return 2


def register_bfloat16() -> None:
    """Teach this process's zarr-python to open bfloat16 arrays; done when states are first read or written."""
    if "bfloat16" not in data_type_registry.contents:
        data_type_registry.register("bfloat16", BFloat16)
