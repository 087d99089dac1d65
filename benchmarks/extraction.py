"""Extraction: all that hubstore does, beside the bare forward of the same batches and beside other tools."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Result, compare
from hubstore.bench.extract import TINY, random_model
from hubstore.bench.timing import Sample, Task, interleave, seconds
from hubstore.corpus import Corpus, read_sample
from hubstore.extraction import Settings, extract
from hubstore.forward import Batch, make_batch, pool, tokenize
from hubstore.forward.members import batch_members
from hubstore.models import Model, load_model
from hubstore.store import StoreReader

REAL_MODEL = "multilingual-e5-small"
SETTINGS = Settings(poolings=("mean",), template="query: {text}")
TARGET = 0.9


@dataclass(frozen=True)
class Setting:
    """What every contestant gets.

    Args:
        folder: the model, for tools that load it themselves.
        texts: as the model reads them, in the store's order.
        batches: the batches that hubstore makes of them, in its order.
    """

    folder: Path
    texts: list[str]
    batches: list[Batch]

    def load(self) -> Model:
        """A copy of the model of one's own: some tools change what they are given."""
        return load_model(str(self.folder), device="cpu")


def run(scratch: Path, *, small: bool) -> list[Result]:
    """The suite."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return _run(Path(folder), small)


def _run(scratch: Path, small: bool) -> list[Result]:
    where, real = _model_folder(scratch)
    corpus = read_sample("ntrex", limit=2 if small else 15)
    model = load_model(str(where), device="cpu")
    setting = _setting(where, corpus, model, scratch)
    hubstore = _Hubstore(corpus, model, scratch)
    tasks: dict[str, Task] = {"bare forward": _rate(setting, _bare(setting)), "hubstore": hubstore}
    missing: dict[str, str] = {}
    for name, prepare in PEERS.items():
        try:
            peer = prepare(setting)
            peer(setting.batches[-1:], setting.texts[:2])
        except Exception as error:  # whatever a tool of others breaks with, the rest is still worth measuring
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            tasks[name] = _rate(setting, functools.partial(peer, setting.batches, setting.texts))
    samples = interleave(tasks, runs=2 if small else 5, warm=0)  # every task has run above, on all or on two texts
    store = hubstore.last
    states = f"{len(store.layers)} layers x {store.width}, {store.layout.dtype}"
    case = f"{model.identity['id']}, {len(setting.texts)} texts, {states}"
    notes = (
        "hubstore: tokenizing, model, pooling of every layer, writing with fsync, commit, on one shared CPU",
        "bare forward: the model alone on hubstore's own batches, tokenized beforehand",
        "authors' loop: one text at a time, all hidden states, last token of every layer, nothing written",
        "sentence-transformers: encode() as it comes (sorted, batches of 32), last layer only, nothing written",
        "nnsight: hubstore's own batches, mean of every layer pooled in the trace, nothing written",
    )
    target = TARGET if real else None
    whole = {"hubstore": Sample(tuple(hubstore.whole)), "bare forward": samples["bare forward"]}
    return [
        compare(
            "extraction",
            case,
            "texts/s",
            samples,
            against="bare forward",
            target=target,
            missing=missing,
            notes=notes,
        ),
        compare(
            "extraction",
            f"{case}, with plan and self-check",
            "texts/s",
            whole,
            against="bare forward",
            notes=("plan and self-check are a few seconds of any run, however long it is",),
        ),
    ]


def _model_folder(scratch: Path) -> tuple[Path, bool]:
    """The real model where HUBSTORE_TEST_MODELS has it, else a tiny random one; and whether it is real."""
    real = Path(os.environ.get("HUBSTORE_TEST_MODELS", "")) / REAL_MODEL
    if "HUBSTORE_TEST_MODELS" in os.environ and real.is_dir():
        return real, True
    model, folder = random_model(TINY, "cpu"), scratch / "tiny-random-llama"
    model.trunk.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder, False


def _setting(where: Path, corpus: Corpus, model: Model, scratch: Path) -> Setting:
    """Extract once, unmeasured, and make again the batches that the extraction made."""
    done = extract(corpus, model, scratch / "first.hub", SETTINGS)
    store = StoreReader(done.path)
    assert len(store.commits) == 1, "the batches of one shard are made again here"
    resolved = SETTINGS.resolve(model)
    texts = [SETTINGS.template.replace("{text}", text) for text in store.items["text"].to_pylist()]
    token_ids, _ = tokenize(model, texts, resolved.max_tokens or 0)
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    batches = [
        make_batch(model, [token_ids[i] for i in members])
        for members in batch_members(lengths, resolved.batch_tokens or 0)
    ]
    assert sum(batch.inputs["input_ids"].numel() for batch in batches) == done.progress.padded, (
        "not the batches of the run"
    )
    return Setting(where, texts, batches)


def _rate(setting: Setting, work: Callable[[], object]) -> Task:
    return lambda: len(setting.texts) / seconds(work)


def _bare(setting: Setting) -> Callable[[], None]:
    trunk = setting.load().trunk

    @torch.inference_mode()
    def forward(batches: list[Batch]) -> None:
        for batch in batches:
            trunk(**batch.inputs)

    forward(setting.batches[-1:])
    return functools.partial(forward, setting.batches)


class _Hubstore:
    """Extracts into a new store at every call; texts/s of the pipeline, and in `whole` of all of `extract`."""

    def __init__(self, corpus: Corpus, model: Model, scratch: Path) -> None:
        self._corpus, self._model, self._scratch = corpus, model, scratch
        self._number = count()
        self.whole: list[float] = []
        self.last = StoreReader(scratch / "first.hub")

    def __call__(self) -> float:
        shutil.rmtree(self.last.path)
        path = self._scratch / f"{next(self._number)}.hub"
        done: Any = None

        def work() -> None:
            nonlocal done
            done = extract(self._corpus, self._model, path, SETTINGS)

        self.whole.append(len(self.last) / seconds(work))
        self.last = StoreReader(path)
        return len(self.last) / float(done.progress.seconds)


Peer = Callable[[list[Batch], list[str]], object]
"""Runs a tool on hubstore's batches or on the texts, whichever it takes."""


