"""A Ray cluster writes the store of one process to the byte, whatever it loses on the way."""

from __future__ import annotations

import functools
import os
import signal
import sys
import types
from pathlib import Path

import pytest

from hubstore.errors import EngineError, ModelError, StoreError
from hubstore.extraction import Callbacks, extract
from hubstore.extraction.cluster import first_line
from hubstore.extraction.ray import RayEngine
from hubstore.extraction.ray_actor import _require_plan
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader
from tests.engines import loads
from tests.extraction import victim
from tests.extraction.test_crash import content
from tests.tiny_models import tiny_model

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "x.hub"
    extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    return content(path)


def run(path: Path, load, **options):
    engine = RayEngine(load)
    return extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS, engine=engine, **options)


@pytest.mark.slow
def test_a_worker_that_breaks_and_one_that_is_killed_cost_their_shards_alone(cluster, tmp_path, expected):
    path, folder = tmp_path / "x.hub", tmp_path / "workers"
    folder.mkdir()
    seen, killed = [], []

    def kill(done):
        seen.append(done)
        broken = (folder / "broken").exists()
        if broken and not killed and done.workers == 2 and done.shards >= 1:
            (killed[:],) = [[max(int(one.name) for one in folder.iterdir() if one.name.isdigit())]]
            os.kill(killed[0], signal.SIGKILL)
            (folder / "enough").touch()

    load = functools.partial(loads.slow_and_broken_once_on, folder=folder, seconds=0.5)
    done = run(path, load, watch=Callbacks(progress=kill))
    assert killed
    assert sum(one.name.isdigit() for one in folder.iterdir()) >= 3  # two workers, and who took the place of one
    assert content(path) == expected
    assert done.extracted == done.progress.items == victim.ITEMS
    assert done.progress.shards == len(StoreReader(path).commits)
    assert {progress.total for progress in seen} == {victim.ITEMS}
    assert max(progress.items for progress in seen) <= victim.ITEMS
    assert max(progress.workers for progress in seen) == 2


@pytest.mark.slow
def test_a_worker_that_is_stuck_is_overtaken(cluster, tmp_path, expected):
    done = run(tmp_path / "x.hub", functools.partial(loads.stuck_once_on, marker=tmp_path / "marker"))
    assert (tmp_path / "marker").exists()
    assert content(tmp_path / "x.hub") == expected
    assert done.progress.items == victim.ITEMS


def test_what_would_stop_every_worker_is_said(cluster, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="the model loaded on cpu has other weights"):
        run(tmp_path / "x.hub", functools.partial(loads.gpt2_on, seed=1))
    monkeypatch.setattr("hubstore.extraction.ray.MOST_LOSSES", 0)
    with pytest.raises(EngineError, match="every worker was lost before it had its model"):
        run(tmp_path / "y.hub", loads.killed_on)


def test_a_node_that_does_not_see_the_store_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"does not see the store .*put the store where every node reaches it"):
        _require_plan(LocalStorage(tmp_path / "elsewhere.hub"), 0)


@pytest.mark.slow
def test_a_node_without_the_model_is_left_out_while_another_has_it(cluster, tmp_path, expected, monkeypatch):
    monkeypatch.setattr("hubstore.extraction.ray.MOST_LOSSES", 1)
    path, folder = tmp_path / "x.hub", tmp_path / "workers"
    folder.mkdir()
    load = functools.partial(loads.missing_on, node=cluster.last.node_id, folder=folder)
    with pytest.warns(UserWarning, match="the node .* is left out: there is no model folder"):
        run(path, load)
    assert content(path) == expected


def test_what_a_task_or_an_actor_failed_with_is_said(cluster, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    gone = types.ModuleType("gone")
    monkeypatch.setitem(sys.modules, "gone", gone)  # here, and nowhere else
    exec("class Gone:\n    def turn(self): ...", vars(gone))
    calls = ray.remote(full).remote(), ray.remote(gone.Gone).remote().turn.remote()
    said = []
    for call in calls:
        with pytest.raises(ray.exceptions.RayError) as raised:
            ray.get(call)
        said.append(first_line(raised.value))
    assert said == ["OSError: [Errno 28] No space left on device", "ModuleNotFoundError: No module named 'gone'"]


def test_a_node_is_killed_in_the_middle_of_a_run_and_another_joins(tmp_path, expected, cluster):
    path, folder = tmp_path / "x.hub", tmp_path / "workers"
    folder.mkdir()
    workers, changed = [], []

    def change(done):
        workers.append(done.workers)
        if not changed and done.workers == 2 and done.shards >= 1:
            cluster.kill()
            changed.append("left")
        if changed == ["left"] and done.workers == 1:
            cluster.add()
            changed.append("joined")
        if changed == ["left", "joined"] and done.workers == 2:
            (folder / "enough").touch()

    load = functools.partial(loads.slow_on, folder=folder, seconds=0.5)
    done = run(path, load, watch=Callbacks(progress=change))
    assert changed == ["left", "joined"]
    assert 2 in workers[workers.index(1, workers.index(2)) :]  # after two, one, and then two again
    assert content(path) == expected
    assert done.extracted == done.progress.items == victim.ITEMS
