"""Hidden states as containers of Python, NumPy and torch: the rows of `take` and `read`, copied where it is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubstore.bench.states import hub_states
from hubstore.errors import PositionError, QueryError
from tests.index.stores import write_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Of one mapped shard, and of three."""
    folder = tmp_path_factory.mktemp("rows")
    made = {name: write_store(folder / name, hub_states(50, 8)[None], shard_rows=rows)
            for name, rows in (("one", 64), ("three", 20))}  # fmt: skip
    return made | {"bfloat16": write_store(folder / "bf", hub_states(50, 8)[None], dtype="bfloat16")}


@pytest.mark.parametrize("name", ["one", "three", "bfloat16"])
def test_rows_are_taken_as_of_an_array(stores, name):
    states = stores[name].hidden(0)
    whole = states.read()
    mask = np.arange(50) % 7 == 0
    for rows in (0, -1, 17, slice(None), slice(5, 33), slice(40, 2, -3), slice(9, 3), [3, -2, 3], mask, np.array([1])):
        expected = whole[torch.from_numpy(np.arange(50)[rows].copy()) if not isinstance(rows, int) else rows]
        assert torch.equal(states[rows], expected), rows
    assert torch.equal(states[3, 2:5], whole[3, 2:5])
    assert torch.equal(states[10:20, 4], whole[10:20, 4])
    assert torch.equal(states[[4, 1], :3], whole[[4, 1], :3])
    assert len(states) == len(list(states)) == 50
    assert torch.equal(states.torch(), whole)
    assert repr(states) == f"<HiddenStates layer 0, mean: 50 x 8, {whole.dtype}>"


def test_numpy_has_the_mapped_rows_of_one_shard_read_only_and_copies_what_it_may_write(stores):
    states = stores["one"].hidden(0)
    seen = np.asarray(states)
    assert np.shares_memory(seen, np.asarray(states))
    assert not seen.flags.writeable
    copied = np.array(states)
    copied += 1
    assert np.array_equal(seen, states.read().numpy())
    assert np.asarray(states, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(states, np.float64, copy=False)
    exact = stores["bfloat16"].hidden(0)
    assert np.array_equal(np.asarray(exact), exact.read().float().numpy())


def test_what_is_written_into_rows_that_were_taken_changes_nothing_that_is_read(stores):
    states = stores["one"].hidden(0)
    before = states.read()
    states[:10].zero_()
    states[3].zero_()
    assert torch.equal(states.read(), before)


@pytest.mark.parametrize("row", [50, -51])
def test_a_row_that_is_not_there_is_an_index_error(stores, row):
    with pytest.raises(PositionError, match=rf"layer 0 has rows 0 to 49, and {row} is none"):
        stores["one"].hidden(0)[row]
    with pytest.raises(IndexError):
        stores["one"].hidden(0)[[1, row]]


@pytest.mark.parametrize("rows", ["item-3", [0.5], [[1], [2]], np.ones(49, bool)])
def test_what_names_no_rows_is_refused(stores, rows):
    with pytest.raises(QueryError, match="names no rows of layer 0"):
        stores["one"].hidden(0)[rows]
