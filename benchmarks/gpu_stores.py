"""`python -m benchmarks.gpu_stores [poolings] [tokens]`: what several poolings cost, and stores of every token.

Of random weights, in turns in one run: last, mean and first beside the mean alone, for two small models, whose stores
go to memory, since a disk may take fewer bytes than they give; the tokens of three layers of an 8B model beside its
forward as far as the deepest; those of all its layers beside what the same disk takes of several threads that each
append and sync files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.gpu_extraction import SHAPES, Timeline, build_model, sample_tokenizer, sentences
from benchmarks.gpu_texts import QUICK
from benchmarks.gpu_texts import SHAPES as SMALL_SHAPES
from benchmarks.record import Result, add_record_options, compare, gpu_machine, machine, save
from benchmarks.table import suite_table
from hubstore.bench.timing import Task, device_seconds, interleave
from hubstore.corpus import Corpus, Item
from hubstore.extraction import Callbacks, Settings, extract
from hubstore.forward import Batching, Capture, collate
from hubstore.forward.compiled import compiled_blocks
from hubstore.forward.members import batch_members
from hubstore.models import Model, wrap_model
from hubstore.store import DTYPES

SUITE = "gpu-stores"
ONE, SEVERAL = ("mean",), ("last", "mean", "first")
MEMORY = Path("/dev/shm")
STREAMS = (8, 16)
RAW_FILE, RAW_FILES = 32 << 20, 96
"""Bytes of a file that is appended, and how many a turn."""


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Args:
        items: sentences of a small model.
        three: sentences of an 8B model whose tokens are kept at three layers.
        all: likewise at all layers.
        raw: files of a raw append.
    """

    items: int = 65_536
    three: int = 5_120
    all: int = 560
    raw: int = RAW_FILES


