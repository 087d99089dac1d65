"""The command line with faults, and how many were tried."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny_language_model

TRIED: Counter[str] = Counter()
"""Faults that were tried, by command."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The library that makes calls to the file system fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler, or no Linux")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def driver(shim):
    """Sends a request to a process that has the shim, and returns what came of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(shim), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )
    assert process.stdout.readline() == "ready\n"

    def ask(arguments, **request):
        process.stdin.write(json.dumps({"arguments": arguments, **request}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def ended():
    """By command and by what a fault has left: what is wrong after it was run again. Many faults leave the same."""
    return defaultdict(dict)


def problem_of(found, *, killed=False):
    """What is wrong with how a command ended; None where that was well, with one clear line, or killed by the fault."""
    said, errors = found["said"], sum(line.startswith("error: ") for line in found["said"].splitlines())
    if found["status"] not in ((-signal.SIGKILL,) if killed else (0, 1)):
        return f"ended with {found['status']}: {said}"
    if "Traceback" in said or "nobody expected" in said:
        return said
    return f"{errors} lines of errors: {said}" if found["status"] == 1 and errors != 1 else None


def difference(left, expected):
    """The keys whose contents differ, or None."""
    return sorted(key for key in left.keys() | expected.keys() if left.get(key) != expected.get(key)) or None


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter):
    """Say how many faults were tried."""
    if TRIED:
        by_command = ", ".join(f"{name} {count:,}" for name, count in TRIED.items())
        terminalreporter.write_line(f"faults tried: {TRIED.total():,} ({by_command})")


def write_inputs(folder, **counts):
    """A tiny model, and a corpus of each name with so many items, in pairs of one concept."""
    save_tiny_language_model("llama", folder / "model")
    for name, count in counts.items():
        rows = (
            {"id": f"{name}{i}", "text": f"Item {i} of {name}", "language": ("en", "de")[i % 2], "concept": str(i // 2)}
            for i in range(count)
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
