"""What clients may read of a store and of an error: everything but where files are on the server's disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_FOLDERS = r"(?s)^.*[/\\!]"

_ABSOLUTE = re.compile(r"/|\\\\|[A-Za-z]:[/\\]")
"""How an absolute path begins, POSIX's or Windows'."""


def redact(value: Any) -> Any:
    """JSON-able `value`, in which absolute paths are their last names."""
    if isinstance(value, Mapping):
        return {str(key): redact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(part) for part in value]
    if isinstance(value, str) and len(value) < 4096 and "\n" not in value and _ABSOLUTE.match(value):
        return re.sub(_FOLDERS, "", value)
    return value


def redact_message(message: str, names: Mapping[str, str]) -> str:
    """`message` with the server's folders called by their `names`, the longest path first."""
    for path in sorted(names, key=len, reverse=True):
        message = message.replace(path, names[path])
    return message


def file_names(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths, and members of archives, as the names of the files alone."""
    if paths.null_count == len(paths):  # of texts
        return paths
    return pc.replace_substring_regex(paths, pattern=_FOLDERS, replacement="")
