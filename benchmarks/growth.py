"""`python -m benchmarks.growth [PART ...] --work FOLDER [--out [FILE]]`: what stays as it is while a corpus or a store
grows. `extraction`: memory and time per item, from 10^4 to 10^6 items. `search`: exact search and IVF with RaBitQ codes
over 10^7 rows x 384 on disk in a process that may have 4 GB, from a cold disk and warm, and FAISS alone beside."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import RESULTS, ROOT, Result, machine, machine_name, save
from benchmarks.table import SCALING, suite_table
from hubstore.bench.timing import Sample

if TYPE_CHECKING:
    from hubstore.index import Allowed, LayerIndex
    from hubstore.store import StoreReader

PARTS = ("extraction", "search")
ITEMS, SMALL_ITEMS = (10_000, 100_000, 1_000_000), (1_000, 2_000)
ROWS, SMALL_ROWS = 10_000_000, 12_000
QUERIES = 64
K = 10
LIMIT = 4_000_000_000
"""Bytes of memory that the searching process may have: its own, and what it reads of files."""

KEPT = (500, 100, 10, 1)
"""Thousandths of the rows that a filter lets pass."""

FLAT = 1.1
RUNS = 3
KIND = "ivfrabitq"
FAISS_ALONE = "FAISS alone, without the re-rank"
SEED = 0
LAYER = "0"


def extraction(work: Path, small: bool) -> list[Result]:
    """Corpora of each size through one small model, each in a process of its own."""
    from benchmarks.memory import write_corpus

    found: dict[int, dict[str, Any]] = {}
    sizes = SMALL_ITEMS if small else ITEMS
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for items in sizes:
            corpus, store = Path(folder) / "corpus.jsonl", Path(folder) / "x.hub"
            write_corpus(corpus, items)
            found[items] = _child("extract", str(corpus), str(store))
            shutil.rmtree(store)
    first, last = (found[size] for size in (sizes[0], sizes[-1]))
    case = f"{sizes[-1]:,} items (random model of 3 blocks x 32)"
    notes = (
        "each size in a process of its own; processor time of the pipeline alone, user and system, which "
        "what else the machine does moves less than the clock; planning and the self-check apart",
        "by the clock, planning included: "
        + ", ".join(f"{n:,} items {one['wall']:.0f} s" for n, one in found.items())
        + "; planning took "
        + ", ".join(f"{1e6 * one['planning'] / n:.0f}" for n, one in found.items())
        + " us of processor time an item",
        "memory: the greatest while extracting, of no file (anonymous) and all with mapped files; before the run "
        f"{first['before']['RssAnon'] / 1e6:.0f} MB were anonymous",
    )
    spread = {n: 1e6 * one["pipeline"] / n for n, one in found.items()}
    return [
        _against(
            f"processor time an item, {case}",
            "us",
            spread[sizes[-1]],
            {f"{n:,} items": spread[n] for n in sizes[:-1]},
            notes,
        ),
        _against(
            f"peak anonymous memory, {case}",
            "MB",
            last["peak"]["RssAnon"] / 1e6,
            {f"{n:,} items": found[n]["peak"]["RssAnon"] / 1e6 for n in sizes[:-1]},
        ),
        _against(
            f"peak resident memory, mapped files included, {case}",
            "MB",
            last["peak"]["VmRSS"] / 1e6,
            {f"{n:,} items": found[n]["peak"]["VmRSS"] / 1e6 for n in sizes[:-1]},
        ),
    ]


def _against(case: str, unit: str, value: float, others: dict[str, float], notes: tuple[str, ...] = ()) -> Result:
    """The largest size's value over the smallest's, which should be the same."""
    smallest = next(iter(others))
    ratio = value / others[smallest]
    return Result(
        work="growth",
        case=case,
        unit=unit,
        value=value,
        runs=1,
        spread=Sample((value,)).spread,
        peers=others,
        against=smallest,
        ratio=ratio,
        ratio_spread=(ratio, ratio),
        target=FLAT,
        better="lower",
        notes=notes,
    )


def search(work: Path, small: bool, rows: int | None = None) -> list[Result]:
    """One store, without an index and with one, each asked by a process of its own that may have `LIMIT` bytes."""
    from benchmarks.made_store import WIDTH, written_store

    rows = rows or (SMALL_ROWS if small else ROWS)
    path = work / f"growth-{rows}.hub"
    needed = rows * WIDTH * 2 * 1.25
    free = shutil.disk_usage(work).free
    if not path.exists() and free < needed:
        raise SystemExit(f"{work} has {free / 1e9:.1f} GB free, the store and its index need {needed / 1e9:.1f}")
    started = time.perf_counter()
    written_store(path, rows, (LAYER,))
    print(f"{path}: {rows:,} rows after {time.perf_counter() - started:.0f} s", flush=True)
    return [*_exact(path, rows), *_ivf(path, rows)]


def _exact(path: Path, rows: int) -> list[Result]:
    from benchmarks.made_store import WIDTH

    with _without_indexes(path):
        exact = _child("search", str(path), limited=True)
    print(json.dumps(exact), flush=True)
    size = rows * WIDTH * 2
    notes = (
        f"{exact['limited']}; the store's pages were dropped from the cache before",
        f"plain read: the same files read once from start to end under the same limit, {size / 1e9:.2f} GB",
        _memory_note("exact", exact),
    )
    plain = Sample(tuple(exact["plain"]))
    results = []
    for count, seconds in exact["seconds"].items():
        taken = Sample(tuple(seconds))
        results.append(
            Result(
                work="growth",
                case=f"exact, {rows:,} x {WIDTH} float16 on disk, {count} queries at once, k {K}",
                unit="s",
                value=taken.median,
                runs=len(seconds),
                spread=taken.spread,
                peers={"plain read": plain.median},
                against="plain read",
                ratio=taken.median / plain.median,
                better="lower",
                recall=1.0,
                notes=notes,
            )
        )
    return [*results, _peak(f"exact, {rows:,} x {WIDTH}", exact)]


@contextlib.contextmanager
def _without_indexes(path: Path) -> Iterator[None]:
    """The store's indexes lie elsewhere: they take long to build, and a later run may want them."""
    indexes, aside = path / "indexes", path / "indexes-aside"
    if not aside.exists() and indexes.exists():
        indexes.rename(aside)
    try:
        yield
    finally:
        if aside.exists():
            aside.rename(indexes)


