"""Any call to the file system may fail, or be the last of its process: the same command, run again, ends the same."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal

import pytest

from tests.faults.conftest import TRIED, difference, problem_of, write_inputs

pytestmark = pytest.mark.slow

POINTS = int(os.environ.get("HUBSTORE_FAULT_POINTS", "3"))
"""Calls that are tried of each command and each kind of fault, beside the first and the last; 0 for every call."""

READS, MAKES, WRITES, REMOVES = 1, 2, 4, 8
FAULTS = {
    "KILL": (-signal.SIGKILL, READS | MAKES | WRITES | REMOVES, 0),
    "ENOSPC": (errno.ENOSPC, MAKES | WRITES, 1),
    "EDQUOT": (errno.EDQUOT, MAKES | WRITES, 1),
    "EIO": (errno.EIO, READS | MAKES | WRITES | REMOVES, 0),
    "EMFILE": (errno.EMFILE, READS | MAKES, 0),
}
"""The error, the kinds of calls that it meets, and whether it stays."""

COMMANDS = ("extract", "append", "index", "analyze", "export")


def fault_at(work, *, call=0, fault="KILL"):
    """What the shim is told; call 0 is none, and all are counted."""
    number, kinds, sticky = FAULTS[fault]
    return {"below": str(work), "call": call, "number": number, "kinds": kinds, "sticky": sticky}


def command(name, inputs, work):
    """The arguments of a command on a store in `work`."""
    store = str(work / "x.hub")
    model = ["--model", str(inputs / "model"), "--device", "cpu"]
    return {
        "extract": ["extract", str(inputs / "A.jsonl"), *model, "--out", store, "--pooling", "mean", "--layers", "0,1"],
        "append": ["append", store, str(inputs / "B.jsonl"), "--model", str(inputs / "model"), "--device", "cpu"],
        "index": ["index", store, "--layers", "0", "--kind", "hnsw"],
        "analyze": ["analyze", store, "geometry", "--bootstrap", "10"],
        "export": ["export", store, "--out", str(work / "out"), "--overwrite"],
    }[name]


@pytest.fixture(scope="module")
def stages(driver, tmp_path_factory):
    """The inputs, and what is in the folder before each command and after the last."""
    folder = tmp_path_factory.mktemp("stages")
    write_inputs(folder, A=28, B=11)
    work = folder / "work"
    work.mkdir()
    counts = {}
    for number, name in enumerate(COMMANDS):
        shutil.copytree(work, folder / str(number))
        for fault in FAULTS:
            shutil.rmtree(work)
            shutil.copytree(folder / str(number), work)
            found = driver(command(name, folder, work), fault=fault_at(work, fault=fault))
            assert found["status"] == 0, found["said"]
            counts[name, fault] = found["calls"]
    shutil.copytree(work, folder / str(len(COMMANDS)))
    return folder, counts


def every_file(work):
    """Every file; of commits all but their times."""
    files = {path.relative_to(work).as_posix(): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    commits = {key: json.loads(data) for key, data in files.items() if re.fullmatch(r"x\.hub/commits/\d+\.json", key)}
    return files | {key: json.dumps({**commit, "times": {}}).encode() for key, commit in commits.items()}


def contents(work):
    """Every file but temporary ones."""
    return {key: data for key, data in every_file(work).items() if not key.endswith(".partial")}


def state(work):
    """A digest of all files and folders that are left, whatever temporary files are called."""
    files = {re.sub(r"[0-9a-f]{32}(?=\.partial$)", "*", key): data for key, data in every_file(work).items()}
    folders = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_dir())
    return hashlib.sha256(repr((sorted(files.items()), folders)).encode()).hexdigest()


def points(name, fault, calls):
    """Some of the calls, the first and the last among them, or all."""
    if not POINTS or calls <= POINTS:
        return range(1, calls + 1)
    return sorted({1, calls, *random.Random(f"{name} {fault}").sample(range(1, calls + 1), POINTS)})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_fails_at_any_call_is_one_line_and_ends_the_same_when_it_is_run_again(
    driver, stages, ended, name, fault
):
    folder, counts = stages
    before, after = (folder / str(COMMANDS.index(name) + later) for later in (0, 1))
    expected, work, problems, known = contents(after), folder / "work", {}, ended[name]
    for call in points(name, fault, counts[name, fault]):
        shutil.rmtree(work)
        shutil.copytree(before, work)
        arguments = command(name, folder, work)
        found = driver(arguments, fault=fault_at(work, call=call, fault=fault))
        TRIED[name] += 1
        if (left := state(work)) not in known:
            again = driver(arguments)
            said = again["status"] and f"again: {again['said']}"
            known[left] = said or difference(contents(work), expected)
        problem = problem_of(found, killed=fault == "KILL") or known[left]
        if problem:
            problems[call] = problem, found["said"]
    assert not problems
