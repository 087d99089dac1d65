"""`python -m benchmarks.cpu [SUITE ...] [--out [FILE]]`: the suites that run on a CPU."""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib import import_module
from pathlib import Path

from benchmarks.pinning import pin
from benchmarks.record import RESULTS, machine, machine_name, save
from benchmarks.table import suite_table

SUITES = {"extraction": 1, "store": 1, "memory": 1, "index": 1, "kernels_cpu": 2}
"""Each suite's threads, with a CPU for each."""


def main(arguments: list[str] | None = None) -> None:
    """Run suites one after the other, print each as it ends, and keep it where `--out` is given."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="hubstore-benchmark-", dir=options.scratch) as scratch:
        here = machine(Path(scratch), pin())
        for suite in options.suites or SUITES:
            pin(SUITES[suite])
            started = time.perf_counter()
            # Imported here, since torch and numpy must come after the pinning.
            results = import_module(f"benchmarks.{suite}").run(Path(scratch), small=options.small)
            took = time.perf_counter() - started
            print(f"\n{suite}, {took:.0f} s\n\n{suite_table(results)}", flush=True)
            if options.out is not None:
                path = options.out or RESULTS / f"{machine_name(here)}.json"
                save(Path(path), here, suite, took, results)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("suites", nargs="*", help=f"any of {', '.join(SUITES)}; all by default")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--scratch", help="a folder on the disk to measure; the system's temporary folder by default")
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/<machine>.json where no file is named"
    )
    options = parser.parse_args(arguments)
    for suite in options.suites:
        if suite not in SUITES:
            parser.error(f"there is no suite {suite!r}; the suites are {', '.join(SUITES)}")
    return options


if __name__ == "__main__":
    main()
