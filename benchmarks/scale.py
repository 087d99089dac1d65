"""`python -m benchmarks.scale [--work FOLDER] [--out [FILE]]`: what a layer of 10^6 to 10^9 rows x 384 float16 would
take of memory and disk, and how many queries it would answer: exact search, and IVF with PQ and with RaBitQ codes. The
constants are measured here, the sizes beyond are the cost model's."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import RESULTS, Result, machine, machine_name, save
from benchmarks.table import SCALING, suite_table
from hubstore.index import kinds
from hubstore.index.cost import BATCH, IndexCost, SearchSpeed, code_bytes, index_costs, rabitq_bytes, search_speed
from hubstore.index.library import faiss

WIDTH = 384
ROWS = tuple(10**power for power in (6, 7, 8, 9))
MEASURED_ROWS = 100_000
"""Of made-up rows, clustered as in the other benchmarks, on which RaBitQ is measured beside IVF-PQ."""

K = 10
MEMORY = 16 << 30
"""Bytes that a search may have of rows; exact search of more reads them from the disk for every pass."""

Rows = npt.NDArray[np.float32]


def run(work: Path, rows: Sequence[int] = ROWS, measured_rows: int = MEASURED_ROWS) -> list[Result]:
    """The suite.

    Args:
        work: a folder on the disk that stores are on.
        rows: sizes to give the model's numbers of.
        measured_rows: that the codes are measured on.
    """
    speed = search_speed(WIDTH, "float16", work, refresh=True)
    results = [_code(kind, _measured(kind, measured_rows), measured_rows) for kind in kinds.CODED]
    for count in rows:
        results += _at(count, speed)
    return results


def _at(rows: int, speed: SearchSpeed) -> list[Result]:
    costs = {cost.kind: cost for cost in index_costs(rows, WIDTH, "float16", speed, MEMORY)}
    exact = costs["exact"]
    assert exact.together is not None
    stored = rows * WIDTH * 2
    disk = speed.read_seconds is not None and stored > MEMORY
    return [
        _model(
            f"exact, {rows:,} rows, {BATCH} queries at once",
            1 / exact.together,
            stored,
            min(stored, MEMORY) if not disk else 0,
            "every pass reads the rows from the disk" if disk else "the rows stay in memory",
        ),
        *(_of_codes(costs[kind], rows, stored) for kind in kinds.CODED),
    ]


def _of_codes(cost: IndexCost, rows: int, stored: int) -> Result:
    settings = kinds.parameters(cost.kind, rows)
    assert cost.together is not None
    return _model(
        f"{cost.kind}, {rows:,} rows, {settings['nlist']:,} lists of which {settings['nprobe']:,} are visited",
        1 / cost.together,
        stored + cost.disk,
        cost.memory,
        f"{cost.disk / rows:.0f} bytes a row",
    )


def _model(case: str, rate: float, disk: int, memory: int, note: str) -> Result:
    return Result(
        work="scale",
        case=f"model: {case}: {disk / 1e9:,.1f} GB on disk, {memory / 1e9:,.2f} GB in memory",
        unit="queries/s",
        value=rate,
        runs=0,
        spread=(rate, rate),
        notes=(
            "model: extrapolated from what was measured on one machine, whose memory would have to hold the codes; "
            "scoring an approximate index's candidates again reads rows of the store and is left out",
            f"{case.split(',', maxsplit=1)[0]}: {note}",
        ),
    )


def _code(kind: str, found: dict[str, Any], rows: int) -> Result:
    rate = 1 / found["query_seconds"]
    return Result(
        work="scale",
        case=f"measured: {kind}, codes of {found['bytes']} bytes, {rows:,} x {WIDTH}, {BATCH} queries at once",
        unit="queries/s",
        value=rate,
        runs=found["runs"],
        spread=(1 / max(found["seconds"]), 1 / min(found["seconds"])),
        recall=found["recall"],
        notes=(
            f"{kind}: {found['code_seconds'] * 1e12:.2f} ps for a byte of codes visited, {found['nprobe']} of "
            f"{found['nlist']} lists visited, {found['refine'] * K} candidates scored again exactly for recall@{K}, "
            f"built in {found['built']:.0f} s",
        ),
    )


def _measured(kind: str, rows: int) -> dict[str, Any]:
    """An index of made-up rows: how long a query takes, by how many of its lists are visited, and how much it finds."""
    from benchmarks.made_store import LANGUAGES, made_states

    rows -= rows % len(LANGUAGES)
    states = made_states(rows)(0, rows)
    states -= states.mean(0)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    settings = kinds.parameters(kind, rows)
    started = time.perf_counter()
    index = faiss().index_factory(WIDTH, kinds.factory(kind, rows, WIDTH), faiss().METRIC_L2)
    index.train(states[np.random.default_rng(0).choice(rows, kinds.training_rows(kind, rows), replace=False)])
    index.add(states)
    built = time.perf_counter() - started
    queries = states[:: max(1, rows // BATCH)][:BATCH]
    queries = queries + np.random.default_rng(1).standard_normal(queries.shape, np.float32) * queries.std() * 0.3
    size = code_bytes(rows, WIDTH) if kind == "ivfpq" else rabitq_bytes(WIDTH)
    wanted = settings["refine"] * K
    few, all_lists = (_seconds(index, queries, probes, wanted) for probes in (settings["nprobe"], settings["nlist"]))
    further = rows * size * (1 - settings["nprobe"] / settings["nlist"])
    _, found = index.search(queries, wanted, params=faiss().SearchParametersIVF(nprobe=settings["nprobe"]))
    return {
        **settings,
        "bytes": size,
        "built": built,
        "runs": len(few),
        "seconds": few,
        "query_seconds": float(np.median(few)),
        "code_seconds": max(float(np.median(all_lists) - np.median(few)), 0.0) / further,
        "recall": _recall(states, queries, found),
    }


def _seconds(index: Any, queries: Rows, probes: int, wanted: int) -> list[float]:
    """Of one of the queries, turn by turn, after one that does not count."""
    options = faiss().SearchParametersIVF(nprobe=probes)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        index.search(queries, wanted, params=options)
        taken.append((time.perf_counter() - started) / len(queries))
    return taken[1:]


def _recall(states: Rows, queries: Rows, found: npt.NDArray[np.int64]) -> float:
    """Share of the nearest K rows among the candidates, the best of which an exact score would then choose."""
    true = np.argsort(-(queries @ states.T), axis=1, kind="stable")[:, :K]
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(true, found, strict=True)]))


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk of stores")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", nargs="?", const="", help="keep the results, by default below benchmarks/results")
    options = parser.parse_args(arguments)
    faiss().omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    started = time.perf_counter()
    results = run(options.work, *(((100_000,), 8_000) if options.small else ()))
    took = time.perf_counter() - started
    print(f"scale, {took:.0f} s\n\n{suite_table(results)}")
    if options.out is not None:
        here = machine(options.work)
        save(Path(options.out or RESULTS / SCALING / f"{machine_name(here)}.json"), here, "scale", took, results)


if __name__ == "__main__":
    main()
