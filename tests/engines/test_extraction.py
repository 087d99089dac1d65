"""A Ray cluster writes the store of one process to the byte, whatever it loses on the way."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path

import pytest

from hubstore.engines.ray import RayEngine, _require_plan
from hubstore.errors import EngineError, ModelError, StoreError
from hubstore.extraction import Watch, append, extract
from hubstore.store import LocalStorage, StoreReader, verify
from tests.engines.nodes import two_nodes
from tests.extraction import victim
from tests.extraction.test_crash import content
from tests.extraction.test_extraction import items
from tests.tiny_models import tiny_model

ray = pytest.importorskip("ray")


def gpt2_on(device: str, seed: int = 0):
    return tiny_model("gpt2", seed=seed)


def slow_on(device: str, folder: Path, seconds: float = 0.05):
    """A model that takes its time, and writes down the processes that it is in."""
    (folder / str(os.getpid())).touch()
    model = tiny_model("gpt2")
    model.blocks[0].register_forward_pre_hook(lambda *args: time.sleep(seconds))
    return model


def sleeps_once_on(device: str, marker: Path):
    """A model that the first to load it never gets a batch through."""
    model = tiny_model("gpt2")
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return model
    model.blocks[0].register_forward_pre_hook(lambda *args: time.sleep(600))
    return model


def dies_on(device: str):
    os.kill(os.getpid(), signal.SIGKILL)


def breaks_on(device: str, marker: Path):
    """A model that fails in its first batch, once."""
    model = tiny_model("gpt2")

    def fail(*args):
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the device is gone")

    model.blocks[0].register_forward_pre_hook(fail)
    return model


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "x.hub"
    extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    return content(path)


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as nodes:
        yield nodes


def run(path: Path, load=gpt2_on, **options):
    engine = RayEngine(load)
    return extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS, engine=engine, **options)


def test_two_nodes_write_the_store_of_one_process_to_the_byte_and_progress_is_one(cluster, tmp_path, expected):
    path = tmp_path / "x.hub"
    seen = []
    done = run(path, watch=Watch(progress=seen.append))
    assert content(path) == expected
    assert done.extracted == done.progress.items == victim.ITEMS
    assert done.progress.shards == len(StoreReader(path).commits)
    assert {progress.total for progress in seen} == {victim.ITEMS}
    assert max(progress.workers for progress in seen) == 2
    items_seen = [progress.items for progress in seen]
    assert items_seen == sorted(items_seen)
    append(items(600, "more"), tiny_model("gpt2"), path, engine=RayEngine(gpt2_on))
    assert len(StoreReader(path)) == victim.ITEMS + 600
    assert verify(LocalStorage(path)) == []


def test_a_worker_killed_in_the_middle_of_a_shard_costs_that_shard(cluster, tmp_path, expected):
    path, pids = tmp_path / "x.hub", tmp_path / "pids"
    pids.mkdir()
    killed = []

    def kill(done):
        if not killed and done.workers == 2 and done.shards >= 1:
            killed.append(min(pids.iterdir(), key=lambda pid: pid.stat().st_mtime))
            os.kill(int(killed[0].name), signal.SIGKILL)

    done = run(path, load=functools.partial(slow_on, folder=pids), watch=Watch(progress=kill))
    assert killed
    assert len(list(pids.iterdir())) >= 3  # another took its place
    assert content(path) == expected
    assert done.extracted == victim.ITEMS


def test_a_straggler_is_overtaken(cluster, tmp_path, expected):
    path = tmp_path / "x.hub"
    started = time.monotonic()
    done = run(path, load=functools.partial(sleeps_once_on, marker=tmp_path / "marker"))
    assert time.monotonic() - started < 120
    assert content(path) == expected
    assert done.progress.items == victim.ITEMS


def test_what_breaks_one_worker_alone_is_done_by_another_and_what_breaks_all_is_said(cluster, tmp_path, expected):
    run(tmp_path / "x.hub", load=functools.partial(breaks_on, marker=tmp_path / "marker"))
    assert (tmp_path / "marker").exists()
    assert content(tmp_path / "x.hub") == expected
    with pytest.raises(ModelError, match="the model loaded on cpu has other weights"):
        run(tmp_path / "y.hub", load=functools.partial(gpt2_on, seed=1))
    with pytest.raises(EngineError, match="every worker was lost before it had its model"):
        run(tmp_path / "z.hub", load=dies_on)


def test_a_node_that_does_not_see_the_store_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"does not see the store .*put the store where every node reaches it"):
        _require_plan(LocalStorage(tmp_path / "elsewhere.hub"), 0)


def test_a_node_killed_in_the_middle_of_a_run_and_one_that_joins(tmp_path, expected, cluster):
    """Last of this module: the cluster has other nodes afterwards."""
    nodes, second = cluster
    path, pids = tmp_path / "x.hub", tmp_path / "pids"
    pids.mkdir()
    workers = []
    changed = []

    def change(done):
        workers.append(done.workers)
        if not changed and done.workers == 2 and done.shards >= 1:
            nodes.kill(second)
            changed.append("left")
        if changed == ["left"] and done.workers == 1:
            nodes.add()
            changed.append("joined")

    done = run(path, load=functools.partial(slow_on, folder=pids, seconds=0.25), watch=Watch(progress=change))
    assert changed == ["left", "joined"]
    assert 2 in workers[workers.index(1, workers.index(2)) :]  # after two, one, and then two again
    assert content(path) == expected
    assert done.extracted == done.progress.items == victim.ITEMS
