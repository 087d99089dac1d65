"""`python -m benchmarks.lens_trends`: language trends and the lens of all layers, beside the paper's loop."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import pinning

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.record import Result
    from hubstore.lens import Lens, TokenLanguages
    from hubstore.models import Model

SUITE = "lens_trends"
LOOP = "the paper's loop"
AGREEMENT = 1e-4
TARGET = 20.0
TARGETS = 4
SEED = 0
SHAPE = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
}  # fmt: skip
"""Gemma 3 270M."""

SMALL = SHAPE | {"vocab_size": 5000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 8}
TOKENS = 5000
"""Of the tokenizer that is trained for a random model."""


@dataclass(frozen=True)
class Work:
    """What is read, and with what.

    Args:
        model: loaded with its head.
        lens: its lens.
        tokens: p(language given token).
        texts: (language, text).
        looped: how many of the texts, evenly drawn, the loop reads.
        scratch: folder for stores.
    """

    model: Model
    lens: Lens
    tokens: TokenLanguages
    texts: Sequence[tuple[str, str]]
    looped: int
    scratch: Path

    @property
    def suite(self) -> str:
        """Its results' name."""
        return SUITE if self.dtype == "float32" else f"{SUITE}-{self.dtype}"

    @property
    def dtype(self) -> str:
        """The model's, and the stores'."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def layers(self) -> list[str]:
        """The paper's: every block's output but the last, and after the final norm."""
        return [*map(str, range(1, self.model.depth)), "final"]

    @property
    def drawn(self) -> list[int]:
        """Numbers of the texts that the loop reads."""
        return [number * len(self.texts) // self.looped for number in range(self.looped)]

    def targets(self) -> Tensor:
        """int64 [texts, TARGETS]: tokens to look up at each text's last token."""
        import torch

        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(TOKENS, (len(self.texts), TARGETS), generator=generator)


def extracted(work: Work, path: Path) -> Path:
    """All layers' states of all tokens, in a new store."""
    from hubstore.corpus import Corpus, Item
    from hubstore.extraction import Settings, extract

    shutil.rmtree(path, ignore_errors=True)
    items = [Item(f"{number}", text, language) for number, (language, text) in enumerate(work.texts)]
    settings = Settings(poolings=("tokens",), layers=("all", "final"), dtype=work.dtype)
    extract(Corpus.from_items(items, SUITE), work.model, path, settings)
    return path


def read(work: Work, path: Path) -> Tensor:
    """Trends, kept in the store, and the targets' log-probabilities [layers, texts, TARGETS]."""
    import torch

    from hubstore.lens import language_trends
    from hubstore.store import StoreReader

    shutil.rmtree(path / "analyses", ignore_errors=True)
    store = StoreReader(path)
    language_trends(store, work.lens, work.tokens, layers=work.layers)
    positions = store.positions([f"{number}" for number in range(len(work.texts))])
    rows, targets = store.token_ranges()[positions, 1] - 1, work.targets()
    found = [
        work.lens.sweep(
            store.hidden(layer).take(rows), variant="final" if layer == "final" else "raw", targets=targets
        ).target_log_probabilities.cpu()
        for layer in work.layers
    ]
    return torch.stack(found)


def loop(work: Work, states: Callable[[int], Sequence[Tensor]] | None = None) -> tuple[Tensor, Tensor]:
    """The paper's: a text at a time, all logits of a layer, a log-softmax in float32.

    Args:
        work: what is read.
        states: of a text by its number, [tokens, width] for each layer; by default the model is run.

    Returns:
        Sums over each text's tokens of p(language given token) [texts, layers, languages], and the targets'
        log-probabilities [layers, texts, TARGETS].
    """
    import torch

    device, unembedding = work.model.device, work.lens.head.unembedding.to(torch.float32)
    given, targets = work.tokens.weights.to(device), work.targets()
    masses, found = [], []
    for number in work.drawn:
        hidden = run(work, number) if states is None else states(number)
        sums, words = [], []
        for layer in hidden:
            log_probabilities = (layer.to(device, torch.float32) @ unembedding.T).log_softmax(-1)
            sums.append((log_probabilities[1:].exp() @ given).sum(0))
            words.append(log_probabilities[-1, targets[number].to(device)])
        masses.append(torch.stack(sums))
        found.append(torch.stack(words))
    return torch.stack(masses).cpu(), torch.stack(found, 1).cpu()


