"""Requests to a hubstore server: kept-alive connections, retries while it is busy, and its errors as hubstore's own."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import pyarrow as pa

from hubstore import errors
from hubstore.errors import HubstoreError, Parameter, QueryError, ServerError, TokenError
from hubstore.version import __version__

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
REVISION = "Hubstore-Revision"
REFUSED = (400, 413, 415, 422)
"""Where what is asked is wrong, or beyond the server's limits."""

AGAIN = (503, 504)
"""Busy; or not ready in the server's time, in which it goes on and keeps what it finds."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries, whatever a busy server asks for."""

Query = Iterable[tuple[str, object]]
"""Parameters of a request, any of them repeated; None is left out."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Args:
        place: what was asked, for messages.
        status: of HTTP.
        headers: by name in lower case.
        body: its bytes.
    """

    place: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def revision(self) -> str | None:
        """The digest of the store's commits that it was computed from."""
        return self.headers.get(REVISION.lower())

    def json(self) -> Any:
        """The body as JSON; ServerError where it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self._strange() from error

    def table(self) -> pa.Table:
        """The body as an Arrow stream; ServerError where it is none."""
        try:
            return pa.ipc.open_stream(self.body).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._strange() from error

    def checked(self) -> Answer:
        """Itself; the error that it tells of, as the class that a local store would have raised."""
        if 200 <= self.status < 300:
            return self
        try:
            told = json.loads(self.body)["error"]
            kind, message = str(told["kind"]), str(told["message"])
        except (ValueError, KeyError, TypeError):
            raise self._strange() from None
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, HubstoreError):
            raise known(message)
        if self.status == 401:
            raise TokenError(
                f"{self.place}: {message}; give the token that the server was started with as ",
                Parameter("token", "..."),
                ", or as HUBSTORE_TOKEN in the environment",
            )
        raise (QueryError if self.status in REFUSED else ServerError)(f"{self.place} answered {self.status}: {message}")

    def _strange(self) -> ServerError:
        kind = self.headers.get("content-type", "no content type")
        return ServerError(
            f"{self.place} does not answer as a hubstore server does (HTTP {self.status}, {kind}); check the address. "
            "`hubstore serve STORE` starts a server"
        )


class Connection:
    """A server; several threads may use one.

    Args:
        url: where it is: http:// or https://, host, port, and where a proxy puts it below a path, that path.
        token: the bearer token, where the server wants one.
        timeout: seconds to wait for an answer, and in all for a server that is busy or works on the answer.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._parts = _parts(self.url)
        self._timeout = timeout
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise QueryError("the token has characters that a header cannot carry; give it as the server was given it")
        self._token = token
        self._kept = threading.local()

    def get(self, path: str, query: Query = (), *, accept: str = ARROW) -> Answer:
        """What is at `path`."""
        return self._answered("GET", path, query, b"", {"Accept": accept})

    def post(self, path: str, body: bytes, kind: str, query: Query = (), *, accept: str = ARROW) -> Answer:
        """What `path` answers to `body`, of the media type `kind`."""
        return self._answered("POST", path, query, body, {"Accept": accept, "Content-Type": kind})

    def close(self) -> None:
        """Close this thread's connection; a later request opens another."""
        kept = self._kept.__dict__.pop("connection", None)
        if kept is not None:
            kept.close()

    def _answered(self, method: str, path: str, query: Query, body: bytes, headers: dict[str, str]) -> Answer:
        """The answer, asked for again while the server is busy or works on it, and time is left."""
        given = urlencode([(name, _word(value)) for name, value in query if value is not None])
        target = self._parts.path + path + (f"?{given}" if given else "")
        headers["User-Agent"] = f"hubstore/{__version__}"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        until = time.monotonic() + self._timeout
        while True:
            answer = self._exchanged(method, path, target, body, headers)
            pause = _pause(answer.headers.get("retry-after"))
            if answer.status not in AGAIN or time.monotonic() + pause > until:
                return answer.checked()
            time.sleep(pause)

    def _exchanged(self, method: str, path: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        try:
            try:
                kept = "connection" in self._kept.__dict__
                return self._sent(method, path, target, body, headers)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # A server closes what is idle; it did not begin on the request. All requests only read.
                if not kept:
                    raise
                return self._sent(method, path, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreached(error) from error

    def _sent(self, method: str, path: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = self._connection()
        try:
            connection.request(method, target, body or None, dict(headers))
            response = connection.getresponse()
            read = response.read()
        except BaseException:
            self.close()  # whatever else comes through it would belong to this request
            raise
        if response.will_close:
            self.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(self.url + path, response.status, found, read)

    def _connection(self) -> http.client.HTTPConnection:
        kept: http.client.HTTPConnection | None = self._kept.__dict__.get("connection")
        if kept is None:
            host, port = str(self._parts.hostname), self._parts.port
            if self._parts.scheme == "https":
                context = ssl.create_default_context()
                kept = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
            else:
                kept = http.client.HTTPConnection(host, port, timeout=self._timeout)
            kept.connect()
            kept.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._kept.connection = kept
        return kept

    def _unreached(self, error: Exception) -> ServerError:
        if isinstance(error, TimeoutError):
            return ServerError(f"{self.url} gave no answer within {self._timeout:g} s; try again with a larger timeout")
        if isinstance(error, ConnectionRefusedError):
            return ServerError(
                f"{self.url} refuses connections: no server listens there. `hubstore serve STORE` starts one, and "
                "prints its address"
            )
        if isinstance(error, ssl.SSLError):
            return ServerError(f"{self.url} and this machine do not agree on TLS ({error}); is it an http:// server?")
        if isinstance(error, socket.gaierror):
            return ServerError(f"there is no host {self._parts.hostname!r} ({error.strerror}); check the address")
        told = str(error) or type(error).__name__
        return ServerError(f"{self.url} broke off ({told}); check that it is a hubstore server and still runs")


def each(name: str, values: Iterable[object] | None) -> list[tuple[str, object]]:
    """A parameter for each of `values`."""
    return [(name, value) for value in values or ()]


def described(table: pa.Table) -> dict[str, Any]:
    """The record in a table's metadata of how it was made."""
    found: dict[str, Any] = json.loads(table.schema.metadata[b"hubstore"])
    return found


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = None
    if not usable:
        raise QueryError(f"{url!r} is not the address of a server; write it as http://127.0.0.1:8000")
    if parts.username or parts.query or parts.fragment:
        raise QueryError(
            f"the address of a server has no user, query or fragment: {parts.hostname}; a token is ",
            Parameter("token", "..."),
        )
    return parts


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pause(told: str | None) -> float:
    """Seconds to wait from a Retry-After header: a number, or a date."""
    seconds = 1.0
    if told and told.strip().isdecimal():
        seconds = float(told)
    elif told:
        with contextlib.suppress(TypeError, ValueError):
            then = email.utils.parsedate_to_datetime(told)
            seconds = (then - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(seconds, 0.05), LONGEST_PAUSE)
