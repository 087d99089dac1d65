"""Writing a file whole or not at all, outside of a store, whose storage has its own way."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, content: bytes) -> None:
    """Write `content` at `path` by way of a file beside it; a failure leaves what was there.

    Raises:
        OSError: the folder is not there or cannot be written to, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
