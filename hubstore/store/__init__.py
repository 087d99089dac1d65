"""The store: chunked Zarr v3 arrays of hidden states, item tables and commits. FORMAT.md is its specification."""

from hubstore.location import Location, Url, location
from hubstore.store.dtypes import DTYPES, dtype_name, register_bfloat16
from hubstore.store.layout import Layout
from hubstore.store.opening import open_storage
from hubstore.store.partition import Partition, partition_name
from hubstore.store.reader import HiddenStates, StoreReader
from hubstore.store.storage import LocalStorage, Storage
from hubstore.store.unfinished import Unfinished
from hubstore.store.verify import Problem, verify
from hubstore.store.writer import write_metadata, write_shard

__all__ = [
    "DTYPES",
    "HiddenStates",
    "Layout",
    "LocalStorage",
    "Location",
    "Partition",
    "Problem",
    "Storage",
    "StoreReader",
    "Unfinished",
    "Url",
    "dtype_name",
    "location",
    "open_storage",
    "partition_name",
    "verify",
    "write_metadata",
    "write_shard",
]

register_bfloat16()
