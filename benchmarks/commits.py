"""`python -m benchmarks.commits BEFORE --work FOLDER [--out [FILE]]`: this tree beside another commit, in turns, on the
CPU: extraction, the store, exact search, the lens, a server's answers over one store that BEFORE wrote, and the start
of commands.

BEFORE is a commit, or a folder that holds its files.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_store import LAYERS, item_id
from benchmarks.record import RESULTS, ROOT, Result, compare, machine, machine_name, save
from benchmarks.serve import Server, get, served
from benchmarks.serve_load import Load, run_load
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample

SLOWER = 1.1
"""The most that a median may be of the other commit's, to count as no slower."""

BENCHES: Mapping[str, Sequence[str]] = {
    "extract": ("--device", "cpu"),
    "search": ("--device", "cpu"),
    "store": (),
    "lens": ("--device", "cpu"),
}
"""Arguments of each `hubstore bench`."""

STARTUP: Mapping[str, Sequence[str]] = {
    "--help": ("--help",),
    "extract --help": ("extract", "--help"),
    "info": ("info", "STORE"),
    "query --id": ("query", "STORE", "--id", "ID", "-k", "3"),
}
"""Commands whose processor time and memory are measured, from the start of a process to its end."""

STARTUP_STORE = """
import sys
import hubstore
from hubstore.bench.extract import TINY, random_model
hubstore.extract(hubstore.open_corpus("sample:ntrex", limit=20), random_model(TINY, "cpu"), sys.argv[1])
"""
"""Makes the store that they read: 280 items, 4 layers."""

SUITES = (*BENCHES, "serve", "startup")

SMALL: Mapping[str, Sequence[str]] = {
    "extract": ("--lines", "2"),
    "search": ("--rows", "2000", "--width", "64", "--queries", "8"),
    "store": ("--rows", "2000", "--width", "64", "--layers", "2", "--taken", "50"),
    "lens": ("--states", "16", "--width", "32", "--vocabulary", "500"),
}
ROWS, SMALL_ROWS = 200_000, 8000
CLIENTS = 8
IDS = 500


MEASURE = """
import json, os, sys
quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
os.environ["PYTHONPATH"] = sys.argv[1]
process = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[2:]], os.environ, file_actions=quiet)
_, status, used = os.wait4(process, 0)
assert status == 0, status
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""Runs a command from a small process: a child's most memory counts that of its parent when it was made."""


def run(before: Path, work: Path, suites: Sequence[str], *, runs: int, seconds: float, small: bool) -> list[Result]:
    """The suite.

    Args:
        before: the folder of the other commit's files.
        work: where stores are, and what the benches of the store write.
        suites: of `SUITES`.
        runs: turns; both trees take one in each, the first of them by turns.
        seconds: of each load on a server.
        small: small sizes, to see that everything runs.
    """
    trees = {"hubstore": ROOT, "before": before}
    results = [result for name in BENCHES if name in suites for result in _bench(name, trees, work, runs, small)]
    if "serve" in suites:
        results += _serving(trees, work, SMALL_ROWS if small else ROWS, runs, seconds)
    if "startup" in suites:
        results += _startup(trees, work, runs)
    return results


def _turns(trees: Mapping[str, Path], runs: int) -> Iterator[tuple[str, Path]]:
    for turn in range(runs):
        yield from list(trees.items())[:: -1 if turn % 2 else 1]


def _bench(name: str, trees: Mapping[str, Path], work: Path, runs: int, small: bool) -> list[Result]:
    """Every figure of a `hubstore bench`, whose order is the same in both."""
    arguments = [*BENCHES[name], *(SMALL[name] if small else ()), "--runs", "1" if small else "3", "--json"]
    if name in ("extract", "store"):
        arguments += ["--scratch", str(work)]
    found: dict[str, list[list[dict[str, Any]]]] = {tree: [] for tree in trees}
    for tree, root in _turns(trees, runs):
        found[tree].append(json.loads(_python(root, "-m", "hubstore", "bench", name, *arguments))["figures"])
    results = []
    for number, figure in enumerate(found["hubstore"][0]):
        samples = {tree: Sample(tuple(turn[number]["value"] for turn in turns)) for tree, turns in found.items()}
        lower = figure["unit"] in ("s", "ms", "us", "µs")
        better: Any = {"better": "lower", "target": SLOWER} if lower else {"better": "higher", "target": 1 / SLOWER}
        case = f"{name}: {figure['work']}"
        results.append(compare("commits", case, figure["unit"], samples, against="before", **better))
    return results


