"""Building a file of lists in bounded memory: codes go to the disk in runs sorted by list, which are then merged.

A run is whole or not there. A build that was killed goes on from the runs and the training that it finds, where they
are of the same rows and settings and as they were written; the file that it writes is the same to the byte. What is
found may be a stranger's: it is checked as the lists of an index are, and made again where it is none of a build's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import IndexingError
from hubstore.files import write_all
from hubstore.index import kinds
from hubstore.index.clustering import Centroids
from hubstore.index.exact import LayerRows
from hubstore.index.library import faiss
from hubstore.index.listfile import Codes, ListFile, index_core
from hubstore.index.listtable import BLOCK_ROWS, Numbers
from hubstore.index.rows import Vectors, centered, rotated
from hubstore.storage import Buffer, crc32c
from hubstore.storage.interface import PARTIAL
from hubstore.system import reason, remedy

RUN_BYTES = 128 << 20
"""Of codes and ids in a run, and so in memory."""

ROWS_AT_ONCE = 8192

PREFIX = ".index.build"

LOCK = f"{PREFIX}.lock{PARTIAL}"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Training:
    """What codes are made by.

    Args:
        mean: float32 [width], of the unit rows.
        rotation: float32 [width, width], of centered rows.
        centroids: float32 [lists, width], of rotated ones.
        bits: of an element's code.
    """

    mean: Vectors
    rotation: Vectors
    centroids: Vectors
    bits: int


@dataclass(frozen=True)
class Workspace:
    """A folder for the runs of one build; only one process has it.

    Args:
        folder: on the store's own disk, if it has one.
        key: of the rows and settings: what was left by another build is not used.
    """

    folder: Path
    key: str

    def training(self, make: Callable[[], Training], lists: int, width: int) -> Training:
        """What an earlier attempt was trained to, or `make()`: of so many lists, and rows of this width."""
        path = self._path("trained")
        found = self._left(path, lambda data: _training(data, lists, width))
        if found is None:
            found = make()
            arrays = (found.mean, found.rotation, found.centroids)
            self._write(path, *map(_bytes, arrays), bytes([found.bits]))
        return found

    def run(self, start: int, stop: int, make: Callable[[], tuple[Numbers, Codes]], core: Any) -> _Run:
        """The run of rows [start, stop), which `make` gives the lists and codes of in their order."""
        path, rows = self._path(f"run-{start}-{stop}"), range(start, stop)
        found = self._left(path, lambda data: _Run.of(data, rows, core))
        if found is None:
            lists, codes = make()
            order = np.argsort(lists, kind="stable")
            self._write(path, *(_bytes(one) for one in (lists[order], start + order, codes[order])))
            found = self._left(path, lambda data: _Run.of(data, rows, core))
        if found is None:
            raise IndexingError(f"{path} is not what was written a moment ago; check the disk")
        return found

    def clear(self) -> None:
        """Remove what the build left, and what other builds did; the lock stays, as long as it is held."""
        for path in set(self.folder.glob(f"{PREFIX}.*{PARTIAL}")) - {self.folder / LOCK}:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{PREFIX}.{self.key}.{name}{PARTIAL}"

    def _left(self, path: Path, read: Callable[[Codes], T | None]) -> T | None:
        """What `read` makes of an earlier attempt's file, mapped; None where it is not as an attempt leaves it."""
        try:
            with open(path, "rb", opener=_own_file) as file:
                data = np.memmap(file, np.uint8, mode="r")
        except (OSError, ValueError, IndexingError):  # none, an empty one, or no file of a build's
            return None
        content, checksum = data[:-4], data[-4:].tobytes()
        return read(content) if crc32c(content).to_bytes(4, "little") == checksum else None

    def _write(self, path: Path, *buffers: Buffer) -> None:
        written = path.with_name(f"{PREFIX}.written{PARTIAL}")
        try:
            with open(written, "wb", buffering=0, opener=_own_file) as file:
                for buffer in (*buffers, crc32c(*buffers).to_bytes(4, "little")):
                    write_all(file.fileno(), buffer)
                os.fsync(file.fileno())
            written.replace(path)
        except OSError as error:
            raise IndexingError(
                f"{path.parent}: the index could not be built there ({reason(error)}); {remedy(error)} and run the "
                "same command again: it goes on from what it has"
            ) from error


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


@contextlib.contextmanager
def workspace(folder: Path | None, settings: dict[str, Any], name: str) -> Iterator[Workspace]:
    """The workspace of a build; of one that ends well nothing is left.

    Args:
        folder: of the index; None for a temporary one, from which no later build goes on.
        settings: what the runs depend on.
        name: of the layer, for messages.

    Raises:
        IndexingError: another process builds there.
    """
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Workspace(Path(temporary), key)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK, name):
        found = Workspace(folder, key)
        yield found
        found.clear()
        (folder / LOCK).unlink(missing_ok=True)  # last: whoever makes another one finds nothing of this build


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of a file, and no other than the one that has its name."""
    while True:
        with open(path, "wb", opener=_own_file) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise IndexingError(
                    f"{name} is being indexed by another process; wait until it ends, then run the same command again"
                ) from None
            if not os.fstat(lock.fileno()).st_nlink:  # its holder removed it after it was opened here
                continue
            yield
            return


def _own_file(path: str, flags: int) -> int:
    """Open a file as a build makes them: what else a stranger's store has there is neither followed nor waited for."""
    if os.path.islink(path):
        raise IndexingError(f"{path} is a link, which no build makes; remove it")
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe that nobody reads
            raise
        raise IndexingError(f"{path} is a pipe, which no build makes; remove it") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise IndexingError(f"{path} is no regular file, and no build makes another; remove it")


