"""An IVF index whose lists stay in their file: opening it reads its head, and a search the lists that it visits.

    head    what FAISS's `write_index` makes of the index with `OnDiskInvertedLists`: the transforms, the centroids, and
            for each list its rows, the rows that it has room for, and where in the file it is
    lists   each its codes, in blocks of 32 rows, then the ids of as many rows, int64
    tail    CRC32C of each list, uint32; where rows are less their partition's mean, those means, float64

The description has the checksum of head and tail together, by which they are checked when the index is opened. A list
is checked when it is first visited, against the tail and for ids that are no rows of the store or do not ascend.
Nothing that FAISS reads is unchecked, and a flipped byte is found by the first search that would have read it, or by
`hubstore verify`. That no two lists have a row in common only `hubstore verify` checks; a search gives such a row once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from hubstore.index.allowed import Allowed
from hubstore.index.library import faiss
from hubstore.index.listtable import BLOCK_ROWS, ListTable, Numbers
from hubstore.index.rows import Vectors, wrap
from hubstore.index.scan import Scan, scannable
from hubstore.index.validate import Head
from hubstore.storage import FileRecord
from hubstore.storage.prefetch import of_descriptor, prefetch
from hubstore.store.layout import FAISS

Codes = npt.NDArray[np.uint8]


class ChangedListError(Exception):
    """A list is not as it was written; the message says which."""


def index_core(centroids: Vectors, bits: int, rows: int) -> Any:
    """An IVF index of RaBitQ codes that has its centroids [lists, width], counts `rows`, and has no list."""
    lists, width = centroids.shape
    core = faiss().index_factory(width, f"IVF{lists},RaBitQfs{bits}", faiss().METRIC_L2)
    core.quantizer.add(centroids)
    core.is_trained = True
    core.ntotal = rows
    return core


def write_list_file(
    write: Callable[[bytes], object],
    core: Any,
    transforms: tuple[Vectors, Vectors],
    sizes: Numbers,
    means: npt.NDArray[np.float64],
    blocks: Callable[[int], tuple[Codes, Numbers]],
) -> FileRecord:
    """Write the file piece by piece, one list in memory at a time; the record of its head and tail.

    Args:
        write: takes the next bytes.
        core: from `index_core`.
        transforms: the mean [width] of the unit rows, and the rotation [width, width] of centered ones.
        sizes: int64 [lists], rows of each list.
        means: float64 [partitions, width], which are removed from their rows.
        blocks: gives a list's codes as they lie in the file, and its ids.
    """
    table = ListTable(sizes, core.code_size, len(_head(core, transforms, ListTable(sizes, core.code_size, 0), 0)))
    size = table.stop + 4 * len(sizes) + means.nbytes
    head = _head(core, transforms, table, size)
    write(head)
    at, checksums = len(head), np.zeros(len(sizes), "<u4")
    for number, (offset, capacity) in enumerate(zip(table.offsets.tolist(), table.capacities.tolist(), strict=True)):
        codes, ids = blocks(number)
        padded = np.zeros(capacity, "<i8")
        padded[: len(ids)] = ids
        content = codes.tobytes() + padded.tobytes()
        if content:
            write(bytes(offset - at))
            write(content)
            at = offset + len(content)
        checksums[number] = google_crc32c.value(content)
    tail = checksums.tobytes() + means.astype("<f8").tobytes()
    write(tail)
    return FileRecord.of(head, tail)


def _head(core: Any, transforms: tuple[Vectors, Vectors], table: ListTable, size: int) -> bytes:
    lists = _on_disk(table, FAISS, size)
    own = core.invlists, core.own_invlists
    core.own_invlists = False
    core.replace_invlists(lists, False)
    try:
        made: bytes = faiss().serialize_index(wrap(core, *transforms)).tobytes()
        return made
    finally:
        core.replace_invlists(own[0], own[1])


def _on_disk(table: ListTable, name: str, size: int) -> Any:
    """FAISS's inverted lists in a file of `size` bytes, which is not opened yet."""
    lists = faiss().OnDiskInvertedLists()
    lists.nlist, lists.code_size = len(table.sizes), table.code_size
    lists.filename, lists.totsize, lists.read_only = name, size, True
    lists.prefetch_nthread = 0
    one = faiss().OnDiskOneList()
    places = zip(table.sizes.tolist(), table.capacities.tolist(), table.offsets.tolist(), strict=True)
    for one.size, one.capacity, one.offset in places:
        lists.lists.push_back(one)
    return lists


