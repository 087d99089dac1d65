"""FAISS on a GPU: what is trained and added there is the same file, and is found again there and on the CPU."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import pytest
import torch

import hubstore.index.builder as builder_module
import hubstore.index.layer as layer_module
from hubstore.bench.states import hub_states
from hubstore.index import Allowed, build, load
from tests.index.stores import brute_force, recall, write_store

HAS_GPU = torch.cuda.is_available() and faiss.get_num_gpus() > 0


class GpuOfCopies:
    """Stands where FAISS's GPU would: moving is copying, so that what is done to the copy shows."""

    moved = 0

    def __init__(self, device: torch.device) -> None:
        self.lock = threading.Lock()

    def move(self, index: Any) -> Any:
        type(self).moved += 1
        return faiss.clone_index(index)

    def fetch(self, index: Any) -> Any:
        return faiss.clone_index(index)


class OneAtATime:
    """An index that two searches at once would spoil, as FAISS's on a GPU are spoiled."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._busy = False

    def search(self, *arguments: Any, **options: Any) -> Any:
        assert not self._busy, "two searches share the GPU's scratch memory"
        self._busy = True
        time.sleep(0.01)
        found = self._core.search(*arguments, **options)
        self._busy = False
        return found


def test_an_index_on_a_gpu_is_searched_by_one_thread_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(layer_module, "has_gpu", lambda device: True)
    monkeypatch.setattr(layer_module, "Gpu", GpuOfCopies)
    monkeypatch.setattr(GpuOfCopies, "move", lambda self, index: OneAtATime(faiss.clone_index(index)))
    states = hub_states(900, 16)
    store = write_store(tmp_path / "a.hub", states[None])
    build(store, ["0"], kind="ivf", device="cpu")
    index = load(store, "0", device="cpu")
    alone = index.search(states[:5], 3)[1]
    with ThreadPoolExecutor(6) as pool:
        for _, found in pool.map(lambda _: index.search(states[:5], 3), range(12)):
            assert torch.equal(found, alone)


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_an_index_that_went_to_a_gpu_and_back_is_whole(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(GpuOfCopies, "moved", 0)
    for module in (builder_module, layer_module):
        monkeypatch.setattr(module, "has_gpu", lambda device: True)
        monkeypatch.setattr(module, "Gpu", GpuOfCopies)
    drawn = hub_states(3100, 48)
    store = write_store(tmp_path / "x.hub", drawn[None, :3000])
    build(store, kind=kind, device="cpu")
    index = load(store, 0, device="cpu")
    assert GpuOfCopies.moved == (2 if kind == "ivf" else 1)
    assert recall(index.search(drawn[3000:], 10)[1], brute_force(drawn[:3000], drawn[3000:], 10)) > 0.93
    allowed = Allowed.from_ranges([(100, 2900)])
    truth = brute_force(drawn[:3000], drawn[3000:], 10, allowed.positions())
    assert recall(index.search(drawn[3000:], 10, allowed)[1], truth) > 0.93


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device and faiss-gpu")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf", "ivfpq"])
def test_what_a_gpu_builds_a_gpu_and_a_cpu_search_alike(tmp_path, kind, device):
    n = 3000 if device == "cpu" else 20_000
    drawn = hub_states(n + 200, 96)
    store = write_store(tmp_path / "x.hub", drawn[None, :n], dtype="bfloat16", shard_rows=8192)
    build(store, kind=kind, device=device)
    rows, queries = store.hidden(0).read(), drawn[n:]
    for allowed in (None, Allowed.from_ranges([(0, n * 3 // 4)])):
        positions = None if allowed is None else allowed.positions()
        truth = brute_force(rows, queries, 10, positions)
        for searching in {device, "cpu"}:
            found = load(store, 0, device=searching).search(queries, 10, allowed)[1]
            assert recall(found, truth) > 0.93
