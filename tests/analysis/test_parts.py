"""Results to the last digit: however many threads, blocks' threads or processes share an analysis."""

from __future__ import annotations

import os
import signal

import pyarrow.parquet as pq
import pytest
import torch

from hubstore import analysis
from hubstore.analysis import layers, states
from hubstore.bench.states import hub_states
from hubstore.errors import AnalysisError
from hubstore.kernels.cpu import match
from hubstore.stats import blocks
from hubstore.store import StoreReader
from tests.index.stores import LANGUAGES, by_language, write_store

WIDTH = 48


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three languages, three layers; a partition of many blocks, of no whole number of them."""
    rows, concepts = by_language(hub_states(900, WIDTH))
    languages = [LANGUAGES[i * len(LANGUAGES) // len(rows)] for i in range(len(rows))]
    every = torch.stack([rows, rows.roll(3, 1) * 1.5 + 0.25, rows.flip(1)])
    folder = tmp_path_factory.mktemp("stores") / "x.hub"
    write_store(
        folder,
        every,
        dtype="float16",
        languages=languages,
        concepts=[str(concept) for concept in concepts],
        shard_rows=256,
    )
    return folder


def results(path, **options):
    """Every analysis anew, as the bytes that the store keeps."""
    store = StoreReader(path)
    for key in store.storage.list("analyses"):
        store.storage.delete(key)
    analysis.analyze(store, bootstrap=20, device="cpu", **options)
    keys = store.storage.list("analyses")
    assert len(keys) == len(analysis.ANALYSES)
    return {key: store.storage.read(key) for key in keys}


def test_one_two_and_four_processes_give_the_same_bytes(path):
    torch.set_num_threads(2)
    one = results(path)
    assert all(pq.read_table(path / key).num_rows for key in one)
    assert results(path, jobs=2) == one
    assert results(path, jobs=4) == one


@pytest.mark.parametrize("small", [True, False])
def test_one_to_four_threads_give_the_same_bytes_whether_they_take_layers_or_blocks(path, monkeypatch, small):
    monkeypatch.setattr(states, "BLOCK", WIDTH * 64)
    monkeypatch.setattr(match, "SIDE", 128)
    torch.set_num_threads(1)
    one = results(path)
    if not small:
        monkeypatch.setattr(layers, "SMALL", 0)
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        assert results(path) == one


def test_layers_compared_with_one_another_are_the_same_from_processes(path):
    store = StoreReader(path)
    pair = tuple(store.partitions)[:2]
    one = analysis.alignment(store, [pair], cross_layers=True, bootstrap=20, device="cpu")
    (key,) = [key for key in store.storage.list("analyses") if "alignment" in key and _crossed(store, key)]
    store.storage.delete(key)
    two = analysis.alignment(store, [pair], cross_layers=True, bootstrap=20, device="cpu", jobs=3)
    assert one.num_rows == 3 * 9
    assert one.equals(two, check_metadata=True)


def _crossed(store, key):
    return analysis.metadata(pq.read_table(store.path / key))["parameters"]["cross_layers"]


def test_parts_are_joined_in_the_order_of_their_blocks():
    torch.set_num_threads(3)
    given = [torch.full((1,), float(i)) for i in range(50)]
    assert blocks.map_blocks(lambda a, b: float(a - b), given, reversed(given)) == [2.0 * i - 49 for i in range(50)]
    assert blocks.concat_blocks(lambda a: a, given).tolist() == list(range(50))
    assert blocks.map_blocks(lambda a: a, []) == []


def test_a_sum_of_blocks_depends_on_no_thread():
    values = torch.randn(4000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e8
    sums = set()
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        sums.add(tuple(blocks.sum_blocks(lambda block: block.T @ block, values.split(129)).flatten().tolist()))
    assert len(sums) == 1


def killed(store, device, params):
    if os.environ.get("HUBSTORE_TEST_PARENT") == str(os.getpid()):
        return layers.Prepared(lambda layer: [], {})
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def test_a_killed_process_is_an_error_with_a_remedy(path, monkeypatch):
    monkeypatch.setenv("HUBSTORE_TEST_PARENT", str(os.getpid()))
    store = StoreReader(path)
    task = layers.LayerTask(killed, {"layers": list(store.layers)}, {}, torch.device("cpu"))
    with pytest.raises(AnalysisError, match=r"was killed, .* fewer --jobs"):
        layers.over_layers(store, task, jobs=2)
