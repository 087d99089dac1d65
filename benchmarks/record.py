"""What a benchmark found, the machine it ran on, and the JSON file that keeps both."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from benchmarks.timing import Sample

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
    "faiss-cpu",
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
        target: what the ratio should be.
        better: whether a higher or a lower ratio is better.
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
    better: Literal["higher", "lower"] = "higher"
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target

    def to_json(self) -> dict[str, Any]:
        """As kept in the file, floats to four digits."""
        return _rounded({**asdict(self), "met": self.met})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Back from the file."""
        return cls(**{key: value for key, value in data.items() if key != "met"})


def compare(
    work: str,
    case: str,
    unit: str,
    samples: Mapping[str, Sample],
    *,
    ours: str = "hubstore",
    against: str | None = None,
    target: float | None = None,
    better: Literal["higher", "lower"] = "higher",
    missing: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Result:
    """A result of interleaved samples.

    Args:
        work: the suite.
        case: what was done.
        unit: of every sample.
        samples: by name; `ours` is hubstore's.
        ours: which sample is hubstore's.
        against: the sample to divide by.
        target: what the ratio should be.
        better: whether a higher or a lower ratio is better.
        missing: peers that could not run, and why.
        notes: what else a reader must know.
    """
    missing = missing or {}
    mine = samples[ours]
    peers: dict[str, float | None] = {name: sample.median for name, sample in samples.items() if name != ours}
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
        better=better,
        notes=(*(f"{name} did not run: {why}" for name, why in missing.items()), *notes),
    )


def save(path: Path, machine: Mapping[str, Any], suite: str, took: float, results: Iterable[Result]) -> None:
    """Put a suite's results into a machine's file, in the place of that suite's earlier ones."""
    kept = json.loads(path.read_text()) if path.exists() else {"suites": {}}
    run = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seconds": round(took, 1),
        "versions": versions(),
        "results": [result.to_json() for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": dict(machine), "suites": {**kept["suites"], suite: run}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def machine(scratch: Path, pinned_to: int) -> dict[str, Any]:
    """What the numbers hold for."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "filesystem": _filesystem(scratch),
        "pinned": f"one thread on CPU {pinned_to}",
    }


def machine_name(of: Mapping[str, Any]) -> str:
    """A file name: "amd-epyc-2-cores"."""
    return re.sub(r"[^a-z0-9]+", "-", f"{of['cpu']} {of['cores']} cores".lower()).strip("-")


def versions() -> dict[str, str]:
    """Versions of the libraries that take part, those that are installed."""
    there = {}
    for name in VERSIONS:
        try:
            there[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return there


def commit() -> str | None:
    """The commit that was measured; "+" after it where files of the package or of the benchmarks differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "hubstore", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


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
