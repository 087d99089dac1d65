"""SIGTERM, with which a batch system or a cloud announces that it takes the machine away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: start the same command again."""


@contextlib.contextmanager
def stop_on_sigterm(*, handled: bool = True) -> Iterator[Callable[[], bool]]:
    """What tells whether SIGTERM came; a second one ends the process at once.

    Args:
        handled: False where the first one is to end it already.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if not handled or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