def _built(path: Path) -> dict[str, Any]:
    """Index the store in a process of its own; of an index that is there, what was noted when it was built."""
    noted = path / "growth-built.json"
    if not (noted.exists() and (path / "indexes").exists()):
        noted.write_text(json.dumps(_child("build", str(path), limited=True)))
    found: dict[str, Any] = json.loads(noted.read_text())
    return found


def _ivf(path: Path, rows: int) -> list[Result]:
    from benchmarks.made_store import WIDTH

    built = _built(path)
    print(json.dumps(built), flush=True)
    asked = _child("search", str(path), limited=True)
    print(json.dumps(asked), flush=True)
    notes = (
        f"built in {built['wall']:.0f} s ({built['processor']:.0f} s of processor time, load {built['load'][0]:.1f} at "
        f"its end) and at most {built['peak']['RssAnon'] / 1e9:.2f} GB of no file, {built['limited']}; its file has "
        f"{built['size'] / 1e9:.2f} GB, {built['size'] / rows:.0f} bytes a row",
        f"{KIND} with {asked['parameters']}, chosen for a recall of {asked['aimed']['target']:g} and measured by the "
        f"build at {asked['aimed']['measured']:.3f}; candidates are scored again from the store's rows",
        "processor time of a warm search, ms a query: "
        + ", ".join(
            f"{count} at once {1e3 * Sample(tuple(found)).median / int(count):.2f}"
            for count, found in asked["processor"].items()
        )
        + f"; load {asked['load'][0]:.1f} at the end",
        f"opened in {1e3 * asked['opened']:.0f} ms; cold: the pages of the store and of the index were dropped from "
        f"the cache before each search; {FAISS_ALONE}: the same file, opened by FAISS with its lists mapped, as many "
        "of them visited, in turns with hubstore's searches",
        _memory_note(KIND, asked),
    )
    results = []
    for count, how in ((count, how) for count in asked["warm"] for how in ("cold", "warm")):
        taken = Sample(tuple(1e3 * value / int(count) for value in asked[how][count]))
        alone = Sample(tuple(1e3 * value / int(count) for value in asked["alone"][count]))
        beside = how == "warm"
        ratio = taken.over(alone) if beside else None
        results.append(
            Result(
                work="growth",
                case=f"{KIND}, {rows:,} x {WIDTH} float16 on disk, {how}, {count} queries at once, k {K}",
                unit="ms a query",
                value=taken.median,
                runs=len(taken.values),
                spread=taken.spread,
                peers={FAISS_ALONE: alone.median} if beside else {},
                ratios={FAISS_ALONE: ratio.median} if ratio else {},
                against=FAISS_ALONE if beside else None,
                ratio=ratio.median if ratio else None,
                ratio_spread=ratio.spread if ratio else None,
                better="lower",
                recall=asked["recall"],
                peer_recalls={FAISS_ALONE: asked["alone_recall"]} if beside else {},
                notes=notes,
            )
        )
    filtered = [_filtered(rows, share, asked) for share in asked["filtered"]]
    return [*results, *filtered, _peak(f"{KIND}, {rows:,} x {WIDTH}", asked)]


