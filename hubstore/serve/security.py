"""Around every request: host, origin, token, size and time of the body, security headers, and errors that tell no more
than they should."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubstore.errors import HubstoreError
from hubstore.serve.http_errors import (
    BusyError,
    CrossSiteError,
    HostError,
    RequestError,
    SlowBodyError,
    TokenError,
    TooLargeError,
    TooManyTokensError,
    error_body,
)
from hubstore.serve.limits import MIB, Limits
from hubstore.serve.lru import LRUCache
from hubstore.serve.metrics import Metrics
from hubstore.serve.responses import MEDIA_TYPES, error_response, json_response

log = logging.getLogger("hubstore.serve")

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

PUBLIC = ("/", "/healthz", "/api/docs", "/api/openapi.json")
PUBLIC_FOLDER = "/static/"
"""Paths that need no token, as the router sees them: they hold nothing of the stores. All others do, there or not."""


def route_path(scope: Scope) -> str:
    """The path of a request as the router sees it: without that under which the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


OWN_SITES = (b"same-origin", b"none")
"""Sec-Fetch-Site of a request by the server's own pages, and of one that a person made."""

GONE = 499
"""The status that a request is counted under whose client went away before it was answered."""

WRONG_TOKENS = 60
"""Wrong tokens of one address before no more of its tokens are looked at, but for one a second."""

ADDRESSES = 4096
"""Addresses whose wrong tokens are counted, those of the last ones."""

VIOLATION = 1008
"""The code with which a websocket is closed that is not allowed."""


class AuthMiddleware:
    """The outermost layer of the application. HEAD is answered as GET is, without the body.

    Args:
        app: the rest.
        token: what clients must show; None for none.
        hosts: names that the server may be called by; None for any. A page of elsewhere whose name was pointed at this
            machine (DNS rebinding) would call it by that name.
        limits: of bodies.
        metrics: counts every request.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, hosts: Sequence[str] | None, limits: Limits, metrics: Metrics
    ) -> None:
        self._app = app
        self._token = None if token is None else f"Bearer {token}".encode()
        self._wrong = WrongTokens()
        self._bodies = 0
        self._hosts = hosts
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._connect(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        method, scope = scope["method"], {**scope, "method": "GET"} if head else scope
        started, status = time.perf_counter(), 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *RAW_HEADERS]
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, send_safely)
        except ClientDisconnect:
            status = status or GONE
        except MemoryError:
            if status:
                raise
            message = "memory did not suffice to answer; ask for less, or send a smaller image or recording"
            await error_response(TooLargeError(message))(scope, receive, send_safely)
        except Exception as error:
            number = secrets.token_hex(8)
            described = isinstance(error, HubstoreError)  # which says in one line what is wrong with a store
            log.error(
                "request %s failed%s", number, f": {error}" if described else "", exc_info=None if described else error
            )
            if status:
                raise  # the answer has begun: all that is left is to break it off
            message = f"internal error; the server's log tells more under {number}"
            await json_response(error_body("InternalError", message), status=500)(scope, receive, send_safely)
        finally:
            self._metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(method, route, status or 500, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            self._check(scope, headers)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        most = self._limits.upload if _is_upload(scope["path"], headers) else self._limits.body
        body = BoundedBody(receive, most, self._limits.timeout_s, self._take)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._bodies -= body.taken

    def _take(self, size: int) -> None:
        """Count bytes of a body until its request is answered; BusyError where all bodies have too many."""
        if self._bodies + size > self._limits.bodies:
            raise BodyError(
                BusyError("other requests send as much as this server takes at once; try again in a second")
            )
        self._bodies += size

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a websocket, where a route has one, for whom a request would be answered."""
        try:
            self._check(scope, dict(scope["headers"]))
        except RequestError as error:
            await send({"type": "websocket.close", "code": VIOLATION, "reason": str(error)})
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if self._hosts is not None and _host(headers) not in self._hosts:
            raise HostError(f"this server is called {' or '.join(self._hosts)}, and the request names another")
        path = route_path(scope)
        if path in PUBLIC or path.startswith(PUBLIC_FOLDER):
            return
        if is_foreign(headers):
            raise CrossSiteError("a page of another site made the request; open the server's own page, or use a client")
        if self._token is not None:
            self._check_token(headers.get(b"authorization", b""), _address(scope))

    def _check_token(self, shown: bytes, address: str) -> None:
        """TokenError where what is shown is not the token; TooManyTokensError where it is not looked at."""
        if shown and not self._wrong.looked_at(address):
            raise TooManyTokensError("too many wrong tokens came from this address; try again in a second")
        if not hmac.compare_digest(shown, self._token or b""):
            if shown:
                self._wrong.count(address)
            raise TokenError("this server needs its token, as a header: Authorization: Bearer TOKEN")
        self._wrong.know(address)


