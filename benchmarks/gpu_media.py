"""`python -m benchmarks.gpu_media`: images and audio through a model on a GPU, beside its own bare forward.

In turns: hubstore with the store on, from encoded files (JPEG, Ogg); the forward of the same batches, decoded and on
the device already; the paper's way, one at a time; and reading alone, to see that it is not what one waits for.
"""

from __future__ import annotations

import argparse
import functools
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from benchmarks.gpu_extraction import Timeline, sample_tokenizer
from benchmarks.record import ROOT, Result, add_record_options, compare, gpu_machine, machine, save
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample, Task, device_seconds, interleave
from hubstore.corpus import Corpus, Item, Media
from hubstore.extraction import Callbacks, Settings, extract
from hubstore.extraction.readers import processes_for, reading_processes, submit_items
from hubstore.forward import Batch, Batching, collate_media, forward
from hubstore.forward.members import media_members
from hubstore.media import MediaInputs
from hubstore.media.decode import open_audio, open_image
from hubstore.media.reading import ReadItem
from hubstore.models import Model, wrap_model
from hubstore.reading.processes import ReadingProcesses

SUITE = "gpu-media"
DATA = ROOT / "hubstore/experiments/materials"
WIDTH, HEIGHT = 640, 480
"""Of the images: most of COCO's have them. The photographs that ship are smaller, and are scaled to it."""

BARE, LOOP, READING = "bare forward", "authors' loop", "reading alone"


@dataclass(frozen=True)
class Case:
    """A random model of a published shape, and how much it reads.

    Args:
        name: as the table has it.
        modality: "image" or "audio".
        make: the model without its head and its processor.
        stack: which stack of blocks.
        items: of a run.
        bare_items: of those, what the forward alone has on the device.
        loop_items: of the paper's way.
        template: the prompt.
    """

    name: str
    modality: str
    make: Callable[[], tuple[Any, Any]]
    stack: str | None
    items: int
    bare_items: int
    loop_items: int = 32
    template: str = "{media}"


def _images(size: int) -> Any:
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def _tower(large: bool, size: int) -> Any:
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.CLIPVisionConfig(**(wide if large else small), image_size=size, patch_size=14)


def _vit(large: bool = True) -> tuple[Any, Any]:
    """CLIP's ViT-L/14 at 224 pixels."""
    return transformers.CLIPVisionModel(_tower(large, 224 if large else 28)), _images(224 if large else 28)


