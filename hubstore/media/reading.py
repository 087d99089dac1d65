"""Images and audio on their way to the model: read, decoded and processed by other processes, ahead of need."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, groupby
from multiprocessing.connection import wait
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa
import torch

from hubstore.corpus import Media
from hubstore.errors import CorpusError, CorpusUnreachableError, HubstoreError
from hubstore.media.decode import open_audio, open_image
from hubstore.media.previews import clip, thumbnail
from hubstore.media.processor import MediaInputs, MediaReader
from hubstore.media.shared_memory import SegmentWriter, SharedMemoryPool
from hubstore.system import starting_processes

T = TypeVar("T")

CHUNK: Final = 16
"""Items that a process reads at once; of each process, three such chunks are in memory."""

MOST_PROCESSES: Final = 16

RESERVED_CORES: Final = 2
"""Cores that are left to the process that runs the model."""

PORTION_BYTES: Final = 32 << 20
"""Of encoded files that a process is sent at once, unless one alone has more."""

STEPS_AHEAD: Final = 4
"""Steps without anything to read that are taken while others are read: into the next shard, hardly further."""

READ_HERE: Final = 256
"""Items that are read here before other processes are started: it takes as long to start them."""


@dataclass(frozen=True)
class MediaTask:
    """How items are read.

    Args:
        readers: by modality.
        template: the prompt around a medium.
        previews: whether to make a thumbnail or a clip of each.
    """

    readers: Mapping[str, MediaReader]
    template: str
    previews: bool = False


@dataclass(frozen=True)
class ReadItem:
    """One image or audio clip, read; or what is wrong with it.

    An error here is of the item itself, which may be left out for it. What would meet other items too, or would not
    meet this one another time, is raised instead.
    """

    inputs: MediaInputs | None = None
    preview: bytes | None = None
    error: CorpusError | None = None


def read_item(task: MediaTask, modality: str, media: Media, text: str, name: str) -> ReadItem:
    """Decode a medium and make the model's arguments of it.

    Args:
        task: how.
        modality: "image" or "audio".
        media: what to decode.
        text: beside it.
        name: the item's id, for messages.

    Raises:
        CorpusUnreachableError: it cannot be read now, and may be later.
        HubstoreError: it cannot be read here: a package is missing, or memory.
    """
    reader = task.readers[modality]
    preview = None
    try:
        if modality == "image":
            image = open_image(media)
            preview = thumbnail(image) if task.previews else None
            return ReadItem(reader.read(image, task.template, text), preview)
        samples = open_audio(media, reader.rate)
        preview = clip(samples, reader.rate) if task.previews else None
        return ReadItem(reader.read(samples, task.template, text), preview)
    except HubstoreError as error:
        if isinstance(error, CorpusError) and not isinstance(error, CorpusUnreachableError):
            return ReadItem(error=error)
        raise
    except MemoryError as error:
        raise CorpusUnreachableError(
            f"item {name!r}: memory did not suffice to read {media.name}; free some, or read with fewer processes "
            "(--readers), and run the same command again: what was committed stays"
        ) from error
    except (ValueError, RuntimeError, IndexError, TypeError) as error:  # a processor that cannot take this medium
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return ReadItem(error=CorpusError(f"{media.name} cannot be made into the model's input: {why}; leave it out"))


def read_rows(task: MediaTask, rows: Sequence[Mapping[str, Any]]) -> list[ReadItem]:
    """Read items given as rows of ITEM_SCHEMA."""
    return [read_item(task, row["modality"], Media(row["media"], row["data"]), row["text"], row["id"]) for row in rows]


class MediaFeed:
    """Reads items in order, with other processes where there are any.

    Args:
        task: how.
        processes: beside this one; 0 to read here.
    """

    def __init__(self, task: MediaTask, processes: int) -> None:
        self._task = task
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._shared = SharedMemoryPool()
        self._seen = 0

    def __enter__(self) -> MediaFeed:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._shared.close()

    def expect(self, items: int) -> None:
        """Say how many items there will be: processes for many start while the first are read here."""
        if self._processes and items > READ_HERE and self._pool is None:
            with (
                _starting(),
                contextlib.suppress(BrokenProcessPool),
            ):  # which is met again, by items, when they are read
                for _ in range(self._processes):
                    self._started().submit(_ready)

    def read(self, tables: Iterable[pa.Table], expected: int = 0) -> Iterator[ReadItem]:
        """Each item of the tables, in order; the tables are taken as there is room for them.

        Args:
            tables: rows of ITEM_SCHEMA.
            expected: how many items there will be.
        """
        self.expect(expected)
        for _, read in self.follow((None, table) for table in tables):
            yield from read

    def follow(self, steps: Iterable[tuple[T, pa.Table | None]]) -> Iterator[tuple[T, Iterable[ReadItem]]]:
        """Each step with the items of its table, in order; steps are taken ahead of need while tables are read.

        Args:
            steps: anything, and rows of ITEM_SCHEMA where there are some to read.
        """
        waiting: deque[_Waiting[T]] = deque()
        for step, table in steps:
            waiting.append(self._begun(step, table))
            away = sum(len(one.away) for one in waiting)
            empty = sum(not one.away for one in waiting)
            while waiting and (not waiting[0].away or away > 3 * self._processes or empty > STEPS_AHEAD):
                first = waiting.popleft()
                away -= len(first.away)
                empty -= not first.away
                yield first.step, self._items(first)
        for first in waiting:
            yield first.step, self._items(first)

    def _begun(self, step: T, table: pa.Table | None) -> _Waiting[T]:
        if table is None:
            return _Waiting(step)
        self._seen += len(table)
        if not self._processes or self._seen <= READ_HERE:
            return _Waiting(step, read_rows(self._task, table.to_pylist()))
        return _Waiting(step, away=[self._sent(portion) for portion in _portions(table)])

    def _items(self, begun: _Waiting[T]) -> Iterable[ReadItem]:
        return begun.read if not begun.away else chain.from_iterable(map(self._received, begun.away))

    def _sent(self, table: pa.Table) -> _Away:
        (rows,) = table.combine_chunks().to_batches()
        request, segment = rows.serialize(), self._shared.take()
        self._shared.send(segment, request)
        first = rows.column("id")[0].as_py()
        with _killed(first), _starting():
            return _Away(segment, self._started().submit(_read, segment, request.size, table.schema), first)

    def _received(self, away: _Away) -> Iterator[ReadItem]:
        with _killed(away.first):
            packed = away.read.result()
        memory = self._shared.received(away.segment)
        tensors = chain.from_iterable(stack.items(memory) for stack in packed.stacks)
        for item in packed.items:
            yield item if item.inputs is None else replace(item, inputs=replace(item.inputs, tensors=next(tensors)))

    def _started(self) -> ProcessPoolExecutor:
        """The processes: copies of one that has imported what they need, and knows nothing of a GPU."""
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["__main__", __name__, *_modules(self._task)])
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=_begin, initargs=(self._task,))
        return self._pool


def _starting() -> contextlib.AbstractContextManager[None]:
    return starting_processes("read images and audio without (--readers 0)")


@contextlib.contextmanager
def _killed(first: str) -> Iterator[None]:
    """Say what has happened where a reading process ended that was not asked to."""
    try:
        yield
    except BrokenProcessPool:
        raise CorpusUnreachableError(
            f"items from {first!r} on: a process that read them was killed, as the system does with the largest where "
            "memory runs out, or crashed in decoding one; free memory, or read with fewer processes (--readers 1, or 0 "
            "for none), and run the same command again: what was committed stays"
        ) from None


def processes_for(device: torch.device, requested: int | None) -> int:
    """Processes that read media beside the model: none on a CPU, which the model keeps busy by itself."""
    if requested is not None:
        return requested
    return 0 if device.type == "cpu" else max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) - RESERVED_CORES))


def _modules(task: MediaTask) -> list[str]:
    """What reading needs to have imported: each process would take seconds to do it by itself."""
    parts = ("image_processor", "feature_extractor", "audio_processor", "tokenizer")
    processors = [reader.processor for reader in task.readers.values()]
    classes = {type(part) for one in processors for part in (one, *(getattr(one, name, None) for name in parts))}
    return ["hubstore.media.resize", *sorted(one.__module__ for one in classes if one is not type(None))]


@dataclass(frozen=True)
class _Stack:
    """Items one after the other whose tensors have the same names, dtypes and shapes: each name's lie end to end.

    Args:
        count: of items.
        tensors: name, dtype, shape of one item's, and the first byte in the segment of memory.
    """

    count: int
    tensors: tuple[tuple[str, torch.dtype, torch.Size, int], ...]

    def items(self, memory: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        """The tensors of each item, in few calls: torch hands the interpreter to another thread at every one."""
        columns = []
        for name, dtype, shape, start in self.tensors:
            laid = memory[start : start + self.count * dtype.itemsize * shape.numel()].view(dtype)
            columns.append([(name, tensor) for tensor in laid.view(self.count, *shape).unbind()])
        return (dict(of_item) for of_item in zip(*columns, strict=True))


@dataclass(frozen=True)
class _Away:
    """A table at a process: the segment of memory that it lies in, what will come of it, and its first item's id."""

    segment: int
    read: Future[_Packed]
    first: str


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    """A step that was taken, and what was read of its table here, or the portions that processes read."""

    step: T
    read: Sequence[ReadItem] = ()
    away: Sequence[_Away] = ()


