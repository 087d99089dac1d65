"""Progress in notebooks, where a cell that computes for minutes would say nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class Bar:
    """A bar that is drawn once there is something to count; every way that hubstore reports progress moves it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._drawn: Any = None

    def layers(self, done: int, total: int) -> None:
        """So many layers of so many."""
        self.named(self._what, done, total)

    def named(self, what: str, done: int, total: int) -> None:
        """So many steps of so many of something; another thing begins anew."""
        if self._drawn is None or self._drawn.total != total or what != self._what:
            self.close()
            self._what = what
            self._drawn = _tqdm()(total=total, desc=what, leave=False)
        self._drawn.update(done - self._drawn.n)

    def items(self, run: Any) -> None:
        """The items of an extraction, by its `Progress`."""
        self.named(self._what, run.items, run.total)

    def close(self) -> None:
        """Take the bar away."""
        if self._drawn is not None:
            self._drawn.close()
            self._drawn = None


@contextmanager
def bar(what: str) -> Iterator[Bar | None]:
    """A bar in a notebook; None elsewhere, where a program is not to be talked over."""
    if not in_notebook():
        yield None
        return
    drawn = Bar(what)
    try:
        yield drawn
    finally:
        drawn.close()


def _tqdm() -> Any:
    """As a widget where a notebook has widgets, else as a line of text."""
    if find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        return widget
    from tqdm.std import tqdm

    return tqdm
