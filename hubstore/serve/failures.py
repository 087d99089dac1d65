"""What goes wrong with a request: its status, and words that show a client nothing of the server's disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from hubstore.errors import (
    AnalysisError,
    CorpusError,
    HubstoreError,
    LensError,
    MissingDependencyError,
    ModelError,
    NonFiniteError,
    QueryError,
    StaleIndexError,
)


class RequestError(HubstoreError, ValueError):
    """A request that cannot be answered, whatever the stores hold."""

    status: ClassVar[int] = 400
    headers: ClassVar[Mapping[str, str]] = {}


class NotThereError(QueryError):
    """No such store, item, layer, partition, pooling, table or preview."""


class TokenError(RequestError):
    """The bearer token is missing or wrong."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class SlowBodyError(RequestError):
    """The body did not arrive in time."""

    status = 408


class TooLargeError(RequestError):
    """A body or an answer beyond the server's limits."""

    status = 413


class UnreadableError(RequestError):
    """A body of a kind that is not read here."""

    status = 415


class HostError(RequestError):
    """The request was meant for another host."""

    status = 421


class InvalidError(RequestError):
    """A parameter or a body of another form than the schema's."""

    status = 422


class NeedsModelError(RequestError):
    """What was asked needs a model, a lens or a package that this server does not have."""

    status = 501


class BusyError(RequestError):
    """The server has as much to do as it takes on."""

    status = 503
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class TimedOutError(RequestError):
    """The answer took too long."""

    status = 504


_STATUSES: Sequence[tuple[type[HubstoreError], int]] = (
    (NotThereError, 404),
    (StaleIndexError, 409),
    (CorpusError, 415),
    (MissingDependencyError, 501),
    (ModelError, 501),
    (QueryError, 400),
    (AnalysisError, 400),
    (LensError, 400),
    (NonFiniteError, 400),
)


def status_of(error: HubstoreError) -> int:
    """The HTTP status of an error; 500 for what is no fault of the client's."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def kind_of(error: HubstoreError) -> str:
    """What the error is called in an answer."""
    if isinstance(error, RequestError):
        return "RequestError"
    return "QueryError" if isinstance(error, NotThereError) else type(error).__name__


def body_of(kind: str, message: str) -> dict[str, dict[str, str]]:
    """The form of every error's answer."""
    return {"error": {"kind": kind, "message": message}}


def without_paths(message: str, names: Mapping[str, str]) -> str:
    """`message` with the server's folders called by their `names`, the longest path first."""
    for path in sorted(names, key=len, reverse=True):
        message = message.replace(path, names[path])
    return message