def _filtered(rows: int, thousandths: str, asked: dict[str, Any]) -> Result:
    """Searches among the rows that pass a condition, beside unfiltered ones."""
    found = asked["filtered"][thousandths]
    times = {count: Sample(tuple(1e3 * one / int(count) for one in taken)) for count, taken in found["warm"].items()}
    many = str(QUERIES)
    unfiltered = Sample(tuple(1e3 * one / QUERIES for one in asked["warm"][many]))
    return Result(
        work="growth",
        case=f"{KIND}, {rows:,} rows, {int(thousandths) / 10:g} % pass --where, warm, {QUERIES} queries at once",
        unit="ms a query",
        value=times[many].median,
        runs=len(times[many].values),
        spread=times[many].spread,
        peers={"unfiltered": unfiltered.median},
        against="unfiltered",
        ratio=times[many].median / unfiltered.median,
        better="lower",
        recall=found["recall"],
        notes=(
            f"{int(thousandths) / 10:g} %: one query {times['1'].median:.1f} ms; the condition, "
            f"'{found['where']}', took {1e3 * found['first']:.0f} ms the first time and {1e3 * found['again']:.0f} ms "
            "again, which is left out",
        ),
    )


def _memory_note(kind: str, found: dict[str, Any]) -> str:
    peak = found["peak"]
    return (
        f"{kind}: at most {peak['RssAnon'] / 1e9:.2f} GB of no file and {peak['RssFile'] / 1e9:.2f} GB of mapped files "
        "resident"
    )


def _peak(case: str, found: dict[str, Any]) -> Result:
    value = found["peak"]["VmRSS"] / 1e9
    return Result(
        work="growth",
        case=f"peak resident memory of the process, mapped files included: {case}",
        unit="GB",
        value=value,
        runs=1,
        spread=(value, value),
        target=LIMIT / 1e9,
        target_of="value",
        better="lower",
    )


def _child(what: str, *arguments: str, limited: bool = False) -> dict[str, Any]:
    """What a process of its own prints last, as JSON."""
    command = [sys.executable, "-m", "benchmarks.growth", f"--{what}", *arguments]
    with _limit(LIMIT) if limited else contextlib.nullcontext() as group:
        done = subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if limited:
        found["limited"] = (
            f"in a memory control group of {LIMIT / 1e9:g} GB, the pages of files that it reads counted in"
            if group
            else "no memory control group could be made here; what was used is reported"
        )
    return found


@contextlib.contextmanager
def _limit(size: int) -> Iterator[Path | None]:
    """A memory control group (version 1 or 2) of so many bytes, where this user may make one."""
    tops = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for top, name in tops:
        group = top / f"hubstore-growth-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(str(size))
                yield group
                return
        finally:
            group.rmdir()
    yield None


class _Peak:
    """The most memory of each kind that was resident, looked at a hundred times a second."""

    NAMES = ("VmRSS", "RssAnon", "RssFile")

    def __enter__(self) -> dict[str, int]:
        self._ended = threading.Event()
        self.most = memory()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self.most

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            now = memory()
            for name in self.NAMES:
                self.most[name] = max(self.most[name], now[name])


