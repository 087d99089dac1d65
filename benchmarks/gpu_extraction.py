"""`python -m benchmarks.gpu_extraction [--shape 8b] [--gpus 2]`: extraction on a GPU beside its own bare forward.

In one run, in turns: the paper's way (one text at a time), a plain batched forward (padded, sorted by length),
hubstore's forward of its own batches, and hubstore itself with the store on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from benchmarks.record import Result, add_record_options, compare, gpu_machine, machine, save
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample, Task, device_seconds, interleave
from hubstore.corpus import Corpus, Item, read_sample
from hubstore.extraction import Callbacks, Extraction, Progress, Settings, Workers, extract
from hubstore.extraction.settings import ResolvedSettings
from hubstore.forward import Batch, Batching, collate, forward, pad, tokenize
from hubstore.forward.compiled import block_parameters, compiled_blocks
from hubstore.forward.members import batch_members
from hubstore.models import Model, wrap_model

SUITE = "gpu-extraction"
PLAIN_TOKENS = 8192
SENTENCE_TOKENS = 40
BARE, PLAIN, LOOP = "bare forward", "padded forward", "authors' loop"


@dataclass(frozen=True)
class Shape:
    """A random Llama's, and how much of it a run reads.

    Args:
        name: as the table has it.
        width: of a hidden state.
        inner: of the feed-forward network.
        blocks: how many.
        heads: of attention.
        key_heads: of its keys and values.
        vocabulary: rows of the embedding.
        dtype: what it computes in.
        items: sentences of a run.
        bare_items: of those, what the forwards alone read.
        batch_tokens: of a batch.
    """

    name: str
    width: int
    inner: int
    blocks: int
    heads: int
    key_heads: int
    vocabulary: int
    dtype: torch.dtype
    items: int
    bare_items: int
    batch_tokens: int = 8192


SHAPES = {
    "8b": Shape("Llama 8B", 4096, 14336, 32, 32, 8, 128256, torch.bfloat16, 20480, 4096),
    "1b": Shape("Llama 1.1B", 2048, 5632, 22, 32, 4, 32000, torch.bfloat16, 65536, 16384),
    "small": Shape("tiny Llama", 64, 128, 2, 4, 2, 8000, torch.float32, 600, 300, 1024),
}


COUNTED = (0.5, 0.95)
"""From where to where, in shares of all items, an extraction's steady rate is taken."""


@dataclass
class Timeline:
    """Items over time, as an extraction reports them."""

    points: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, done: Progress) -> None:
        """Note where the extraction is; at the two ends of what is counted, only when the device is there too."""
        before = self.points[-1][1] if self.points else 0
        crossed = any(before < share * done.total <= done.items for share in COUNTED)
        if crossed and torch.cuda.is_available():
            torch.cuda.synchronize()  # what was given to the device may be seconds ahead of it
        self.points.append((time.perf_counter(), done.items))

    def steady(self) -> float:
        """Items/s from half of all items to nineteen in twenty: every device is at work, no end is counted."""
        last = self.points[-1][1]
        ends = [next(point for point in self.points if point[1] >= share * last) for share in COUNTED]
        if ends[0][1] == ends[1][1]:
            ends = [self.points[0], self.points[-1]]
        (start, first), (stop, second) = ends
        return (second - first) / (stop - start)


@dataclass(frozen=True)
class Run:
    """What every contestant gets.

    Args:
        shape: the model's.
        model: the model, on the first device.
        corpus: the sentences.
        texts: their texts, in order.
        settings: of the extraction.
        scratch: where stores are written, and removed.
        profiled: whether to print where the device's time goes.
    """

    shape: Shape
    model: Model
    corpus: Corpus
    texts: list[str]
    settings: Settings
    scratch: Path
    profiled: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep where asked to."""
    options = _parse(arguments)
    shape = SHAPES["small" if options.small else options.shape]
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hubstore-bench-", dir=options.scratch) as folder:
        run = _prepare(shape, device, options, Path(folder))
        print(f"model and corpus made in {time.perf_counter() - began:.0f} s", flush=True)
        results = _one_device(run, options.runs) if options.gpus == 1 else _several(run, options.gpus, options.runs)
    took = time.perf_counter() - began
    print(f"\n{suite_table(results)}\n{took:.0f} s in all", flush=True)
    if options.out:
        here = gpu_machine() if device != "cpu" else machine(Path(tempfile.gettempdir()))
        save(options.out, here, f"{SUITE}-{options.gpus}", took, results, measured=options.commit)
    return 0


def build_model(device: str, shape: Shape) -> Model:
    """A random model of the shape, made where it will run; the same on every GPU of a kind."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2048,
    )
    with torch.device(device):
        trunk = transformers.AutoModel.from_config(config, dtype=shape.dtype)
    return wrap_model(trunk, sample_tokenizer(), name=f"random {shape.name}", device=device)


