"""Search: every kind of index over one layer of a store, beside FAISS's exact index over the same rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import Result, compare
from hubstore.bench.states import hub_states
from hubstore.bench.store import StoreSizes, made_up_items, write_store
from hubstore.bench.timing import Task, interleave, seconds
from hubstore.index import KINDS, LayerIndex, build, load
from hubstore.store import StoreReader

WIDTH = 384
QUERIES = 256
K = 10
SEED = 0


def run(scratch: Path, *, small: bool) -> list[Result]:
    """The suite."""
    torch.set_num_threads(1)
    rows = 2_000 if small else 50_000
    states = hub_states(rows + QUERIES, WIDTH, seed=SEED)
    drawn = np.random.default_rng(SEED).permutation(rows + QUERIES)
    queries = states[drawn[:QUERIES]]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path, layout = Path(folder) / "x.hub", StoreSizes(rows, WIDTH, layers=1).layout
        kept = states[np.sort(drawn[QUERIES:])].half()[None]
        shards = kept.split(layout.shard_rows, dim=1)
        items = made_up_items(rows)
        tables = [items[first : first + layout.shard_rows] for first in range(0, rows, layout.shard_rows)]
        write_store(path, layout, shards, tables)
        return _measure(StoreReader(path), queries, small)


def _measure(store: StoreReader, queries: torch.Tensor, small: bool) -> list[Result]:
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(_unit(store.hidden(0).read()))
    _, truth = flat.search(_unit(queries), K)
    found: dict[str, npt.NDArray[np.int64]] = {}
    built: dict[str, float] = {}
    tasks: dict[str, Task] = {"FAISS IndexFlatIP": _rate(lambda: flat.search(_unit(queries), K))}
    indexes: dict[str, LayerIndex] = {}
    for kind in KINDS:
        built[kind] = seconds(lambda kind=kind: build(store, [0], kind=kind, seed=SEED, device="cpu"))
        index = indexes[kind] = load(store, 0, device="cpu")
        found[kind] = index.search(queries, K)[1].numpy()
        tasks[kind] = _rate(lambda index=index: index.search(queries, K))
    samples = interleave(tasks, runs=1 if small else 7)
    rows = store.hidden(0).shape[0]
    return [
        compare(
            "index",
            f"{kind}, {rows:,} x {WIDTH}, recall@{K} {_recall(found[kind], truth):.3f}",
            "queries/s",
            {name: samples[name] for name in (kind, "FAISS IndexFlatIP")},
            subject=kind,
            against="FAISS IndexFlatIP",
            notes=(
                f"{QUERIES} queries at once, k {K}, by cosine; made-up rows, clustered by concept, topic and language, "
                "float16 in the store; the queries are rows that the store does not have",
                f"built in {', '.join(f'{name} {built[name]:.1f} s' for name in KINDS)}",
            ),
        )
        for kind in KINDS
    ]


def _unit(states: torch.Tensor) -> npt.NDArray[np.float32]:
    return torch.nn.functional.normalize(states.float(), dim=1).numpy()


def _rate(search: Callable[[], object]) -> Task:
    return lambda: QUERIES / seconds(search)


def _recall(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.size
