"""Putting a model back as it was: some replace their own parts as they run (BigBird its attention, dynamic RoPE its
frequencies), and then read the next sequence otherwise."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from torch import nn

PARTS = ("_buffers", "_modules", "_parameters")


class Restorer:
    """Remembers the attributes of a module and of all modules in it, without copying a tensor.

    While it lives, what the model says in this thread as it changes itself is said once, and not at every sequence.

    Args:
        root: the module, as it is to be put back.
    """

    def __init__(self, root: nn.Module) -> None:
        logger, once = logging.getLogger(type(root).__module__), _SayOnce()
        logger.addFilter(once)
        weakref.finalize(self, logger.removeFilter, once)
        live = [attributes for module in root.modules() for attributes in _attributes(module)]
        self._before = [(attributes, {k: v for k, v in attributes.items() if k != "forward"}) for attributes in live]

    def restore(self) -> bool:
        """Put back what was replaced; whether anything was. What a module adds to itself, as a cache, stays."""
        replaced = False
        for live, before in self._before:
            if not all(_same(value, live.get(key)) for key, value in before.items()):
                live.update(before)
                replaced = True
        return replaced


def _attributes(module: nn.Module) -> list[dict[str, Any]]:
    return [vars(module), *(vars(module)[part] for part in PARTS)]


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, int | float | str) and type(one) is type(other) and one == other)


class _SayOnce(logging.Filter):
    """Lets each line of code log once from the thread that made this; other threads are none of its business."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._said: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether nothing was logged from this line before."""
        if threading.get_ident() != self._thread:
            return True
        place = (record.pathname, record.lineno)
        new = place not in self._said
        self._said.add(place)
        return new
