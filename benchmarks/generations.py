"""`python -m benchmarks.generations [--small] [--work FOLDER] [--out [FILE]]`: a corpus of ten generations beside one
of one, through a model of no cost. How often an item is read, and what it takes, should not depend on their number.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.growth import FLAT, memory
from benchmarks.record import RESULTS, ROOT, Result, machine, machine_name, save
from benchmarks.table import SCALING, suite_table

GENERATION, SMALL_GENERATION = 1_000_000, 2_000
GENERATIONS = (1, 10)
WORDS = 50
WIDTH = 8


def run(work: Path, small: bool = False) -> list[Result]:
    """Both corpora, each in a process of its own.

    Args:
        work: a folder on the disk that stores are on.
        small: a few thousand items, to see that it runs.
    """
    generation = SMALL_GENERATION if small else GENERATION
    found = {}
    for count in GENERATIONS:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            command = [sys.executable, "-m", "benchmarks.generations", "--child", str(count * generation)]
            asked = [str(generation), f"{folder}/x.hub"]
            done = subprocess.run([*command, *asked], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            found[count] = json.loads(done.stdout.splitlines()[-1])
            print(found[count], flush=True)
    one, many = (found[count] for count in GENERATIONS)
    case = f"{many['items']:,} items in {GENERATIONS[1]} generations of {generation:,}, a model of no cost"
    notes = (
        f"user and system time of the whole run: {one['processor']:.0f} s and {many['processor']:.0f} s; by the clock "
        f"{one['wall']:.0f} s and {many['wall']:.0f} s",
        f"most memory of no file: {one['memory'] / 1e9:.2f} GB and {many['memory'] / 1e9:.2f} GB",
    )
    return [
        _result(f"reads of an item, {case}", "times", one["reads"] / one["items"], many["reads"] / many["items"], 1.0),
        _result(
            f"processor time an item, {case}",
            "us",
            1e6 * one["processor"] / one["items"],
            1e6 * many["processor"] / many["items"],
            FLAT,
            notes,
        ),
    ]


def _result(case: str, unit: str, one: float, many: float, target: float, notes: tuple[str, ...] = ()) -> Result:
    return Result(
        work="growth",
        case=case,
        unit=unit,
        value=many,
        runs=1,
        spread=(many, many),
        peers={"one generation": one},
        against="one generation",
        ratio=many / one,
        ratio_spread=(many / one, many / one),
        target=target,
        better="lower",
        notes=notes,
    )


def _child(items: int, generation: int, store: str) -> dict[str, Any]:
    """Extract, in this process."""
    from hubstore.corpus import Corpus, Item
    from hubstore.extraction import Settings, extract

    reads = 0

    def read(refuse: object) -> Iterator[Item]:
        nonlocal reads
        for number in range(items):
            reads += 1
            yield Item(f"item-{number}", f"w{number % WORDS} w{number // WORDS % WORDS}", "en", f"c{number // 2}")

    corpus = Corpus("made", {"kind": "made", "items": items}, read)
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    settings = Settings(layers=("0",), batch_tokens=1 << 14)
    done = extract(corpus, model_of_no_cost(), store, settings, generation_items=generation)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "items": done.items,
        "reads": reads,
        "wall": time.perf_counter() - started,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory": memory()["RssAnon"],
    }


def model_of_no_cost() -> Any:
    """Two blocks of width 8 and words for tokens: what is left is what hubstore does itself."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    from hubstore.models import wrap_model

    words = {name: number for number, name in enumerate(["<pad>", "<unk>", *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=64,
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    return wrap_model(transformers.AutoModel.from_config(config), fast, name="of-no-cost")


def main(arguments: list[str] | None = None) -> None:
    """Run, print what was found, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generations", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder; nothing stays there")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", nargs="?", const="", help="keep the results, by default below benchmarks/results")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        items, generation, store = options.child
        print(json.dumps(_child(int(items), int(generation), store)))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = run(options.work, options.small)
    took = time.perf_counter() - started
    print(f"\ngenerations, {took:.0f} s\n\n{suite_table(results)}", flush=True)
    if options.out is not None:
        here = machine(options.work)
        file = Path(options.out or RESULTS / SCALING / f"{machine_name(here)}.json")
        save(file, here, "growth_generations", took, results)


if __name__ == "__main__":
    main()
