"""What goes wrong with a request: the status of each error, and what it is called in an answer."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

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
    SteeringError,
)

SHOWN = 5
"""Mistakes that an answer names."""

SHOWN_NAME = 64
"""Characters of an unknown name that an answer repeats."""


class RequestError(HubstoreError, ValueError):
    """A request that cannot be answered, whatever the stores hold."""

    status: ClassVar[int] = 400
    headers: ClassVar[Mapping[str, str]] = {}


class NotFoundError(QueryError):
    """No such store, item, layer, partition, pooling, table or preview."""


class TokenError(RequestError):
    """The bearer token is missing or wrong."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class CrossSiteError(RequestError):
    """The request was made by a page of another site."""

    status = 403


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


class TooManyTokensError(RequestError):
    """So many wrong tokens came from an address that none of it is looked at for a while."""

    status = 429
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class NeedsModelError(RequestError):
    """A model, a lens or a package is needed that this server does not have."""

    status = 501


class BusyError(RequestError):
    """The server has as much to do as it takes on."""

    status = 503
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class TimedOutError(RequestError):
    """The answer took too long."""

    status = 504


_STATUSES: Sequence[tuple[type[HubstoreError], int]] = (
    (NotFoundError, 404),
    (StaleIndexError, 409),
    (CorpusError, 415),
    (MissingDependencyError, 501),
    (ModelError, 501),
    (QueryError, 400),
    (AnalysisError, 400),
    (LensError, 400),
    (SteeringError, 400),
    (NonFiniteError, 400),
)


def status_of(error: HubstoreError) -> int:
    """The HTTP status of an error; 500 for what is no fault of the client's."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_body(kind: str, message: str) -> dict[str, dict[str, str]]:
    """The form of every error's answer."""
    return {"error": {"kind": kind, "message": message}}


def kind_of(error: HubstoreError) -> str:
    """What an error is called in an answer: by the class that a client knows."""
    if isinstance(error, RequestError):
        return RequestError.__name__
    return QueryError.__name__ if isinstance(error, NotFoundError) else type(error).__name__


def invalid_error(mistakes: Sequence[Any], names: Collection[str]) -> InvalidError:
    """Where a request differs from its schema, without what it held there.

    Args:
        mistakes: as pydantic lists them.
        names: the parameters or fields that there are; one that is not there may have meant one of them.
    """
    extra = next((str(one["loc"][-1]) for one in mistakes if one["type"] == "extra_forbidden"), None)
    if extra is None:
        return InvalidError("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in mistakes[:SHOWN]))
    shown = extra if len(extra) <= SHOWN_NAME else extra[:SHOWN_NAME] + "…"
    near = difflib.get_close_matches(extra[:SHOWN_NAME], names, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(names)) or 'none'}"
    return InvalidError(f"there is no parameter {shown!r} here; {hint}")