def _authors_loop(setting: Setting) -> Peer:
    """As the paper's code goes: one example at a time, all hidden states, the last token of each."""
    model = setting.load()

    @torch.inference_mode()
    def loop(batches: list[Batch], texts: list[str]) -> torch.Tensor:
        rows = []
        for text in texts:
            inputs = model.tokenizer(text, return_tensors="pt", truncation=True, max_length=model.max_tokens)
            inputs.pop("token_type_ids", None)
            hidden = model.trunk(**inputs, output_hidden_states=True).hidden_states
            rows.append(torch.stack([layer[0, -1] for layer in hidden[1:]]))
        return torch.stack(rows)  # [texts, layers, width]

    return loop


def _sentence_transformers(setting: Setting) -> Peer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(setting.folder))
    encoder = SentenceTransformer(modules=[transformer, Pooling(setting.load().width, "mean")], device="cpu")
    return lambda batches, texts: encoder.encode(texts, show_progress_bar=False)


def _nnsight(setting: Setting) -> Peer:
    import nnsight

    model = setting.load()
    names = {id(module): name for name, module in model.trunk.named_modules()}
    path = names[id(model.blocks)].split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = nnsight.NNsight(model.trunk)
    blocks = functools.reduce(getattr, path, wrapped)

    @torch.inference_mode()
    def trace(batches: list[Batch], texts: list[str]) -> list[torch.Tensor]:
        pooled = []
        for batch in batches:
            with wrapped.trace(**batch.inputs):
                rows = []
                for block in blocks:
                    output = block.output
                    rows.append(pool(output[0] if isinstance(output, tuple) else output, batch, "mean"))
                rows = nnsight.save(torch.stack(rows))
            pooled.append(rows)
        return pooled  # [layers, items, width] each

    return trace


PEERS: dict[str, Callable[[Setting], Peer]] = {
    "authors' loop": _authors_loop,
    "sentence-transformers": _sentence_transformers,
    "nnsight": _nnsight,
}