def _portions(table: pa.Table) -> list[pa.Table]:
    """A table in parts of not too many bytes: segments of memory that have grown stay as large."""
    if len(table) == 1 or table.nbytes <= PORTION_BYTES:
        return [table]
    half = len(table) // 2
    return _portions(table[:half]) + _portions(table[half:])


@dataclass(frozen=True)
class _Packed:
    """Read items without their tensors, and where these lie in a segment of memory."""

    items: list[ReadItem]
    stacks: list[_Stack]


_task: MediaTask
_writer: SegmentWriter


def _begin(task: MediaTask) -> None:
    """A reading process: one thread, which ignores Ctrl-C and ends with the process that it reads for."""
    global _task, _writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    _task, _writer = task, SegmentWriter(parent.pid)
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)


def _ready() -> None:
    """Nothing: a process that has done it has started."""


def _read(segment: int, size: int, schema: pa.Schema) -> _Packed:
    items = read_rows(_task, pa.ipc.read_record_batch(_writer.request(segment, size), schema).to_pylist())
    named = [item.inputs.tensors for item in items if item.inputs]
    same_shape = [list(run) for _, run in groupby(named, _shapes)]
    starts = iter(_writer.write(segment, [[of[name] for of in run] for run in same_shape for name in run[0]]))
    stacks = [_Stack(len(run), tuple((*shape, next(starts)) for shape in _shapes(run[0]))) for run in same_shape]
    bare = [replace(item, inputs=replace(item.inputs, tensors={})) if item.inputs else item for item in items]
    return _Packed(bare, stacks)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.dtype, torch.Size]]:
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
