"""What a server may write into a store: results of analyses, and not without end.

Clients choose seeds and samples, each of which is another result, so that without bounds they would fill the disk.
Beyond them a store is like one that may not be written to: results are answered, and not stored.
"""

from __future__ import annotations

import errno
from functools import partial

from hubstore.storage import Location, Storage
from hubstore.store.files import store_files

RESULTS = "analyses/"


def quota_storage(where: Location, most: int, most_bytes: int) -> Storage:
    """The storage at `where`, which takes results of analyses, and nothing else, until it has `most` of their kind or
    all kinds have `most_bytes` together."""
    storage = store_files(where)
    storage.before_write = partial(_refuse_beyond, storage, most, most_bytes)
    return storage


def _refuse_beyond(storage: Storage, most: int, most_bytes: int, key: str) -> None:
    """OSError (EROFS) for anything but a result, and for one too many."""
    kind = f"{key.rpartition('/')[0]}/"
    found = storage.stat_many([], [RESULTS.rstrip("/")]) if key.startswith(RESULTS) else None
    if (
        found is None
        or sum(one.key.startswith(kind) for one in found) >= most
        or sum(one.size for one in found) >= most_bytes
    ):
        raise OSError(errno.EROFS, "this server stores no more results of this kind", key)