def run(work: Work, number: int) -> list[Tensor]:
    """A text's states [tokens, width] of every layer, as transformers gives them."""
    import torch

    ids = work.model.tokenizer(work.texts[number][1], return_tensors="pt")["input_ids"].to(work.model.device)
    with torch.inference_mode():
        return [layer[0] for layer in work.model.trunk(input_ids=ids, output_hidden_states=True).hidden_states[1:]]


def disagreement(work: Work, path: Path) -> tuple[float, float]:
    """The greatest difference of p(language given layer) over the loop's texts, and of targets' log-probabilities.

    In float32 the loop runs the model; half precision rounds states of a batch otherwise than those of one text, and
    the loop is given those of the store. The latter difference is relative where log-probabilities are beyond 1: raw
    logits may be so large that float32 is coarser than this.
    """
    import torch

    from hubstore.lens import language_mass
    from hubstore.store import StoreReader

    store = StoreReader(path)

    def stored(number: int) -> list[Tensor]:
        start, stop = store.token_ranges()[store.positions([f"{number}"])[0]]
        return [store.hidden(layer).read(start, stop) for layer in work.layers]

    masses, words = loop(work, None if work.dtype == "float32" else stored)
    found = language_mass(store, work.lens, work.tokens, layers=work.layers)
    place = {int(name): row for row, name in enumerate(store.items["id"].take(found.positions).to_pylist())}
    rows = [place[number] for number in work.drawn]
    tokens = int(found.tokens[rows].sum())
    summed = torch.stack([torch.from_numpy(found.sums[layer][rows].sum(0)) for layer in work.layers]) / tokens
    trends = (summed - masses.to(torch.float64).sum(0) / tokens).abs().max()
    log_probabilities = read(work, path)[:, work.drawn]
    lens = ((log_probabilities - words).abs() / words.abs().clamp_min(1)).max()
    return float(trends), float(lens)


def measure(work: Work, runs: int, name: str) -> list[Result]:
    """Texts a second from texts, from a store and by the loop, in turns; and how far they are apart."""
    from benchmarks.record import Result, compare
    from hubstore.bench.timing import interleave, seconds

    kept = extracted(work, work.scratch / "kept.hub")
    trends, lens = disagreement(work, kept)
    texts, cuda = len(work.texts), work.model.device.type == "cuda"
    samples = interleave(
        {
            "from texts": lambda: texts / seconds(lambda: read(work, extracted(work, work.scratch / "new.hub"))),
            "from a store": lambda: texts / seconds(lambda: read(work, kept)),
            LOOP: lambda: work.looped / seconds(lambda: loop(work)),
        },
        runs,
        disk=False,
    )
    head = work.lens.head
    case = (
        f"language trends and {TARGETS} targets a text, {texts:,} texts, {name} in "
        f"{work.dtype}, {len(work.layers)} layers, "
        f"vocabulary {head.vocabulary:,} x {head.width}"
    )
    notes = (
        f"model, states and unembedding in {work.dtype}, log-probabilities in float32, "
        f"without TF32; p(language given token) of {len(work.tokens.languages)} languages; targets are read at the "
        "last token",
        f"{LOOP}: one text at a time, all logits of each layer, log_softmax, product with p(language given token); on "
        f"{work.looped:,} of the texts",
        "from texts: model, store and lens; from a store: the lens alone",
    )
    speed = [
        compare(
            work.suite,
            f"{case}: {way}",
            "texts/s",
            {"hubstore": samples[way], LOOP: samples[LOOP]},
            against=LOOP,
            target=TARGET if cuda else None,
            notes=notes,
        )
        for way in ("from texts", "from a store")
    ]
    facts = [
        Result(work.suite, f"{case}: {what}", unit, value, 1, (value, value), target=AGREEMENT, target_of="value",
               better="lower")
        for what, unit, value in (
            ("greatest difference of p(language given layer) from the loop's", "", trends),
            ("greatest difference of a target's log-probability, relative beyond 1", "nats", lens),
        )
    ]  # fmt: skip
    return [*speed, *facts]


