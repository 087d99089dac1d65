"""HTTP's own bounds, before there is a request that could be refused: size of its head, and time until its end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hubstore.serve.limits import Limits

HEADER = 32
"""Bytes of memory that a header takes beside its text."""

SWEEP_S = 1.0

TOO_LARGE = b'{"error":{"kind":"RequestError","message":"the head of the request is larger than this server takes"}}'
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(TOO_LARGE), TOO_LARGE)
)


class HalfOpen:
    """The connections whose client has begun a request, or nothing yet, by when that was; the oldest are closed.

    Args:
        most: connections at once.
        seconds: until one is closed.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._since: dict[BoundedProtocol, float] = {}
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: BoundedProtocol) -> None:
        """A client has something to say; of too many, the one that has been at it for longest is closed."""
        self._since.setdefault(connection, connection.loop.time())
        if len(self._since) > self._most:
            self._close_oldest()
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(min(SWEEP_S, self._seconds), self._sweep, connection.loop)

    def remove(self, connection: BoundedProtocol) -> None:
        """The head of the request has come."""
        self._since.pop(connection, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._since and next(iter(self._since.values())) + self._seconds <= loop.time():
            self._close_oldest()
        self._sweeping = bool(self._since)
        if self._sweeping:
            loop.call_later(min(SWEEP_S, self._seconds), self._sweep, loop)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._since))
        del self._since[oldest]
        oldest.transport.close()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for the end of a head for ever, however large it becomes.

    Trailers count as a head does. A constant work for each portion of bytes and each header.
    """

    limits: Limits
    half_open: HalfOpen

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._head = self._unread = 0
        self._idle = True
        self._refused = False
        self.half_open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self.half_open.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that belong neither to a head that is whole nor to a body are counted."""
        if self._refused:
            return
        if self._idle:
            self.half_open.add(self)
        self._unread += len(data)
        super().data_received(data)
        if self._unread > self.limits.head:
            self._refuse()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._idle = False
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the request's path and parameters."""
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, and take it where there is room for it."""
        self._head += len(name) + len(value) + HEADER
        if self._head <= self.limits.head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Answer the request, unless its head is too large."""
        self._unread = 0
        self.half_open.remove(self)
        if self._head > self.limits.head:
            self._refuse()
        if not self._refused:
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A portion of the body begins."""
        self._unread = 0

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body."""
        self._unread = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come; the next one may."""
        self._unread = 0
        self._idle = True
        if self._head > self.limits.head:
            self._refuse()
        if not self._refused:
            super().on_message_complete()

    def _refuse(self) -> None:
        """Answer 431, unless an answer is being written, and close the connection."""
        if self._refused:
            return
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(REFUSAL)
        self.transport.close()


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol of one server, whose connections are counted together."""
    half_open = HalfOpen(limits.half_open, limits.head_s)
    members: dict[str, Any] = {"limits": limits, "half_open": half_open}
    return type("ServerProtocol", (BoundedProtocol,), members)