class WrongTokens:
    """How many wrong tokens each address has shown: WRONG_TOKENS at once, and from then on one a second.

    From an address that has shown the right one, tokens are looked at whatever others of that address show: behind a
    proxy it may be the address of all.
    """

    def __init__(self) -> None:
        self._known: LRUCache[str, bool] = LRUCache(ADDRESSES)
        self._wrong: LRUCache[str, tuple[float, float]] = LRUCache(ADDRESSES)

    def looked_at(self, address: str) -> bool:
        """Whether a token of an address is looked at now."""
        return self._known.get(address) is not None or self._counted(address) < WRONG_TOKENS

    def count(self, address: str) -> None:
        """A wrong token came from an address."""
        self._wrong.put(address, (self._counted(address) + 1, time.monotonic()))

    def know(self, address: str) -> None:
        """The right token came from an address."""
        self._known.put(address, True)

    def _counted(self, address: str) -> float:
        """Wrong tokens of an address, less one for each second since the last."""
        count, at = self._wrong.get(address) or (0.0, 0.0)
        return max(0.0, count - (time.monotonic() - at))


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another origin made a request. Programs say nothing of that kind."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:  # which no page can set, and no proxy changes
        return site not in OWN_SITES
    origin = headers.get(b"origin")
    if origin is None:
        return False
    scheme, _, place = origin.lower().partition(b"://")
    ports = {b"http": b":80", b"https": b":443"}
    port = ports.get(scheme)
    # A proxy that changes Host says what it was; a page could say so only with leave, for which it has to ask first.
    hosts = (headers.get(name, b"").lower() for name in (b"host", b"x-forwarded-host"))
    return port is None or place.removesuffix(port) not in [host.removesuffix(port) for host in hosts]


def _address(scope: Scope) -> str:
    """The client's address; of IPv6 the network, of which one client has all addresses."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 4:
        return str(host)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def _host(headers: Mapping[bytes, bytes]) -> str:
    """The name in the Host header, without the port."""
    name, colon, port = headers.get(b"host", b"").decode("latin-1").rpartition(":")
    return (name if colon and port.isdigit() else name + colon + port).strip("[]").lower()


def _is_upload(path: str, headers: Mapping[bytes, bytes]) -> bool:
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    return path.endswith(("/image", "/audio")) or kind == MEDIA_TYPES["arrow"].encode()


class BoundedBody:
    """A request's body, of so many bytes that come in so many seconds.

    Args:
        receive: gives its parts.
        most: bytes of it.
        seconds: from now until its end.
        take: called with the size of each part, before it is handed on; what it raises refuses the part.
    """

    def __init__(self, receive: Receive, most: int, seconds: float, take: Callable[[int], None]) -> None:
        self.taken = 0
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._take = take
        self._until = time.monotonic() + seconds
        self._whole = False

    async def receive(self) -> Message:
        """The next part. After the last one, what is waited for is the client's going."""
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            raise BodyError(SlowBodyError(f"the body did not arrive within {self._seconds:g} s")) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self.taken + size > self._most:
                raise BodyError(
                    TooLargeError(f"the body has more than the {self._most / MIB:g} MiB that this server takes")
                )
            self._take(size)
            self.taken += size
            self._whole = not message.get("more_body", False)
        return message


class BodyError(HTTPException):
    """An error of the reading of a body: of all that is raised there, FastAPI hands on only this kind."""

    def __init__(self, error: RequestError) -> None:
        super().__init__(error.status, str(error), dict(error.headers))
        self.error = error
