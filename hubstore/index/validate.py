"""What a FAISS file holds, read before FAISS reads it: only the kinds that hubstore writes, every number in range.

FAISS follows the links, offsets and ids of a file without looking at them again, and the checksum beside the file is by
whoever wrote it. A file that passes here makes FAISS read nothing but its own bytes, allocate no more than a small
multiple of them, and answer with positions of the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hubstore.index.cost import rabitq_bytes
from hubstore.index.description import IndexDescription
from hubstore.index.listtable import BLOCK_ROWS, ListTable
from hubstore.options import MOST_SEARCH_EFFORT
from hubstore.storage import Bytes
from hubstore.store.layout import FAISS

Array = npt.NDArray[Any]

FP16 = 4
"""FAISS's `QT_fp16`."""

LINKS = 32
"""Of a node on each level of an HNSW but the lowest, which has twice as many."""

MOST = 4.0
"""In magnitude, of any element: rows have unit length, less a mean of such, less a centroid of those.

Infinite distances would do harm: where all are, FAISS's heap of candidates answers with none and goes on.
"""

BLOCK = 1 << 20
"""Elements that are looked at at once."""

QUERY_BITS = 8
"""Of each element of a query that is compared with RaBitQ codes."""


class RefusedIndexError(Exception):
    """The file holds what `builder` does not write; the message says what."""


@dataclass(frozen=True, eq=False)
class Head:
    """What the head and the tail of a file of lists hold.

    Args:
        mean: float32 [width], of the unit rows.
        rotation: float32 [width, width], that centered rows are multiplied by.
        centroids: float32 [lists, width].
        bits: of an element's code.
        table: where the lists are.
        checksums: uint32 [lists], CRC32C of each.
        means: float64 [partitions, width], which were removed from their rows; none where they are as they are.
    """

    mean: Array
    rotation: Array
    centroids: Array
    bits: int
    table: ListTable
    checksums: Array
    means: Array


def tail_bytes(lists: int, description: IndexDescription) -> int:
    """Bytes after the lists: their checksums, and means of partitions in float64."""
    return 4 * lists + 8 * description.width * len(description.centered or ())


def check_index(data: Bytes, description: IndexDescription) -> None:
    """Refuse a FAISS file that is not an index of its description's kind, rows and width, whole and consistent.

    Args:
        data: uint8 [n], the file.
        description: what it is to hold.

    Raises:
        RefusedIndexError: it is not.
    """
    _Reader(data, description).check()


def read_head(head: Bytes, tail: Bytes, description: IndexDescription) -> Head:
    """What is before and after the lists of a file that is searched in place; RefusedIndexError as `check_index`."""
    return _Reader(head, description).head(tail)


