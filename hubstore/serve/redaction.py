"""What clients may read of a store and of an error: everything but where files are on the server's disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_FOLDERS = r"(?s)^.*[/\\!]"


def redact(value: Any) -> Any:
    """JSON-able `value`, in which absolute paths are their last names."""
    if isinstance(value, Mapping):
        return {str(key): redact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(part) for part in value]
    return re.sub(_FOLDERS, "", value) if isinstance(value, str) and _is_path(value) else value


def redact_message(message: str, names: Mapping[str, str]) -> str:
    """`message` with the server's folders called by their `names`, the longest path first."""
    for path in sorted(names, key=len, reverse=True):
        message = message.replace(path, names[path])
    return message


def file_names(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths, and members of archives, as the names of the files alone."""
    return pc.replace_substring_regex(paths, pattern=_FOLDERS, replacement="")


def _is_path(text: str) -> bool:
    short = len(text) < 4096 and "\n" not in text
    return short and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())
