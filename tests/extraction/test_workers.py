"""Several devices: the store is the same to the byte as one device's, and a worker that fails loses nothing."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from hubstore.errors import ModelError, StoreError
from hubstore.extraction import Callbacks, Workers, append, extract
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, verify
from tests.extraction import victim
from tests.extraction.test_crash import content
from tests.tiny_models import tiny_model


def gpt2_on(device: str, seed: int = 0):
    return tiny_model("gpt2", seed=seed)


def breaks_on(device: str):
    raise RuntimeError(f"no such thing as {device}")


def run(path: Path, load=gpt2_on, **options):
    return extract(
        victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS, engine=Workers(load, ("cpu",)), **options
    )


def slow_gpt2_on(device: str):
    """A worker's model that waits in its first batch, to be killed there."""
    model = tiny_model("gpt2")
    model.blocks[0].register_forward_pre_hook(lambda *args: signal.pause())
    return model


def test_two_processes_write_the_store_of_one_to_the_byte(tmp_path):
    extract(victim.corpus(), tiny_model("gpt2"), tmp_path / "one.hub", victim.SETTINGS)
    seen = []
    done = run(tmp_path / "two.hub", watch=Callbacks(progress=seen.append))
    assert content(tmp_path / "two.hub") == content(tmp_path / "one.hub")
    assert done.extracted == done.progress.items == victim.ITEMS
    assert done.progress.shards == len(StoreReader(done.path).commits)
    assert {progress.total for progress in seen} == {victim.ITEMS}
    assert max(progress.items for progress in seen) == victim.ITEMS


def test_a_killed_worker_is_named_and_the_same_command_goes_on(tmp_path):
    path = tmp_path / "x.hub"

    killed = []

    def kill(done):
        if not killed:
            killed.extend(child.pid for child in multiprocessing.active_children())
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(StoreError, match=r"x\.hub: the worker on cpu was killed by SIGKILL .* the same command goes"):
        run(path, load=slow_gpt2_on, watch=Callbacks(progress=kill))
    assert verify(LocalStorage(path)) == []
    extract(victim.corpus(), tiny_model("gpt2"), tmp_path / "whole.hub", victim.SETTINGS)
    done = run(path)
    assert done.resumed
    assert content(path) == content(tmp_path / "whole.hub")


def test_an_error_of_a_worker_is_raised_and_no_process_is_left(tmp_path):
    with pytest.raises(StoreError, match="the worker on cpu failed with RuntimeError: no such thing as cpu"):
        run(tmp_path / "x.hub", load=breaks_on)
    with pytest.raises(ModelError, match="the model loaded on cpu has other weights"):
        run(tmp_path / "y.hub", load=functools.partial(gpt2_on, seed=1))
    assert multiprocessing.active_children() == []


def test_append_takes_workers_too(tmp_path):
    run(tmp_path / "x.hub")
    from tests.extraction.test_extraction import items

    done = append(items(600, "more"), tiny_model("gpt2"), tmp_path / "x.hub", engine=Workers(gpt2_on, ("cpu",)))
    assert done.items == len(StoreReader(tmp_path / "x.hub")) == victim.ITEMS + 600
    assert verify(LocalStorage(tmp_path / "x.hub")) == []
