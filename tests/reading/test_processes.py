"""Calls in other processes: in order, ahead of need, and what happens when one of them ends."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest

from hubstore.errors import CorpusError, CorpusUnreachableError, ReadingWarning
from hubstore.reading.batching import Batching
from hubstore.reading.layout import TextItems, lay_out_batches
from hubstore.reading.processes import Nursery, ReadingProcesses
from tests.tiny_models import tiny_model

WORK = {"pid": os.getpid, "square": np.square, "divide": operator.floordiv, "sleep": time.sleep, "import": __import__}


def started(processes: int = 2, work=WORK) -> ReadingProcesses:
    """Processes that are ready."""
    readers = ReadingProcesses(work, processes)
    readers.start()
    readers.wait()
    return readers


def submit(readers: ReadingProcesses, name: str, *arguments):
    return readers.submit(name, lambda: arguments, lambda: "the first")


@pytest.mark.parametrize("processes", [0, 2])
def test_results_are_those_of_the_calls_in_order(processes):
    with started(processes) as readers:
        jobs = [submit(readers, "square", np.arange(number)) for number in range(20)]
        for number, job in enumerate(jobs):
            assert np.array_equal(job.result(), np.arange(number) ** 2)
        pids = {job.result() for job in [submit(readers, "pid") for _ in range(8)]}
        assert (os.getpid() in pids) == (processes == 0)


def test_no_more_is_made_ahead_than_the_processes_have_room_for():
    made = []
    with started(1) as readers:
        jobs = [readers.submit("square", lambda n=n: made.append(n) or (np.ones(n),), str) for n in range(9)]
        assert made == [0, 1, 2]
        jobs[0].result()
        assert made == [0, 1, 2, 3]


def test_a_job_that_is_asked_for_before_others_is_done_before_them():
    with started(1) as readers:
        jobs = [submit(readers, "square", np.array(number)) for number in range(9)]
        assert [int(job.result()) for job in reversed(jobs)] == [number**2 for number in reversed(range(9))]


def test_an_error_of_a_call_is_raised_where_its_result_is_asked_for():
    with started(1) as readers:
        failing, fine = submit(readers, "divide", 1, 0), submit(readers, "divide", 7, 2)
        with pytest.raises(ZeroDivisionError) as raised:
            failing.result()
        assert "Traceback" in raised.value.__notes__[0]
        assert fine.result() == 3


def test_an_error_of_hubstore_comes_back_as_it_was():
    def raised():
        raise CorpusError("a page of text")

    with ReadingProcesses({"fail": raised}, 0) as readers, pytest.raises(CorpusError, match=r"^a page of text$"):
        submit(readers, "fail").result()


def test_a_process_that_is_killed_is_one_clear_error():
    with started(1) as readers:
        (pid,) = {submit(readers, "pid").result()}
        job = submit(readers, "sleep", 60)
        readers._send_waiting()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(CorpusUnreachableError, match=r"items from 'the first' on: a process .* \(--readers 1,"):
            job.result()


def test_a_process_that_is_killed_with_nothing_to_do_is_not_missed():
    with started(1) as readers:
        os.kill(submit(readers, "pid").result(), signal.SIGKILL)
        with pytest.warns(ReadingWarning, match="they ended by themselves"):
            readers._receive(60)
        assert submit(readers, "divide", 7, 2).result() == 3


def test_the_processes_import_no_torch_and_nothing_of_the_main_module():
    check = "__import__('sys').modules.keys() & {'torch', 'transformers', 'hubstore.models', 'pytest'}"
    model = tiny_model("llama")
    work = {"tokenize": model.text_reader(64).read, "lay_out": partial(lay_out_batches, model.text_layout)}
    with started(1, {**work, "eval": eval}) as readers:
        read = submit(readers, "tokenize", ["some text"]).result()
        items = TextItems(read.ids, read.lengths)
        (batch,) = submit(readers, "lay_out", items, np.array([1]), Batching(), 64).result()
        assert batch.arrays["input_ids"].tolist() == [read.ids.tolist()]
        assert submit(readers, "eval", check).result() == set()


def test_work_that_cannot_be_unpickled_or_pickled_is_done_here_with_a_warning():
    for work in ({"call": lambda: 5}, {"call": Unreadable()}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with started(2, work) as readers:
                assert submit(readers, "call").result() == 5
        assert [warning.category for warning in caught] == [ReadingWarning]


class Unreadable:
    """A function that no other process can read back."""

    def __call__(self) -> int:
        return 5

    def __reduce__(self):
        return operator.truediv, (1, 0)


def test_processes_are_read_without_where_the_system_starts_none(monkeypatch):
    def refused(*arguments, **options):
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.warns(ReadingWarning, match="Resource temporarily unavailable"), started(2) as readers:
        assert submit(readers, "divide", 7, 2).result() == 3


def test_the_processes_end_with_their_caller_however_it_ends():
    code = f"""
import os, signal, sys
sys.path[:] = {sys.path!r}
from tests.reading.test_processes import started, submit
readers = started(2)
print(*{{submit(readers, "pid").result() for _ in range(4)}}, readers._nursery._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False).stdout
    pids = out.split()
    assert len(pids) >= 2
    deadline = time.monotonic() + 30
    while any(_runs(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if _runs(int(pid))]


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie, which waits for whoever is to collect it."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_nursery_imports_ahead_and_becomes_the_processes_when_the_work_is_known():
    nursery = Nursery.start(2, ["no_such_module", "colorsys"])
    with ReadingProcesses({**WORK, "eval": eval}, 2, nursery) as readers:
        readers.start()
        readers.wait()
        assert submit(readers, "eval", "'colorsys' in __import__('sys').modules").result()
        assert readers._nursery is nursery
        assert not nursery.unused
        with ReadingProcesses(WORK, 1, nursery) as others:
            others.start()
            assert others._nursery is not nursery, "one is used once"
    assert nursery._process.returncode is not None


def test_a_nursery_that_gets_no_work_ends_whatever_it_imports():
    before = len(os.listdir("/proc/self/fd"))
    nursery = Nursery.start(1, ["hubstore.reading.texts"])
    nursery.close()
    assert nursery._process.returncode is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_closed_early_leaves_no_process_and_no_open_file():
    before = len(os.listdir("/proc/self/fd"))
    readers = started(2)
    nursery = readers._nursery._process
    submit(readers, "sleep", 600)
    readers._send_waiting()
    readers.close()
    assert nursery.returncode is not None
    assert len(os.listdir("/proc/self/fd")) <= before
