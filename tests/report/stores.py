"""Small real stores of made-up states, for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hubstore.storage import LocalStorage
from hubstore.store import DTYPES, Layout, StoreReader, write_metadata, write_shard

WIDTH = 16


def hub_states(languages: int, concepts: int, layers: int, seed: int = 0) -> torch.Tensor:
    """Float32 [layers, languages * concepts, WIDTH]: what languages share is most in the middle layers."""
    rng = np.random.default_rng(seed)
    meaning = rng.standard_normal((concepts, WIDTH))
    tongue = rng.standard_normal((languages, 1, WIDTH)) * 2
    out = []
    for layer in range(layers):
        depth = layer / max(1, layers - 1)
        shared = 0.1 + 2.4 * np.sin(np.pi * depth) ** 2
        own = rng.standard_normal((languages, concepts, WIDTH))
        out.append((shared * meaning + tongue + own).reshape(-1, WIDTH))
    return torch.from_numpy(np.stack(out)).float()


def write_store(
    path: Path,
    languages: Sequence[str] = ("en", "he", "zh-Hans"),
    concepts: int = 24,
    layers: Sequence[str] = ("0", "1", "2", "3", "4"),
    *,
    states: torch.Tensor | None = None,
    texts: Mapping[int, str] | None = None,
    shared: bool = True,
    pooling: str = "mean",
    dtype: str = "float32",
    attributes: Mapping[str, object] | None = None,
) -> StoreReader:
    """One shard with a partition for each language; `texts` replaces the texts at some positions."""
    count = len(languages) * concepts
    rows = hub_states(len(languages), concepts, len(layers)) if states is None else states
    names = [language for language in languages for _ in range(concepts)]
    concept = [f"c{i % concepts}" if shared else f"{name}-{i}" for i, name in enumerate(names)]
    items = pa.table(
        {
            "id": [f"{name}:{i % concepts}" for i, name in enumerate(names)],
            "concept": pa.array(concept, pa.string()),
            "language": names,
            "modality": ["text"] * count,
            "text": [(texts or {}).get(i, f"sentence {i % concepts} in {name}") for i, name in enumerate(names)],
            "tokens": pa.array([1] * count, pa.int32()),
            "truncated": [False] * count,
        }
    )
    layout = Layout(tuple(layers), (pooling,), dtype, WIDTH, shard_rows=1024, chunk_rows=64)
    storage = LocalStorage(path)
    write_shard(storage, layout, 0, items, {pooling: rows.to(DTYPES[dtype])})
    known = {"model": {"id": "made-up", "weights": "0123456789abcdef"}, "corpora": [{"name": "made-up corpus"}]}
    write_metadata(storage, layout, {**known, **(attributes or {})}, count, count)
    return StoreReader(path)