@functools.cache
def sample_tokenizer() -> Any:
    """A tokenizer that works as real ones do: byte-level BPE, trained on the sample."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_sample_lines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", model_max_length=2048
    )


@functools.cache
def _sample_lines() -> list[str]:
    batches = read_sample("ntrex", languages=["en", "es"]).batches()
    return [text for batch in batches for text in batch["text"].to_pylist()]


def sentences(count: int) -> list[str]:
    """Sentences of the sample's words, of SENTENCE_TOKENS tokens on average, most of 10 to 100."""
    words = np.array(" ".join(_sample_lines()).split())
    random = np.random.default_rng(0)
    per_word = len(sample_tokenizer()(" ".join(random.choice(words, 5000)))["input_ids"]) / 5000
    lengths = np.maximum(random.gamma(4.0, SENTENCE_TOKENS / per_word / 4.0, count).round().astype(int), 1)
    drawn = np.split(random.choice(words, lengths.sum()), np.cumsum(lengths)[:-1])
    return [" ".join(sentence) for sentence in drawn]


def _prepare(shape: Shape, device: str, options: argparse.Namespace, scratch: Path) -> Run:
    texts = sentences((options.items or shape.items) * (1 if options.gpus == 1 else 4))
    corpus = Corpus.from_items(Item(str(number), text, "en") for number, text in enumerate(texts))
    settings = Settings(
        poolings=tuple(options.pool.split(",")),
        batching="packed",
        compile="off" if options.no_compile or device == "cpu" else "on",
        batch_tokens=options.batch_tokens or shape.batch_tokens,
    )
    return Run(shape, build_model(device, shape), corpus, texts, settings, scratch, options.profile)


