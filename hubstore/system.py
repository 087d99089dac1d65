"""What the operating system refuses, and what to do then."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import Final

from hubstore.errors import HubstoreError, ResourceError

_REMEDIES: Final = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have the quota raised",
    errno.EFBIG: "write to a disk and with a limit (`ulimit -f`) that take files of this size",
    errno.EMFILE: "let a process open more files (`ulimit -n`)",
    errno.ENFILE: "end programs that hold many files open",
    errno.EACCES: "see that this user may do that",
    errno.EPERM: "see that this user may do that",
    errno.EROFS: "choose a place that may be written to",
    errno.ENOMEM: "free memory",
}


def reason(error: OSError) -> str:
    """What the system says, without the path, which messages name first."""
    return error.strerror or str(error)


def remedy(error: OSError) -> str:
    """What to do about an error of the system."""
    return _REMEDIES.get(error.errno or 0, "see that the disk is there and works")


@contextlib.contextmanager
def temporary_folder(prefix: str, inside: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """A folder that is removed at the end.

    Args:
        prefix: of its name.
        inside: of which folder; None for the system's.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=inside, ignore_cleanup_errors=True)
    except OSError as error:
        where = f"in {inside}" if inside else "for temporary files"
        chosen = "" if inside else "; set TMPDIR to a folder that may be written to"
        raise ResourceError(f"no folder {where} can be made ({reason(error)}); {remedy(error)}{chosen}") from error
    with made as folder:
        yield folder


@contextlib.contextmanager
def starting_processes(otherwise: str) -> Iterator[None]:
    """Where processes are started, with the semaphores, sockets and memory that they share.

    Args:
        otherwise: how to do without them.

    Raises:
        ResourceError: the system has none of these.
    """
    try:
        yield
    except HubstoreError:
        raise
    except (OSError, ImportError) as error:  # ImportError: no semaphores at all
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ResourceError(
            f"no further processes can be started here ({why}); see that /dev/shm and the folder for temporary files "
            f"(TMPDIR) may be written to and have room, or {otherwise}"
        ) from error
