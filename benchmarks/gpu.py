"""`python -m benchmarks.gpu [ceilings topk one-query ...]`: the kernels on a GPU, with every peer in the same run."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import CASES, Case
from benchmarks.head_to_head import Bench, free
from benchmarks.record import RESULTS, Result, gpu_machine, machine, machine_name, reason, save
from benchmarks.table import suite_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases one after the other, print and keep each as it ends; returns 1 where one of them failed."""
    options = _parse(arguments)
    bench = Bench(torch.device(options.device), options.small, options.runs, frozenset(options.without))
    here = gpu_machine() if bench.device.type == "cuda" else machine(Path(tempfile.gettempdir()))
    path = _path(options.out, here)
    failures: list[str] = []
    started = time.perf_counter()
    print(f"{here.get('gpu', here['cpu'])}, torch {torch.__version__}, Python {platform.python_version()}", flush=True)
    for name in options.cases or CASES:
        began = time.perf_counter()
        results: list[Result] = []
        for case in CASES[name]:
            results += _run(case, name, bench, failures)
        took = time.perf_counter() - began
        if results:
            print(f"\n{name}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
        if results and path is not None:
            save(path, here, name, took, results, measured=options.commit)
    print(f"{time.perf_counter() - started:.0f} s in all", *failures, sep="\nfailed: ")
    return 1 if failures else 0


def _run(case: Case, name: str, bench: Bench, failures: list[str]) -> list[Result]:
    """A case's results; none, and a failure more, where it failed."""
    try:
        return case(bench)
    except Exception as error:  # the machine is lent for minutes: what else there is must still be measured
        traceback.print_exc()
        failures.append(f"{name}: {reason(error)}")
        return []
    finally:
        free(bench.device)


def _path(out: str | None, here: dict[str, Any]) -> Path | None:
    """Where to keep the results; a folder gets a file named after the machine."""
    if out is None:
        return None
    path = Path(out) if out else RESULTS
    return path / f"{machine_name(here)}.json" if path.is_dir() else path


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"any of {', '.join(CASES)}; all by default")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--runs", type=int, default=5, help="turns of hubstore and its peers")
    parser.add_argument("--without", nargs="+", default=[], metavar="PEER", help="peers to leave out")
    parser.add_argument("--commit", help="the commit of this code, where it was copied without its history")
    parser.add_argument(
        "--out",
        nargs="?",
        const="",
        help="keep the results: a file, or a folder; benchmarks/results where none is named",
    )
    options = parser.parse_args(arguments)
    for name in options.cases:
        if name not in CASES:
            parser.error(f"there is no case {name!r}; the cases are {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
