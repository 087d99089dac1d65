"""`python -m benchmarks.serve_projections --work FOLDER [--beside URL --beside-pid PID] [--out [FILE]]`: eight clients
that ask for projections that no one has asked for before, among all else; the server's memory and latency meanwhile.

A server of another release, started by its own checkout over a copy of the same store, can be measured beside this one:
both have the same load, in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np

from benchmarks.made_store import LAYERS, WIDTH, item_id, made_store
from benchmarks.record import Result, compare, save_suite
from benchmarks.serve import GROWTH, IDS, K, get, growth, memory_of, served, watched
from benchmarks.serve_load import Load, Seen, run_load
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample

ROWS, SMALL_ROWS = 200_000, 20_000
CLIENTS, POINTS = 8, 2000
SETTLED = 1 / 3
"""The first share of a turn, in which the server's cache of results fills (64 MiB)."""

SEED = 0
OFTEN = {"new projection": 10.0, "neighbors": 40.0, "item": 20.0, "page of items": 10.0, "hidden state": 10.0}
"""How often each is asked for, relative to the others."""

Memory = Callable[[], Mapping[str, float]]
Answer = tuple[Seen, Sequence[tuple[float, float, float]]]
"""What clients saw in one turn, and the server's memory meanwhile."""

Answers = Mapping[str, Sequence[Answer]]


@dataclass(frozen=True)
class Asked:
    """A server that has the load.

    Args:
        port: on 127.0.0.1.
        paths: by kind of request.
        memory: of its process; None where its number was not given.
    """

    port: int
    paths: Mapping[str, Sequence[str]]
    memory: Memory | None

    def answer(self, seconds: float, turn: int) -> Answer:
        """What the clients saw in so many seconds, and its memory meanwhile."""
        load = Load(self.port, CLIENTS, seconds, self.paths, OFTEN, warm=2.0, seed=turn)
        if self.memory is None:
            return run_load(load), []
        with watched(self.memory) as memory:
            return run_load(load), memory


def paths_of(port: int, store: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """What is asked of a server, whose release may still spell neighbors as the first one did."""
    base, layer = f"/api/stores/{quote(store)}", LAYERS["hnsw"]
    items = [quote(item, safe="") for item in ids]
    try:
        get(port, f"{base}/neighbors?id={items[0]}&layer={layer}&k=1")
        neighbors = "neighbors"
    except RuntimeError:
        neighbors = "neighbours"
    return {
        "new projection": [f"{base}/projection?layer={layer}&points={POINTS}&seed={{new}}"],
        "neighbors": [f"{base}/{neighbors}?id={item}&layer={layer}&k={K}" for item in items],
        "item": [f"{base}/item?id={item}" for item in items],
        "page of items": [f"{base}/items?offset={i * 97}&limit=50" for i in range(200)],
        "hidden state": [f"{base}/hidden?id={item}&layer={layer}" for item in items],
    }


def run(work: Path, *, rows: int, turns: int, seconds: float, beside: str | None, pid: int | None) -> list[Result]:
    """The suite.

    Args:
        work: where the store is, or will be.
        rows: of it.
        turns: of each server.
        seconds: of each turn.
        beside: URL of another release's server of a copy of the store.
        pid: its process's number.
    """
    path = work / f"made-{rows}.hub"
    made_store(path, rows)
    drawn = np.random.default_rng(SEED).choice(rows, min(IDS, rows), replace=False)
    ids = [item_id(int(position), rows) for position in drawn]
    shutil.rmtree(path / "analyses", ignore_errors=True)  # projections that an earlier run kept are not new
    with served(path) as server:
        asked = {"server": Asked(server.port, paths_of(server.port, server.store, ids), server.memory)}
        if beside is not None:
            port = urlsplit(beside).port
            assert port is not None, "a URL with a port"
            (other,) = json.loads(get(port, "/api/stores") or b"")["stores"]
            memory = None if pid is None else (lambda: memory_of(pid))
            asked["beside"] = Asked(port, paths_of(port, other["name"], ids), memory)
        seen: dict[str, list[Answer]] = {name: [] for name in asked}
        for turn in range(turns):
            for name, one in asked.items():
                seen[name].append(one.answer(seconds, turn))
    return [*_latencies(rows, seconds, seen), *_memory(rows, seconds, seen)]


def _latencies(rows: int, seconds: float, seen: Answers) -> list[Result]:
    case = f"{seconds / 60:.3g} minutes of new projections, {CLIENTS} clients, {rows:,} x {WIDTH}"
    results = []
    for kind in ("all", *OFTEN):
        samples = {
            name: Sample(tuple(_p99(one.all if kind == "all" else one.latencies[kind]) for one, _ in turns))
            for name, turns in seen.items()
        }
        against = "beside" if "beside" in samples else None
        results.append(
            compare("serve_projections", f"{case}: p99, {kind}", "ms", samples, subject="server", against=against,
                    better="lower", notes=_notes(seen) if kind == "all" else ())
        )  # fmt: skip
    return results


def _p99(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.99))


def _notes(seen: Answers) -> list[str]:
    notes = [
        f"a projection is of {POINTS} points, and no other request has its seed; clients' seeds: the turn's number"
    ]
    for name, turns in seen.items():
        every = [one for one, _ in turns]
        answers, busy = sum(len(one.all) for one in every), sum(one.busy for one in every)
        new = sum(len(one.latencies["new projection"]) for one in every)
        notes.append(f"{name}: {answers:,} answers, {new:,} of them new projections; busy {busy}")
        notes += [f"{name}: {said} ({count})" for one in every for said, count in one.errors.items()]
    return notes


def _memory(rows: int, seconds: float, seen: Answers) -> list[Result]:
    case = f"{seconds / 60:.3g} minutes of new projections, {CLIENTS} clients, {rows:,} x {WIDTH}"
    grown = {name: [growth(memory, SETTLED) for _, memory in turns if memory] for name, turns in seen.items()}
    samples = {name: Sample(tuple(one[0] for one in every)) for name, every in grown.items() if every}
    ends = {name: every[-1][1][-1] for name, every in grown.items() if every}
    notes = [f"grown: by the line through its anonymous memory of each second, the first {SETTLED:.0%} left out"]
    notes += [f"{name}: {end:,.0f} MB anonymous at the end" for name, end in ends.items()]
    flat = compare(
        "serve_projections", f"{case}: memory that the server has grown by", "MB", samples, subject="server",
        target=GROWTH, target_of="value", better="lower", notes=notes,
    )  # fmt: skip
    failed = sum(sum(one.errors.values()) for one, _ in seen["server"])
    errors = Result("serve_projections", f"{case}: answers that were errors", "answers", failed, 1, (failed, failed),
                    target=0, target_of="value", better="lower")  # fmt: skip
    return [flat, errors]


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_projections", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the made store from run to run")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--turns", type=int, default=1, help="of each server")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each turn")
    parser.add_argument(
        "--beside",
        metavar="URL",
        help="another release's server on loopback, of a copy of the store without kept results",
    )
    parser.add_argument("--beside-pid", type=int, metavar="PID", help="its process, whose memory is looked at")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/<machine>.json where no file is named"
    )
    options = parser.parse_args(arguments)
    if options.small:
        options.rows, options.turns, options.seconds = SMALL_ROWS, 1, 15.0
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = run(
        options.work,
        rows=options.rows,
        turns=options.turns,
        seconds=options.seconds,
        beside=options.beside,
        pid=options.beside_pid,
    )
    took = time.perf_counter() - started
    print(f"\nserve_projections, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        save_suite(options.out, options.work, "serve_projections", took, results)


if __name__ == "__main__":
    main()
