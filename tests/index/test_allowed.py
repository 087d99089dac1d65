"""Allowed positions behave as the sets that they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hubstore.index import Allowed

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def as_set(ranges: list[tuple[int, int]]) -> set[int]:
    return {position for start, stop in ranges for position in range(start, stop)}


def is_canonical(allowed: Allowed) -> bool:
    flat = allowed.ranges.ravel()
    return bool((np.diff(flat) > 0).all())


@given(RANGES)
def test_ranges_are_a_union_and_their_positions_ascend(ranges):
    allowed = Allowed.from_ranges(ranges)
    assert allowed.positions().tolist() == sorted(as_set(ranges))
    assert allowed.size == len(as_set(ranges))
    assert is_canonical(allowed)


@given(RANGES, RANGES)
def test_and_is_the_intersection(left, right):
    both = Allowed.from_ranges(left) & Allowed.from_ranges(right)
    assert both.positions().tolist() == sorted(as_set(left) & as_set(right))
    assert is_canonical(both)


@given(st.lists(st.integers(0, 60)))
def test_positions_come_back_distinct_and_the_mask_agrees(positions):
    allowed = Allowed.from_positions(np.array(positions, np.int64))
    assert allowed.positions().tolist() == sorted(set(positions))
    assert np.flatnonzero(allowed.mask(61)).tolist() == sorted(set(positions))


def test_many_ranges_have_the_intersection_of_few(monkeypatch):
    rng = np.random.default_rng(0)
    masks = [rng.random(500) < share for share in (0.4, 0.6)]
    left, right = (Allowed.from_mask(mask) for mask in masks)
    assert np.array_equal(left.positions(), np.flatnonzero(masks[0]))
    few = left & right
    monkeypatch.setattr("hubstore.index.allowed.MANY_RANGES", 10)
    assert np.array_equal((left & right).ranges, few.ranges)
    assert np.array_equal(few.positions(), np.flatnonzero(masks[0] & masks[1]))
    assert (left & Allowed.everything(500)) is left
    assert (Allowed.everything(500) & left) is left
    assert (left & Allowed.from_ranges([(0, 250)])).positions().max() < 250
    assert (left & Allowed.from_ranges([])).size == 0
