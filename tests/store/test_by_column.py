"""Partitions by a column: where its values' items are, however often the values take turns."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from hubstore.store.by_column import partitions_by


def test_the_partitions_of_a_column_are_the_positions_of_its_values():
    values = np.random.default_rng(0).integers(-1, 7, 500)
    found = partitions_by(pa.chunked_array([pa.array([None if v < 0 else v for v in values.tolist()])]), "a column")
    assert list(found) == [str(v) for v in dict.fromkeys(values.tolist()) if v >= 0]
    for name, partition in found.items():
        assert np.array_equal(partition.positions(), np.flatnonzero(values == int(name)))
        assert partition.size == (values == int(name)).sum()
        joined = [position for start, stop in partition.ranges for position in range(start, stop)]
        assert joined == partition.positions().tolist()


@pytest.mark.parametrize("rows", [200_000])
def test_values_that_take_turns_are_kept_in_two_numbers_a_run(rows):
    values = pa.chunked_array([pa.array(np.arange(rows) % 2)])
    partitions_by(values.slice(0, 10), "a column")  # what is made once is not counted
    tracemalloc.start()
    found = partitions_by(values, "a column")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["0"].size == rows / 2
    assert kept < 1.2 * 16 * rows  # each row is a run
