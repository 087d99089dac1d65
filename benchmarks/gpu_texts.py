"""`python -m benchmarks.gpu_texts e5 gemma`: small models with real tokenizers, where preparing texts is the limit.

Of random weights, in one run: the bare forward of hubstore's batches at several token budgets; the tokenizer alone,
by the tokenizers library, in 1 to 16 processes; and hubstore itself with the store on, at each budget and with as many
reading processes. hubstore is to reach nine tenths of the smaller of the two.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu_extraction import Timeline, bare_forward, sample_tokenizer
from benchmarks.record import Result, add_record_options, compare, gpu_machine, machine, save
from benchmarks.table import suite_table
from benchmarks.tokenizing import encode
from hubstore.bench.timing import Sample, device_seconds
from hubstore.corpus import Corpus, Item, read_sample
from hubstore.extraction import Callbacks, Settings, extract
from hubstore.extraction.readers import processes_for
from hubstore.forward import Batching
from hubstore.models import Model, wrap_model
from hubstore.reading.processes import ReadingProcesses
from hubstore.reading.texts import TextReader

SUITE = "gpu-texts"
HUBSTORE, BARE, TOKENIZER = "hubstore", "bare forward", "tokenizer alone"
TARGET = 0.9


@dataclass(frozen=True)
class Shape:
    """A random model of a published shape, with that model's tokenizer.

    Args:
        name: as the table has it.
        folder: of the real model, under HUBSTORE_TEST_MODELS, with its tokenizer.json.
        config: transformers' own, of the shape.
        special: the tokenizer's special tokens, as transformers names them.
    """

    name: str
    folder: str
    config: Callable[..., Any]
    special: dict[str, str]


SHAPES = {
    "e5": Shape(
        "12 x 384 (multilingual-e5-small's)",
        "multilingual-e5-small",
        functools.partial(
            transformers.BertConfig,
            vocab_size=250_037,
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=512,
        ),
        {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"},
    ),
    "gemma": Shape(
        "18 x 640 (Gemma-3-270M's)",
        "gemma-3-270m",
        functools.partial(
            transformers.Gemma3TextConfig,
            vocab_size=262_144,
            hidden_size=640,
            intermediate_size=2048,
            num_hidden_layers=18,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            sliding_window=512,
            max_position_embeddings=32_768,
        ),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    ),
}
QUICK = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep where asked to."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="hubstore-bench-", dir=options.scratch) as folder:
        for name in options.shapes or SHAPES:
            began = time.perf_counter()
            results = _measure(SHAPES[name], options, Path(folder))
            took = time.perf_counter() - began
            print(f"\n{suite_table(results)}\n{took:.0f} s", flush=True)
            if options.out:
                here = gpu_machine() if options.device.startswith("cuda") else machine(Path(tempfile.gettempdir()))
                save(options.out, here, f"{SUITE}-{name}", took, results, measured=options.commit)
    return 0


def _measure(shape: Shape, options: argparse.Namespace, scratch: Path) -> list[Result]:
    model = _model(shape, options)
    texts = list(itertools.islice(itertools.cycle(_lines()), options.items))
    alone = {n: _tokenizer_alone(model.text_reader(model.max_tokens), texts, n) for n in options.processes}
    for processes, rate in alone.items():
        print(f"{TOKENIZER}, {processes} processes: {rate:,.0f} texts/s", flush=True)
    corpus = Corpus.from_items(Item(str(number), text, "mul") for number, text in enumerate(texts))
    budgets = [_at_budget(model, corpus, budget, options, scratch) for budget in options.budgets]
    best = max(budgets, key=lambda found: found.bare.median)
    tokenizer = Sample((max(alone.values()),) * options.runs)
    limit = best.bare if best.bare.median <= tokenizer.median else tokenizer
    case = f"{shape.name}, {options.items:,} sentences of {best.tokens:.0f} tokens, mean of all layers"
    notes = (
        f"{TOKENIZER}: encode_batch_fast in {', '.join(f'{n} processes {rate:,.0f}' for n, rate in alone.items())}",
        *(f"{found.budget:,} tokens: {found.said}" for found in budgets),
        "rates from half of the items to 95 %; the limit is the smaller of the bare forward at its best budget and of "
        "the tokenizer in as many processes as pay",
        f"hubstore at the budget that is best for it, {max(budgets, key=_rate).budget:,} tokens, with "
        f"{options.readers if options.readers is not None else processes_for(model.device, None)} reading processes",
    )
    samples = {HUBSTORE: max(budgets, key=_rate).steady, BARE: best.bare, TOKENIZER: tokenizer, "limit": limit}
    return [compare(SUITE, case, "sentences/s", samples, against="limit", target=TARGET, notes=notes)]


@dataclass(frozen=True)
class AtBudget:
    """Sentences/s with batches of so many tokens: of the bare forward, and of hubstore's steady part."""

    budget: int
    bare: Sample
    steady: Sample
    tokens: float
    said: str


def _rate(found: AtBudget) -> float:
    return found.steady.median


