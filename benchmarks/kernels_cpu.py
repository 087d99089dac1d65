"""The kernels on two threads of a CPU: search, match ranks and the logit lens, beside FAISS and plain torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.record import Result, compare
from hubstore.bench.states import hub_states
from hubstore.bench.timing import interleave, seconds
from hubstore.kernels import lens_sweep, match_rank, topk_cosine

THREADS = 2
K = 10
TILE = 8192
SEED = 0

Search = Callable[[], Tensor]
"""Returns the indices [q, k] that it found."""


def run(scratch: Path, *, small: bool) -> list[Result]:
    """The suite."""
    del scratch
    torch.set_num_threads(THREADS)
    runs = 1 if small else 7
    scale = 100 if small else 1
    return [
        _search(99_000 // scale, 768, 1000 // scale, runs, target=3.0),
        _search(100_000 // scale, 384, 1, runs),
        _match(10_000 // scale, 768, runs),
        _lens(256 // scale, 768, 128_000 // scale, runs),
    ]


def _search(count: int, width: int, n_queries: int, runs: int, target: float | None = None) -> Result:
    """Hub-like rows in the store's float16, and queries that are not among them."""
    states = hub_states(count + n_queries, width, seed=SEED)
    drawn = np.random.default_rng(SEED).permutation(count + n_queries)
    queries, rows = states[drawn[:n_queries]], states[np.sort(drawn[n_queries:])].to(torch.float16)
    searches: dict[str, Search] = {
        "hubstore": lambda: topk_cosine(queries, rows, K)[1],
        "FAISS IndexFlatIP": _faiss(queries, rows),
        "torch float32": _tiled(queries, rows, torch.float32),
        "torch bfloat16": _tiled(queries, rows, torch.bfloat16),
    }
    truth = _truth(queries, rows)
    recalls = {name: _recall(search(), truth) for name, search in searches.items()}
    samples = interleave({name: (lambda s=search: n_queries / seconds(s)) for name, search in searches.items()}, runs)
    of = f"{n_queries:,} queries" if n_queries > 1 else "one query"
    return compare(
        "kernels_cpu",
        f"topk_cosine, {of}, {count:,} x {width}, recall@{K} {recalls['hubstore']:.4f}",
        "queries/s",
        samples,
        against="FAISS IndexFlatIP",
        target=target,
        recalls=recalls,
        recall_target=0.9999,
        notes=(
            f"{THREADS} threads, k {K}; made-up rows, clustered by concept, topic and language; recall against float64",
            "hubstore reads float16 rows as stored; those of the others were made unit rows beforehand, for FAISS and "
            "torch float32 in float32",
        ),
    )


def _faiss(queries: Tensor, rows: Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(normalize(rows.float(), dim=1).numpy())
    return lambda: torch.from_numpy(flat.search(normalize(queries.float(), dim=1).numpy(), K)[1])


def _tiled(queries: Tensor, rows: Tensor, dtype: torch.dtype) -> Search:
    unit = normalize(rows.float(), dim=1).to(dtype)

    def search() -> Tensor:
        unit_queries = normalize(queries.float(), dim=1).to(dtype)
        scores, found = [], []
        for start in range(0, len(unit), TILE):
            best = (unit_queries @ unit[start : start + TILE].T).topk(K)
            scores.append(best.values)
            found.append(best.indices + start)
        return torch.cat(found, 1).gather(1, torch.cat(scores, 1).topk(K).indices)

    return search


def _truth(queries: Tensor, rows: Tensor) -> Tensor:
    unit_queries, unit = normalize(queries.double(), dim=1), normalize(rows.double(), dim=1)
    return torch.cat([(part @ unit.T).topk(K).indices for part in unit_queries.split(128)])


def _recall(found: Tensor, truth: Tensor) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()


def _match(count: int, width: int, runs: int) -> Result:
    x = hub_states(count, width, seed=SEED)
    y = x + 0.5 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))
    pairs = {"hubstore": lambda: match_rank(x, y), "torch float32": lambda: _plain_ranks(x, y)}
    return compare(
        "kernels_cpu",
        f"match_rank, both directions, {count:,} x {width}",
        "pairs/s",
        interleave({name: (lambda w=work: count / seconds(w)) for name, work in pairs.items()}, runs),
        against="torch float32",
        notes=(f"{THREADS} threads; torch makes the products once, in tiles of {TILE} rows, and counts both ways",),
    )


def _plain_ranks(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    unit_x, unit_y = normalize(x, dim=1), normalize(y, dim=1)
    matches = (unit_x * unit_y).sum(1)
    forward, backward = torch.zeros(2, len(x), dtype=torch.int64)
    for start in range(0, len(x), TILE):
        part = slice(start, start + TILE)
        products = unit_x[part] @ unit_y.T
        forward[part] = (products > matches[part, None]).sum(1)
        backward += (products > matches).sum(0)
    return forward, backward


def _lens(count: int, width: int, vocabulary: int, runs: int) -> Result:
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(count, width, generator=generator)
    unembedding = 0.1 * torch.randn(vocabulary, width, generator=generator)
    targets = torch.randint(vocabulary, (count, 4), generator=generator)
    lenses = {
        "hubstore": lambda: lens_sweep(hidden, unembedding, targets=targets, k=K),
        "torch": lambda: _plain_lens(hidden, unembedding, targets),
    }
    return compare(
        "kernels_cpu",
        f"lens_sweep, {count} states, vocabulary {vocabulary:,} x {width}",
        "states/s",
        interleave({name: (lambda w=work: count / seconds(w)) for name, work in lenses.items()}, runs),
        against="torch",
        notes=(
            f"{THREADS} threads; entropy, top {K}, log-probabilities and ranks of 4 targets a state; torch holds all "
            "logits in float32",
        ),
    )


def _plain_lens(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    logits = hidden @ unembedding.T
    log_probabilities = logits.log_softmax(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    of_targets = log_probabilities.gather(1, targets)
    ranks = torch.stack([(log_probabilities > column[:, None]).sum(1) for column in of_targets.T], 1)
    best = log_probabilities.topk(K)
    return entropy, of_targets, ranks, best.values, best.indices
