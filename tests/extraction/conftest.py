"""Fixtures of extractions."""

import pytest

from hubstore.extraction import readers
from hubstore.reading.processes import ReadingProcesses


@pytest.fixture
def read_elsewhere(monkeypatch):
    """Items are read by other processes where those are asked for, however few, and from the first one on."""
    start, jobs = ReadingProcesses.start, []

    def start_and_wait(pool):
        start(pool)
        pool.wait()

    send = ReadingProcesses._send
    monkeypatch.setattr(readers, "FEW", 0)
    monkeypatch.setattr(ReadingProcesses, "start", start_and_wait)
    monkeypatch.setattr(ReadingProcesses, "_send", lambda pool, job: jobs.append(job.name) or send(pool, job))
    return jobs