def _at_budget(
    model: Model, corpus: Corpus, budget: int | None, options: argparse.Namespace, scratch: Path
) -> AtBudget:
    on_gpu = model.device.type == "cuda"
    settings = Settings(batching="packed", compile="on" if on_gpu else "off", batch_tokens=budget)
    resolved = settings.resolve(model)
    some = [item.text for item in itertools.islice(corpus.items(), options.bare_items)]
    ids = [one.tolist() for one in model.text_reader(resolved.max_tokens).read(some).split()]
    work = bare_forward(model, resolved, ids, Batching("packed", first_position=0, compiled=on_gpu))
    work()
    bare, steady, said = [], [], ""
    for turn in range(options.runs + 1):
        rate = len(ids) / device_seconds(work, model.device)
        timeline, path = Timeline(), scratch / "x.hub"
        watch = Callbacks(progress=timeline)
        done = extract(corpus, model, path, settings, watch=watch, processes=options.readers)
        shutil.rmtree(path)
        whole, progress = done.items / done.progress.seconds, done.progress
        said = (
            f"bare {rate:,.0f}, steady {timeline.steady():,.0f}, whole run {whole:,.0f}; {progress.useful:.1%} useful; "
            f"of {progress.seconds:.1f} s giving work {progress.model_ms / 1e3:.1f}, waiting for shards "
            f"{progress.copy_ms / 1e3:.1f}, writing {progress.write_ms / 1e3:.1f}"
        )
        print(f"{resolved.batch_tokens:,} tokens: {said}", flush=True)
        if turn:  # the first compiles
            bare.append(rate)
            steady.append(timeline.steady())
    tokens = sum(map(len, ids)) / len(ids)
    return AtBudget(resolved.batch_tokens, Sample(tuple(bare)), Sample(tuple(steady)), tokens, said)


def _tokenizer_alone(reader: TextReader, texts: list[str], processes: int) -> float:
    """texts/s of the tokenizers library in so many processes, each with its share of the texts, once all are ready."""
    share = -(-len(texts) // processes)
    parts = [texts[start : start + share] for start in range(0, len(texts), share)]
    with ReadingProcesses({"encode": functools.partial(encode, reader, parts)}, len(parts)) as pool:
        pool.start()
        pool.wait()
        for _ in range(2):  # the first turn fills caches
            began = time.perf_counter()
            jobs = [pool.submit("encode", functools.partial(tuple, [number]), str) for number in range(len(parts))]
            count = sum(job.result() for job in jobs)
            took = time.perf_counter() - began
    assert count > 0
    return len(texts) / took


def _model(shape: Shape, options: argparse.Namespace) -> Model:
    torch.manual_seed(0)
    on_gpu = options.device.startswith("cuda")
    config = shape.config(**QUICK) if options.quick else shape.config()
    with torch.device(options.device):
        trunk = transformers.AutoModel.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32)
    return wrap_model(trunk, _tokenizer(shape, options.tokenizers), name=f"random {shape.name}", device=options.device)


def _tokenizer(shape: Shape, folder: Path | None) -> Any:
    """The real one, from a file that may be compressed; one trained on the sample where there is none."""
    real = Path(os.environ.get("HUBSTORE_TEST_MODELS", "")) / shape.folder / "tokenizer.json"
    places = [folder / f"{shape.folder}.json.gz", folder / f"{shape.folder}.json"] if folder else [real]
    with contextlib.suppress(StopIteration), tempfile.TemporaryDirectory() as scratch:
        found = next(place for place in places if place.is_file())
        if found.suffix == ".gz":
            path = Path(scratch) / "tokenizer.json"
            path.write_bytes(gzip.decompress(found.read_bytes()))
            found = path
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(found), **shape.special)
    print(f"no tokenizer of {shape.folder} here; one that was trained on the sample stands in for it", flush=True)
    return sample_tokenizer()


def _lines() -> Iterator[str]:
    for batch in read_sample("ntrex").batches():
        yield from batch["text"].to_pylist()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_texts", description=__doc__)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizers", type=Path, help="a folder of MODEL.json or MODEL.json.gz")
    parser.add_argument("--items", type=int, help="sentences of a run")
    parser.add_argument("--bare-items", type=int, help="of those, what the bare forward reads")
    parser.add_argument("--budgets", type=int, nargs="+", help="tokens of a batch")
    parser.add_argument("--processes", type=int, nargs="+", help="of the tokenizer alone")
    parser.add_argument("--readers", type=int, help="reading processes of hubstore; its own choice by default")
    parser.add_argument("--runs", type=int, default=2, help="turns that count; one before them compiles")
    add_record_options(parser)
    options = parser.parse_args(arguments)
    quick = options.quick
    options.items = options.items or (600 if quick else 131_072)
    options.bare_items = options.bare_items or (300 if quick else 32_768)
    options.budgets = options.budgets or ([1024] if quick else [8192, 16384, 65536])
    options.processes = options.processes or ([1, 2] if quick else [1, 2, 4, 8, 16])
    return options


if __name__ == "__main__":
    raise SystemExit(main())
