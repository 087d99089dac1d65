"""Extraction: everything that hubstore does, beside a plain batched forward of the same texts that keeps nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hubstore.bench.figure import HUBSTORE, Report, figure, machine_of
from hubstore.bench.timing import device_seconds, interleave
from hubstore.corpus import read_sample
from hubstore.extraction import Settings, extract
from hubstore.extraction.settings import ResolvedSettings
from hubstore.forward import tokenize
from hubstore.models import Model, load_model, wrap_model
from hubstore.store import StoreReader
from hubstore.system import temporary_folder

SAMPLE = "ntrex"
CEILING = "bare forward"
VOCABULARY = 8000


@dataclass(frozen=True)
class Shape:
    """A random model's: what it computes in, and how large it is."""

    width: int
    blocks: int
    heads: int
    dtype: torch.dtype


TINY = Shape(32, 3, 4, torch.float32)
SMALL = Shape(384, 6, 6, torch.float32)
LARGE = Shape(2048, 16, 16, torch.bfloat16)
"""About a billion parameters: a GPU is busy with it."""


@dataclass(frozen=True)
class Texts:
    """The texts as hubstore reads them.

    Args:
        batches: token ids and mask, int64 [items, length] each, longest first, on the model's device.
        items: texts.
        tokens: tokens, padding left out.
    """

    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    items: int
    tokens: int


def measure_extract(
    source: str | None, device: torch.device, *, lines: int | None, scratch: Path | None, runs: int, trust: bool = False
) -> Report:
    """Sentences/s and tokens/s of an extraction of all layers.

    Args:
        source: a model's folder or hub id; None for a random one.
        device: where the model runs.
        lines: of the sample, in each of its languages; None for what suits the device.
        scratch: where the stores are written, and removed; None for the system's temporary folder.
        runs: turns.
        trust: run the code that comes with the model.
    """
    cuda = device.type == "cuda"
    lines = lines or (300 if cuda else 10)
    model = (
        load_model(source, device=str(device), trust_remote_code=trust)
        if source
        else random_model(LARGE if cuda else SMALL, device)
    )
    corpus = read_sample(SAMPLE, limit=lines)
    settings = Settings(poolings=("mean",))
    number = count()
    with temporary_folder("hubstore-bench-", scratch) as folder:
        first = extract(corpus, model, Path(folder) / "first.hub", settings)
        store = StoreReader(first.path)
        texts = _texts(model, store.items["text"].to_pylist(), settings.resolve(model))
        what = f"{len(store.layers)} layers x {store.width}, {store.layout.dtype}"

        def hubstore_rate() -> float:
            path = Path(folder) / f"{next(number)}.hub"
            done = extract(corpus, model, path, settings)
            shutil.rmtree(path)
            return texts.items / done.progress.seconds

        tasks = {
            CEILING: lambda: texts.items / device_seconds(lambda: _forward(model, texts), device),
            HUBSTORE: hubstore_rate,
        }
        samples = interleave(tasks, runs)
    work = f"{model.identity['id']}, {texts.items:,} sentences, {what}"
    figures = (
        figure(work, "sentences/s", samples, CEILING),
        figure(work, "tokens/s", samples, CEILING, scale=texts.tokens / texts.items),
    )
    notes = (
        "hubstore: tokenizing, model, mean of every layer, writing with fsync, commit; plan and self-check left out",
        f"{CEILING}: the model alone on the same texts, tokenized, sorted by length and padded beforehand",
    )
    sizes = {"model": model.identity["id"], "lines": lines, "sentences": texts.items, "tokens": texts.tokens}
    return Report("extract", machine_of(device), sizes, figures, notes)


def random_model(shape: Shape, device: torch.device | str) -> Model:
    """A random Llama with a tokenizer trained on the sample: as fast as a trained one of its shape."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        max_position_embeddings=1024,
    )
    trunk = transformers.AutoModel.from_config(config).to(shape.dtype)
    name = f"random Llama of {shape.blocks} x {shape.width}"
    return wrap_model(trunk, _trained_tokenizer(), name=name, device=device)


def _trained_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for batch in read_sample(SAMPLE).batches() for text in batch["text"].to_pylist())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")


def _texts(model: Model, texts: Sequence[str], settings: ResolvedSettings) -> Texts:
    """Padded batches of like length, of as many tokens as hubstore's; `settings` are resolved."""
    token_ids, _ = tokenize(model, texts, settings.max_tokens or 0)
    token_ids.sort(key=len, reverse=True)
    batches = []
    start = 0
    while start < len(token_ids):
        stop = start + max((settings.batch_tokens or 0) // len(token_ids[start]), 1)
        batches.append(_padded(token_ids[start:stop], model))
        start = stop
    return Texts(tuple(batches), len(token_ids), sum(map(len, token_ids)))


def _padded(token_ids: Sequence[Sequence[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(token_ids), len(token_ids[0])), model.pad_id)
    mask = torch.zeros_like(ids)
    for row, of_text in enumerate(token_ids):
        ids[row, : len(of_text)] = torch.tensor(of_text)
        mask[row, : len(of_text)] = 1
    return ids.to(model.device), mask.to(model.device)


@torch.inference_mode()
def _forward(model: Model, texts: Texts) -> None:
    options = {"use_cache": False} if getattr(model.trunk.config, "use_cache", False) else {}
    for ids, mask in texts.batches:
        model.trunk(input_ids=ids, attention_mask=mask, **options)