def memory() -> dict[str, int]:
    """Bytes of this process that are resident: all, of no file, and of mapped files."""
    named = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(named[name].split()[0]) * 1024 for name in _Peak.NAMES}


def _processor() -> float:
    """Seconds of user and system time that this process has had."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _extract(corpus: str, store: str) -> dict[str, Any]:
    """Extract, in this process."""
    from hubstore.bench.extract import TINY, random_model
    from hubstore.corpus import read_jsonl
    from hubstore.extraction import Callbacks, Settings, extract

    model, items = random_model(TINY, "cpu"), read_jsonl(corpus)
    before = memory()
    at: dict[str, float] = {}

    def noted(name: str) -> Callable[[object], None]:
        return lambda _: at.update({name: _processor()})

    started, processor = time.perf_counter(), _processor()
    with _Peak() as peak:
        extract(items, model, store, Settings(), watch=Callbacks(planned=noted("planned"), checked=noted("checked")))
    return {
        "wall": time.perf_counter() - started,
        "planning": at["planned"] - processor,
        "pipeline": _processor() - at["checked"],
        "before": before,
        "peak": peak,
    }


def _build(path: str) -> dict[str, Any]:
    """Index the store, in this process."""
    from benchmarks.made_store import progress_printer
    from hubstore.index import build
    from hubstore.store import StoreReader

    started, processor = time.perf_counter(), _processor()
    with _Peak() as peak:
        (made,) = build(StoreReader(path), [LAYER], kind=KIND, seed=SEED, device="cpu", progress=progress_printer())
    assert made.file is not None
    assert made.recall is not None
    return {
        "wall": time.perf_counter() - started,
        "processor": _processor() - processor,
        "load": os.getloadavg(),
        "peak": peak,
        "size": made.file.size,
        "parameters": made.parameters,
        "recall": asdict(made.recall),
    }


def _search(path: str) -> dict[str, Any]:
    """Ask the store, in this process, with the index that it has or without; what exact search found is kept beside."""
    import numpy as np
    import torch

    from hubstore.index import load_or_exact
    from hubstore.store import StoreReader

    store = StoreReader(path)
    started = time.perf_counter()
    index = load_or_exact(store, LAYER, device="cpu")
    opened = time.perf_counter() - started
    rng = np.random.default_rng(SEED)
    rows = index.states.take(np.sort(rng.choice(index.rows, QUERIES, replace=False))).float()
    queries = rows + torch.from_numpy(rng.standard_normal(rows.shape, np.float32)) * rows.std() * 0.3
    files = sorted(Path(path).glob(f"hidden/mean/{LAYER}/c/*/0"))
    truth = Path(path) / "growth-truth.npy"
    if index.kind == "exact":
        found = _asked_exactly(index, queries, files)
        np.save(truth, found.pop("found"))
        return {**found, "recall": 1.0}
    asked = _asked(index, queries, [*files, Path(path) / f"indexes/mean/{LAYER}/index.faiss"])
    assert index.description.recall is not None
    asked |= {
        "filtered": {str(kept): _asked_among(store, index, queries, kept) for kept in KEPT},
        "parameters": index.description.parameters,
        "aimed": asdict(index.description.recall),
        "load": os.getloadavg(),
    }
    recalls = [_recall(asked.pop(name), np.load(truth)) for name in ("found", "alone_found")]
    return {**asked, "opened": opened, "recall": recalls[0], "alone_recall": recalls[1]}


def _recall(found: Any, truth: Any) -> float:
    same = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return float(sum(same) / truth.size)


def _asked_exactly(index: LayerIndex, queries: Any, files: list[Path]) -> dict[str, Any]:
    _forget(files)
    plain = [_plain(files) for _ in range(RUNS)]
    seconds: dict[str, list[float]] = {}
    with _Peak() as peak:
        for count in (1, QUERIES):
            turns = [queries.roll(-turn, 0)[:count] for turn in range(RUNS)]
            seconds[str(count)] = [_seconds(index, few) for few in turns]
        _, found = index.search(queries, K)
    return {"seconds": seconds, "plain": plain, "peak": peak, "found": found.numpy()}


def _asked(index: LayerIndex, queries: Any, files: list[Path]) -> dict[str, Any]:
    """Searches from a cold disk, then warm ones in turns with FAISS's of the same file."""
    from hubstore.index.library import faiss as library

    faiss = library()
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
    alone = faiss.read_index(str(files[-1]), flags)
    options = faiss.SearchParametersPreTransform(
        index_params=faiss.SearchParametersIVF(nprobe=(index.description.parameters or {})["nprobe"])
    )
    times: dict[str, dict[str, list[float]]] = {"cold": {}, "warm": {}, "alone": {}, "processor": {}}
    with _Peak() as peak:
        for count in (1, QUERIES):
            turns = [queries.roll(-turn, 0)[:count] for turn in range(5 * RUNS)]
            times["cold"][str(count)] = []
            for few in turns[:RUNS]:
                _forget(files)
                times["cold"][str(count)].append(_seconds(index, few))
            for name in ("warm", "alone", "processor"):
                times[name][str(count)] = []
            index.search(queries, K)
            for few in turns:
                processor = _processor()
                times["warm"][str(count)].append(_seconds(index, few))
                times["processor"][str(count)].append(_processor() - processor)
                started = time.perf_counter()
                alone.search(few.numpy(), K, params=options)
                times["alone"][str(count)].append(time.perf_counter() - started)
        _, found = index.search(queries, K)
    return {
        **times,
        "peak": peak,
        "found": found.numpy(),
        "alone_found": alone.search(queries.numpy(), K, params=options)[1],
    }


