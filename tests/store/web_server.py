"""A web server for tests: files in memory, byte ranges, and as much as it should tell of their versions."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator


class WebServer(http.server.ThreadingHTTPServer):
    """Gives `files` by path; `tags` are their ETags, and `asked` is what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.refuse: tuple[int, bytes] | None = None
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path))
        tag, content = self.server.tags.get(self.path), self.server.files.get(self.path)
        if self.server.refuse is not None:
            self._answer(*self.server.refuse)
        elif content is None:
            self._answer(404, b"")
        elif "If-Match" in self.headers and (self.headers["If-Match"] != tag or tag.startswith("W/")):
            self._answer(412, b"")
        elif "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            self._answer(206, part, tag, f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        else:
            self._answer(200, content, tag)

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def _answer(self, status: int, content: bytes, tag: str | None = None, given: str | None = None) -> None:
        self.send_response(status)
        if tag is not None:
            self.send_header("ETag", tag)
        if given is not None:
            self.send_header("Content-Range", given)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *given: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
