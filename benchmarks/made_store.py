"""`python -m benchmarks.made_store STORE [--rows N]`: a store of made-up rows in two layers that hold the same, layer
"0" without an index, layer "1" with an HNSW; for the benchmark of the server."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.index import build
from hubstore.storage import LocalStorage
from hubstore.store import Layout, StoreReader, write_metadata, write_shard

WIDTH = 384
LANGUAGES = ("en", "es", "sw", "zh-Hans")
SHARD_ROWS = 8192
SEED = 0
LAYERS = {"exact": "0", "hnsw": "1"}
"""The layer that is searched in each way."""

THOUSANDTH = "thousandth"
"""A kept column: a number from 0 to 999 that has nothing to do with an item's states, for filters."""

Rows = npt.NDArray[np.float32]


def made_store(path: Path, rows: int) -> StoreReader:
    """The store at `path`, written and indexed where it is not yet: a run that was stopped goes on.

    Args:
        path: the store's folder.
        rows: items; a multiple of the number of languages.
    """
    store = written_store(path, rows, tuple(LAYERS.values()))
    build(store, [LAYERS["hnsw"]], kind="hnsw", seed=SEED, device="cpu", progress=progress_printer())
    return store


def written_store(path: Path, rows: int, layers: tuple[str, ...]) -> StoreReader:
    """The same without an index, in layers that all hold the same."""
    if rows % len(LANGUAGES):
        raise ValueError(f"{rows} rows are not the same number in each of {len(LANGUAGES)} languages")
    if path.exists() and StoreReader(path).attributes["made_rows"] != rows:
        raise ValueError(f"{path} is a store of another number of rows than {rows}; name another folder")
    layout = Layout(layers, ("mean",), "float16", WIDTH, SHARD_ROWS, chunk_rows=min(256, SHARD_ROWS))
    storage, states = LocalStorage(path), made_states(rows)
    shards = range(-(-rows // SHARD_ROWS))
    attributes = {"model": {"id": "made-up"}, "made_rows": rows, "columns": [[THOUSANDTH, "int64"]]}
    write_metadata(storage, layout, attributes, len(shards) * SHARD_ROWS, 0)
    for shard in shards[len(StoreReader(path).commits) :]:
        start, stop = shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, rows)
        part = torch.from_numpy(states(start, stop)).half()
        write_shard(storage, layout, shard, _items(start, stop, rows), {"mean": part.expand(len(layers), -1, -1)})
    return StoreReader(path)


def made_states(rows: int) -> Callable[[int, int], Rows]:
    """The states of a shard from its positions, float32 [stop - start, width]; each partition has every concept once.

    Clustered as `tests.index.stores.hub_states` are, by concept, topic and language, and never all in memory.
    """
    concepts = rows // len(LANGUAGES)
    spectrum = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    drawn = np.random.default_rng([SEED, 0])
    topics = drawn.standard_normal((max(1, concepts // 25), WIDTH), np.float32) * spectrum
    topic = drawn.integers(0, len(topics), concepts)
    tongue = drawn.standard_normal((len(LANGUAGES), WIDTH), np.float32) * spectrum * np.float32(0.7)

    @lru_cache(2)
    def meaning(block: int) -> Rows:
        of = topic[block * SHARD_ROWS : (block + 1) * SHARD_ROWS]
        own = np.random.default_rng([SEED, 1, block]).standard_normal((len(of), WIDTH), np.float32)
        return np.asarray(topics[of] + own * spectrum)

    def states(start: int, stop: int) -> Rows:
        language, concept = np.divmod(np.arange(start, stop), concepts)
        block, place = np.divmod(concept, SHARD_ROWS)
        found = np.random.default_rng([SEED, 2, start]).standard_normal((stop - start, WIDTH), np.float32)
        found *= spectrum * np.float32(0.6)
        found += tongue[language]
        for number in np.unique(block).tolist():
            found[block == number] += meaning(number)[place[block == number]]
        return found

    return states


def item_id(position: int, rows: int) -> str:
    """The id of the item at `position`."""
    language, concept = divmod(position, rows // len(LANGUAGES))
    return f"{LANGUAGES[language]}:{concept}"


def _items(start: int, stop: int, rows: int) -> pa.Table:
    language, concept = np.divmod(np.arange(start, stop), rows // len(LANGUAGES))
    tags, concepts = [LANGUAGES[i] for i in language], concept.tolist()
    return pa.table(
        {
            "id": pa.array([item_id(position, rows) for position in range(start, stop)], pa.string()),
            "concept": pa.array([str(number) for number in concepts], pa.string()),
            "language": pa.array(tags, pa.string()),
            "modality": pa.array(["text"] * len(tags), pa.string()),
            "text": pa.array(
                [f"What concept {n} is called in {tag}." for n, tag in zip(concepts, tags, strict=True)], pa.string()
            ),
            "tokens": pa.array([8] * len(tags), pa.int32()),
            "truncated": pa.array([False] * len(tags)),
            THOUSANDTH: pa.array(np.random.default_rng([SEED, 3, start]).integers(0, 1000, stop - start)),
        }
    )


def progress_printer() -> Callable[[str, int, int], None]:
    """Says how far an index is, ten times a minute at most."""
    said = float("-inf")

    def tell(layer: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 6 or done == total:
            said = time.monotonic()
            print(f"layer {layer}: {done:,} of {total:,} rows indexed", file=sys.stderr, flush=True)

    return tell


def main(arguments: list[str] | None = None) -> None:
    """Make the store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.made_store", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    made_store(options.store, options.rows)


if __name__ == "__main__":
    main()
