"""Exact search reads the memory map as it is, wherever it computes."""

from __future__ import annotations

import pytest
import torch

import hubstore.index.exact as exact_module
from hubstore.bench.states import hub_states
from hubstore.index import Allowed, load_or_exact
from tests.devices import DEVICES
from tests.index.stores import write_store


def test_segments_reach_the_kernel_as_they_are_mapped(tmp_path, monkeypatch):
    store = write_store(tmp_path / "x.hub", hub_states(900, 32)[None], shard_rows=300)
    index, seen, kernel = load_or_exact(store, 0, device="cpu"), {}, exact_module.topk_cosine
    mapped = {rows.data_ptr(): first for first, rows in index.states.segments()}

    def recorded(queries, rows, k, **options):
        def each():
            for first, segment in rows:
                seen[segment.data_ptr()] = first
                yield first, segment

        return kernel(queries, each(), k, **options)

    monkeypatch.setattr(exact_module, "topk_cosine", recorded)
    index.search(hub_states(3, 32, seed=1), 5)
    assert len(seen) > 1
    assert seen.items() <= mapped.items()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("ranges", [[(0, 3000)], [(10, 1500), (1600, 2990)], [(i, i + 1) for i in range(0, 3000, 3)]])
def test_a_gpu_finds_in_the_memory_map_what_the_cpu_finds(tmp_path, dtype, ranges, device):
    store = write_store(tmp_path / "x.hub", hub_states(3000, 96)[None], dtype=dtype)
    queries, allowed = hub_states(20, 96, seed=1), Allowed.from_ranges(ranges)
    expected, positions = load_or_exact(store, 0, device="cpu").search(queries, 10, allowed)
    for name in ["cpu"] if device == "cpu" else [f"cuda:{number}" for number in range(torch.cuda.device_count())]:
        scores, found = load_or_exact(store, 0, device=name).search(queries, 10, allowed)
        assert scores.device.type == found.device.type == "cpu"
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
        assert torch.equal(found, positions)
