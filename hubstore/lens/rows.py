"""Which stored states are read of an item: a text's without the special tokens around it, a medium's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.errors import QueryError
from hubstore.lens.lens import Lens

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Ints = npt.NDArray[np.int64]


def own_layer(store: StoreReader) -> str | None:
    """The layer whose states say what the model itself would: "final", or the last block; None where none is kept."""
    blocks = str(store.attributes["model"]["blocks"])
    return next((name for name in ("final", blocks) if name in store.layers), None)


def text_rows(store: StoreReader, lens: Lens, positions: Ints, pooling: str) -> tuple[Ints, Ints]:
    """Rows of the states of items without their special tokens, and which of the items each row belongs to.

    Of an image or an audio clip they are the rows of its own tokens, without those of the prompt around it.

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
    ranges = store.token_ranges()[positions]
    media = store.items["media_ranges"].take(pa.array(positions)).to_pylist()
    rows = [
        np.arange(start + before, stop - after) if edges is None else media_rows(int(start), int(stop), edges)
        for (start, stop), edges in zip(ranges, media, strict=True)
    ]
    lengths = np.array([len(of_item) for of_item in rows])
    if (lengths < 1).any():
        bare = store.items["id"][int(positions[np.argmin(lengths)])].as_py()
        raise QueryError(f"item {bare!r} of {store.path} has no token but special ones; leave its partition out")
    return np.concatenate(rows), np.repeat(np.arange(len(positions)), lengths)


def media_rows(start: int, stop: int, edges: Sequence[int]) -> Ints:
    """The rows of a medium's tokens among those of its item, [start, stop).

    Args:
        start: the item's first row.
        stop: the end of its rows.
        edges: `media_ranges` of the item: starts and stops; none where all its tokens are the medium's.
    """
    if not edges:
        return np.arange(start, stop)
    return np.concatenate([np.arange(start + a, start + b) for a, b in zip(edges[::2], edges[1::2], strict=True)])


def _special_tokens(lens: Lens) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text and after it."""
    letters = [start < stop for start, stop in lens.encode("a").offsets]
    return letters.index(True), letters[::-1].index(True)
