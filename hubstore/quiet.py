"""Ignoring warnings of other libraries, safely where several threads do so at once."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()


@contextlib.contextmanager
def ignored_warnings(message: str | None = None) -> Iterator[None]:
    """Within it warnings are ignored, those whose text begins with the regular expression or all.

    `warnings.catch_warnings` puts back the list that it found: where two threads overlap, the one that ends last puts
    back what the other had set, for good. Here one entry is added and the same entry taken out again.
    """
    entry = ("ignore", None if message is None else re.compile(message, re.IGNORECASE), Warning, None, 0)
    with _lock:
        found: list[Any] = warnings.filters  # type: ignore[assignment]  # a list, which typeshed shows as a sequence
        found.insert(0, entry)
    try:
        yield
    finally:
        with _lock:
            for filters in (found, warnings.filters):  # another's catch_warnings may have put a copy in its place
                _remove(filters, entry)


def _remove(filters: Any, entry: Any) -> None:
    place = next((place for place, one in enumerate(filters) if one is entry), None)
    if place is not None:
        del filters[place]
