"""The store: chunked Zarr v3 arrays of hidden states, item tables and commits. FORMAT.md is its specification."""

from hubstore.store.dtypes import DTYPES, dtype_name, register_bfloat16
from hubstore.store.layout import Layout
from hubstore.store.partition import Partition, partition_name
from hubstore.store.reader import StoreReader
from hubstore.store.states import HiddenStates
from hubstore.store.unfinished import Unfinished
from hubstore.store.verify import Problem, verify
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
    "verify",
    "write_metadata",
    "write_shard",
]

register_bfloat16()
