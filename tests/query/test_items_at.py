"""Items are found by their ids, and shown, without the texts of all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubstore.query import search
from hubstore.store import StoreReader, reader
from tests.index.stores import write_store

ROWS, SHARD_ROWS = 400, 8


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items") / "x.hub"
    states = torch.randn(1, ROWS, 16, generator=torch.Generator().manual_seed(0))
    write_store(folder, states, languages=["en"] * 200 + ["de"] * 200, shard_rows=SHARD_ROWS)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """The columns of each item table that was decoded."""
    found, decode = [], reader.decode_table

    def counting(data, where, remedy, columns=None, **options):
        found.append(tuple(columns))
        return decode(data, where, remedy, columns, **options)

    monkeypatch.setattr(reader, "decode_table", counting)
    return found


def test_a_search_by_id_decodes_the_texts_of_few_shards(path, decoded):
    store = StoreReader(path)
    found = search(store, ids=["item-7"], k=5, device="cpu")
    with_text = [columns for columns in decoded if "text" in columns]
    assert len(with_text) == len({int(name.removeprefix("item-")) // SHARD_ROWS for name in found["id"].to_pylist()})
    assert "items" not in vars(store)
    whole = StoreReader(path)
    assert len(whole.items) == ROWS
    assert search(whole, ids=["item-7"], k=5, device="cpu").equals(found)


def test_items_at_any_positions_are_those_of_the_whole_table(path):
    store, rng = StoreReader(path), np.random.default_rng(0)
    expected = store.items.select(["id", "language", "text"])
    for count in (0, 1, 3, 20, 200):
        positions = rng.integers(0, ROWS, count)
        fresh = StoreReader(path)
        found = fresh.items_at(positions, expected.column_names)
        assert found.to_pylist() == expected.take(positions).to_pylist()


def test_whoever_asks_again_and_again_reads_all_items_once(path, decoded):
    store = StoreReader(path)
    for number in range(200):
        store.items_at(np.array([number % ROWS]), ["id"])
    assert len(decoded) <= 2 * (ROWS // SHARD_ROWS)
    assert "items" in vars(store)
