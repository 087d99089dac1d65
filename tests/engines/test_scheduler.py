"""Who has which shard: what is done about workers and nodes that fail, and at the end. Ray's part is played here."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from hubstore.errors import EngineError, ModelError
from hubstore.extraction import extract, ray_actor
from hubstore.extraction import ray as engine
from hubstore.extraction.plan import PLAN
from hubstore.extraction.ray import _Scheduler, _set_aside, _Worker
from hubstore.extraction.ray_actor import Extractor, Report
from hubstore.storage import LocalStorage
from hubstore.store.commit import Commit
from hubstore.store.layout import commit_key
from tests.extraction import victim
from tests.tiny_models import tiny_model

pytest.importorskip("ray")


class Played:
    """What `_Scheduler` asks of Ray. Its actors answer nothing."""

    exceptions = SimpleNamespace(RayError=LookupError)

    def __init__(self) -> None:
        self.resources = {"here": {"CPU": 1000.0}}
        self.head: str | None = None
        self.options: list[dict] = []
        self.waited: list[list] = []

    def nodes(self) -> list[dict]:
        return [{"NodeID": name, "Alive": True, "Resources": has} for name, has in self.resources.items()]

    def remote(self, kind: type) -> SimpleNamespace:
        def options(**options):
            self.options.append(options)
            return SimpleNamespace(remote=lambda *arguments: worker(f"call {len(self.options)}").actor)

        return SimpleNamespace(options=options)

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=self.head)

    def put(self, task):
        return task

    def kill(self, actor) -> None:
        pass

    def wait(self, calls, num_returns, timeout):
        self.waited.append(list(calls))
        return [], list(calls)

    def get(self, call):
        return call


def worker(call, told: Report | None = None) -> _Worker:
    return _Worker(SimpleNamespace(turn=SimpleNamespace(remote=lambda order: call)), call, told or Report())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "x.hub"
    extract(victim.corpus(), tiny_model("gpt2"), path, victim.SETTINGS)
    (path / PLAN).parent.mkdir()
    (path / PLAN).write_bytes(b"{}")
    return path


@pytest.fixture
def played():
    return Played()


@pytest.fixture
def make_scheduler(played, written):
    """Makes a scheduler of two shards of the store."""

    def make(progress=None):
        task = SimpleNamespace(work=SimpleNamespace(storage=LocalStorage(written)))
        shards = [SimpleNamespace(shard=number) for number in (0, 1)]
        return _Scheduler(played, task, torch.device("cpu"), shards, 100, progress)

    return make


def test_the_end_waits_for_workers_that_were_given_up_too(make_scheduler, played):
    scheduler = make_scheduler()
    scheduler._workers = [worker("one"), worker("two")]
    scheduler._lose(scheduler._workers[0], "another worker was first")
    scheduler._end_workers()
    assert played.waited == [["one", "two"]]


def test_a_commit_that_was_written_over_is_taken_back_when_a_run_is_stopped(make_scheduler, written):
    def stop(done):
        raise KeyboardInterrupt

    scheduler = make_scheduler(stop)
    scheduler._twice = {0, 1}
    storage = LocalStorage(written)
    kept = storage.read(commit_key(0)), storage.read(commit_key(1))
    name = next(iter(Commit.decode(kept[0], commit_key(0)).files))
    whole = (written / name).read_bytes()
    (written / name).write_bytes(whole[:-1])
    try:
        with pytest.raises(KeyboardInterrupt):
            scheduler.run()
        assert not storage.exists(commit_key(0))
        assert storage.exists(commit_key(1))
        scheduler._reopen()
        assert 0 in scheduler._left
    finally:
        (written / name).write_bytes(whole)
        (written / commit_key(0)).write_bytes(kept[0])


def test_a_node_that_fails_while_others_work_is_left_out_and_said(make_scheduler, played):
    played.resources["bad"] = {"CPU": 1000.0}
    scheduler = make_scheduler()
    bad = Report("host", "bad", error=ModelError("there is no model folder"))
    scheduler._workers = [worker("good", Report("other", "here", loaded=True))]
    for _ in range(engine.MOST_LOSSES - 1):
        scheduler._workers.append(worker(bad))
        scheduler._hear(scheduler._workers[-1])
    assert not scheduler._left_out
    scheduler._workers.append(worker(bad))
    with pytest.warns(UserWarning, match="the node host is left out: there is no model folder"):
        scheduler._hear(scheduler._workers[-1])
    scheduler._workers.clear()
    scheduler._add_workers()
    assert {options["label_selector"]["ray.io/node-id"] for options in played.options} == {"!in(bad)"}
    assert scheduler._goes_on().endswith("; the node host is left out: there is no model folder")
    assert scheduler._nodes.poll("", but=scheduler._left_out) == scheduler._nodes.poll("") / 2


def test_what_fails_where_nobody_works_stops_the_run(make_scheduler):
    scheduler = make_scheduler()
    scheduler._workers = [worker(Report("host", "bad", error=ModelError("there is no model folder")))]
    with pytest.raises(ModelError, match="no model folder"):
        scheduler._hear(scheduler._workers[0])


def test_a_cluster_that_has_no_room_or_none_that_is_free_is_said(make_scheduler, played, monkeypatch):
    scheduler = make_scheduler()
    monkeypatch.setattr(engine, "BUSY_S", 0.0)
    with pytest.warns(UserWarning, match=r"no worker has begun .*others may hold its room; .*x\.hub goes on"):
        scheduler._add_workers()
    monkeypatch.setattr("hubstore.extraction.cluster.PATIENCE_S", 0.0)
    played.resources.clear()
    scheduler._next_poll = 0.0
    with pytest.raises(
        EngineError, match=r"room for a worker \(\d+ CPUs?\) for 0 s; add one .*0 of 2 shards of .*x\.hub"
    ):
        scheduler._add_workers()


def test_a_cluster_without_its_head_is_given_up_before_ray_ends_the_process(make_scheduler, played, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as head:
        played.head = "{}:{}".format(*head.getsockname())
        scheduler = make_scheduler()
        scheduler._add_workers()
        hired = len(played.options)
        assert hired
    scheduler._workers.clear()
    scheduler._next_poll = 0.0
    scheduler._add_workers()
    assert len(played.options) == hired
    monkeypatch.setattr(engine, "HEAD_S", 0.0)
    scheduler._next_poll = 0.0
    with pytest.raises(EngineError, match=r"the head .* at 127.* has not answered for 0 s: .*refused; .*0 of 2 shards"):
        scheduler._add_workers()


def test_an_actor_that_gets_no_call_ends_itself(written, monkeypatch):
    ended = threading.Event()

    monkeypatch.setattr(ray_actor, "SILENCE_S", 1.0)
    monkeypatch.setattr(ray_actor, "BEAT_S", 0.05)
    monkeypatch.setattr("os._exit", lambda code: ended.set())
    task = SimpleNamespace(work=SimpleNamespace(storage=LocalStorage(written)))
    actor = Extractor(task, plan=-1, device="cpu")
    for _ in range(15):
        actor.turn(None)
        time.sleep(0.1)
    assert not ended.is_set()
    assert ended.wait(20)


def test_a_model_on_a_gpu_leaves_it_to_the_actors():
    moved = []
    model = SimpleNamespace(device=torch.device("cuda"), trunk=SimpleNamespace(to=moved.append))
    with _set_aside(model):
        assert moved == ["cpu"]
    assert moved == ["cpu", torch.device("cuda")]
