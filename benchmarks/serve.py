"""`python -m benchmarks.serve --work FOLDER [--out [FILE]]`: a server on loopback beside the bare search call, its
start, and its memory and errors over minutes of mixed load."""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import hubstore
from benchmarks.made_store import LAYERS, WIDTH, item_id, made_store
from benchmarks.record import ROOT, Result, compare, save_suite
from benchmarks.serve_load import Load, Seen, run_load
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample
from hubstore.index import LayerIndex, load
from hubstore.query import search

ROWS, SMALL_ROWS = 1_000_000, 20_000
CLIENTS = (1, 8, 64)
K = 10
IDS = 2000
"""Items that are asked for, drawn once."""

SLOWER = 3.0
"""The most that a server's p99 may be of the bare call that answers as many queries as there are clients."""

STARTED = 2.0
GROWTH = 16.0
"""Megabytes that the server may grow over the mixed load, by the line through its anonymous memory."""

SETTLED = 0.1
"""The first share of the mixed load, in which caches fill."""

MIXED_CLIENTS = 16
SEED = 0


def run(work: Path, *, rows: int, runs: int, seconds: float, mixed_seconds: float) -> list[Result]:
    """The suite.

    Args:
        work: where the store is, or will be.
        rows: of the store.
        runs: turns of each comparison.
        seconds: of each load of a turn.
        mixed_seconds: of the mixed load.
    """
    path = work / f"made-{rows}.hub"
    made_store(path, rows)
    bare = Bare(path, rows)
    starts = [_started(path, bare.ids[turn]) for turn in range(max(runs, 3))]
    with served(path) as server:
        _same_answers(server, bare)
        results = _starts(starts, rows)
        for kind in LAYERS:
            results += _beside(server, bare, kind, runs, seconds)
        results += _mixed(server, bare, mixed_seconds)
    return results


class Bare:
    """The store in this process, its indexes loaded: search, and nothing else."""

    def __init__(self, path: Path, rows: int) -> None:
        self.rows = rows
        self.store = hubstore.open(path)
        self.indexes: dict[str, LayerIndex] = {}
        self.indexes[LAYERS["hnsw"]] = load(self.store, LAYERS["hnsw"], device="cpu")
        drawn = np.random.default_rng(SEED).choice(rows, min(IDS, rows), replace=False)
        self.ids = [item_id(int(position), rows) for position in drawn]

    def warm(self, kind: str) -> None:
        """Have every page of the store and the index that the items need in memory."""
        for start in range(0, len(self.ids) if kind == "hnsw" else 64, 64):
            self.search(kind, self.ids[start : start + 64])

    def milliseconds(self, kind: str, queries: int, seconds: float) -> list[float]:
        """Of one call after another, each of `queries` other ids, for so long."""
        taken: list[float] = []
        ends = time.perf_counter() + seconds
        while (started := time.perf_counter()) < ends or len(taken) < 3:
            first = len(taken) * queries % (len(self.ids) - queries + 1)
            self.search(kind, self.ids[first : first + queries])
            taken.append(1e3 * (time.perf_counter() - started))
        return taken

    def search(self, kind: str, ids: Sequence[str]) -> pa.Table:
        """As the server is asked."""
        return search(self.store, ids=ids, k=K, layers=[LAYERS[kind]], indexes=self.indexes, device="cpu")


@dataclass(frozen=True)
class Server:
    """A server in a process of its own, of one store."""

    process: subprocess.Popen[bytes]
    port: int
    store: str

    def path(self, rest: str) -> str:
        """Of something of the store."""
        return f"/api/stores/{quote(self.store)}{rest}"

    def neighbors(self, kind: str, item: str) -> str:
        """The path that asks for an item's neighbors."""
        return self.path(f"/neighbors?id={quote(item, safe='')}&layer={LAYERS[kind]}&k={K}")

    def memory(self) -> dict[str, float]:
        """Megabytes that are resident: all, and what is of no file."""
        return memory_of(self.process.pid)


@contextmanager
def served(path: Path, root: Path = ROOT) -> Iterator[Server]:
    """A server of the store at `path`, which answers, by the package in the folder `root`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hubstore", "serve", str(path), "--port", str(port), "--device", "cpu"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while get(port, "/healthz") is None:
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {log.read().decode()}")
                time.sleep(0.005)
            yield Server(process, port, path.stem)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def get(port: int, path: str) -> bytes | None:
    """The body of a 200; None while nothing listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except ConnectionError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0] + b" ":
        raise RuntimeError(f"{path}: {answer[:500].decode(errors='replace')}")
    return body


def _started(path: Path, item: str) -> dict[str, float]:
    """Seconds from the start of a process to its first answers."""
    started = time.perf_counter()
    with served(path) as server:
        found = {"/healthz": time.perf_counter() - started}
        get(server.port, server.neighbors("hnsw", item))
        found["first neighbors, HNSW"] = time.perf_counter() - started
        return found