def _one_device(run: Run, runs: int) -> list[Result]:
    """The comparisons on one device."""
    began = time.perf_counter()
    warm = _extract(run, run.texts[: run.shape.bare_items // 4])
    assert warm.self_check is not None
    batching = warm.self_check.to_batching()
    check = (
        f"{batching.kind}, {'compiled' if batching.compiled else 'eager'}, deviation {warm.self_check.deviation:.1e}"
    )
    print(f"self-check and first batches {time.perf_counter() - began:.0f} s: {check}", flush=True)
    if run.profiled:
        _profile(run)
    token_ids, resolved = _token_ids(run, run.texts[: run.shape.bare_items]), run.settings.resolve(run.model)
    loop_texts = run.texts[: 8 if run.shape.name == SHAPES["small"].name else 32]
    steady: list[float] = []
    ends: list[Extraction] = []

    def subject() -> float:
        timeline = Timeline()
        ends.append(_extract(run, run.texts, Callbacks(progress=timeline)))
        steady.append(timeline.steady())
        return ends[-1].extracted / ends[-1].progress.seconds

    tasks: dict[str, Task] = {
        LOOP: _rate(run, len(loop_texts), functools.partial(_authors_loop, run.model, loop_texts)),
        PLAIN: _rate(run, len(token_ids), _padded(run, token_ids)),
        BARE: _rate(run, len(token_ids), bare_forward(run.model, resolved, token_ids, batching)),
        "hubstore": subject,
    }
    for name in (LOOP, PLAIN, BARE):
        tasks[name]()
    samples = interleave(tasks, runs, warm=0)
    flops = 2e-12 * block_parameters(run.model.blocks) * ends[-1].progress.tokens / ends[-1].extracted
    return _tables(run, samples, Sample(tuple(steady)), flops, ends[-1].progress, check)


def _tables(
    run: Run, samples: dict[str, Sample], steady: Sample, flops: float, done: Progress, check: str
) -> list[Result]:
    """Results of one device.

    Args:
        run: what was run.
        samples: sentences/s.
        steady: hubstore's, its ends left out.
        flops: useful 1e12 floating-point operations of a sentence.
        done: of hubstore's last turn.
        check: what the self-check said.
    """
    layers = run.shape.blocks + 1
    case = f"{run.shape.name}, {len(run.texts):,} sentences, {layers} layers, {', '.join(run.settings.poolings)}"
    phases = (
        f"hubstore ({check}): {done.useful:.1%} of tokens useful, {done.seconds:.1f} s, of which giving work to the "
        f"device {done.model_ms / 1e3:.1f} s, waiting for shards {done.copy_ms / 1e3:.1f} s, "
        f"writing {done.write_ms / 1e3:.1f} s",
        "TFLOP/s: 2 x parameters of the blocks x tokens that are no padding",
    )
    scaled = {name: Sample(tuple(flops * value for value in sample.values)) for name, sample in samples.items()}
    forwards = {name: scaled[name] for name in (BARE, PLAIN)}
    ends_out = {"hubstore": steady, BARE: samples[BARE]}
    return [
        compare(SUITE, case, "sentences/s", samples, against=BARE, target=0.97, notes=phases),
        compare(SUITE, case, "TFLOP/s", scaled, against=BARE, target=0.97),
        compare(SUITE, f"{case}, first and last shard left out", "sentences/s", ends_out, against=BARE, target=0.97),
        compare(SUITE, f"{case}: bare forward", "TFLOP/s", forwards, subject=BARE, against=PLAIN, target=1.25),
        compare(SUITE, case, "sentences/s", samples, against=LOOP, target=35),
    ]


def _several(run: Run, gpus: int, runs: int) -> list[Result]:
    """One device and several, in turns; rates while all of them are at work."""
    first = str(run.model.device)
    others = tuple(f"cuda:{number}" for number in range(1, gpus)) if first != "cpu" else ("cpu",) * (gpus - 1)
    workers = Workers(functools.partial(build_model, shape=run.shape), others)

    def rate(texts: list[str], workers: Workers | None) -> float:
        timeline = Timeline()
        _extract(run, texts, Callbacks(progress=timeline), workers)
        return timeline.steady()

    name = f"hubstore on {gpus}"
    tasks: dict[str, Task] = {
        "hubstore on 1": lambda: rate(run.texts[: len(run.texts) // 4], None),
        name: lambda: rate(run.texts, workers),
    }
    samples = interleave(tasks, runs, warm=0)
    case = f"{run.shape.name}, {len(run.texts):,} sentences, {gpus} devices"
    note = "rates from half of the items to 95 %: processes start, load the model and compile before"
    target = 0.95 * gpus
    return [
        compare(
            SUITE, case, "sentences/s", samples, subject=name, against="hubstore on 1", target=target, notes=(note,)
        )
    ]


_numbers = count()


def _extract(run: Run, texts: list[str], watch: Callbacks | None = None, workers: Workers | None = None) -> Extraction:
    """Extract into a store that is removed again."""
    path = run.scratch / f"{next(_numbers)}.hub"
    corpus = run.corpus
    if len(texts) < len(run.texts):
        corpus = Corpus.from_items(Item(str(number), text, "en") for number, text in enumerate(texts))
    done = extract(corpus, run.model, path, run.settings, watch=watch, engine=workers)
    shutil.rmtree(path)
    return done


def _token_ids(run: Run, texts: list[str]) -> list[list[int]]:
    return tokenize(run.model, texts, run.model.max_tokens)[0]


def _rate(run: Run, items: int, work: Callable[[], object]) -> Task:
    return lambda: items / device_seconds(work, run.model.device)


@torch.inference_mode()
def _authors_loop(model: Model, texts: list[str]) -> list[torch.Tensor]:
    """As the paper's code goes: one example at a time, all hidden states, the last token of each."""
    rows = []
    for text in texts:
        inputs = model.tokenizer(text, return_tensors="pt").to(model.device)
        inputs.pop("token_type_ids", None)
        hidden = model.trunk(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, -1] for layer in hidden]).cpu())
    return rows  # [layers, width] each


def _padded(run: Run, token_ids: list[list[int]]) -> Callable[[], None]:
    """What one would write: sorted by length, padded, masked, transformers' own attention."""
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    batches = []
    for members in batch_members(lengths, PLAIN_TOKENS):
        batch = pad(run.model, [token_ids[i] for i in members])
        mask = np.zeros(batch.padded_tokens, np.int64)
        mask[batch.arrays["token_rows"]] = 1
        inputs = {"input_ids": batch.arrays["input_ids"], "attention_mask": mask.reshape(len(members), -1)}
        batches.append({name: torch.from_numpy(array).to(run.model.device) for name, array in inputs.items()})

    @torch.inference_mode()
    def work() -> None:
        for inputs in batches:
            run.model.trunk(**inputs, use_cache=False)

    return work


def bare_forward(
    model: Model, settings: ResolvedSettings, token_ids: list[list[int]], batching: Batching
) -> Callable[[], None]:
    """hubstore's own batches of its own shards through the model, and nothing else."""
    tokens = settings.batch_tokens
    rows = settings.layout(model.width).shard_rows
    batches: list[Batch] = []
    for start in range(0, len(token_ids), rows):
        shard = token_ids[start : start + rows]
        for members in batch_members(np.array([len(ids) for ids in shard], np.int32), tokens, batching):
            batches.append(collate(model, [shard[i] for i in members], batching, tokens).to(model.device))

    @torch.inference_mode()
    def work() -> None:
        with compiled_blocks(model, tokens) if batching.compiled else contextlib.nullcontext():
            for batch in batches:
                forward(model, batch)

    return work


def _profile(run: Run) -> None:
    """Print the device's busiest kernels, and the host's busiest calls, over two shards."""
    rows = run.settings.resolve(run.model).layout(run.model.width).shard_rows
    kinds = [torch.profiler.ProfilerActivity.CPU]
    by = "self_cpu_time_total"
    if run.model.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        by = "self_cuda_time_total"
    with torch.profiler.profile(activities=kinds) as profile:
        _extract(run, run.texts[: 2 * rows])
    print(profile.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60), flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_extraction", description=__doc__)
    parser.add_argument("--shape", choices=["8b", "1b"], default="8b", help="of the random model")
    parser.add_argument("--gpus", type=int, default=1, help="several: compare them with one, and nothing else")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--items", type=int, help="sentences of a run")
    parser.add_argument("--pool", default="mean", help="poolings, comma-separated")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a packed batch")
    parser.add_argument("--no-compile", action="store_true", help="blocks as they are")
    parser.add_argument("--profile", action="store_true", help="print where the device's time goes")
    add_record_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
