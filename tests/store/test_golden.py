"""Stores that commit 2401cbb wrote are read as it read them: format 1 stays readable.

`golden/format1.tar.gz` holds one of float16 with a lens, an index and a kept analysis, and one of compressed bfloat16;
both have two layers under `last` and `tokens` and a second, appended corpus. `golden/format1.json` has what that
version read of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import hubstore
from hubstore.lens.storage import read_lens

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    shutil.unpack_archive(GOLDEN / "format1.tar.gz", folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    return json.loads((GOLDEN / "format1.json").read_text())


@pytest.mark.parametrize("name", ["plain", "compressed"])
def test_a_store_of_format_1_reads_as_the_version_read_it_that_wrote_it(stores, expected, name):
    store, said = hubstore.open(stores / f"{name}.hub"), expected[name]
    assert store.items.to_pylist() == said["items"]
    assert store.digest == said["digest"]
    assert store.unfinished is None
    for array, states in said["states"].items():
        pooling, layer = array.split("/")
        hidden = store.hidden(layer, pooling)
        assert list(hidden.shape) == states["shape"]
        assert hidden.read().double().sum().item() == pytest.approx(states["sum"], rel=1e-12)
        for row, values in states["rows"].items():
            assert hidden.take([int(row)])[0, :8].double().tolist() == values
    found = store.search(ids=["en:2"], layers=["2"], k=4)
    assert found["id"].to_pylist() == [row["id"] for row in said["search"]["rows"]]
    assert found["score"].to_pylist() == pytest.approx([row["score"] for row in said["search"]["rows"]], rel=1e-6)


def test_a_store_of_format_1_verifies_and_serves_what_it_kept(stores, expected):
    store = hubstore.open(stores / "plain.hub")
    assert [problem for problem in store.verify() if problem.wrong] == []
    found = store.analyze(["similarity"], bootstrap=10, layers=["2"], device="cpu")["similarity"]
    kept = expected["plain"]["similarity"]
    assert found["value"].to_pylist() == pytest.approx([row["value"] for row in kept], rel=1e-9)
    head, _ = read_lens(store)
    assert head.unembedding.shape == (400, 32)
    assert [problem for problem in hubstore.open(stores / "compressed.hub").verify() if problem.wrong] == []
