"""Real stores of made-up states, for the tests of indexes and queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hubstore.bench.states import hub_states
from hubstore.storage import LocalStorage
from hubstore.store import DTYPES, Layout, StoreReader, write_metadata, write_shard

__all__ = ["LANGUAGES", "brute_force", "by_language", "hub_states", "recall", "write_store"]

LANGUAGES = ("en", "es", "zh-Hans")


def by_language(states: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Rows of `hub_states` sorted into partitions, and the concept of each."""
    languages = len(LANGUAGES)
    order = sorted(range(len(states)), key=lambda row: (row % languages, row))
    return states[order], [row // languages for row in order]


def write_store(
    path: Path,
    states: torch.Tensor,
    *,
    dtype: str = "float32",
    languages: list[str] | None = None,
    modalities: list[str] | None = None,
    concepts: list[str] | None = None,
    tokens: list[int] | None = None,
    first_shard: int = 0,
    shard_rows: int = 1024,
    compressor: str = "none",
) -> StoreReader:
    """Write, or from `first_shard` on append, `states` [layers, rows, width].

    With `tokens`, the counts of each item, the states are its tokens' and the only pooling is `tokens`.
    """
    pooling = "mean" if tokens is None else "tokens"
    layers, total, width = states.shape
    items = total if tokens is None else len(tokens)
    names = tuple(str(i) for i in range(layers))
    layout = Layout(names, (pooling,), dtype, width, shard_rows, shard_rows // 4, compressor)
    storage = LocalStorage(path)
    counts = tokens or [1] * items
    ends = np.cumsum([0, *counts])
    shards = range(0, items, shard_rows)
    token_shard = 0
    for number, start in enumerate(shards, first_shard):
        part = slice(start, min(start + shard_rows, items))
        names = [f"item-{first_shard * shard_rows + i}" for i in range(part.start, part.stop)]
        table = pa.table(
            {
                "id": pa.array(names, pa.string()),
                "concept": pa.array((concepts or [None] * items)[part], pa.string()),
                "language": pa.array((languages or ["en"] * items)[part], pa.string()),
                "modality": pa.array((modalities or ["text"] * items)[part], pa.string()),
                "text": pa.array([f"text of {name}" for name in names], pa.string()),
                "tokens": pa.array(counts[part], pa.int32()),
                "truncated": pa.array([False] * len(names)),
            }
        )
        rows = states[:, ends[part.start] : ends[part.stop]].to(DTYPES[dtype]).contiguous()
        write_shard(storage, layout, number, table, {pooling: rows}, first_token_shard=token_shard)
        token_shard += -(-rows.shape[1] // shard_rows)
    array_rows = (first_shard + len(shards)) * shard_rows
    write_metadata(storage, layout, {"model": {"id": "made-up"}}, array_rows, token_shard * shard_rows)
    return StoreReader(path)


def brute_force(rows: torch.Tensor, queries: torch.Tensor, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """int64 [q, k] positions by float64 cosine, ties to the smaller; -1 where there are fewer."""
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    cosines = (torch.nn.functional.normalize(queries.double(), dim=1) @ unit.T).numpy()
    if allowed is not None:
        outside = np.ones(len(rows), bool)
        outside[allowed] = False
        cosines[:, outside] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(cosines, order, axis=1)), -1, order)


def recall(found: torch.Tensor, truth: np.ndarray) -> float:
    """Share of the true neighbors that were found."""
    hits = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(found, truth, strict=True)]
    return sum(hits) / truth.size
