"""Which stored states are read of an item: all but those of the special tokens around every text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hubstore.errors import QueryError
from hubstore.lens.lens import Lens

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Ints = npt.NDArray[np.int64]


def text_rows(store: StoreReader, lens: Lens, positions: Ints, pooling: str) -> tuple[Ints, Ints]:
    """Rows of the states of items without their special tokens, and which of the items each row belongs to.

    Args:
        store: an opened store.
        lens: of its model.
        positions: int64 [items].
        pooling: under "tokens" an item has a row for each of its tokens, else one.

    Raises:
        QueryError: an item has no token but special ones.
    """
    if pooling != "tokens":
        return positions, np.arange(len(positions))
    before, after = _special_tokens(lens)
    starts, stops = (store.token_ranges()[positions] + [before, -after]).T
    lengths = stops - starts
    if (lengths < 1).any():
        bare = store.items["id"][int(positions[np.argmin(lengths)])].as_py()
        raise QueryError(f"item {bare!r} of {store.path} has no token but special ones; leave its partition out")
    owners = np.repeat(np.arange(len(positions)), lengths)
    first = np.cumsum(lengths) - lengths
    return np.arange(len(owners)) + (starts - first)[owners], owners


def _special_tokens(lens: Lens) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text and after it."""
    letters = [start < stop for start, stop in lens.encode("a").offsets]
    return letters.index(True), letters[::-1].index(True)
