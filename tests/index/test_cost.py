"""The sizes that indexes are said to have, beside those of real ones."""

from __future__ import annotations

import numpy as np
import pytest

from hubstore.bench.states import hub_states
from hubstore.index import build, cost, kinds
from hubstore.index.cost import SearchSpeed, index_bytes, index_costs
from tests.index.stores import write_store

pytest.importorskip("faiss")


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivfpq", "ivfrabitq"])
def test_an_index_has_the_bytes_that_it_is_said_to_have(tmp_path, kind):
    store = write_store(tmp_path / "x.hub", hub_states(4000, 64)[None])
    (description,) = build(store, kind=kind, device="cpu")
    assert index_bytes(kind, description.rows, description.width) == pytest.approx(description.file.size, rel=0.05)


def test_a_list_of_two_bits_has_the_bytes_that_its_factory_says(tmp_path, monkeypatch):
    store = write_store(tmp_path / "x.hub", hub_states(4000, 64)[None])
    with monkeypatch.context() as patched:
        patched.setattr(kinds, "RABITQ_BITS", 2)
        (description,) = build(store, kind="ivfrabitq", device="cpu")
    size = cost.list_bytes(description) * description.parameters["nlist"]
    assert size == pytest.approx(description.file.size, rel=0.05)


def test_exact_search_of_rows_beyond_memory_is_as_slow_as_the_disk():
    speed = SearchSpeed(1e-10, 1e-13, 1e-9, 1e-11, 1e-10)
    rows, width = 10_000_000, 384
    within, beyond = (index_costs(rows, width, "float16", speed, memory)[0] for memory in (16 << 30, 4 << 30))
    assert within.alone == pytest.approx(rows * width * 2 * 1e-10)
    assert beyond.alone == pytest.approx(rows * width * 2 * 1e-9)
    assert beyond.together == pytest.approx(beyond.alone / cost.BATCH + rows * width * 1e-13)


@pytest.mark.parametrize(("kind", "code", "seconds"), [("ivfpq", 96, 1e-10), ("ivfrabitq", 56, 3e-10)])
def test_an_index_of_codes_visits_its_share_of_them(kind, code, seconds):
    speed = SearchSpeed(1e-10, 1e-13, None, 1e-11, 1e-10, 3e-10)
    rows, width = 10_000_000, 384
    (found,) = (one for one in index_costs(rows, width, "float16", speed) if one.kind == kind)
    settings = kinds.parameters(kind, rows)
    assert found.alone == pytest.approx(
        settings["nlist"] * width * 1e-11 + rows * settings["nprobe"] / settings["nlist"] * code * seconds
    )
    assert found.by == "measured here"


def test_this_machine_is_measured_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in (("SAMPLE_ROWS", 4096), ("INDEXED_ROWS", 2048), ("READ_BYTES", 1 << 20)):
        monkeypatch.setattr(cost, name, size)
    speed = cost.search_speed(32, "float16", tmp_path)
    assert all(value is not None and np.isfinite(value) and value >= 0 for value in vars(speed).values())
    monkeypatch.setattr(cost, "_least", None)
    assert cost.search_speed(32, "float16", tmp_path) == speed
