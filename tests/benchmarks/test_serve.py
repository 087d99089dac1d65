"""The benchmark of the server: its made store, and what its clients see."""

from __future__ import annotations

import hashlib
import time

import pytest
import torch

from benchmarks import made_store as made
from benchmarks.serve_load import Load, run_load
from hubstore.store import verify
from tests.client.test_connection import reply, serving


def content(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.parent.name != "commits"  # they hold times
    }


def test_a_made_store_that_was_stopped_goes_on_and_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "SHARD_ROWS", 64)
    whole = made.made_store(tmp_path / "a.hub", 400)
    assert (len(whole), len(whole.commits), list(whole.partitions)) == (400, 7, list(made.LANGUAGES))
    assert verify(whole.storage) == []
    assert whole.items["id"].to_pylist() == [made.item_id(position, 400) for position in range(400)]
    written, count = made.write_shard, iter(range(3))

    def stopped(*arguments, **options):
        next(count)
        written(*arguments, **options)

    monkeypatch.setattr(made, "write_shard", stopped)
    with pytest.raises(StopIteration):
        made.made_store(tmp_path / "b.hub", 400)
    monkeypatch.setattr(made, "write_shard", written)
    made.made_store(tmp_path / "b.hub", 400)
    assert content(tmp_path / "b.hub") == content(tmp_path / "a.hub")
    with pytest.raises(ValueError, match="of another number of rows than 800"):
        made.made_store(tmp_path / "b.hub", 800)


def test_equivalent_items_of_a_made_store_lie_near_one_another():
    states = torch.nn.functional.normalize(torch.from_numpy(made.made_states(4000)(0, 4000)), dim=1)
    one, other = states[:1000], states[1000:2000]
    assert (one * other).sum(1).mean() > (one * other.roll(1, 0)).sum(1).mean() + 0.3


def test_clients_count_answers_errors_and_refusals_and_measure_each_answer():
    asked = []

    def answer(handler):
        asked.append((handler.path, handler.client_address))
        if handler.path == "/busy":
            reply(handler, 503, Retry_After="0")
        elif handler.path == "/broken":
            reply(handler, 500, b"what happened")
        else:
            time.sleep(0.05)
            reply(handler, body=b"x" * 10_000)

    paths = {"good": ["/a", "/b"], "busy": ["/busy"], "broken": ["/broken"]}
    with serving(answer) as (url, _):
        seen = run_load(
            Load(int(url.rpartition(":")[2]), 3, 1.0, paths, {"good": 10, "busy": 1, "broken": 1}, warm=0.2)
        )
    came = [path for path, _ in asked]
    assert seen.errors == {"broken: 500 what happened": came.count("/broken")}
    assert seen.busy == came.count("/busy")
    assert set(came) == {"/a", "/b", "/busy", "/broken"}
    assert len({address for _, address in asked}) == 3
    assert set(seen.latencies) == {"good", "busy", "broken"}
    assert min(seen.latencies["good"]) >= 50
    assert 10 < len(seen.all) <= 60
