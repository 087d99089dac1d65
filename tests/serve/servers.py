"""Real servers on a free port of loopback, in a thread or a process, and a plain client for them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from hubstore.serve import create_app
from hubstore.serve.protocol import bounded_protocol
from hubstore.serve.server import listen

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, whose form is checked."""
        said = self.json
        assert set(said) == {"error"}
        assert set(said["error"]) == {"kind", "message"}
        return said["error"]["message"]

    @property
    def columns(self) -> dict[str, list[Any]]:
        assert self.status == 200, self.body
        return self.json["columns"]


@dataclass(frozen=True)
class Server:
    """A server's address."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> Answer:
        return self.ask("GET", path, headers=headers, **query)

    def post(
        self,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "application/json",
        **query: Any,
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, data, {"Content-Type": kind, **(headers or {})}, **query)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method, path + ("?" + urlencode(query, doseq=True) if query else ""), body, dict(headers or {})
            )
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def served(*stores: Path, mounted: str = "", **options: Any) -> Iterator[Server]:
    """A server in a thread of this process, below a path perhaps; `options` are those of `create_app`."""
    listening = listen("127.0.0.1", 0)
    app: Any = create_app(stores, **options)
    protocol = bounded_protocol(app.state.service.limits)
    if mounted:
        app = Starlette(routes=[Mount(mounted, app=app)])
    running = uvicorn.Server(uvicorn.Config(app, http=protocol, log_level="critical", access_log=False))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Server(listening.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


@dataclass(frozen=True)
class Process:
    """`hubstore serve` in a process of its own."""

    server: Server
    process: subprocess.Popen[bytes]
    started_s: float

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def process(*arguments: str | Path, **environment: str) -> Iterator[Process]:
    """`hubstore serve ARGUMENTS` on a free port, once it answers."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hubstore", "serve", *map(str, arguments), "--port", str(port)]
    began = time.monotonic()
    running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    try:
        wait_for(Server(port), running)
        yield Process(Server(port), running, time.monotonic() - began)
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(30)


def wait_for(server: Server, running: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Until the server says that it is well."""
    until = time.monotonic() + seconds
    while True:
        assert running.poll() is None, "the server has ended"
        try:
            if server.get("/healthz").status == 200:
                return
        except OSError:
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)
