"""Positions of items by their ids: sorted 64-bit hashes, twelve bytes an item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

BLOCK = 1 << 16
"""Ids that are Python strings at once."""


@dataclass(frozen=True, eq=False)
class IdLookup:
    """Finds ids in a column of them.

    Args:
        ids: the column; what has an id's hash must also be it.
        hashes: uint64 [n], ascending.
        places: uint32 or int64 [n], where in the column each hash is from; ascending among equal hashes.
    """

    ids: pa.ChunkedArray
    hashes: npt.NDArray[np.uint64]
    places: npt.NDArray[np.uint32] | npt.NDArray[np.int64]

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> IdLookup:
        """The lookup of a column of strings."""
        hashes = np.empty(len(ids), np.uint64)
        for start in range(0, len(ids), BLOCK):
            block = ids.slice(start, BLOCK).to_pylist()
            hashes[start : start + len(block)] = _hashes(block)
        places = np.argsort(hashes, kind="stable")
        return cls(ids, hashes[places], places.astype(np.uint32) if len(ids) < 1 << 32 else places)

    def find(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [names]: where in the column each name first is; -1 for one that is not there."""
        hashes = _hashes(names)
        starts = np.searchsorted(self.hashes, hashes)
        found = np.full(len(names), -1, np.int64)
        for number, (start, name) in enumerate(zip(starts.tolist(), names, strict=True)):
            found[number] = next((at for at in self._with_hash(start, hashes[number]) if self._is(at, name)), -1)
        return found

    def _with_hash(self, start: int, value: np.uint64) -> Iterator[int]:
        while start < len(self.hashes) and self.hashes[start] == value:
            yield int(self.places[start])
            start += 1

    def _is(self, place: int, name: str) -> bool:
        found: bool = self.ids[place].as_py() == name
        return found


def _hashes(names: Sequence[str]) -> npt.NDArray[np.uint64]:
    # A query may hold half of a surrogate pair, which no id does: that it has a hash is enough.
    encoded = (name.encode("utf-8", "surrogatepass") for name in names)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(names))
