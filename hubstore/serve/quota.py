"""What a server may write into a store: results of analyses, and not without end.

Clients choose seeds and samples, each of which is another result, so that without a bound they would fill the disk.
Beyond it a store is like one that may not be written to: results are answered, and not stored.
"""

from __future__ import annotations

import errno
from functools import partial

from hubstore.storage import Location, Storage
from hubstore.store.files import store_files

RESULTS = "analyses/"


def quota_storage(where: Location, most: int) -> Storage:
    """The storage at `where`, which takes results of analyses until it has `most` of a kind, and nothing else."""
    storage = store_files(where)
    storage.before_write = partial(_refuse_beyond, storage, most)
    return storage


def _refuse_beyond(storage: Storage, most: int, key: str) -> None:
    """OSError (EROFS) for anything but a result, and for one too many."""
    if not key.startswith(RESULTS) or len(storage.list(key.rpartition("/")[0])) >= most:
        raise OSError(errno.EROFS, "this server stores no more results of this kind", key)