class _Reader:
    """Reads a file from its beginning to its end, as FAISS's `write_index` lays it out."""

    def __init__(self, data: Bytes, description: IndexDescription) -> None:
        self._data, self._place = np.asarray(data), 0
        self._said = description
        self._rows, self._width = description.rows, description.width

    def check(self) -> None:
        self._check_parameters()
        self._transforms(2)
        kinds = {"hnsw": self._hnsw, "ivf": self._ivf, "ivfpq": self._ivfpq}
        if self._said.kind not in kinds:
            raise RefusedIndexError(f"an index of kind {self._said.kind} has a checksum of its head")
        kinds[self._said.kind]()
        self._equal("bytes", self._place, len(self._data))

    def head(self, tail: Bytes) -> Head:
        self._check_parameters()
        mean = self._transforms(3)
        rotation = self._rotation()
        lists, centroids = self._ivf_header("Iwrn")
        bits, code_size = self._rabitq()
        table = self._list_table(lists, code_size)
        self._equal("bytes", self._place, len(self._data))
        self._equal("bytes after the lists", len(tail), tail_bytes(lists, self._said))
        means = np.frombuffer(tail[4 * lists :].tobytes(), "<f8").reshape(-1, self._width)
        if not np.isfinite(means).all():
            raise RefusedIndexError("a mean of a partition is not finite")
        points = centroids.reshape(lists, self._width)
        checksums = np.frombuffer(tail[: 4 * lists].tobytes(), "<u4")
        return Head(mean.copy(), rotation, points.copy(), bits, table, checksums, means)

    def _transforms(self, count: int) -> Array:
        """The mean by which the second of the transforms moves rows, the first of which divides by their norm."""
        self._header("IxPT", None)  # its rows are those of its first build, whatever was added since
        self._equal("transforms", self._number("<i4"), count)
        self._kind("VNrm")
        self._equal("the norm", self._number("<f4"), 2.0)
        self._transform_end()
        self._kind("VCnt")
        mean = self._bounded("the mean", self._vector("<f4", self._width))
        self._transform_end()
        return mean

    def _rotation(self) -> Array:
        self._kind("rrot")
        self._equal("a bias", self._number("u1"), 0)
        found = self._bounded("the rotation", self._vector("<f4", self._width**2)).reshape(self._width, self._width)
        self._vector("<f4", 0)
        self._transform_end()
        return found.copy()

    def _check_parameters(self) -> None:
        """Of `index.json`, by which it is searched."""
        settings = self._said.parameters or {}
        names = ("efSearch",) if self._said.kind == "hnsw" else ("nlist", "nprobe")
        for name in (*names, "refine"):
            value = settings.get(name)
            if type(value) is not int or not 1 <= value <= MOST_SEARCH_EFFORT:
                raise RefusedIndexError(f"its parameter {name} is {value!r}")
        most = len(self._data) if self._said.head is None or self._said.file is None else self._said.file.size
        if not 1 <= self._rows <= most or self._width < 1:
            raise RefusedIndexError(f"its description counts {self._rows} rows of width {self._width}")

    def _hnsw(self) -> None:
        self._header("IHNs", self._rows)
        probabilities = self._vector("<f8", most=64)
        first_links = self._vector("<i4", len(probabilities) + 1).astype(np.int64)
        expected = [0, *(2 * LINKS + LINKS * level for level in range(len(probabilities)))]
        self._same("links of the levels", first_links, np.array(expected))
        levels = self._vector("<i4", self._rows)
        if not 1 <= levels.min() <= levels.max() < len(first_links):
            raise RefusedIndexError("a node has no level, or more than there are")
        offsets = self._vector("<u8", self._rows + 1)
        ends = np.cumsum(first_links[levels])
        self._same("offsets", offsets, np.concatenate([[0], ends]).astype(np.uint64))
        links = self._vector("<i4", int(ends[-1]))
        if not -1 <= links.min() <= links.max() < self._rows:
            raise RefusedIndexError("a link leads to no node")
        self._check_upper_links(links, levels, ends - first_links[levels], first_links)
        entry, top = self._number("<i4"), self._number("<i4")
        if not (0 <= entry < self._rows and 0 <= top < levels[entry]):
            raise RefusedIndexError(f"a search enters at node {entry} on level {top}, which is not there")
        self._between("efConstruction", self._number("<i4"), 1, MOST_SEARCH_EFFORT)
        self._between("efSearch", self._number("<i4"), 1, MOST_SEARCH_EFFORT)
        self._equal("the upper beam", self._number("<i4"), 1)
        self._header("IxSQ", self._rows)
        self._float16_quantizer()
        self._float16(self._vector("u1", 2 * self._width * self._rows))

    def _check_upper_links(self, links: Array, levels: Array, starts: Array, first_links: Array) -> None:
        """On a level above the lowest, a link leads to a node of that level: another has no links there to go on by."""
        for level in range(1, int(levels.max())):
            link_starts = starts[levels > level] + first_links[level]
            ends = links[link_starts[:, None] + np.arange(LINKS)]
            if np.any(levels[ends[ends >= 0]] <= level):
                raise RefusedIndexError(f"a link of level {level} leads to a node that has no such level")

    def _ivf(self) -> None:
        lists, _ = self._ivf_header("IwSq")
        self._float16_quantizer()
        code_size = 2 * self._width
        self._equal("the code size", self._number("<u8"), code_size)
        self._flag("by_residual")
        self._kind("ilar")
        self._equal("inverted lists", self._number("<u8"), lists)
        self._equal("the code size", self._number("<u8"), code_size)
        sizes = self._list_sizes(lists)
        seen = np.zeros(self._rows, np.bool_)
        for size in sizes[sizes > 0].tolist():
            self._float16(self._array("u1", size * code_size))
            self._mark(seen, self._array("<i8", size))
        self._all_seen(seen, int(sizes.sum()))

    def _list_sizes(self, lists: int) -> Array:
        """Rows of each inverted list; where few have any, the file names those."""
        sparse = self._kind("full", "sprs") == "sprs"
        sizes = self._vector("<u8", None if sparse else lists, most=2 * lists)
        if sparse:
            pairs = sizes.reshape(-1, 2) if len(sizes) % 2 == 0 else None
            if pairs is None or np.any(pairs[:, 0] >= lists) or len(np.unique(pairs[:, 0])) < len(pairs):
                raise RefusedIndexError("its inverted lists are not those that it counts")
            sizes = np.zeros(lists, np.uint64)
            sizes[pairs[:, 0]] = pairs[:, 1]
        if np.any(sizes > self._rows):
            raise RefusedIndexError("an inverted list has more rows than the index")
        return sizes.astype(np.int64)

    def _ivfpq(self) -> None:
        lists, _ = self._ivf_header("IwPf")
        self._flag("by_residual")
        code_size, block_rows, padded = self._number("<u8"), self._number("<i4"), self._number("<u8")
        self._equal("the rows of a block", block_rows, 32)
        self._equal("the implementation", self._number("<i4"), 0)
        self._equal("the queries of a block", self._number("<u8"), 0)
        self._equal("the quantizer's width", self._number("<u8"), self._width)
        parts, bits = self._number("<u8"), self._number("<u8")
        if not 1 <= parts <= self._width or self._width % parts or bits != 4:
            raise RefusedIndexError(f"it quantizes {parts} parts of a row to {bits} bits each")
        self._equal("the padded parts", padded, parts + parts % 2)
        self._equal("the code size", code_size, padded // 2)
        self._bounded("the quantizer's centroids", self._vector("<f4", self._width << bits))
        self._kind("ilbl")
        self._equal("inverted lists", self._number("<u8"), lists)
        self._equal("the code size", self._number("<u8"), 2**64 - 1)  # FAISS has none for lists that are in blocks
        self._equal("the rows of a block", self._number("<u8"), block_rows)
        self._equal("the bytes of a block", self._number("<u8"), block_rows * code_size)
        seen, total = np.zeros(self._rows, np.bool_), 0
        for _ in range(lists):
            ids = self._vector("<i8", most=self._rows)
            self._mark(seen, ids)
            self._vector("u1", -(-len(ids) // block_rows) * block_rows * code_size)
            total += len(ids)
        self._all_seen(seen, total)

    def _rabitq(self) -> tuple[int, int]:
        """Bits of an element and bytes of a row."""
        self._equal("the quantizer's width", self._number("<u8"), self._width)
        self._number("<u8")  # FAISS's own count of the same bytes
        self._equal("the quantizer's metric", self._number("<i4"), 1)
        bits: int = self._number("<u8")
        self._between("bits", bits, 1, 8)
        self._equal("by_residual", self._number("u1"), 1)
        code_size = rabitq_bytes(self._width, bits)
        self._equal("the code size", self._number("<u8"), code_size)
        self._equal("the rows of a block", self._number("<i4"), BLOCK_ROWS)
        self._equal("the queries of a block", self._number("<u8"), 0)
        parts = -(-self._width // 4)
        self._equal("the padded parts", self._number("<u8"), parts + parts % 2)
        self._equal("the implementation", self._number("<i4"), 0)
        self._equal("the bits of a query", self._number("u1"), QUERY_BITS)
        self._equal("centered queries", self._number("u1"), 0)
        return bits, code_size

    def _list_table(self, lists: int, code_size: int) -> ListTable:
        """Lists in this very file, one after the other, which fill it."""
        self._kind("ilod")
        self._equal("inverted lists", self._number("<u8"), lists)
        self._equal("the code size", self._number("<u8"), code_size)
        self._equal("inverted lists", self._number("<u8"), lists)
        places = self._array("<u8", 3 * lists).reshape(lists, 3)
        if np.any(places[:, 0] > self._rows) or int(places[:, 0].sum()) != self._rows:
            raise RefusedIndexError("its inverted lists do not hold every row once")
        self._vector("<u8", 0)  # no room between them
        self._equal("the file's name", self._vector("u1", len(FAISS)).tobytes(), FAISS.encode())
        size = self._number("<u8")
        table = ListTable(places[:, 0].astype(np.int64), code_size, self._place)
        self._same("places of the lists", places[:, 1:], np.stack([table.capacities, table.offsets], axis=1))
        self._equal("bytes of the file", size, table.stop + tail_bytes(lists, self._said))
        assert self._said.file is not None
        self._equal("bytes of the file", size, self._said.file.size)
        return table

    def _ivf_header(self, kind: str) -> tuple[int, Array]:
        """Inverted lists, and the coarse quantizer's centroids; the direct map, which is none, follows."""
        self._header(kind, self._rows)
        settings = self._said.parameters or {}
        lists: int = self._number("<u8")
        self._equal("inverted lists", lists, settings["nlist"])
        self._between("nprobe", self._number("<u8"), 1, lists)
        self._header("IxF2", lists)
        centroids = self._bounded("the centroids", self._vector("<f4", lists * self._width))
        self._equal("the direct map", self._number("u1"), 0)
        self._vector("<i8", 0)
        return lists, centroids

    def _float16_quantizer(self) -> None:
        self._equal("the scalar quantizer", self._number("<i4"), FP16)
        self._equal("the range", self._number("<u8"), 0)  # how it would be found: float16 has none
        self._equal("the quantizer's width", self._number("<u8"), self._width)
        self._equal("the code size", self._number("<u8"), 2 * self._width)
        self._vector("<f4", 0)

    def _header(self, kind: str, rows: int | None) -> None:
        self._kind(kind)
        self._equal("the width", self._number("<i4"), self._width)
        found = self._number("<i8")
        self._between("rows", found, *((1, self._rows) if rows is None else (rows, rows)))
        self._array("<i8", 2)
        self._equal("is_trained", self._number("u1"), 1)
        self._equal("the metric", self._number("<i4"), 1)

    def _transform_end(self) -> None:
        self._equal("the width", self._number("<i4"), self._width)
        self._equal("the width", self._number("<i4"), self._width)
        self._equal("is_trained", self._number("u1"), 1)

    def _mark(self, seen: Array, ids: Array) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._rows:
            raise RefusedIndexError("an inverted list names a row that is not there")
        seen[ids] = True

    def _all_seen(self, seen: Array, total: int) -> None:
        if total != self._rows or not seen.all():
            raise RefusedIndexError("its inverted lists do not hold every row once")

    def _float16(self, codes: Array) -> None:
        halves = codes.view("<u2")
        most = int(np.float16(MOST).view(np.uint16))
        for start in range(0, len(halves), BLOCK):
            if np.any(halves[start : start + BLOCK] & 0x7FFF > most):
                raise RefusedIndexError("a row is no unit row less its mean")

    def _bounded(self, name: str, values: Array) -> Array:
        for start in range(0, len(values), BLOCK):
            if not np.all(np.abs(values[start : start + BLOCK]) <= MOST):  # nor NaN
                raise RefusedIndexError(f"{name} are not of unit rows")
        return values

    def _flag(self, name: str) -> None:
        self._between(name, self._number("u1"), 0, 1)

    def _kind(self, *kinds: str) -> str:
        found = self._array("u1", 4).tobytes().decode("latin-1")
        if found not in kinds:
            raise RefusedIndexError(f"it holds {found!r} where {' or '.join(kinds)} belongs")
        return found

    def _between(self, name: str, value: Any, least: int, most: int) -> None:
        if not least <= value <= most:
            raise RefusedIndexError(f"{name}: {value}, not {least} to {most}")

    def _equal(self, name: str, found: Any, expected: Any) -> None:
        if found != expected:
            raise RefusedIndexError(f"{name}: {found} where {expected} belongs")

    def _same(self, name: str, found: Array, expected: Array) -> None:
        if not np.array_equal(found, expected):
            raise RefusedIndexError(f"the {name} are not what they follow from")

    def _number(self, dtype: str) -> Any:
        return self._array(dtype, 1)[0].item()

    def _vector(self, dtype: str, size: int | None = None, *, most: int = 0) -> Array:
        """A vector with its length before it, which is to be `size`, or at most `most`."""
        length = self._number("<u8")
        if length != size if size is not None else length > most:
            raise RefusedIndexError(f"a vector has {length} elements where {most if size is None else size} belong")
        return self._array(dtype, length)

    def _array(self, dtype: str, count: int) -> Array:
        start, kind = self._place, np.dtype(dtype)
        self._place += count * kind.itemsize
        if self._place > len(self._data):
            raise RefusedIndexError("it ends too early")
        return np.frombuffer(self._data, kind, count, start)