def _starts(starts: Sequence[Mapping[str, float]], rows: int) -> list[Result]:
    samples = {name: Sample(tuple(start[name] for start in starts)) for name in starts[0]}
    case = f"start of `hubstore serve`, {rows:,} x {WIDTH}, 2 layers: to the first answer of /healthz"
    compared = {"subject": "/healthz", "target": STARTED, "target_of": "value", "better": "lower"}
    notes = ("start: from the start of the process, Python's own included; the store's files are in the page cache",)
    return [compare("serve", case, "s", samples, **compared, notes=notes)]


def _same_answers(server: Server, bare: Bare) -> None:
    with hubstore.connect(f"http://127.0.0.1:{server.port}") as remote:
        for kind, layer in LAYERS.items():
            found = remote.search(ids=bare.ids[:5], k=K, layers=[layer])
            assert found.equals(bare.search(kind, bare.ids[:5])), f"{kind}: the server answers something else"


def _beside(server: Server, bare: Bare, kind: str, runs: int, seconds: float) -> list[Result]:
    """Neighbors by id at each number of clients, in turns with the bare call."""
    paths = {"neighbors": [server.neighbors(kind, item) for item in bare.ids]}
    bare.warm(kind)
    run_load(Load(server.port, max(CLIENTS), seconds / 2, paths, {"neighbors": 1}, seed=-1))
    turns: dict[int, list[Turn]] = {clients: [] for clients in CLIENTS}
    for number in range(runs):
        alone = bare.milliseconds(kind, 1, seconds / 2)
        for clients in CLIENTS:
            together = alone if clients == 1 else bare.milliseconds(kind, clients, seconds / 2)
            seen = run_load(Load(server.port, clients, seconds, paths, {"neighbors": 1}, seed=number))
            if seen.errors or seen.busy:
                raise RuntimeError(f"{kind}, {clients} clients: {seen.busy} busy, errors {seen.errors}")
            turns[clients].append(Turn(seen, together, alone))
    return [result for clients in CLIENTS for result in _compared(bare, kind, clients, turns[clients])]


@dataclass(frozen=True)
class Turn:
    """One turn at one number of clients.

    Args:
        seen: by the clients.
        together: milliseconds of bare calls of as many queries as there are clients.
        alone: milliseconds of bare calls of one.
    """

    seen: Seen
    together: Sequence[float]
    alone: Sequence[float]


def _compared(bare: Bare, kind: str, clients: int, turns: Sequence[Turn]) -> list[Result]:
    title = "HNSW" if kind == "hnsw" else kind
    plural = "client" if clients == 1 else "clients"
    case = f"neighbors by id, {title}, {bare.rows:,} x {WIDTH}, {clients} {plural}"
    call = "bare call of 1 query" if clients == 1 else f"bare call of {clients} queries"
    latencies = {
        "p99": _each(turns, lambda turn: np.quantile(turn.seen.all, 0.99)),
        "p50": _each(turns, lambda turn: np.quantile(turn.seen.all, 0.5)),
        call: _each(turns, lambda turn: np.median(turn.together)),
        "its p99": _each(turns, lambda turn: np.quantile(turn.together, 0.99)),
    }
    rates = {
        "server": _each(turns, lambda turn: len(turn.seen.all) / turn.seen.seconds),
        call: _each(turns, lambda turn: 1e3 * clients / np.median(turn.together)),
    }
    if clients > 1:
        latencies["bare call of 1 query"] = _each(turns, lambda turn: np.median(turn.alone))
        rates["bare call of 1 query"] = _each(turns, lambda turn: 1e3 / np.median(turn.alone))
    notes = (
        f"each client sends the next request when it has the answer; k {K}; JSON over kept-alive connections; the "
        "clients are one process, on the cores that the server has too",
        "bare call: `hubstore.query.search` in a process that has the store open and the index loaded, while the "
        "server rests; the median of the turn's calls, and their p99; p50 and p99 are of all answers of a turn",
    )
    return [
        compare("serve", f"{case}: p99", "ms", latencies, subject="p99", against=call, target=SLOWER, better="lower",
                notes=notes),
        compare("serve", f"{case}: throughput", "requests/s", rates, subject="server", against=call),
    ]  # fmt: skip


def _each(turns: Sequence[Turn], measure: Callable[[Turn], float]) -> Sample:
    return Sample(tuple(float(measure(turn)) for turn in turns))


