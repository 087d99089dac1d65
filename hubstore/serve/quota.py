"""What a server may write into a store: results of analyses, and not without end.

Clients choose seeds and samples, each of which is another result, so that without a bound they would fill the disk.
Beyond it a store is like one that may not be written to: results are answered, and not stored.
"""

from __future__ import annotations

import errno
from pathlib import Path

from hubstore.storage import LocalStorage, Storage, open_storage
from hubstore.storage.local import Buffer
from hubstore.storage.location import WEB, Location
from hubstore.storage.objects import RemoteStorage

RESULTS = "analyses/"


class QuotaStorage(LocalStorage):
    """A store's folder that takes results of analyses until it has `most` of a kind, and nothing else."""

    def __init__(self, root: Path, most: int) -> None:
        super().__init__(root)
        self._most = most

    def write(self, key: str, *buffers: Buffer) -> None:
        """Write a result; OSError (EROFS) for anything else, and for one too many."""
        _refuse_beyond(self, key, self._most)
        super().write(key, *buffers)


class RemoteQuotaStorage(RemoteStorage):
    """A store in an object store, likewise."""

    most = 0

    def write(self, key: str, *buffers: Buffer) -> None:
        """Write a result; OSError (EROFS) for anything else, and for one too many."""
        _refuse_beyond(self, key, self.most)
        super().write(key, *buffers)


def quota_storage(where: Location, most: int) -> Storage:
    """The storage at `where`, which takes `most` results of a kind."""
    if isinstance(where, Path):
        return QuotaStorage(where, most)
    if where.scheme in WEB:  # takes none
        return open_storage(where)
    storage = RemoteQuotaStorage.at(where)
    storage.most = most
    return storage


def _refuse_beyond(storage: Storage, key: str, most: int) -> None:
    if not key.startswith(RESULTS) or len(storage.list(key.rpartition("/")[0])) >= most:
        raise OSError(errno.EROFS, "this server stores no more results of this kind", key)