def _llava(large: bool = True) -> tuple[Any, Any]:
    """LLaVA-1.5's tower (ViT-L/14 at 336 pixels, 576 tokens) before a Llama of 1.1B parameters."""
    size = 336 if large else 28
    tokenizer = sample_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    shape = (2048, 5632, 22, 32, 4) if large else (32, 64, 2, 4, 4)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = transformers.LlamaConfig(vocab_size=32000, **dict(zip(names, shape, strict=True)))
    config = transformers.LlavaConfig(
        vision_config=_tower(large, size),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        _images(size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaModel(config), processor


def _whisper(large: bool = True) -> tuple[Any, Any]:
    """Whisper-small's encoder: 12 blocks of 768, half a minute of audio at a time."""
    width, blocks = (768, 12) if large else (32, 2)
    sizes = {"encoder_attention_heads": width // 64 or 1, "encoder_ffn_dim": 4 * width, "encoder_layers": blocks}
    config = transformers.WhisperConfig(d_model=width, **sizes, decoder_layers=1, decoder_attention_heads=1)
    ears = transformers.WhisperFeatureExtractor()
    return transformers.WhisperModel(config), transformers.WhisperProcessor(ears, sample_tokenizer())


CASES = (
    Case("ViT-L/14, 224 px", "image", _vit, None, 16384, 2048),
    Case("LLaVA (ViT-L/14 at 336 px, Llama 1.1B)", "image", _llava, None, 3072, 1024, template="{media}\nThis is"),
    Case("Whisper-small's encoder, 5 s clips", "audio", _whisper, "encoder", 8192, 512),
)


@dataclass(frozen=True)
class Run:
    """What every contestant gets."""

    case: Case
    model: Model
    items: list[Item]
    settings: Settings
    scratch: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep where asked to."""
    options = _parse(arguments)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="hubstore-bench-", dir=options.scratch) as folder:
        for case in CASES:
            run = _prepare(case, device, options, Path(folder))
            print(f"{case.name}: made at {time.perf_counter() - began:.0f} s", flush=True)
            results += _measure(run, options.runs)
            took = time.perf_counter() - began
            print(suite_table(results[-3:]), f"{took:.0f} s", flush=True)
            if options.out:  # after every case: a machine that is lent may be taken back
                here = gpu_machine() if device != "cpu" else machine(Path(tempfile.gettempdir()))
                save(options.out, here, SUITE, took, results, measured=options.commit)
    return 0


def _prepare(case: Case, device: str, options: argparse.Namespace, scratch: Path) -> Run:
    torch.manual_seed(0)
    large = not options.small
    with torch.device(device):
        loaded, processor = case.make(large=large)  # type: ignore[call-arg]
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    model = wrap_model(
        loaded.to(dtype),
        getattr(processor, "tokenizer", None),
        name=f"random {case.name}",
        device=device,
        processor=processor,
        stack=case.stack,
    )
    encoded = _photographs() if case.modality == "image" else _clips()
    total = case.items if large else 40
    items = [
        Item(str(i), "", "zxx", None, case.modality, Media(f"item {i}", encoded[i % len(encoded)]))
        for i in range(total)
    ]
    settings = Settings(poolings=("mean",), media_template=case.template, media_tokens=options.media_tokens)
    return Run(case, model, items, settings, scratch)


@functools.cache
def _photographs() -> list[bytes]:
    """The photographs that ship, as JPEG of 640 x 480."""
    encoded = []
    for media in pq.read_table(DATA / "coco/photographs.parquet")["image"].to_pylist():
        kept = io.BytesIO()
        open_image(Media("photograph", media)).resize((WIDTH, HEIGHT)).save(kept, "JPEG", quality=90)
        encoded.append(kept.getvalue())
    return encoded


@functools.cache
def _clips() -> list[bytes]:
    return [clip for clip in pq.read_table(DATA / "esc10/sounds.parquet")["audio"].to_pylist() if clip]


def _measure(run: Run, runs: int) -> list[Result]:
    """One case's comparisons."""
    case = run.case
    bare = run.items[: min(case.bare_items, len(run.items))]
    loop = run.items[: min(case.loop_items, len(run.items))]
    batching = Batching(kind="padded")
    inputs = _read(run, bare)
    batches = _batches(run, inputs, batching)
    steady: list[float] = []

    def subject() -> float:
        timeline = Timeline()
        path = run.scratch / f"{next(_numbers)}.hub"
        done = extract(Corpus.from_items(run.items), run.model, path, run.settings, watch=Callbacks(progress=timeline))
        shutil.rmtree(path)
        steady.append(timeline.steady())
        print(f"hubstore: {steady[-1]:.1f} a second, {done.progress}", flush=True)
        return done.extracted / done.progress.seconds

    def forwards() -> None:
        with torch.inference_mode():
            for batch in batches:
                forward(run.model, batch)

    tasks: dict[str, Task] = {
        LOOP: lambda: len(loop) / device_seconds(functools.partial(_authors_loop, run, loop), run.model.device),
        BARE: lambda: len(bare) / device_seconds(forwards, run.model.device),
        "hubstore": subject,
    }
    for name in (LOOP, BARE):
        tasks[name]()
        print(f"{name}: {tasks[name]():.1f} a second", flush=True)
    samples = interleave(tasks, runs, warm=0)
    alone = Sample(tuple(_reading_rate(run) for _ in range(runs)))
    unit = "images/s" if case.modality == "image" else "clips/s"
    named = f"{case.name}, {len(run.items):,} items"
    processes = processes_for(run.model.device, None)
    note = f"{processes} processes read; from files in memory to a store on disk, mean pooling, every layer"
    whole = f"{named}, start of the reading processes and both ends left out"
    return [
        compare(SUITE, named, unit, samples, against=LOOP, notes=(note,)),
        compare(
            SUITE, whole, unit, {"hubstore": Sample(tuple(steady)), BARE: samples[BARE]}, against=BARE, target=0.95
        ),
        compare(
            SUITE,
            f"{case.name}: {READING}",
            unit,
            {READING: alone, BARE: samples[BARE]},
            subject=READING,
            against=BARE,
            target=1.0,
        ),
    ]


_numbers = count()


def _read(run: Run, items: list[Item]) -> list[MediaInputs]:
    """Items decoded and processed, as the extraction does it."""
    with _readers(run) as readers:
        found = [read.inputs for read in _read_by(readers, run, items)]
    kept = [one for one in found if one is not None]
    assert len(kept) == len(items)
    # What shared memory holds has to be given back.
    return [MediaInputs({n: t.clone() for n, t in one.tensors.items()}, one.media, one.length) for one in kept]


def _readers(run: Run) -> ReadingProcesses:
    processes = processes_for(run.model.device, None)
    return reading_processes(run.model, run.settings.resolve(run.model), [run.case.modality], processes)


def _read_by(readers: ReadingProcesses, run: Run, items: list[Item]) -> Iterator[ReadItem]:
    table = pa.Table.from_batches(list(Corpus.from_items(items).batches()))
    sizes = np.array([len(item.media.data or b"") if item.media else 0 for item in items], np.int64)
    jobs = submit_items(
        readers, run.case.modality, sizes, lambda a, b: table.slice(a, b - a), lambda place: items[place].id
    )
    for job in jobs:
        yield from job.result().items()


def _reading_rate(run: Run) -> float:
    """Items/s that are read when nobody waits; the processes have started, and their memory was written to before."""
    with _readers(run) as readers:
        readers.start()
        readers.wait()
        for _ in _read_by(readers, run, run.items[: 256 * max(readers.processes, 1)]):
            pass
        counted = run.items[: 16 * 256]
        began = time.perf_counter()
        for _ in _read_by(readers, run, counted):
            pass
        return len(counted) / (time.perf_counter() - began)


def _batches(run: Run, inputs: list[MediaInputs], batching: Batching) -> list[Batch]:
    """hubstore's own batches, on the device."""
    adapter = run.model.adapters[run.case.modality]
    lengths = np.array([adapter.length_of(one) for one in inputs], np.int32)
    tokens = run.settings.resolve(run.model).media_tokens or 0
    return [
        collate_media(run.model, run.case.modality, [inputs[i] for i in member]).to(run.model.device)
        for member in media_members(inputs, lengths, tokens, batching)
    ]


@torch.inference_mode()
def _authors_loop(run: Run, items: list[Item]) -> list[torch.Tensor]:
    """As the paper's code goes: one example at a time, all hidden states, the last token of each."""
    adapter = run.model.adapters[run.case.modality]
    rows = []
    for item in items:
        assert item.media is not None
        image = item.modality == "image"
        medium = open_image(item.media) if image else open_audio(item.media, adapter.reader.rate)
        read = adapter.reader.finish(adapter.reader.read(medium, run.case.template))
        tensors = {name: tensor.to(run.model.device) for name, tensor in read.tensors.items()}
        hidden = adapter.whole(**tensors, output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, -1] for layer in hidden]).cpu())
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_media", description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--media-tokens", type=int, help="tokens of a batch")
    add_record_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
