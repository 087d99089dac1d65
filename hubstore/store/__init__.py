"""The store: chunked Zarr v3 arrays of hidden states, item tables and commits. FORMAT.md is its specification.

What needs torch is imported when it is first used, so that a store is described without it.
"""

from typing import TYPE_CHECKING

from hubstore.lazy import lazy_names
from hubstore.store.layout import Layout
from hubstore.store.partition import Partition, partition_name
from hubstore.store.reader import StoreReader
from hubstore.store.unfinished import Unfinished

if TYPE_CHECKING:
    from hubstore.store.bfloat16 import register_bfloat16
    from hubstore.store.states import HiddenStates
    from hubstore.store.torch_dtypes import DTYPES, dtype_name
    from hubstore.store.verification import Problem, verify
    from hubstore.store.writer import write_metadata, write_shard

__all__ = [
    "DTYPES",
    "HiddenStates",
    "Layout",
    "Partition",
    "Problem",
    "StoreReader",
    "Unfinished",
    "dtype_name",
    "partition_name",
    "register_bfloat16",
    "verify",
    "write_metadata",
    "write_shard",
]

__getattr__ = lazy_names(
    __name__,
    {
        ".bfloat16": ("register_bfloat16",),
        ".states": ("HiddenStates",),
        ".torch_dtypes": ("DTYPES", "dtype_name"),
        ".verification": ("Problem", "verify"),
        ".writer": ("write_metadata", "write_shard"),
    },
)
