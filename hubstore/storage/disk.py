"""What files of a local disk are written with: whole, durably, and, where asked for, only where none is yet."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from hubstore.errors import HubstoreError, StorageUnreachableError, StoreAccessError, StoreError, StoreLockedError
from hubstore.files import sync_file, write_all
from hubstore.storage.interface import PARTIAL, Storage
from hubstore.storage.record import Buffer
from hubstore.system import reason, remedy

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Storage)

_NO_LINKS: Final = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV}
"""What file systems without hard links say: exFAT, SMB, those of object stores."""

_NO_SYNC: Final = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR}
"""What file systems say that do not sync folders, since they need not, and of folders that may not be read."""

_CLAIM_S: Final = 5.0


def reading(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that reads: what the system refuses is a StoreError that names the file."""

    @functools.wraps(method)
    def read(storage: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(storage, *arguments, **options)
        except HubstoreError:
            raise
        except OSError as error:
            key = next((one for one in arguments if isinstance(one, str)), "")
            where = error.filename or (storage.root / key if key else storage.root)
            raise unreadable(where, error) from error

    return read


def unreadable(where: object, error: OSError) -> StoreError:
    """The error of a file that is there and that the system does not read."""
    refused = error.errno in (errno.EACCES, errno.EPERM)
    kind = StoreAccessError if refused else StorageUnreachableError
    return kind(f"{where} cannot be read ({reason(error)}); {remedy(error)} and run the same command again")


def unwritable(where: object, error: OSError) -> StoreError:
    """The error of a file that the system does not write."""
    return StoreError(
        f"{where} could not be written ({reason(error)}); {remedy(error)} and run the same command again: what was "
        "committed stays"
    )


def write_file(path: Path, buffers: Sequence[Buffer]) -> None:
    """Write a new file, and wait until the disk has it."""
    with path.open("xb", buffering=0) as file:
        for buffer in buffers:
            write_all(file.fileno(), buffer)
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where its file system takes that."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def create(partial: Path, target: Path) -> bool:
    """Give a finished file the name `target`, at once and whole; False where a file has that name.

    With a hard link, or where there are none, by a claim: a file beside it that only one writer can make. A claim of a
    writer that was killed is swept away with other partial files.

    Raises:
        StoreLockedError: another writer has claimed the name, and does not finish.
    """
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    claim = target.with_name(f".{target.name}{PARTIAL}")
    until = time.monotonic() + _CLAIM_S
    while not target.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if time.monotonic() > until:
                raise StoreLockedError(
                    f"{target} is being written by another process; wait until it ends, then run the same command again"
                ) from None
            time.sleep(0.05)
            continue
        try:
            if target.exists():
                return False
            partial.replace(target)
            return True
        finally:
            claim.unlink(missing_ok=True)
    return False