def prepare(options: argparse.Namespace, scratch: Path) -> tuple[Work, str]:
    """The model, the texts, and a name for the model."""
    from hubstore.corpus import read_sample
    from hubstore.lens import Lens, count_token_languages
    from hubstore.models import load_model

    rows = [row for batch in read_sample("ntrex").batches() for row in batch.to_pylist()]
    count = min(options.texts, len(rows))
    texts = [(row["language"], row["text"]) for row in (rows[i * len(rows) // count] for i in range(count))]
    if options.model is not None:
        model, name = load_model(options.model, device=options.device, dtype=options.dtype, head=True), options.model
        lens = Lens.of_model(model)
        tokens = count_token_languages(read_sample("ntrex"), lens)
    else:
        shape = SMALL if options.small else SHAPE
        model, name = (
            random_model(shape, [row["text"] for row in rows], options.device, options.dtype),
            "random weights",
        )
        lens = Lens.of_model(model)
        tokens = random_languages(lens, sorted({row["language"] for row in rows}))
    return Work(model, lens, tokens, texts, min(options.loop, count), scratch), Path(name).name


def random_model(shape: dict[str, int], texts: Sequence[str], device: str, dtype: str) -> Model:
    """A model of the shape, and a tokenizer trained on the texts."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from hubstore.models import wrap_model

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=["<s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", model_max_length=2048
    )
    torch.manual_seed(SEED)
    whole = transformers.AutoModelForCausalLM.from_config(transformers.Gemma3TextConfig(**shape)).to(
        device, getattr(torch, dtype)
    )
    return wrap_model(whole.base_model, fast, name="random", language_model=whole)


def random_languages(lens: Lens, languages: Sequence[str]) -> TokenLanguages:
    """Every row of a random model's unembedding as a token of some languages."""
    import torch

    from hubstore.lens import TokenLanguages
    from hubstore.lens.languages import tokenizer_digest

    generator = torch.Generator().manual_seed(SEED)
    weights = (3 * torch.randn(lens.head.vocabulary, len(languages), generator=generator)).softmax(1)
    return TokenLanguages(tuple(languages), weights, {"kind": "random", "tokenizer": tokenizer_digest(lens.vocabulary)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    options = _parse(arguments)
    cuda = options.device.startswith("cuda")
    pinned = None if cuda else pinning.pin(options.threads)
    import torch

    from benchmarks.record import RESULTS, gpu_machine, machine, machine_name, save
    from benchmarks.table import suite_table

    if not cuda:
        torch.set_num_threads(options.threads)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="hubstore-") as folder:
        work, name = prepare(options, Path(folder))
        results = measure(work, options.runs, name)
        here: dict[str, Any] = gpu_machine() if cuda else machine(Path(folder), pinned)
    took = time.perf_counter() - started
    print(f"{here.get('gpu', here['cpu'])}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        path = Path(options.out) if options.out else RESULTS
        path = path / f"{machine_name(here)}.json" if path.is_dir() else path
        save(path, here, work.suite, took, results, measured=options.commit)
    return 0 if all(result.met is not False for result in results if result.unit != "texts/s") else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lens_trends", description=__doc__)
    parser.add_argument("--model", help="a folder, such as gemma-3-270m; by default random weights of its shape")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="of the model and its states: float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU, pinned")
    parser.add_argument("--texts", type=int, help="texts that hubstore reads; 1,400 on a GPU, 14 on a CPU")
    parser.add_argument("--loop", type=int, help="of those, the loop's; 56 on a GPU, all on a CPU")
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--scratch", type=Path, help="folder for stores; by default the system's temporary one")
    parser.add_argument("--commit", help="the commit of this code, where it was copied without its history")
    parser.add_argument(
        "--out",
        nargs="?",
        const="",
        help="keep the results: a file, or a folder; benchmarks/results where none is named",
    )
    options = parser.parse_args(arguments)
    cuda = options.device.startswith("cuda")
    options.texts = options.texts or (1400 if cuda else 14)
    options.loop = options.loop or (56 if cuda else options.texts)
    return options


if __name__ == "__main__":
    sys.exit(main())
