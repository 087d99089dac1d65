"""`python -m benchmarks.remote [--work FOLDER] [--out [FILE]]`: a layer scanned, and rows taken, from a SeaweedFS
server on this machine, beside a plain parallel downloader of the same objects through the same client."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import RESULTS, Result, compare, machine, machine_name, save
from benchmarks.seaweed import AWS, BUCKET, SeaweedFS
from benchmarks.table import SCALING, suite_table
from hubstore.bench.store import made_up_items
from hubstore.bench.timing import Task, interleave, seconds
from hubstore.storage import location, open_storage
from hubstore.storage.cache import FileCache, user_cache
from hubstore.storage.client import READERS
from hubstore.storage.cloud import connect
from hubstore.storage.objects import RemoteStorage
from hubstore.store import Layout, StoreReader, write_metadata, write_shard

SUITE = "remote"
WIDTH = 768
SHARD_ROWS = 8192
SHARDS, SMALL_SHARDS = 32, 2
TAKEN = (10, 1000)
RUNS, SMALL_RUNS = 11, 1
SCAN_TARGET = 0.8
SEED = 0
LAYER = "0"
URL = f"s3://{BUCKET}/benchmark/x.hub"
PLAIN = "plain downloader"
TO_FILES = "plain downloader to files"


def run(work: Path, *, small: bool) -> list[Result]:
    """The suite."""
    torch.set_num_threads(1)
    shards, runs = (SMALL_SHARDS, SMALL_RUNS) if small else (SHARDS, RUNS)
    with tempfile.TemporaryDirectory(dir=work) as folder, served(Path(folder) / "seaweed"):
        write(shards)
        return [*_scans(Path(folder) / "cache", shards, runs), *(_takes(shards, runs, rows) for rows in TAKEN)]


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """A server, and an environment in which its writer is who asks; put back as it was."""
    before = dict(os.environ)
    server = SeaweedFS(folder).start()
    try:
        for name in AWS:
            del os.environ[name]
        os.environ |= server.environment()
        yield
    finally:
        server.kill()
        os.environ.clear()
        os.environ |= before


def write(shards: int) -> None:
    """A store of one layer of random rows."""
    storage = open_storage(URL)
    layout = Layout((LAYER,), ("mean",), "float16", WIDTH, SHARD_ROWS, chunk_rows=256)
    generator = torch.Generator().manual_seed(SEED)
    for shard in range(shards):
        states = torch.randn(1, SHARD_ROWS, WIDTH, generator=generator).half()
        write_shard(storage, layout, shard, made_up_items(SHARD_ROWS, shard * SHARD_ROWS), {"mean": states})
    write_metadata(storage, layout, {"model": {"id": "random"}}, shards * SHARD_ROWS, 0)


def _scans(folder: Path, shards: int, runs: int) -> Iterator[Result]:
    """Every row of the layer once, none of which is in the cache: kept there, and not kept."""
    keys = _keys(shards)
    nbytes = sum(open_storage(URL).size(key) for key in keys)

    def rate(took: Callable[[], float]) -> Task:
        return lambda: nbytes / took() / 1e6

    def cold() -> float:
        took = _scan(FileCache(folder / "cold", nbytes * 2))
        shutil.rmtree(folder / "cold")
        return took

    def to_files() -> float:
        (folder / "files").mkdir(parents=True)
        took = _download(keys, folder / "files")
        shutil.rmtree(folder / "files")
        return took

    samples = interleave(
        {
            PLAIN: rate(lambda: _download(keys)),
            TO_FILES: rate(to_files),
            "hubstore": rate(cold),
            "hubstore, nothing kept": rate(lambda: _scan(FileCache(folder / "none", 0))),
        },
        runs,
    )
    what = f"a layer of {shards * SHARD_ROWS:,} x {WIDTH} float16 in {shards} objects"
    notes = (
        f"SeaweedFS on this machine, which shares its CPUs with the client; {PLAIN}: {READERS} threads that get the "
        "objects whole into memory and do nothing with them",
        f"{TO_FILES}: as it comes, through the page cache",
        "a scan checks the CRC32C of every object, and one that keeps ends when all are in the cache",
    )
    for name, others in (("hubstore", (PLAIN, TO_FILES)), ("hubstore, nothing kept", (PLAIN,))):
        case = f"scan {what}{name.removeprefix('hubstore')}"
        chosen = {one: samples[one] for one in (name, *others)}
        yield compare(SUITE, case, "MB/s", chosen, subject=name, against=PLAIN, target=SCAN_TARGET, notes=notes)


def _takes(shards: int, runs: int, count: int) -> Result:
    """Rows from anywhere, none of which are in the cache, beside the objects that hold them downloaded whole."""
    rng = np.random.default_rng(SEED)
    keys = _keys(shards)

    def take() -> float:
        drawn = rng.integers(0, shards * SHARD_ROWS, count)
        states = _reader(FileCache(Path("unused"), 0)).hidden(LAYER)
        return 1e3 * seconds(lambda: states.take(drawn))

    samples = interleave({"hubstore": take, PLAIN: lambda: 1e3 * _download(keys)}, runs)
    case = f"take {count} random rows of {shards * SHARD_ROWS:,} x {WIDTH} float16"
    notes = ("rows are taken by their byte ranges; to have them, the plain downloader gets every object",)
    return compare(SUITE, case, "ms", samples, against=PLAIN, better="lower", notes=notes)


def _keys(shards: int) -> list[str]:
    return [f"hidden/mean/{LAYER}/c/{shard}/0" for shard in range(shards)]


def _reader(cache: FileCache) -> StoreReader:
    return StoreReader(URL, RemoteStorage(location(URL), connect(location(URL)), cache))


def _scan(cache: FileCache) -> float:
    """Seconds to have every row of the layer, of a store that is open, and all in the cache that goes there."""
    reader = _reader(cache)
    states = reader.hidden(LAYER)
    writers = reader.storage._writers

    def scan() -> None:
        for _, rows in states.segments():
            assert len(rows)
        writers.shutdown()

    return seconds(scan)


def _download(keys: list[str], folder: Path | None = None) -> float:
    """Seconds of what a plain client does: objects whole, side by side, into memory, or into files of a folder."""
    import obstore

    store = connect(location(URL))

    def get(key: str) -> int:
        content = obstore.get(store, key).bytes()
        return len(content) if folder is None else (folder / key.replace("/", "-")).write_bytes(content)

    with ThreadPoolExecutor(READERS) as pool:
        return seconds(lambda: list(pool.map(get, keys)))


def main(arguments: list[str] | None = None) -> None:
    """Run it, print what was found, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder for the server's data")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", nargs="?", const="", help="keep the results, by default below benchmarks/results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    user_cache.cache_clear()
    results = run(options.work, small=options.small)
    took = time.perf_counter() - started
    print(f"\n{SUITE}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        here = machine(options.work)
        save(Path(options.out or RESULTS / SCALING / f"{machine_name(here)}.json"), here, SUITE, took, results)


if __name__ == "__main__":
    main()
