"""What a server may write into a store: results of analyses, and not without end."""

from __future__ import annotations

import errno
from pathlib import Path

from hubstore.store import LocalStorage
from hubstore.store.storage import Buffer

RESULTS = "analyses/"


class KeepingStorage(LocalStorage):
    """A store's folder that takes results of analyses until it has `most` of a kind, and nothing else.

    Clients choose seeds and samples, each of which is another result, so that without a bound they would fill the disk.
    Beyond it the store is like one that may not be written to: results are given, and not kept.
    """

    def __init__(self, root: Path, most: int) -> None:
        super().__init__(root)
        self._most = most

    def write(self, key: str, *buffers: Buffer) -> None:
        """Write a result; OSError (EROFS) for anything else, and for one too many."""
        folder = key.rpartition("/")[0]
        if not key.startswith(RESULTS) or len(self.list(folder)) >= self._most:
            raise OSError(errno.EROFS, "this server keeps no more results of this kind", key)
        super().write(key, *buffers)
