"""What a benchmark found, the machine it ran on, and the JSON file that keeps both."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from hubstore.bench.timing import Sample

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
VERSIONS = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "zarr",
    "tensorstore",
    "pyarrow",
    "triton",
    "faiss-cpu",
    "faiss-gpu",
    "fastapi",
    "uvicorn",
    "uvloop",
    "flashlib",
    "cut-cross-entropy",
    "sentence-transformers",
    "nnsight",
)


@dataclass(frozen=True)
class Result:
    """One comparison.

    Args:
        work: the suite.
        case: what was done, with its sizes.
        unit: of `value` and of every peer.
        value: hubstore's median.
        runs: measurements behind each median.
        spread: hubstore's least and greatest.
        peers: medians of what ran beside it; None where a peer could not run.
        ratios: for each peer, the median over the turns of hubstore's value / its value in the same turn.
        against: the peer that `ratio` compares with.
        ratio: median over the turns of hubstore's value / that peer's value in the same turn.
        ratio_spread: the least and the greatest of them.
        target: what the ratio, or the value, should be.
        target_of: which of the two.
        better: whether higher or lower is better.
        recall: share of the true answers found.
        recall_target: what it should be at least.
        peer_recalls: the peers' recalls.
        notes: why a peer could not run, and what a reader must know to compare.
    """

    work: str
    case: str
    unit: str
    value: float
    runs: int
    spread: tuple[float, float]
    peers: Mapping[str, float | None] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    against: str | None = None
    ratio: float | None = None
    ratio_spread: tuple[float, float] | None = None
    target: float | None = None
    target_of: Literal["ratio", "value"] = "ratio"
    better: Literal["higher", "lower"] = "higher"
    recall: float | None = None
    recall_target: float | None = None
    peer_recalls: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether the targets are met, that of the recall too; None where there is none."""
        measured = self.ratio if self.target_of == "ratio" else self.value
        met = []
        if self.target is not None and measured is not None:
            met.append(measured >= self.target if self.better == "higher" else measured <= self.target)
        if self.recall_target is not None:
            met.append(self.recall is not None and self.recall >= self.recall_target)
        return all(met) if met else None

    def to_json(self) -> dict[str, Any]:
        """As kept in the file, floats to four digits."""
        return _rounded({**asdict(self), "met": self.met})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Back from the file."""
        return cls(**{key: value for key, value in data.items() if key != "met"})


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """What a benchmark of whole runs takes: where its stores go, which code it measures, and where its results go."""
    parser.add_argument("--scratch", type=Path, help="a folder for the stores; the system's temporary one by default")
    parser.add_argument("--commit", help="the commit of this code, where it was copied without its history")
    parser.add_argument("--out", type=Path, help="keep the results in this JSON file")


def compare(
    work: str,
    case: str,
    unit: str,
    samples: Mapping[str, Sample],
    *,
    subject: str = "hubstore",
    against: str | None = None,
    target: float | None = None,
    target_of: Literal["ratio", "value"] = "ratio",
    better: Literal["higher", "lower"] = "higher",
    recalls: Mapping[str, float] | None = None,
    recall_target: float | None = None,
    missing: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Result:
    """A result of interleaved samples.

    Args:
        work: the suite.
        case: what was done.
        unit: of every sample.
        samples: by name; `subject` is hubstore's.
        subject: which sample is hubstore's.
        against: the sample to divide by.
        target: what the ratio, or the value, should be.
        target_of: which of the two.
        better: whether higher or lower is better.
        recalls: by name, as the samples; not every contestant has one.
        recall_target: what hubstore's should be at least.
        missing: peers that could not run, and why.
        notes: what else a reader must know.
    """
    missing, recalls = missing or {}, recalls or {}
    mine = samples[subject]
    peers: dict[str, float | None] = {name: sample.median for name, sample in samples.items() if name != subject}
    ratio = mine.over(samples[against]) if against else None
    return Result(
        work=work,
        case=case,
        unit=unit,
        value=mine.median,
        runs=len(mine.values),
        spread=mine.spread,
        peers=peers | dict.fromkeys(missing),
        ratios={name: mine.over(samples[name]).median for name in peers},
        against=against,
        ratio=ratio.median if ratio else None,
        ratio_spread=ratio.spread if ratio else None,
        target=target,
        target_of=target_of,
        better=better,
        recall=recalls.get(subject),
        recall_target=recall_target,
        peer_recalls={name: recall for name, recall in recalls.items() if name in peers},
        notes=(*(f"{name} did not run: {why}" for name, why in missing.items()), *notes),
    )


def reason(error: Exception) -> str:
    """Why something could not run, on one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def save(
    path: Path,
    machine: Mapping[str, Any],
    suite: str,
    took: float,
    results: Iterable[Result],
    *,
    measured: str | None = None,
) -> None:
    """Put a suite's results into a machine's file, in the place of that suite's earlier ones.

    Args:
        path: the file.
        machine: what the numbers hold for.
        suite: its name.
        took: seconds.
        results: the suite's.
        measured: the commit that was measured, where the code at hand has no history to ask.
    """
    stored = json.loads(path.read_text()) if path.exists() else {"suites": {}}
    run = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": measured or commit(),
        "seconds": round(took, 1),
        "versions": versions(),
        "results": [result.to_json() for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": dict(machine), "suites": {**stored["suites"], suite: run}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_suite(out: str, work: Path, suite: str, took: float, results: Iterable[Result]) -> None:
    """Put a suite's results into the file `out`, or the machine's own where that is ""; what it says of it stays."""
    here = machine(work)
    path = Path(out or RESULTS / f"{machine_name(here)}.json")
    stored = json.loads(path.read_text())["machine"] if path.exists() else here
    save(path, stored, suite, took, results)


def machine(scratch: Path, pinned_to: int | None = None) -> dict[str, Any]:
    """What the numbers hold for."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "filesystem": _filesystem(scratch),
        "pinned": "not pinned" if pinned_to is None else f"one thread on CPU {pinned_to}",
    }


def gpu_machine(device: int = 0) -> dict[str, Any]:
    """What the numbers of a GPU hold for: the GPU and its driver, and the computer that it is in."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def machine_name(of: Mapping[str, Any]) -> str:
    """A file name: "amd-epyc-2-cores", "nvidia-h200"."""
    if "gpu" in of:
        name = of["gpu"] if of["gpus"] == 1 else f"{of['gpu']} x {of['gpus']}"
    else:
        name = f"{of['cpu']} {of['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions() -> dict[str, str]:
    """Versions of the libraries that take part, those that are installed."""
    installed = {}
    for name in VERSIONS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    faiss = sys.modules.get("faiss")
    if faiss is not None and not any(name.startswith("faiss") for name in installed):
        installed["faiss"] = faiss.__version__  # unpacked somewhere, not installed
    return installed


def commit() -> str | None:
    """The commit that was measured; "+" after it where files of the package or of the benchmarks differ from it.

    HUBSTORE_COMMIT says it where the code was copied without its history.
    """
    if named := os.environ.get("HUBSTORE_COMMIT"):
        return named
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "hubstore", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _filesystem(path: Path) -> str:
    """The type of the file system that `path` is on, from the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]))[1] if above else "unknown"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