_numbers = count()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep where asked to."""
    options = _parse(arguments)
    began, results = time.perf_counter(), list[Result]()
    places = {"poolings": MEMORY if MEMORY.is_dir() else options.scratch, "tokens": options.scratch}
    for part in options.parts or places:
        with tempfile.TemporaryDirectory(prefix="hubstore-bench-", dir=places[part]) as folder:
            results += (_poolings if part == "poolings" else _tokens)(options, Path(folder))
        took = time.perf_counter() - began
        print(f"\n{suite_table(results)}\n{took:.0f} s", flush=True)
        if options.out:  # after every part: a machine that is lent may be taken back
            here = gpu_machine() if _on_gpu(options) else machine(Path(tempfile.gettempdir()))
            save(options.out, here, SUITE, took, results, measured=options.commit)
    return 0


def _poolings(options: argparse.Namespace, scratch: Path) -> list[Result]:
    scale = Scale(items=80) if options.quick else Scale()
    results = []
    for shape in SMALL_SHAPES.values():
        torch.manual_seed(0)
        config = shape.config(**(QUICK if options.quick else {}))
        dtype = torch.bfloat16 if _on_gpu(options) else torch.float32
        with torch.device(options.device):
            trunk = transformers.AutoModel.from_config(config, dtype=dtype)
        model = wrap_model(trunk, sample_tokenizer(), name=f"random {shape.name}", device=options.device)
        texts = sentences(scale.items)
        for poolings in (ONE, SEVERAL):
            _extract(model, texts[: scale.items // 8], _settings(options, poolings), scratch)  # compiles
        one, several = "mean alone", "hubstore, last, mean and first"
        tasks: dict[str, Task] = {
            one: _rate(model, texts, _settings(options, ONE), scratch),
            several: _rate(model, texts, _settings(options, SEVERAL), scratch),
        }
        samples = interleave(tasks, options.runs, warm=0)
        case = f"{shape.name}, {scale.items:,} sentences, all layers, last, mean and first"
        note = "three poolings write three times the bytes of one; rates from half of the items to 95 %"
        results.append(
            compare(SUITE, case, "sentences/s", samples, subject=several, against=one, target=0.9, notes=(note,))
        )
    return results


def _tokens(options: argparse.Namespace, scratch: Path) -> list[Result]:
    scale = Scale(three=60, all=30, raw=1) if options.quick else Scale()
    shape = SHAPES["small" if options.quick else "8b"]
    model = build_model(options.device, shape)
    every = model.layer_names()[:-1]
    three = tuple(every[number * (len(every) - 1) // 4] for number in (1, 2, 3))
    texts, settings = sentences(scale.three), replace(_settings(options, ("tokens",)), batch_tokens=shape.batch_tokens)
    _extract(model, texts[: scale.three // 10], replace(settings, poolings=ONE), scratch)  # compiles
    ids = [one.tolist() for one in model.text_reader(model.max_tokens).read(texts).split()]
    forward, some = _forward(model, replace(settings, layers=three), ids), sum(map(len, ids))
    forward()
    kept = replace(settings, layers=three)
    tasks: dict[str, Task] = {
        "forward as far": lambda: some / device_seconds(forward, model.device),
        "hubstore": _rate(model, texts, kept, scratch, of_tokens=True),
    }
    samples = interleave(tasks, options.runs, warm=0)
    case = f"{shape.name}, {scale.three:,} sentences, every token of layers {', '.join(three)}"
    results = [compare(SUITE, case, "tokens/s", samples, against="forward as far", target=0.97)]
    raw = {f"raw append, {n} streams": _appended(scratch, n, scale.raw) for n in STREAMS}
    tasks = {**raw, "hubstore": lambda: _extract(model, texts[: scale.all], settings, scratch)[1]}
    samples = interleave(tasks, options.runs, warm=0)
    best = max(raw, key=lambda name: samples[name].median)
    case = f"{shape.name}, {scale.all:,} sentences, every token of all {len(every)} layers"
    note = "hubstore: the whole run, its end too, items, checks and commits; raw append: files of 32 MB, each synced"
    results.append(compare(SUITE, case, "GB/s", samples, against=best, target=0.9, notes=(note,)))
    return results


def _settings(options: argparse.Namespace, poolings: tuple[str, ...]) -> Settings:
    return Settings(poolings=poolings, batching="packed", compile="on" if _on_gpu(options) else "off")


def _extract(model: Model, texts: Sequence[str], settings: Settings, scratch: Path) -> tuple[Timeline, float, float]:
    """Extract into a store that is removed again: how it went on, GB/s of the whole run, and tokens an item."""
    timeline, path = Timeline(), scratch / f"{next(_numbers)}.hub"
    corpus = Corpus.from_items(Item(str(number), text, "en") for number, text in enumerate(texts))
    done = extract(corpus, model, path, settings, watch=Callbacks(progress=timeline))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    shutil.rmtree(path)
    progress = done.progress
    print(
        f"{', '.join(settings.poolings)}: steady {timeline.steady():,.0f} items/s, {size / 1e9:.1f} GB; of "
        f"{progress.seconds:.1f} s giving work {progress.model_ms / 1e3:.1f}, waiting for shards "
        f"{progress.copy_ms / 1e3:.1f}, writing {progress.write_ms / 1e3:.1f}",
        flush=True,
    )
    return timeline, size / progress.seconds / 1e9, progress.tokens / done.extracted


def _rate(model: Model, texts: Sequence[str], settings: Settings, scratch: Path, *, of_tokens: bool = False) -> Task:
    """Items/s, or tokens/s, from half of the items to 95 %."""

    def rate() -> float:
        timeline, _, tokens = _extract(model, texts, settings, scratch)
        return timeline.steady() * (tokens if of_tokens else 1)

    return rate


def _forward(model: Model, settings: Settings, ids: Sequence[Sequence[int]]) -> Callable[[], None]:
    """hubstore's full batches as far as the deepest layer that is kept, of which one row an item is read."""
    resolved = settings.resolve(model)
    on_gpu = model.device.type == "cuda"
    batching = Batching("packed", first_position=0, compiled=on_gpu)
    lengths = np.array([len(one) for one in ids], np.int32)
    members = batch_members(lengths, resolved.batch_tokens, batching)
    batches = [
        collate(model, [ids[i] for i in member], batching, resolved.batch_tokens).to(model.device) for member in members
    ]
    dtype = DTYPES[resolved.dtype]
    capture = Capture(model, (resolved.layers[-1],), ("last",), dtype)
    most = max(len(batch.last) for batch in batches)
    states = {"last": torch.empty((1, most, model.width), dtype=dtype, device=model.device)}

    def work() -> None:
        compiled = compiled_blocks(model, resolved.batch_tokens) if on_gpu else contextlib.nullcontext()
        with compiled, capture.hooked():
            for batch in batches:
                capture.capture_into(states, batch)

    return work


def _appended(scratch: Path, streams: int, files: int) -> Task:
    """GB/s of so many threads that write files of `RAW_FILE` bytes and sync each."""
    content = memoryview(np.random.default_rng(0).bytes(RAW_FILE))

    def write(path: Path) -> None:
        with path.open("xb", buffering=0) as file:
            done = 0
            while done < RAW_FILE:
                done += file.write(content[done:])
            os.fsync(file.fileno())

    def rate() -> float:
        folder = scratch / f"raw-{next(_numbers)}"
        folder.mkdir()
        began = time.perf_counter()
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(write, [folder / str(number) for number in range(files)]))
        took = time.perf_counter() - began
        shutil.rmtree(folder)
        return files * RAW_FILE / took / 1e9

    return rate


def _on_gpu(options: argparse.Namespace) -> bool:
    return str(options.device).startswith("cuda")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_stores", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["poolings", "tokens", []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=2, help="turns")
    add_record_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
