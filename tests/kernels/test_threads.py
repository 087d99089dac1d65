"""Limits of torch's threads hold for the thread that sets them, and for no other."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import hubstore
from hubstore.kernels.cpu.threads import in_threads, limited, one_thread

OWN_PROCESS = {"analysis/layers.py", "extraction/workers.py"}
"""Where a process of our own begins and sets its count, once."""


def counted() -> int:
    """What a thread that is born now computes on."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.fixture(autouse=True)
def three():
    torch.set_num_threads(3)


def test_a_thread_born_within_a_limit_has_the_count_of_the_process_before_and_after():
    seen, go = [], threading.Event()

    def compute():
        seen.append(torch.get_num_threads())
        go.wait(30)
        with one_thread():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    with one_thread():
        assert torch.get_num_threads() == 1
        born = threading.Thread(target=compute)
        born.start()
        while not seen:
            pass
    go.set()
    born.join()
    assert seen == [3, 1, 3]
    assert (torch.get_num_threads(), counted()) == (3, 3)


def test_limits_that_overlap_leave_every_thread_as_it_was():
    begun, left = threading.Barrier(4), []

    def hold(number):
        for _ in range(20):
            begun.wait(30)
            with limited(1 + number):
                assert torch.get_num_threads() == 1 + number
                torch.ones(64, 64) @ torch.ones(64, 64)
            left.append(torch.get_num_threads())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))
    assert set(left) == {3}
    assert (torch.get_num_threads(), counted()) == (3, 3)


def test_tasks_have_one_thread_each_and_their_caller_as_many_as_before():
    counts = []
    in_threads(lambda _: counts.append((torch.get_num_threads(), counted())), range(12))
    assert set(counts) == {(1, 3)}
    assert (torch.get_num_threads(), counted()) == (3, 3)


def test_a_limit_within_a_limit_ends_with_the_inner_one():
    with limited(2):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="stopped"), one_thread():
            raise ValueError("stopped")
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3


def test_no_module_changes_the_count_of_a_process_that_is_not_its_own():
    root = Path(hubstore.__file__).parent
    changes = re.compile(r"(?<!`torch\.)\b(set_num_threads|set_num_interop_threads|omp_set_num_threads)\b")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if changes.search(path.read_text())}
    assert found == OWN_PROCESS | {"kernels/cpu/threads.py"}
