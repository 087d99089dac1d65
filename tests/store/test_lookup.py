"""Ids to positions: the same as a plain search of the column, whatever the ids and their hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstore.store import lookup
from hubstore.store.lookup import IdLookup

NAMES = st.lists(st.text(max_size=3), max_size=30)


@given(NAMES, NAMES)
def test_finds_the_first_of_each_id_and_nothing_else(ids: list[str], asked: list[str]) -> None:
    asked = asked + ids
    found = IdLookup.of(pa.chunked_array([ids], pa.string())).find(asked)
    assert found.tolist() == [ids.index(name) if name in ids else -1 for name in asked]


def test_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup.xxhash, "xxh3_64_intdigest", len)
    found = IdLookup.of(pa.chunked_array([["aa", "b", "bb"], ["c", "cc"]])).find(["cc", "c", "dd", "bb", "aa"])
    assert found.tolist() == [4, 3, -1, 2, 0]


def test_half_of_a_surrogate_pair_is_no_id() -> None:
    assert IdLookup.of(pa.chunked_array([["a"]])).find(["\ud800"]).tolist() == [-1]


def test_takes_twelve_bytes_an_item() -> None:
    found = IdLookup.of(pa.chunked_array([[f"item-{i}" for i in range(1000)]]))
    assert found.hashes.nbytes + found.places.nbytes == 12_000
    assert np.all(np.diff(found.hashes.astype(object)) >= 0)