def _training(data: Codes, lists: int, width: int) -> Training | None:
    if len(data) != 4 * width * (1 + width + lists) + 1:
        return None
    values = data[:-1].view(np.float32).reshape(-1, width)
    mean, rotation, centroids = (one.copy() for one in np.split(values, [1, 1 + width]))
    bits = int(data[-1])
    return (
        Training(mean[0], rotation, centroids, bits)
        if np.isfinite(values).all() and bits == kinds.RABITQ_BITS
        else None
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """Rows sorted by list: lists and ids int64 [n], codes uint8 [n, code size], all mapped."""

    lists: Numbers
    ids: Numbers
    codes: Codes

    @classmethod
    def of(cls, data: Codes, rows: range, core: Any) -> _Run | None:
        """The run of these rows that some bytes are, or None."""
        count = len(rows)
        if len(data) != count * (16 + core.code_size):
            return None
        lists, ids = data[: 8 * count].view(np.int64), data[8 * count : 16 * count].view(np.int64)
        # By list, and within a list ascending, as its ids are when it is read: so each is there once.
        ordered = np.all((np.diff(lists) > 0) | ((np.diff(lists) == 0) & (np.diff(ids) > 0)))
        if not ordered or not 0 <= lists[0] <= lists[-1] < core.nlist or not np.array_equal(np.sort(ids), rows):
            return None
        return cls(lists, ids, data[16 * count :].reshape(count, core.code_size))


class Lists:
    """The lists that a file is to hold, from the runs and, where an index grows, from the file that it had.

    Args:
        core: from `index_core`.
        runs: in the order of their rows.
        older: the index that grows.
    """

    def __init__(self, core: Any, runs: list[_Run], older: ListFile | None = None) -> None:
        self._packer, self._code_size, self._older = core.get_CodePacker(), core.code_size, older
        numbers = np.arange(core.nlist + 1)
        self._parts = [(run, np.searchsorted(run.lists, numbers)) for run in runs]
        self.sizes: Numbers = sum((np.diff(bounds) for _, bounds in self._parts), np.zeros(core.nlist, np.int64))
        if older is not None:
            self.sizes = self.sizes + older.sizes

    def blocks(self, number: int) -> tuple[Codes, Numbers]:
        """A list's codes in blocks, as FAISS packs them, and its ids, ascending."""
        parts = [(run, slice(bounds[number], bounds[number + 1])) for run, bounds in self._parts]
        codes = [run.codes[part] for run, part in parts]
        ids = [run.ids[part] for run, part in parts]
        whole = np.empty((0, self._packer.block_size), np.uint8)
        if self._older is not None:
            before, older_ids = self._older.content(number)
            kept = len(older_ids) // BLOCK_ROWS
            whole = before[:kept]
            codes.insert(0, self._unpacked(before[kept:], len(older_ids) % BLOCK_ROWS))
            ids.insert(0, older_ids)
        return np.concatenate([whole, self._packed(np.concatenate(codes))]), np.concatenate(ids)

    def _packed(self, codes: Codes) -> Codes:
        """[n, code size] in blocks [ceil(n / 32), block bytes], the last filled up with zeros."""
        blocks = np.zeros((-(-len(codes) // BLOCK_ROWS), self._packer.block_size), np.uint8)
        padded = np.zeros((len(blocks) * BLOCK_ROWS, self._code_size), np.uint8)
        padded[: len(codes)] = codes
        for number, block in enumerate(blocks):
            self._packer.pack_all(faiss().swig_ptr(padded[number * BLOCK_ROWS :]), faiss().swig_ptr(block))
        return blocks

    def _unpacked(self, block: Codes, rows: int) -> Codes:
        """The codes [rows, code size] at the beginning of one block, or of none."""
        codes = [self._packer.unpack_1(np.ascontiguousarray(block), row) for row in range(rows)]
        return np.stack(codes) if codes else np.empty((0, self._code_size), np.uint8)


def encoded_runs(
    place: Workspace,
    training: Training,
    states: LayerRows,
    name: str,
    device: torch.device,
    progress: Callable[[int], object],
    first: int = 0,
) -> tuple[Any, list[_Run]]:
    """The index without lists, and the runs of a layer's rows from `first` on, those made that are missing.

    Args:
        place: where the runs are.
        training: what codes are made by.
        states: the layer's rows.
        name: of the layer, for messages.
        device: where rows are assigned to lists.
        progress: called with the rows that are done.
        first: the first row that is not indexed yet.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    core = index_core(training.centroids, training.bits, len(states))
    centroids = Centroids(training.centroids, device)
    run_rows = max(1, RUN_BYTES // (core.code_size + 16) // ROWS_AT_ONCE) * ROWS_AT_ONCE

    def encode(start: int, stop: int) -> tuple[Numbers, Codes]:
        lists, codes = np.empty(stop - start, np.int64), np.empty((stop - start, core.code_size), np.uint8)
        for at in range(start, stop, ROWS_AT_ONCE):
            block = slice(at - start, min(at + ROWS_AT_ONCE, stop) - start)
            rows = states.read(at, min(at + ROWS_AT_ONCE, stop))
            vectors = rotated(centered(rows, training.mean, name, at), training.rotation)
            lists[block] = centroids.nearest(vectors)
            core.encode_vectors(len(vectors), *map(faiss().swig_ptr, (vectors, lists[block], codes[block])))
            progress(at + len(vectors))
        return lists, codes

    runs = []
    for start in range(first, len(states), run_rows):
        stop = min(start + run_rows, len(states))
        runs.append(place.run(start, stop, partial(encode, start, stop), core))
        progress(stop)
    return core, runs
