"""What clients may know of a store: everything but where it and its files are on the server's disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_FOLDERS = r"(?s)^.*[/\\!]"


def public(value: Any) -> Any:
    """JSON-able `value`, in which absolute paths are their last names."""
    if isinstance(value, Mapping):
        return {str(key): public(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(part) for part in value]
    return _last_name(value) if isinstance(value, str) and _is_path(value) else value


def file_names(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths, and members of archives, as the names of the files alone."""
    return pc.replace_substring_regex(paths, pattern=_FOLDERS, replacement="")


def _is_path(text: str) -> bool:
    short = len(text) < 4096 and "\n" not in text
    return short and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())


def _last_name(path: str) -> str:
    return re.sub(_FOLDERS, "", path)
