"""`python -m benchmarks.opening --work FOLDER [--commits N] [--out [FILE]]`: how long a store of many commits takes to
be opened, and in how much memory, with its commit log and without.

The commits are made up: they list files that are not there, since opening a store reads none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import RESULTS, Result, compare, machine, machine_name, save
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample
from hubstore.storage import FileRecord, LocalStorage
from hubstore.store import Layout, write_metadata
from hubstore.store.commit import Commit
from hubstore.store.layout import commit_key, items_key
from hubstore.store.log import FOLDER, read_commits, write_log
from hubstore.store.sizes import size_limits

LAYERS = 33
LAYOUT = Layout(tuple(map(str, range(LAYERS))), ("mean",), "float16", 4096, 8192, 256)
MOST_SECONDS, MOST_BYTES = 1.0, 300e6

OPEN = """
import json, sys, time
from hubstore.store import StoreReader
started, before = time.perf_counter(), time.process_time()
store = StoreReader(sys.argv[1])
seconds, processor = time.perf_counter() - started, time.process_time() - before
assert len(store.commits) == int(sys.argv[2]) and store.unfinished is None
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([seconds, processor, int(status["VmHWM"].split()[0]) * 1024]))
"""


def made_store(path: Path, commits: int) -> LocalStorage:
    """A store of made-up commits at `path`, written where there is none of as many yet."""
    storage = LocalStorage(path)
    if len(storage.list("commits")) != commits:
        write_metadata(storage, LAYOUT, {"model": {"id": "made-up"}}, commits * LAYOUT.shard_rows, 0)
        (path / "commits").mkdir(exist_ok=True)
        for shard in range(commits):
            (path / commit_key(shard)).write_bytes(_commit(shard).encode())  # not synced, one by one
    return storage


def _commit(shard: int) -> Commit:
    size, half = size_limits(LAYOUT.shard_rows, LAYOUT)[0], LAYOUT.shard_rows // 2
    keys = (f"hidden/mean/{layer}/c/{shard}/0" for layer in LAYOUT.layers)
    files = {key: FileRecord(size, (shard * LAYERS + number) % (1 << 32)) for number, key in enumerate(keys)}
    files[items_key(shard)] = FileRecord(100_000 + shard, shard)
    runs = (("text", "en", half), ("text", "de", half))
    return Commit(shard, 2 * half, 0, 0, 0, runs, files, {"committed": "2026-11-30T23:00:00+00:00"})


def opened(path: Path, commits: int, runs: int) -> tuple[Sample, Sample, Sample]:
    """Of opening the store, each time in a process of its own: seconds, those of the processor, MB resident at most."""
    found = []
    for _ in range(runs):
        command = [sys.executable, "-c", OPEN, str(path), str(commits)]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    seconds, processor, size = zip(*found, strict=True)
    return Sample(seconds), Sample(processor), Sample(tuple(one / 1e6 for one in size))


def run(work: Path, commits: int, runs: int) -> list[Result]:
    """The suite; every measurement is of a warm page cache."""
    path = work / f"opening-{commits}.hub"
    storage = made_store(path, commits)
    for key in storage.list(FOLDER):
        storage.delete(key)
    alone = opened(path, commits, runs)
    started = time.perf_counter()
    write_log(storage, LAYOUT, read_commits(storage, LAYOUT))
    wrote = time.perf_counter() - started
    size = sum(storage.size(key) for key in storage.list(FOLDER))
    logged = opened(path, commits, runs)
    case = f"a store of {commits:,} commits, {LAYERS} layers"
    busy = f"load average of the last minute after it: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    notes = (f"reading the commits once and writing their log took {wrote:.0f} s; it has {size / 1e6:.1f} MB", busy)
    return [
        compare(
            "opening",
            f"{verb} {case}",
            unit,
            {"hubstore": with_log, "without its log": without},
            against="without its log",
            target=most,
            target_of="value",
            better="lower",
            notes=notes,
        )
        for verb, unit, with_log, without, most in (
            ("open", "s", logged[0], alone[0], MOST_SECONDS),
            ("processor time to open", "s", logged[1], alone[1], None),
            ("memory resident at most while opening", "MB", logged[2], alone[2], MOST_BYTES / 1e6),
        )
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder on the disk to measure")
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/opening/<machine>.json by default"
    )
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = run(options.work.resolve(), options.commits, options.runs)
    took = time.perf_counter() - started
    print(f"\n{suite_table(results)}", flush=True)
    if options.out is not None:
        here = machine(options.work)
        save(Path(options.out or RESULTS / f"opening/{machine_name(here)}.json"), here, "opening", took, results)


if __name__ == "__main__":
    main()
