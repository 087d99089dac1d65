"""Failures that pass: of a disk, a network or a server, and not of what is read."""

import errno
import time
from collections.abc import Callable
from typing import Final, TypeVar

from hubstore.errors import CorpusUnreachableError, HubstoreError

T = TypeVar("T")

PAUSES: Final = (0.2, 1.0, 3.0)
"""Seconds before each further attempt. Servers are asked again by their client, with pauses of its own."""

_OF_THE_FILE: Final = {
    errno.ENOENT,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENXIO,
    errno.EFBIG,
    errno.EOVERFLOW,
}
"""What the system says of a name that is no file, or of one that may not be read: another attempt is told the same."""


def is_transient(error: BaseException) -> bool:
    """Whether the same may be read another time: the system failed (EIO, ESTALE, a timeout), and not the file.

    Errors without a number are a decoder's, or an archive's.
    """
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_FILE


def unreachable(name: object, error: BaseException) -> CorpusUnreachableError:
    """That something cannot be read now."""
    return CorpusUnreachableError(
        f"{name}: cannot be read now: {error}; nothing is wrong with it as far as is known: see that the disk or the "
        "server answers, and run the same command again: what was committed stays"
    )


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns; a system's failure is met with a few more attempts.

    Raises:
        CorpusUnreachableError: the last attempt's, or at once a server's, whose client has made its own.
    """
    for pause in PAUSES:
        try:
            return read()
        except CorpusUnreachableError as error:
            if isinstance(error.__cause__, HubstoreError):
                raise
            time.sleep(pause)
    return read()