def _startup(trees: Mapping[str, Path], work: Path, runs: int) -> list[Result]:
    """Seconds of processor time, user's and system's, and most memory of a command."""
    path = work / "startup.hub"
    _python(trees["before"], "-c", STARTUP_STORE, str(path))
    store = {"STORE": str(path), "ID": "en:1"}
    results = []
    for name, arguments in STARTUP.items():
        command = ["-m", "hubstore", *(store.get(word, word) for word in arguments)]
        found: dict[str, list[tuple[float, float]]] = {tree: [] for tree in trees}
        for tree, root in _turns(trees, runs):
            seconds, kilobytes = json.loads(_python(root, "-I", "-S", "-c", MEASURE, str(root), *command))
            found[tree].append((seconds, kilobytes / 1e3))
        for number, (what, unit) in enumerate((("processor time", "s"), ("most memory", "MB"))):
            samples = {tree: Sample(tuple(turn[number] for turn in turns)) for tree, turns in found.items()}
            better: Any = {"better": "lower", "target": SLOWER}
            results.append(
                compare("commits", f"startup: hubstore {name}: {what}", unit, samples, against="before", **better)
            )
    return results


def _serving(trees: Mapping[str, Path], work: Path, rows: int, runs: int, seconds: float) -> list[Result]:
    path = work / f"made-{rows}.hub"
    _python(trees["before"], "-m", "benchmarks.made_store", str(path), "--rows", str(rows))
    drawn = np.random.default_rng(0).choice(rows, min(IDS, rows), replace=False)
    ids = [item_id(int(position), rows) for position in drawn]
    results = []
    for kind in LAYERS:
        latencies: dict[str, dict[str, list[float]]] = {quantile: {t: [] for t in trees} for quantile in ("p50", "p99")}
        for tree, root in _turns(trees, runs):
            with served(path, root) as server:
                taken = _milliseconds(server, kind, ids, seconds)
            for quantile, values in latencies.items():
                values[tree].append(float(np.quantile(taken, int(quantile[1:]) / 100)))
        for quantile, values in latencies.items():
            case = f"serve: neighbors by id, {kind}, {rows:,} rows, {CLIENTS} clients: {quantile}"
            samples = {tree: Sample(tuple(of_tree)) for tree, of_tree in values.items()}
            better: Any = {"better": "lower", "target": SLOWER}
            results.append(compare("commits", case, "ms", samples, against="before", **better))
    return results


def _neighbors(server: Server, kind: str, item: str) -> str:
    """The path under the spelling that the server knows: the first edition's was British."""
    path = server.neighbors(kind, item)
    try:
        get(server.port, path)
    except RuntimeError:
        return path.replace("/neighbors?", "/neighbours?")
    return path


def _milliseconds(server: Server, kind: str, ids: Sequence[str], seconds: float) -> list[float]:
    spelled = _neighbors(server, kind, ids[0]).partition("?")[0]
    paths = {"neighbors": [spelled + "?" + server.neighbors(kind, item).partition("?")[2] for item in ids]}
    seen = run_load(Load(server.port, CLIENTS, seconds, paths, {"neighbors": 1}, warm=seconds / 2))
    if seen.errors or seen.busy:
        raise RuntimeError(f"{kind}: {seen.busy} busy, errors {seen.errors}")
    return seen.all


def _python(root: Path, *arguments: str) -> str:
    """The output of a process whose `hubstore` and `benchmarks` are those of `root`."""
    done = subprocess.run([sys.executable, *arguments], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def exported(before: str, work: Path) -> Path:
    """The folder of a commit's files, taken from the history; a folder is taken as it is."""
    if Path(before).is_dir():
        return Path(before).resolve()
    folder = work / f"commit-{before}"
    packed = subprocess.run(
        ["git", "archive", before, "hubstore", "benchmarks"], cwd=ROOT, check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder)  # of this repository's own history
    return folder.resolve()


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__)
    parser.add_argument("before", help="the other commit, or a folder with its files")
    parser.add_argument("--work", type=Path, required=True, help="folder on the disk to measure")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES, help="all by default")
    parser.add_argument("--runs", type=int, default=5, help="turns")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load on a server")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/commits/<machine>.json by default"
    )
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    started = time.perf_counter()
    before = exported(options.before, work)
    results = run(before, work, options.suites, runs=options.runs, seconds=options.seconds, small=options.small)
    took = time.perf_counter() - started
    print(f"\nthis tree beside {options.before}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        here = machine(work)
        save(Path(options.out or RESULTS / f"commits/{machine_name(here)}.json"), here, options.before, took, results)


if __name__ == "__main__":
    main()
