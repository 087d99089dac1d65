"""Where everything in a store is, and the Zarr v3 metadata that describes it. FORMAT.md is the specification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubstore.store.dtypes import itemsize

FORMAT = 1
POOLINGS = ("last", "mean", "first", "tokens", "media", "text")
COMPRESSORS = ("none", "blosc-lz4-bitshuffle")

ROOT = "zarr.json"
HIDDEN = "hidden/zarr.json"
"""The first file of a store's metadata that is written; the root is the last."""
PLAN = "plan/plan.json"
"""What an extraction that is not finished has planned; written last of the plan's files."""
INDEX = "index.json"
FAISS = "index.faiss"
CENTERED = "/centered"
"""Added to the folder of a layer's index: the folder of that of its rows less their partition's mean."""
LENS = "lens/lens.json"
"""What the lens that a store keeps is made of; written last."""


def array_key(pooling: str, layer: str) -> str:
    """The folder of one layer's array."""
    return f"hidden/{pooling}/{layer}"


def shard_key(pooling: str, layer: str, zarr_shard: int) -> str:
    """One Zarr shard of one layer's array."""
    return f"{array_key(pooling, layer)}/c/{zarr_shard}/0"


def items_key(shard: int) -> str:
    """The item table of one shard."""
    return f"items/{shard}.parquet"


def previews_key(shard: int) -> str:
    """Thumbnails and clips of one shard's images and audio."""
    return f"previews/{shard}.parquet"


def commit_key(shard: int) -> str:
    """The commit of one shard."""
    return f"commits/{shard}.json"


@dataclass(frozen=True)
class Layout:
    """The shapes that every shard of a store shares.

    Args:
        layers: names of the layers kept, "0" for the embedding output up to "final".
        poolings: how sequences became rows; the first is the default.
        dtype: "float32", "float16" or "bfloat16".
        width: elements of a hidden state.
        shard_rows: rows of a Zarr shard, and most items of a shard.
        chunk_rows: rows of a chunk inside it; divides shard_rows.
        compressor: "none" or "blosc-lz4-bitshuffle".
    """

    layers: tuple[str, ...]
    poolings: tuple[str, ...]
    dtype: str
    width: int
    shard_rows: int
    chunk_rows: int
    compressor: str = "none"

    def to_json(self) -> dict[str, Any]:
        """As kept in the root group's attributes."""
        return {
            "layers": list(self.layers),
            "poolings": list(self.poolings),
            "dtype": self.dtype,
            "width": self.width,
            "shard_rows": self.shard_rows,
            "chunk_rows": self.chunk_rows,
            "compressor": self.compressor,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Back from the root group's attributes."""
        return cls(
            layers=tuple(data["layers"]),
            poolings=tuple(data["poolings"]),
            dtype=data["dtype"],
            width=int(data["width"]),
            shard_rows=int(data["shard_rows"]),
            chunk_rows=int(data["chunk_rows"]),
            compressor=data["compressor"],
        )


def encode_json(data: Mapping[str, Any]) -> bytes:
    """JSON as hubstore writes it: the same bytes for the same content."""
    return json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record, without its digest: two that have one digest say the same."""
    return hashlib.sha256(encode_json(content)).hexdigest()


def group_metadata(attributes: Mapping[str, Any] | None = None) -> bytes:
    """zarr.json of a group."""
    return encode_json({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})})


def array_metadata(layout: Layout, rows: int, dimensions: tuple[str, str] = ("item", "hidden")) -> bytes:
    """zarr.json of an array of `rows` rows of the layout's width: one layer's, or another of such rows."""
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    chunk_codecs: list[Mapping[str, Any]] = [little_endian]
    if layout.compressor != "none":
        chunk_codecs.append({"name": "blosc", "configuration": blosc_configuration(layout.dtype)})
    sharding = {
        "chunk_shape": [layout.chunk_rows, layout.width],
        "codecs": chunk_codecs,
        "index_codecs": [little_endian, {"name": "crc32c"}],
        "index_location": "end",
    }
    return encode_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, layout.width],
            "data_type": layout.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [layout.shard_rows, layout.width]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(dimensions),
            "attributes": {},
            "storage_transformers": [],
        }
    )


def blosc_configuration(dtype: str) -> dict[str, Any]:
    """The blosc codec's settings: lz4 over bits grouped by significance."""
    return {
        "typesize": itemsize(dtype),
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }


def group_keys(poolings: Sequence[str]) -> list[str]:
    """zarr.json of the groups between the root and the arrays, so that any reader can walk the tree."""
    return [HIDDEN, *(f"hidden/{pooling}/zarr.json" for pooling in poolings)]
