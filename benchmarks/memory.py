"""Peak memory of an extraction, by the size of its corpus; each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, Result
from hubstore.bench.timing import Sample

SIZES = (10_000, 50_000, 200_000)
SMALL_SIZES = (1_000, 4_000)
TARGET = 1.1
"""Of the largest corpus's peak over the smallest's."""

WORDS = ("the", "river", "car", "old", "stone", "slow", "to", "a", "wide", "and", "quiet", "sea")
LANGUAGES = ("en", "es", "de")


def run(scratch: Path, *, small: bool) -> list[Result]:
    """The suite."""
    sizes = SMALL_SIZES if small else SIZES
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        peaks = {items: _measure(items, Path(folder)) for items in sizes}
    smallest, largest = peaks[sizes[0]], peaks[sizes[-1]]
    value = largest["peak_mb"]
    ratio = value / smallest["peak_mb"]
    return [
        Result(
            work="memory",
            case=f"peak of an extraction of {sizes[-1]:,} items (random model of 3 blocks x 32)",
            unit="MB",
            value=value,
            runs=1,
            spread=Sample((value,)).spread,
            peers={f"{items:,} items": peaks[items]["peak_mb"] for items in sizes[:-1]},
            against=f"{sizes[0]:,} items",
            ratio=ratio,
            ratio_spread=(ratio, ratio),
            target=TARGET,
            better="lower",
            notes=(
                "peak: the greatest resident memory from the first item to the last, mapped files included",
                f"when torch, model and corpus were loaded {smallest['before_mb']:.0f} MB were resident",
                f"{sizes[-1]:,} items took {largest['seconds']:.0f} s",
            ),
        )
    ]


def _measure(items: int, folder: Path) -> dict[str, Any]:
    corpus = folder / f"{items}.jsonl"
    write_corpus(corpus, items)
    command = [sys.executable, "-m", "benchmarks.memory", str(corpus), str(folder / f"{items}.hub")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert measured["items"] == items, measured
    return measured


def write_corpus(path: Path, items: int) -> None:
    """Short sentences of 1 to 4 words and a number, languages taking turns."""
    with path.open("w") as file:
        for number in range(items):
            words = [WORDS[(number // 7 + i * (1 + number % 5)) % len(WORDS)] for i in range(1 + number % 4)]
            language = LANGUAGES[number % len(LANGUAGES)]
            row = {
                "id": f"sentence-{number}",
                "text": f"{' '.join(words)} {number}.",
                "language": language,
                "concept": f"{number // len(LANGUAGES)}",
            }
            file.write(json.dumps(row) + "\n")


def _extract(corpus: str, store: str) -> None:
    """In the process of its own: extract, and print the peak."""
    from hubstore.bench.extract import TINY, random_model
    from hubstore.corpus import read_jsonl
    from hubstore.extraction import Settings, extract

    model, items = random_model(TINY, "cpu"), read_jsonl(corpus)
    before = _memory_mb("VmRSS")
    # Loading peaks higher than a small extraction: the kernel's high-water mark starts anew here.
    Path("/proc/self/clear_refs").write_text("5")
    done = extract(items, model, store, Settings())
    measured = {
        "items": done.items,
        "before_mb": before,
        "peak_mb": _memory_mb("VmHWM"),
        "seconds": done.progress.seconds,
    }
    print(json.dumps(measured))


def _memory_mb(name: str) -> float:
    """VmRSS, the resident memory now, or VmHWM, its high-water mark."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    _extract(*sys.argv[1:])
