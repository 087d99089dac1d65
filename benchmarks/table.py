"""`python -m benchmarks.table`: the README's tables, made of benchmarks/results. `--write` puts them there, `--check`
fails where they are others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, Result

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
README = ROOT / "README.md"


def suite_table(results: Iterable[Result]) -> str:
    """A Markdown table of one suite's results, and below it what to know to read it."""
    results = list(results)
    header = ("case", "hubstore", "unit", "beside it", "ratio", "target")
    lines = [_row(header), _row(["---"] * len(header)), *(_row(_cells(result)) for result in results)]
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    return "\n".join(lines) + ("\n\n" + "; ".join(notes) + "." if notes else "") + "\n"


def tables(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Every suite of every machine, as Markdown."""
    parts = []
    for _, content in sorted(files.items()):
        machine = content["machine"]
        parts.append(
            f"On {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:g} GB, {machine['filesystem']}, "
            f"{machine['pinned']}: medians (least to greatest). The machine is shared and its speed "
            "moves: ratios (x) are hubstore's value over the other's in the same turn, medians over the turns."
        )
        for suite, run in content["suites"].items():
            versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
            parts.append(f"**{suite}** ({run['date'][:10]}, commit {run['commit']}; {versions})")
            parts.append(suite_table(Result.from_json(result) for result in run["results"]).rstrip())
    return "\n\n".join(parts)


def insert(text: str, section: str) -> str:
    """`text` with `section` between its markers; ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the tables; put {BEGIN} and {END} on lines of their own")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def main(arguments: Sequence[str] | None = None, readme: Path = README, results: Path = RESULTS) -> int:
    """Print, write or check the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="put the tables into README.md")
    choice.add_argument("--check", action="store_true", help="fail where README.md has other tables")
    options = parser.parse_args(arguments)
    section = tables({path.name: json.loads(path.read_text()) for path in results.glob("*.json")})
    if not (options.write or options.check):
        print(section)
        return 0
    text = readme.read_text()
    try:
        wanted = insert(text, section)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if options.write:
        readme.write_text(wanted)
    elif wanted != text:
        print(
            "README.md's benchmark tables are not those of benchmarks/results; run: python -m benchmarks.table --write"
        )
        return 1
    return 0


def _cells(result: Result) -> list[str]:
    peers = [
        "".join(
            (
                f"{name} {number(value)}" if value is not None else f"{name} did not run",
                f" (x {result.ratios[name]:.2f})" if name in result.ratios else "",
            )
        )
        for name, value in result.peers.items()
    ]
    sign = "≥" if result.better == "higher" else "≤"
    target = "" if result.target is None else f"{sign} {result.target:g} {'met' if result.met else '**missed**'}"
    return [
        result.case,
        f"{number(result.value)} ({number(result.spread[0])} to {number(result.spread[1])})",
        result.unit,
        ", ".join(peers),
        f"{result.ratio:.2f} of {result.against}" if result.ratio is not None else "",
        target,
    ]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits, without an exponent: 5.04, 61.2, 1,230."""
    value = float(f"{value:.3g}")
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


if __name__ == "__main__":
    sys.exit(main())
