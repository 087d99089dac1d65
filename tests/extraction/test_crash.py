"""An extraction that is killed, starved of disk or raced loses at most the shard in flight, and nothing else."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from hubstore.corpus import read_sample
from hubstore.errors import StoreError, StoreLockedError
from hubstore.extraction import Settings, extract
from hubstore.extraction.plan import PlanStart, make_plan
from hubstore.storage import LocalStorage, open_storage
from hubstore.store import Layout, StoreReader, verify
from tests.extraction import victim
from tests.limits import files_of_at_most
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.extraction.victim"])
    return context


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store; of a commit all but its times."""
    files = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for key, data in files.items():
        if key.startswith("commits/"):
            commit = json.loads(data)
            del commit["times"]
            files[key] = json.dumps(commit, sort_keys=True).encode()
    return files


def committed(path: Path) -> int:
    return len(list((path / "commits").glob("*.json")))


@pytest.mark.parametrize("wanted", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_store_ends_byte_identical(tmp_path, processes, wanted):
    whole = tmp_path / "whole.hub"
    process = processes.Process(target=victim.run, args=(whole,))
    started = time.monotonic()
    process.start()
    while process.is_alive() and not committed(whole):
        time.sleep(0.002)
    until_first = time.monotonic() - started
    process.join()
    a_shard = (time.monotonic() - started - until_first) / committed(whole)
    assert process.exitcode == 0
    expected = content(whole)
    assert len(StoreReader(whole).commits) > 5

    # A kill falls so many commits after a run starts, and a random part of a shard later: however slow the machine is.
    rng = random.Random(0)
    kills = completed = 0
    committed_when_killed = set()
    path = tmp_path / "killed.hub"
    while kills < wanted or path.exists():
        process = processes.Process(target=victim.run, args=(path,))
        process.start()
        if kills < wanted:
            more = (0, 2, 1, 3)[kills % 4]
            at_least = committed(path) + more
            while process.is_alive() and committed(path) < at_least:
                time.sleep(0.002)
            process.join(rng.uniform(0, a_shard if more else until_first))
        else:
            process.join()
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == -signal.SIGKILL:  # else it ended just before
            kills += 1
            committed_when_killed.add(committed(path))
            continue
        assert process.exitcode == 0
        assert content(path) == expected
        completed += 1
        shutil.rmtree(path)
    assert kills == wanted
    assert completed >= 1
    assert len(committed_when_killed) > (2 if wanted > 20 else 1), "kills should fall before, between and after commits"


def test_two_extractions_racing_for_one_store_one_is_refused(tmp_path, processes):
    path = tmp_path / "x.hub"
    first = processes.Process(target=victim.run, args=(path,))
    first.start()
    while not (path / "zarr.json").exists():
        time.sleep(0.005)
        assert first.is_alive()
    os.kill(first.pid, signal.SIGSTOP)  # in the midst of it, for as long as the second one tries
    with pytest.raises(StoreLockedError, match="is being written by another process"):
        victim.run(path)
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0
    assert len(StoreReader(path)) == victim.ITEMS
    assert verify(LocalStorage(path)) == []


@pytest.mark.parametrize("fail_at", [3, 11, 30])
def test_a_full_disk_is_a_clear_error_and_the_same_command_goes_on(tmp_path, monkeypatch, fail_at):
    extract(victim.corpus(), tiny_model("gpt2"), tmp_path / "whole.hub", victim.SETTINGS)
    path = tmp_path / "full.hub"
    real_write, calls = os.write, 0

    def write(descriptor, data):
        nonlocal calls
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if str(path) in target and "/c/" in target:
            calls += 1
            if calls >= fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: max(1, len(data) // 2)]  # short writes happen too
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(
        StoreError, match=r"could not be written \(No space left on device\); free space .* run the same"
    ):
        extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    monkeypatch.setattr(os, "write", real_write)
    assert verify(LocalStorage(path)) == []
    done = extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    assert done.resumed
    assert content(path) == content(tmp_path / "whole.hub")


def test_items_are_spooled_in_the_store_itself_and_a_disk_that_is_full_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # where nothing can be written
    full = r"x\.hub/plan: the plan's items could not be written there \(File too large\); free space in that folder"
    with files_of_at_most(2000), pytest.raises(StoreError, match=full):
        extract(read_sample("ntrex", limit=3), tiny_model("gpt2"), tmp_path / "x.hub")
    assert list((tmp_path / "x.hub").rglob("*")) == []
    extract(read_sample("ntrex", limit=3), tiny_model("gpt2"), tmp_path / "x.hub")
    assert not (tmp_path / "x.hub/plan").exists()


def test_items_of_an_object_store_are_spooled_where_temporary_files_are(tmp_path, monkeypatch):
    def plan():
        empty, start = np.empty(0, np.uint64), PlanStart(0, 0, 0, 0)
        remote, layout = open_storage("s3://bucket/x.hub"), Layout(("0",), ("mean",), "float16", 32, 256, 256)
        make_plan(remote, layout, victim.corpus().batches(), start, {}, known_ids=empty, memory_budget=1)

    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files_of_at_most(2000), pytest.raises(StoreError, match=rf"{tmp_path}/.* or set TMPDIR to another"):
        plan()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(
        StoreError, match=r"s3://bucket/x\.hub/plan/items\.arrow: no folder .*set TMPDIR to one that does"
    ):
        plan()


def test_a_plan_changed_on_disk_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.hub"

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hubstore.extraction.job.run_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    monkeypatch.undo()
    spool = path / "plan/items.arrow"
    data = bytearray(spool.read_bytes())
    data[len(data) // 2] ^= 1
    spool.write_bytes(data)
    with pytest.raises(StoreError, match="was changed after it was planned"):
        extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)


def test_an_unfinished_store_is_read_as_far_as_it_is_committed(tmp_path, monkeypatch):
    path = tmp_path / "x.hub"
    settings = Settings(layers=("1",), memory_budget=1)
    seen = 0

    def stop_after_two(done):
        nonlocal seen
        seen = done.shards
        if done.shards == 2:
            raise KeyboardInterrupt

    from hubstore.extraction import Callbacks

    with pytest.raises(KeyboardInterrupt):
        extract(victim.corpus(), tiny_model("gpt2"), path, settings, watch=Callbacks(progress=stop_after_two))
    store = StoreReader(path)
    assert len(store.commits) in (2, 3), "what another thread was writing by then may be committed too"
    assert store.hidden(1).shape == (len(store), 32) == (256 * len(store.commits), 32)
    assert store.hidden(1).read().isfinite().all()
    assert seen == 2