def _asked_among(store: StoreReader, index: LayerIndex, queries: Any, thousandths: int) -> dict[str, Any]:
    """Warm searches among the rows that pass a condition, and how long it takes to find those."""
    import torch

    from benchmarks.made_store import THOUSANDTH
    from hubstore.index.exact import exact_search
    from hubstore.query.filters import items_where

    where, evaluated = f"{THOUSANDTH} < {thousandths}", []
    for _ in range(2):
        started = time.perf_counter()
        allowed = items_where(store, where)
        evaluated.append(time.perf_counter() - started)
    assert allowed is not None
    _, found = index.search(queries, K, allowed)
    warm: dict[str, list[float]] = {}
    for count in (1, QUERIES):
        turns = [queries.roll(-turn, 0)[:count] for turn in range(RUNS)]
        warm[str(count)] = [_seconds(index, few, allowed) for few in turns]
    _, truth = exact_search(index.states, queries, K, allowed, torch.device("cpu"))
    return {
        "where": where,
        "first": evaluated[0],
        "again": evaluated[1],
        "warm": warm,
        "recall": _recall(found.numpy(), truth.numpy()),
    }


def _seconds(index: LayerIndex, queries: Any, allowed: Allowed | None = None) -> float:
    started = time.perf_counter()
    index.search(queries, K, allowed)
    return time.perf_counter() - started


def _forget(files: list[Path]) -> None:
    """Have the system drop what it holds of the files."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _plain(files: list[Path]) -> float:
    """Seconds to read the files from start to end."""
    room = bytearray(8 << 20)
    started = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(room):
                pass
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    """Run the parts, print what was found, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; both by default")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder; the store and its index stay there"
    )
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--rows", type=int, help="of the store that is searched, a multiple of 4")
    parser.add_argument("--out", nargs="?", const="", help="keep the results, by default below benchmarks/results")
    for name, count in (("extract", 2), ("build", 1), ("search", 1)):
        parser.add_argument(f"--{name}", nargs=count, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name, run in (("extract", _extract), ("build", _build), ("search", _search)):
        if getattr(options, name):
            print(json.dumps(run(*getattr(options, name))))
            return
    options.work.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        started = time.perf_counter()
        name = f"growth_{part}" + (f"_{options.rows}" if options.rows and part == "search" else "")
        if part == "search":
            results = search(options.work, options.small, options.rows)
        else:
            results = extraction(options.work, options.small)
        took = time.perf_counter() - started
        print(f"\n{part}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
        if options.out is not None:
            here = machine(options.work)
            file = Path(options.out or RESULTS / SCALING / f"{machine_name(here)}.json")
            save(file, here, name, took, results)


if __name__ == "__main__":
    main()
