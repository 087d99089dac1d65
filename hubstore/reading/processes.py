"""Work in other processes, ahead of need: each has the work's state from its start, and no lock with this one.

One process imports and unpickles what the work needs, and becomes as many as are asked for: memory is shared between
them until it is written to. They import nothing of the caller's main module. Requests and answers travel through shared
memory; a socket for each process says where they lie, and its end says that the process has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import spawn
from multiprocessing.connection import wait
from typing import Any, Final

from hubstore.errors import CorpusUnreachableError, HubstoreError, ReadingWarning, ResourceError
from hubstore.reading.shared_memory import Segment

AHEAD: Final = 3
"""Jobs of each process that are sent and not yet asked for."""

MESSAGE_BYTES: Final = 1 << 16

SECONDS_TO_END: Final = 2.0
"""What the processes have to end what they are at before they are killed."""

SINGLE_THREADED: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

Work = Mapping[str, Callable[..., Any]]
"""Functions by name, which can be pickled with all that they hold."""


@dataclass(eq=False)
class Job:
    """A call of one of the work's functions.

    Args:
        name: of the function.
        arguments: makes its arguments, when the call is about to be made.
        first: gives the id of the first item that it is about, for messages.
        pool: whose it is.
    """

    name: str
    arguments: Callable[[], Sequence[Any]]
    first: Callable[[], str]
    pool: ReadingProcesses
    segment: Segment | None = None
    answer: tuple[bool, Any] | None = None

    def result(self) -> Any:
        """What the call gives, or raises; the arrays in it lie over memory that is used again when they are gone."""
        return self.pool.result_of(self)


@dataclass(eq=False)
class _Process:
    """The socket to a process, and the jobs that it has, in order."""

    socket: socket.socket
    ready: bool = False
    jobs: deque[Job] = field(default_factory=deque)


class Nursery:
    """A process that becomes those that read. It may be started before it is known what they are to do.

    Args:
        process: which.
        control: the socket through which it is given the work.
        ends: sockets to the processes that it becomes.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, ends: Sequence[socket.socket]) -> None:
        self._process = process
        self._control = control
        self._ends = ends
        self.unused = True

    @classmethod
    def start(cls, processes: int, modules: Sequence[str] = ()) -> Nursery:
        """Start the process that becomes so many; nothing waits for it.

        Args:
            processes: how many.
            modules: what it imports meanwhile; what cannot be imported is left to the work.

        Raises:
            OSError: the system has no more processes, or no memory for one.
        """
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(processes + 1)]
            ends = [stack.enter_context(child_end).fileno() for _, child_end in pairs]
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import nurse; "
            process = subprocess.Popen(
                [spawn.get_executable(), "-c", f"{code}nurse({tuple(modules)!r}, {ends!r})"],
                stdin=subprocess.DEVNULL,
                pass_fds=ends,
                env={**os.environ, **dict.fromkeys(SINGLE_THREADED, "1"), "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # Ctrl-C reaches the caller alone, which ends them
            )
        control, *others = (parent_end for parent_end, _ in pairs)
        return cls(process, control, others)

    @property
    def processes(self) -> int:
        """How many it becomes."""
        return len(self._ends)

    def begin(self, work: Work) -> Sequence[socket.socket]:
        """Give it the work; the sockets to the processes that it becomes."""
        self.unused = False
        segment = Segment.make()
        try:
            socket.send_fds(self._control, [pickle.dumps(segment.write(work))], [segment.descriptor])
        finally:
            segment.close()
        return self._ends

    def close(self, seconds: float = 0) -> None:
        """End it and what it became, after they had so many seconds to end by themselves."""
        for end in (self._control, *self._ends):
            end.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class ReadingProcesses:
    """Makes calls in other processes, or here while there are none.

    Args:
        work: the functions.
        processes: how many there are to be; 0 for none.
        nursery: what becomes them, where it was started before; used once.
    """

    def __init__(self, work: Work, processes: int, nursery: Nursery | None = None) -> None:
        self.processes = processes
        self._work = work
        self._given = nursery
        self._nursery: Nursery | None = None
        self._started: list[_Process] = []
        self._segments: list[Segment] = []
        self._free: deque[Segment] = deque()
        self._waiting: deque[Job] = deque()
        self._sent = 0

    def __enter__(self) -> ReadingProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def started(self) -> bool:
        """Whether there are processes, or will soon be."""
        return bool(self._started)

    def start(self) -> None:
        """Start the processes; nothing waits for them. Where they cannot be started, a warning says why."""
        if not self.processes or self._nursery is not None:
            return
        try:
            self._start()
        except Exception as error:  # a system without processes or memory for them, or work that cannot be pickled
            self._go_on_without(f"{type(error).__name__}: {error}")

    def _start(self) -> None:
        given = self._given if self._given is not None and self._given.unused else None
        self._nursery = given or Nursery.start(self.processes)
        self._started = [_Process(end) for end in self._nursery.begin(self._work)]

    def _go_on_without(self, why: str) -> None:
        message = f"items are prepared in this process, more slowly, as others cannot be started ({why})"
        warnings.warn(message, ReadingWarning, stacklevel=3)
        for process in self._started:
            process.socket.close()
        self.processes, self._started = 0, []

    def submit(self, name: str, arguments: Callable[[], Sequence[Any]], first: Callable[[], str]) -> Job:
        """A job that is done as soon as there is room for it; results are best asked for in the order of their jobs."""
        job = Job(name, arguments, first, self)
        self._waiting.append(job)
        self._send_waiting()
        return job

    def result_of(self, job: Job) -> Any:
        """See `Job.result`."""
        self._receive(0)
        if job.segment is None and job.answer is None:
            self._waiting.remove(job)
            if not self.ready:
                return self._work[job.name](*job.arguments())
            self._send(job)
        while job.answer is None:
            self._receive(None)
        (done, value), job.answer, job.segment = job.answer, None, None
        self._sent -= 1
        self._send_waiting()
        if not done:
            raise value
        return value

    @property
    def ready(self) -> bool:
        """Whether there are processes to make calls in."""
        return bool(self._ready())

    def wait(self) -> None:
        """Wait until all processes are there, or none will be."""
        while len(self._ready()) < len(self._started):
            self._receive(None)

    def _ready(self) -> list[_Process]:
        return [process for process in self._started if process.ready]

    def _send_waiting(self) -> None:
        while self._waiting and self._sent < AHEAD * len(self._ready()):
            self._send(self._waiting.popleft())

    def _send(self, job: Job) -> None:
        """To the process that has least to do."""
        process = min(self._ready(), key=lambda one: len(one.jobs))
        arguments = job.arguments()  # what fails here is about the items, not about memory
        try:
            job.segment = self._free.pop() if self._free else self._new_segment()
            sizes = job.segment.write(arguments)
        except (OSError, MemoryError) as error:
            raise ResourceError(
                f"items from {job.first()!r} on cannot be given to another process ({error}); free memory, or prepare "
                "with fewer processes (--readers), and run the same command again: what was committed stays"
            ) from error
        message = pickle.dumps((job.name, self._segments.index(job.segment), sizes))
        process.jobs.append(job)
        self._sent += 1
        try:
            socket.send_fds(process.socket, [message], [job.segment.descriptor])
        except OSError:
            self._ended(process)

    def _new_segment(self) -> Segment:
        self._segments.append(Segment.make())
        return self._segments[-1]

    def _receive(self, timeout: float | None) -> None:
        """Take what processes have sent by now, or wait until one has."""
        by_socket = {process.socket: process for process in self._started}
        for ready in wait(by_socket, timeout) if by_socket else ():
            process = by_socket[ready]  # type: ignore[index]
            try:
                message = process.socket.recv(MESSAGE_BYTES)
            except OSError:
                message = b""
            if not message:
                self._ended(process)
                continue
            said = pickle.loads(message)
            if isinstance(said, str):
                self._go_on_without(said)
                return
            if not process.ready:
                process.ready = True
                continue
            job = process.jobs.popleft()
            assert job.segment is not None
            job.answer = job.segment.read(said, self._free)

    def _ended(self, process: _Process) -> None:
        """A process is gone; one that had nothing to do is not missed."""
        self._started.remove(process)
        process.socket.close()
        if process.jobs:
            raise CorpusUnreachableError(
                f"items from {process.jobs[0].first()!r} on: a process that read them was killed, as the system does "
                "with the largest where memory runs out, or crashed in reading one; free memory, or read with fewer "
                "processes (--readers 1, or 0 for none), and run the same command again: what was committed stays"
            )
        if not self._started:
            self._go_on_without("they ended by themselves")

    def close(self) -> None:
        """End the processes; results that were given stay as they are."""
        idle = bool(self._ready()) and not any(process.jobs for process in self._started)
        for process in self._started:
            process.socket.close()
        if self._nursery is not None:
            self._nursery.close(SECONDS_TO_END if idle else 0)
        for segment in self._segments:
            segment.close()
        self._started, self._segments, self._waiting = [], [], deque()
        self._free.clear()


def nurse(modules: Sequence[str], ends: Sequence[int]) -> None:
    """The process that becomes the others: import, take the work, unpickle it once, then one process for each socket.

    Args:
        modules: what to import.
        ends: of the socket that the work comes through, and of one for each process.
    """
    control, *sockets = (socket.socket(fileno=end) for end in ends)
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
    control.close()
    if not message:  # the caller is gone, or has no work
        return
    try:
        work = Segment(descriptors[0]).read(pickle.loads(message))
    except BaseException as error:
        message = pickle.dumps(f"{type(error).__name__}: {error}"[:1000])
        for end in sockets:
            with contextlib.suppress(OSError):
                end.send(message)
        return
    gc.collect()
    gc.freeze()  # what all share is not touched by each one's collector
    for end in sockets:
        if not os.fork():
            for other in sockets:
                if other is not end:
                    other.close()
            with contextlib.suppress(OSError):  # the caller is gone
                _answer(end, work)
            os._exit(0)
    for end in sockets:
        end.close()
    for _ in sockets:
        os.wait()


def _answer(end: socket.socket, work: Work) -> None:
    """Make the calls that are asked for, until nobody asks any more."""
    segments: dict[int, Segment] = {}
    end.send(pickle.dumps(True))
    while True:
        message, descriptors, _, _ = socket.recv_fds(end, MESSAGE_BYTES, 1)
        if not message:
            return
        name, number, sizes = pickle.loads(message)
        if number in segments:
            os.close(descriptors[0])
        segment = segments.setdefault(number, Segment(descriptors[0]))
        try:
            sizes = segment.write((True, work[name](*segment.read(sizes))))
        except BaseException as error:
            sizes = segment.write((False, _portable(error)))
        end.send(pickle.dumps(sizes))


def _portable(error: BaseException) -> BaseException:
    """The error as it can be raised in the process that asked; with where it came from, where it is none of ours."""
    if not isinstance(error, HubstoreError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
