"""`python -m benchmarks.codes [--work FOLDER] [--out [FILE]]`: which code of a row is worth its bytes in an IVF index.
How many candidates a code must give to the exact re-rank, each of which is a row read, until its ten nearest are among
them; over real states of two models and over made-up rows, as they are and less the mean of their partition."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import hubstore
from benchmarks.made_store import LANGUAGES, made_states
from benchmarks.record import Result, save_suite
from benchmarks.table import suite_table
from hubstore.corpus import read_sample
from hubstore.index import kinds
from hubstore.index.library import faiss

MODELS = {"multilingual-e5-small": "6", "gemma-3-270m": "9"}
"""A middle layer of each."""

CODES = (
    *(f"RaBitQfs{bits}" for bits in (1, 2, 3, 4, 8)),
    *(f"RaBitQfs{bits}, rotated" for bits in (1, 2, 3, 4, 5)),
    *("SQ4", "SQ4, no residual", "SQ4, rotated", "SQ8"),
    *("PQx4fs", "PQx4fs, residual"),
)
"""Rotated: by a random rotation first, so that no element has more of a row than another."""

CHOSEN = "RaBitQfs1, rotated"
RECALLS = (0.95, 0.99)
QUERIES = 256
K = 10
MADE_ROWS = 30_000
SEED = 0

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Found:
    """What a code takes: bytes of a row, candidates for each of `RECALLS` (None: more than 50 k), ms a query."""

    size: int
    candidates: Mapping[float, int | None]
    milliseconds: float


def run(work: Path, *, small: bool) -> list[Result]:
    """The suite; models are looked for in the folder that HUBSTORE_TEST_MODELS names.

    Args:
        work: where the models' states are extracted to.
        small: few rows of one model, to see that everything runs.
    """
    results = []
    for name, states, partitions in _sets(work, small):
        for how, rows in (("as they are", states), ("less their partition's mean", _centered(states, partitions))):
            found = {code: _measured(code, rows) for code in CODES}
            case = f"{name}, {len(rows):,} x {rows.shape[1]}, {how}"
            print(case, *(f"  {code}: {one}" for code, one in found.items()), sep="\n", flush=True)
            results += [_rows_read(case, recall, found) for recall in RECALLS]
    return results


def _sets(work: Path, small: bool) -> Iterator[tuple[str, Rows, npt.NDArray[np.int64]]]:
    """A name, rows, and the number of the partition of each."""
    for model, layer in list(MODELS.items())[: 1 if small else None]:
        corpus = read_sample("ntrex", limit=40 if small else None)
        where = Path(os.environ.get("HUBSTORE_TEST_MODELS", "")) / model
        with tempfile.TemporaryDirectory(dir=work) as folder:
            store = hubstore.extract(corpus, where, Path(folder) / "x.hub", layers=(layer,), poolings=("mean",))
            rows = store.hidden(layer).read().float().numpy()
            numbers = np.empty(len(rows), np.int64)
            for number, partition in enumerate(store.partitions.values()):
                numbers[partition.positions()] = number
        yield f"{model}, layer {layer}, NTREX", rows, numbers
    count = 2_000 if small else MADE_ROWS
    yield "made-up rows", made_states(count)(0, count), np.arange(count) // (count // len(LANGUAGES))


def _centered(rows: Rows, partitions: npt.NDArray[np.int64]) -> Rows:
    moved = rows.astype(np.float64)
    for number in np.unique(partitions):
        moved[partitions == number] -= moved[partitions == number].mean(0)
    return moved.astype(np.float32)


def _measured(code: str, states: Rows) -> _Found:
    """A code with as many lists as hubstore would have, all of which are visited: what it misses, the code misses."""
    drawn = np.random.default_rng(SEED).permutation(len(states))
    unit = states.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit = (unit - unit.mean(0)).astype(np.float32)
    queries, rows = unit[drawn[:QUERIES]], unit[np.sort(drawn[QUERIES:])]
    lists = kinds.list_count(len(rows))
    index = faiss().index_factory(rows.shape[1], _factory(code, lists, rows.shape[1]), faiss().METRIC_L2)
    core = faiss().extract_index_ivf(index)
    core.cp.seed, core.nprobe = SEED, lists
    if "PQ" in code or code.startswith("SQ4"):
        core.by_residual = code.endswith(", residual") or code in ("SQ4", "SQ4, rotated")
    index.train(rows)
    index.add(rows)
    flat = faiss().IndexFlatL2(rows.shape[1])
    flat.add(rows)
    truth = flat.search(queries, K)[1]
    most = min(50 * K, len(rows))
    found = index.search(queries, most)[1]
    seconds = min(_seconds(index, queries) for _ in range(3))
    share = np.array([np.isin(a, b) for a, b in zip(found, truth, strict=True)]).cumsum(1).mean(0) / K
    reached = {recall: int(np.argmax(share >= recall)) + 1 if share[-1] >= recall else None for recall in RECALLS}
    return _Found(_bytes(index), reached, 1e3 * seconds / QUERIES)


def _factory(code: str, lists: int, width: int) -> str:
    name, _, how = code.partition(", ")
    if name.startswith("PQ"):
        name = kinds.factory("ivfpq", 39 * lists, width).partition(",")[2]
    return f"{'RR,' if how == 'rotated' else ''}IVF{lists},{name}"


def _bytes(index: Any) -> int:
    """Of one row's code, without its id."""
    return int(faiss().extract_index_ivf(index).code_size)


def _seconds(index: Any, queries: Rows) -> float:
    started = time.perf_counter()
    index.search(queries, 2 * K)
    return time.perf_counter() - started


def _rows_read(case: str, recall: float, found: Mapping[str, _Found]) -> Result:
    values = {code: one.candidates[recall] for code, one in found.items()}
    own = values[CHOSEN]
    assert own is not None
    return Result(
        work="codes",
        case=f"{case}: rows read for recall@{K} {recall}",
        unit=f"rows a query, {CHOSEN}",
        value=own,
        runs=1,
        spread=(own, own),
        peers={f"{code} ({found[code].size} B)": value for code, value in values.items()},
        better="lower",
        notes=(
            f"{QUERIES} queries that are no rows of the index, all lists visited; in parentheses the bytes of a row's "
            f"code; what did not run needs more than {50 * K} rows",
        ),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codes", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder for what is extracted")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", nargs="?", const="", help="keep the results, by default below benchmarks/results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    results = run(options.work, small=options.small)
    took = time.perf_counter() - started
    print(f"codes, {took:.0f} s\n\n{suite_table(results)}")
    if options.out is not None:
        save_suite(options.out, options.work, "codes", took, results)


if __name__ == "__main__":
    main()
