"""Requests to a hubstore server and what its answers mean, without I/O; and the two connections that send them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import json
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit

import httpx2
import pyarrow as pa

from hubstore import errors
from hubstore.checks import whole_number
from hubstore.errors import HubstoreError, Parameter, QueryError, ServerError, TokenError
from hubstore.version import __version__

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
REVISION = "Hubstore-Revision"
REFUSED = (400, 413, 415, 422, 431)
"""Where the request is wrong, or beyond the server's limits."""

AGAIN = (503, 504)
"""Busy; or not ready in the server's time, in which it goes on and stores what it finds."""

BROKEN = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
"""A server closes what is idle, perhaps as a request comes: it is sent once more. All requests only read."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries, whatever a busy server asks for."""

CONNECTIONS = 8
"""Requests that an asynchronous connection sends at once."""

T = TypeVar("T")
Query = Iterable[tuple[str, object]]
"""Parameters of a request, any of them repeated; None is left out."""


@dataclass(frozen=True)
class Request:
    """What is sent.

    Args:
        path: below the server's address.
        query: parameters.
        body: bytes of a POST; None for a GET.
        kind: the body's media type.
        accept: the media type of the answer.
    """

    path: str
    query: Query = ()
    body: bytes | None = None
    kind: str = JSON
    accept: str = ARROW


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Args:
        place: the address, for messages.
        status: of HTTP.
        headers: whatever the case of their names.
        body: its bytes.
    """

    place: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def revision(self) -> str | None:
        """The digest of the store's commits that it was computed from."""
        return self.headers.get(REVISION)

    def json(self) -> Any:
        """The body as JSON; ServerError where it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self._unknown() from error

    def table(self) -> pa.Table:
        """The body as an Arrow stream; ServerError where it is none."""
        try:
            return pa.ipc.open_stream(self.body).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._unknown() from error

    def checked(self) -> Answer:
        """Itself; the error in it is raised, as the class that a local store would have raised."""
        if 200 <= self.status < 300:
            return self
        try:
            error = json.loads(self.body)["error"]
            kind, message = str(error["kind"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            raise self._unknown() from None
        error_type = getattr(errors, kind, None)
        if isinstance(error_type, type) and issubclass(error_type, HubstoreError):
            raise error_type(message)
        if self.status == 401:
            raise TokenError(
                f"{self.place}: {message}; give the token that the server was started with as ",
                Parameter("token", "..."),
                ", or as HUBSTORE_TOKEN in the environment",
            )
        raise (QueryError if self.status in REFUSED else ServerError)(f"{self.place} answered {self.status}: {message}")

    def _unknown(self) -> ServerError:
        kind = self.headers.get("content-type", "no content type")
        return ServerError(
            f"{self.place} does not answer as a hubstore server does (HTTP {self.status}, {kind}); check the address. "
            "`hubstore serve STORE` starts a server"
        )


Steps = Generator[Sequence[Request], list[Answer], T]
"""A verb of the client without I/O: it yields requests, gets their answers, and returns its result."""


class Endpoint:
    """A server's address, how requests to it are written, and when they are sent again.

    Args:
        url: where it is: http:// or https://, host, port, and where a proxy puts it below a path, that path.
        token: the bearer token, where the server wants one; white space around it does not count.
        timeout: seconds to wait for an answer, and in all for a server that is busy or works on the answer.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._parts = _parts(self.url)
        self._timeout = timeout
        token = token and token.strip()
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise QueryError("the token has characters that a header cannot carry; give it as the server was given it")
        self._headers = {"User-Agent": f"hubstore/{__version__}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def options(self) -> dict[str, Any]:
        """How an HTTP client is made for it."""
        tls = ssl.create_default_context() if self._parts.scheme == "https" else False
        return {"verify": tls, "trust_env": False, "limits": httpx2.Limits(max_connections=CONNECTIONS)}

    def exchange(
        self, request: Request
    ) -> Generator[httpx2.Request | float, httpx2.Response | httpx2.HTTPError | None, Answer]:
        """The answer to `request`, sent again while the server is busy or works on it, and time is left.

        Yields what to send next, and gets the response or the error; or the seconds to wait before.
        """
        until = time.monotonic() + self._timeout
        broken = False
        while True:
            got = yield self._written(request)
            if isinstance(got, httpx2.HTTPError):
                if broken or not isinstance(got, BROKEN):
                    raise self._unreached(got) from got
                broken = True
                continue
            assert got is not None
            answer = Answer(self.url + request.path, got.status_code, got.headers, got.content)
            pause = _pause(answer.headers.get("retry-after"))
            if answer.status not in AGAIN or time.monotonic() + pause > until:
                return answer.checked()
            yield pause

    def _written(self, request: Request) -> httpx2.Request:
        query = urlencode([(name, _word(value)) for name, value in request.query if value is not None])
        headers = {**self._headers, "Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.kind
        return httpx2.Request(
            "GET" if request.body is None else "POST",
            self.url + request.path + (f"?{query}" if query else ""),
            headers=headers,
            content=request.body,
            extensions={"timeout": httpx2.Timeout(self._timeout, pool=None).as_dict()},
        )

    def _unreached(self, error: Exception) -> ServerError:
        if isinstance(error, httpx2.TimeoutException):
            return ServerError(f"{self.url} gave no answer within {self._timeout:g} s; try again with a larger timeout")
        for cause in _causes(error):
            if isinstance(cause, ConnectionRefusedError):
                return ServerError(
                    f"{self.url} refuses connections: no server listens there. `hubstore serve STORE` starts one, and "
                    "prints its address"
                )
            if isinstance(cause, ssl.SSLError):
                return ServerError(
                    f"{self.url} and this machine do not agree on TLS ({cause}); is it an http:// server?"
                )
            if isinstance(cause, socket.gaierror):
                return ServerError(f"there is no host {self._parts.hostname!r} ({cause.strerror}); check the address")
        reason = str(error) or type(error).__name__
        return ServerError(f"{self.url} broke off ({reason}); check that it is a hubstore server and still runs")


class Connection:
    """Sends requests and waits for their answers; several threads may use one, each with sockets of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._threads = threading.local()

    def run(self, steps: Steps[T]) -> T:
        """What a verb returns."""
        answers: Any = None
        try:
            while True:
                answers = [self.send(request) for request in steps.send(answers)]
        except StopIteration as done:
            result: T = done.value
            return result

    def send(self, request: Request) -> Answer:
        """The answer to one request."""
        steps, response = self.endpoint.exchange(request), None
        try:
            while True:
                step = steps.send(response)
                if isinstance(step, httpx2.Request):
                    response = self._sent(step)
                else:
                    time.sleep(step)
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    def _sent(self, request: httpx2.Request) -> httpx2.Response | httpx2.HTTPError:
        if "client" not in self._threads.__dict__:
            self._threads.client = httpx2.Client(**self.endpoint.options())
        try:
            response: httpx2.Response = self._threads.client.send(request)
            return response
        except httpx2.HTTPError as error:
            return error

    def close(self) -> None:
        """Close this thread's sockets; a later request opens others."""
        client = self._threads.__dict__.pop("client", None)
        if client is not None:
            client.close()


class AsyncConnection:
    """Sends requests, several at once, and awaits their answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._client = httpx2.AsyncClient(**endpoint.options())

    async def run(self, steps: Steps[T]) -> T:
        """What a verb returns."""
        answers: Any = None
        try:
            while True:
                answers = await asyncio.gather(*map(self.send, steps.send(answers)))
        except StopIteration as done:
            result: T = done.value
            return result

    async def send(self, request: Request) -> Answer:
        """The answer to one request."""
        steps, response = self.endpoint.exchange(request), None
        try:
            while True:
                step = steps.send(response)
                if isinstance(step, httpx2.Request):
                    response = await self._sent(step)
                else:
                    await asyncio.sleep(step)
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    async def _sent(self, request: httpx2.Request) -> httpx2.Response | httpx2.HTTPError:
        try:
            return await self._client.send(request)
        except httpx2.HTTPError as error:
            return error

    async def close(self) -> None:
        """Close the sockets, for good."""
        await self._client.aclose()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__


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


def _pause(retry_after: str | None) -> float:
    """Seconds to wait from a Retry-After header: a number, or a date."""
    seconds = 1.0
    if retry_after and (number := whole_number(retry_after.strip())) is not None:
        seconds = float(number)
    elif retry_after:
        with contextlib.suppress(TypeError, ValueError):
            then = email.utils.parsedate_to_datetime(retry_after)
            seconds = (then - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(seconds, 0.05), LONGEST_PAUSE)