def _mixed(server: Server, bare: Bare, seconds: float) -> list[Result]:
    """Everything at once, the server's memory read each second."""
    paths, weights = _mixed_paths(server, bare)
    with watched(server.memory) as memory:
        seen = run_load(Load(server.port, MIXED_CLIENTS, seconds, paths, weights, warm=2.0))
    assert server.process.poll() is None, "the server ended"
    grown, anonymous, resident = growth(memory)
    failed = sum(seen.errors.values())
    minutes = f"{seconds / 60:.3g} minutes of mixed load, {MIXED_CLIENTS} clients, {len(seen.all):,} answers"
    kinds = ", ".join(f"{kind} {len(values) / len(seen.all):.0%}" for kind, values in seen.latencies.items())
    slowest = ", ".join(f"{kind} {np.quantile(values, 0.99):.0f}" for kind, values in seen.latencies.items() if values)
    notes = (
        f"mixed load: {kinds}",
        f"its p99 in ms: {slowest}",
        f"grown: the line through the server's anonymous memory of each second, the first {SETTLED:.0%} left out, from "
        "its begin to its end; resident memory has the mapped store's pages too",
        *(f"error: {name} ({count})" for name, count in seen.errors.items()),
    )
    flat = Result(
        "serve", f"{minutes}: memory that the server has grown by", "MB", grown, 1, (grown, grown),
        peers={
            "greatest less least": float(anonymous.max() - anonymous.min()),
            "anonymous at the end": float(anonymous[-1]),
            "resident at the end": float(resident[-1]),
        },
        target=GROWTH, target_of="value", better="lower", notes=notes,
    )  # fmt: skip
    errors = Result(
        "serve", f"{minutes}: answers that were errors", "answers", failed, 1, (failed, failed),
        peers={"busy (503)": seen.busy, "answers/s": len(seen.all) / seen.seconds},
        target=0, target_of="value", better="lower",
    )  # fmt: skip
    return [flat, errors]


@contextmanager
def watched(memory: Callable[[], Mapping[str, float]]) -> Iterator[list[tuple[float, float, float]]]:
    """Meanwhile fills a list with the time, anonymous and resident memory of each second."""
    seen: list[tuple[float, float, float]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            now = memory()
            seen.append((time.perf_counter(), now["RssAnon"], now["VmRSS"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def growth(
    memory: Sequence[tuple[float, float, float]], settled: float = SETTLED
) -> tuple[float, npt.NDArray[Any], npt.NDArray[Any]]:
    """What a server has grown by, by the line through its anonymous memory; and that and resident memory, settled."""
    times, anonymous, resident = np.array(memory)[int(settled * len(memory)) :].T
    slope = float(np.polyfit(times - times[0], anonymous, 1)[0])
    return slope * float(times[-1] - times[0]), anonymous, resident


def memory_of(pid: int) -> dict[str, float]:
    """Megabytes of a process that are resident: all, and what is of no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    named = dict(line.split(":", 1) for line in lines)
    return {name: int(named[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")}


def _mixed_paths(server: Server, bare: Bare) -> tuple[dict[str, list[str]], dict[str, float]]:
    """What a lab's people ask: paths by kind, and how often each."""
    some = [quote(item, safe="") for item in bare.ids]
    hnsw, exact = LAYERS["hnsw"], LAYERS["exact"]
    language = ["en", "es", "sw", "zh-Hans"]
    paths = {
        "neighbors, HNSW": [server.neighbors("hnsw", item) for item in bare.ids],
        "neighbors, exact": [server.neighbors("exact", item) for item in bare.ids],
        "neighbors, in a language": [
            server.path(f"/neighbors?id={item}&layer={hnsw}&k={K}&language={language[i % 4]}")
            for i, item in enumerate(some[:200])
        ],
        "item": [server.path(f"/item?id={item}") for item in some],
        "page of items": [server.path(f"/items?offset={i * 997 % bare.rows}&limit=50") for i in range(200)],
        "items by text": [server.path(f"/items?q=concept+{i * 37}&limit=20") for i in range(200)],
        "hidden state": [server.path(f"/hidden?id={item}&layer={exact}") for item in some],
        "map": [server.path(f"/projection?layer={exact}&points=2000&seed={i}") for i in range(4)],
        "store": [server.path(""), "/api/stores"],
        "page and health": ["/", "/healthz", "/metrics"],
    }
    often = (40, 2, 4, 20, 10, 2, 10, 1, 5, 6)
    return paths, dict(zip(paths, map(float, often), strict=True))


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the made store from run to run")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--runs", type=int, default=5, help="turns of each comparison")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load of a turn")
    parser.add_argument("--mixed-seconds", type=float, default=600.0, help="of the mixed load")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/<machine>.json where no file is named"
    )
    options = parser.parse_args(arguments)
    if options.small:
        options.rows, options.runs, options.seconds, options.mixed_seconds = SMALL_ROWS, 1, 1.0, 10.0
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = run(
        options.work,
        rows=options.rows,
        runs=options.runs,
        seconds=options.seconds,
        mixed_seconds=options.mixed_seconds,
    )
    took = time.perf_counter() - started
    print(f"\nserve, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        save_suite(options.out, options.work, "serve", took, results)


if __name__ == "__main__":
    main()
