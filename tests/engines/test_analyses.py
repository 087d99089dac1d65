"""A cluster's tasks give the same results as one process, to the byte."""

from __future__ import annotations

import pytest
import torch

import hubstore
from hubstore import analysis
from hubstore.analysis.layers import LayerTask
from hubstore.analysis.ray import OnRay
from hubstore.bench.states import hub_states
from hubstore.errors import EngineError
from tests.index.stores import LANGUAGES, by_language, write_store

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rows, concepts = by_language(hub_states(300, 32))
    languages = [LANGUAGES[i * len(LANGUAGES) // len(rows)] for i in range(len(rows))]
    folder = tmp_path_factory.mktemp("stores") / "x.hub"
    every = torch.stack([rows, rows.roll(3, 1), rows.flip(1)])
    write_store(folder, every, dtype="float16", languages=languages, concepts=[str(one) for one in concepts])
    return folder


def results(path, **options):
    store = hubstore.open(path)
    for key in store.storage.list("analyses"):
        store.storage.delete(key)
    store.analyze(bootstrap=20, device="cpu", **options)
    return {key: store.storage.read(key) for key in store.storage.list("analyses")}


def test_the_tasks_of_two_nodes_give_the_same_bytes_as_one_process_or_say_that_there_is_no_room(
    cluster, path, monkeypatch
):
    here = results(path)
    assert len(here) == len(analysis.ANALYSES)
    assert results(path, engine="ray") == here
    monkeypatch.setattr("hubstore.extraction.cluster.PATIENCE_S", 1.0)
    task = LayerTask(dict, {}, {}, torch.device("cuda:1"))
    room = r"room for a layer's analysis \(1 CPU and 1 GPU\) for 1 s; add one .*are kept"
    with OnRay()(hubstore.open(path), task) as mapped, pytest.raises(EngineError, match=room):
        next(mapped(["0"]))