class ListFile:
    """The index in an open file. Several threads may search it.

    Args:
        path: the file, whose head and tail are checked.
        head: what they hold.
        rows: of the store; ids are below.
    """

    def __init__(self, path: Path, head: Head, rows: int) -> None:
        self._head, self._table, self._rows = head, head.table, rows
        self._checked = np.zeros(len(head.table.sizes), np.bool_)
        self._core = index_core(head.centroids, head.bits, rows)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._size = os.fstat(self._descriptor).st_size
            name = f"/dev/fd/{self._descriptor}"  # this very file, whatever is renamed over it meanwhile
            self._lists = _on_disk(head.table, name, self._size)
            self._lists.do_mmap()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._core.replace_invlists(self._lists, False)
        self._bytes: Codes = faiss().rev_swig_ptr(self._lists.ptr, self._size)
        scanned = scannable(head.bits, head.centroids.shape[1])
        self._scan = Scan(self._bytes, head.table, head.centroids) if scanned else None

    def __del__(self) -> None:
        """Close the file; FAISS unmaps it."""
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def head(self) -> Head:
        """What is before and after the lists."""
        return self._head

    @property
    def sizes(self) -> Numbers:
        """int64 [lists], rows of each."""
        return self._table.sizes

    def content(self, number: int) -> tuple[Codes, Numbers]:
        """A list's blocks [n, block bytes] and its ids; ChangedListError where it is not as it was written."""
        ids = self._check(number)
        start, block = int(self._table.offsets[number]), BLOCK_ROWS * self._table.code_size
        count = int(self._table.capacities[number]) // BLOCK_ROWS
        return self._bytes[start : start + count * block].reshape(count, block), ids

    def search(self, queries: Vectors, count: int, nprobe: int, allowed: Allowed | None = None) -> Numbers:
        """The positions [q, count], each once, nearest by codes in the `nprobe` nearest lists of each query; -1 for
        fewer.

        Args:
            queries: float32 [q, width], rotated.
            count: for each.
            nprobe: lists.
            allowed: positions that may be found; all by default.

        Raises:
            ChangedListError: a list is not as it was written.
        """
        distances, lists = self._core.quantizer.search(queries, nprobe)
        self._load(np.unique(lists))
        bits = None if allowed is None else allowed.bits(self._rows)
        if self._scan is not None:
            return _each_once(self._scan.nearest(queries, lists, count, bits))
        return self._search_by_faiss(queries, count, distances, lists, bits)

    def _search_by_faiss(
        self, queries: Vectors, count: int, distances: Vectors, lists: Numbers, bits: Codes | None
    ) -> Numbers:
        selector, nprobe = None if bits is None else faiss().IDSelectorBitmap(bits), lists.shape[1]
        options = faiss().SearchParametersIVF(nprobe=nprobe, sel=selector)
        found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
        # FAISS's Python method of the name takes no options.
        arrays = (faiss().swig_ptr(one) for one in (queries, lists, distances, *found))
        self._core.search_preassigned_c(len(queries), next(arrays), count, *arrays, False, options)
        return _each_once(found[1])

    def check_all(self) -> None:
        """Check every list; ChangedListError for one that is not as it was written, or for rows that are not there."""
        seen = np.zeros(self._rows, np.bool_)
        for number in range(len(self._table.sizes)):
            seen[self._check(number)] = True
        if not seen.all():
            raise ChangedListError("its inverted lists do not hold every row once")

    def _load(self, visited: Numbers) -> None:
        """Have the lists read side by side, and check those that no search has visited before."""
        if os.fstat(self._descriptor).st_size != self._size:
            raise ChangedListError(f"it has no longer {self._size} bytes")
        starts = self._table.offsets[visited]
        prefetch(of_descriptor(self._descriptor), starts, starts + self._table.lengths[visited])
        for number in visited[~self._checked[visited]].tolist():
            self._check(number)
            self._checked[number] = True

    def _check(self, number: int) -> Numbers:
        """The ids of a list that is as it was written."""
        start, length = int(self._table.offsets[number]), int(self._table.lengths[number])
        content = self._bytes[start : start + length]
        if google_crc32c.value(content) != self._head.checksums[number]:
            raise ChangedListError(f"its list {number} does not match its checksum")
        size = int(self._table.sizes[number])
        ids = content[int(self._table.capacities[number]) * self._table.code_size :].view("<i8")[:size]
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._rows:
            raise ChangedListError("an inverted list names a row that is not there")
        if np.any(ids[1:] <= ids[:-1]):
            raise ChangedListError(f"the rows of its list {number} do not ascend")
        return ids


def _each_once(found: Numbers) -> Numbers:
    """[q, count] with -1 for each position that is among those before it, as lists of a stranger may give."""
    order = np.argsort(found, axis=1, kind="stable")
    ascending = np.take_along_axis(found, order, 1)
    query, place = np.nonzero(ascending[:, 1:] == ascending[:, :-1])
    found[query, order[query, place + 1]] = -1
    return found
