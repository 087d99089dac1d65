"""An HTTP proxy that answers some requests itself, with a fault, and hands on all others as they are."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import BinaryIO

REFUSALS = ("403", "404", "429", "500", "502", "503")
BREAKS = ("cut before", "answer lost", "answer cut")
"""The connection ends before the server has the request, after it has done it, or in the midst of its answer."""


class FaultProxy:
    """Listens on a port of its own, and hands requests on to a server.

    Args:
        port: of the server, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._fault: Callable[[int], str | None] = lambda number: None
        self._count = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, fault: Callable[[int], str | None]) -> None:
        """Count requests from 1 again; `fault` names what the n-th meets, or None."""
        with self._lock:
            self._fault, self._count = fault, 0

    @property
    def requests(self) -> int:
        """How many came since `begin`."""
        return self._count

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client, socket.create_connection(self._server) as server:
            asked, answered = client.makefile("rb"), server.makefile("rb")
            while (request := _read(asked)) is not None:
                with self._lock:
                    self._count += 1
                    fault = self._fault(self._count)
                if fault in REFUSALS:
                    client.sendall(_refusal(fault, bodiless=request.startswith(b"HEAD")))
                    continue
                if fault == "cut before":
                    return
                server.sendall(request)
                answer = _read(answered, bodiless=request.startswith(b"HEAD"))
                if answer is None or fault == "answer lost":
                    return
                client.sendall(answer[: len(answer) // 2] if fault == "answer cut" else answer)
                if fault == "answer cut":
                    return


def _refusal(status: str, *, bodiless: bool) -> bytes:
    code = {"403": "AccessDenied", "404": "NoSuchKey"}.get(status, "InternalError")
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'.encode()
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if bodiless else body)


def _read(stream: BinaryIO, *, bodiless: bool = False) -> bytes | None:
    """One request or answer, to its last byte; None at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    first, *lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines if b": " in line)
    if first.startswith(b"http/1.1 100"):
        return _read(stream, bodiless=bodiless)
    if bodiless or first.startswith((b"http/1.1 204", b"http/1.1 304")):
        return head
    if headers.get(b"transfer-encoding") == b"chunked":
        return head + _chunks(stream)
    return head + stream.read(int(headers.get(b"content-length", 0)))


def _chunks(stream: BinaryIO) -> bytes:
    content = b""
    while True:
        line = stream.readline()
        size = int(line.split(b";")[0], 16)
        content += line + stream.read(size + 2)
        if not size:
            return content
