"""Running the application: the socket first, then what is slow."""

from __future__ import annotations

import contextlib
import ipaddress
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hubstore.errors import MissingDependencyError, ServeError
from hubstore.storage.location import Location

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BACKLOG = 2048


def serve(
    stores: Sequence[str | Location],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> bool:
    """Serve stores until SIGINT or SIGTERM; requests in work are answered first.

    Args:
        stores: the stores' folders.
        host: where to listen; another than this machine's loopback needs a token.
        port: 0 takes a free one.
        token: what clients must send; white space around it does not count.
        ready: called with the server's URL when it listens.
        options: of `create_app`.

    Returns:
        Whether work is left, such as a long computation that no request waits for any more; it keeps the process from
        ending. What it writes, it writes whole or not at all.

    Raises:
        ServeError: the host is public and there is no token, or the port is taken.
        StoreNotFoundError: there is no store at a path.
        MissingDependencyError: FastAPI or uvicorn is not installed.
    """
    public = not is_loopback(host)
    token = (token or "").strip() or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ServeError("the token has characters that a header cannot carry; make one with: openssl rand -hex 32")
    if public and token is None:
        raise ServeError(
            f"{host} is reachable from other machines; give a token (--token-file FILE, or HUBSTORE_TOKEN in the "
            "environment), or stay on 127.0.0.1 and reach it through an SSH tunnel"
        )
    listening = listen(host, port)
    url = f"http://{_shown(host)}:{listening.getsockname()[1]}"
    try:
        app = _application(stores, token=token, hosts=None if public else (*LOOPBACK, host), **options)
        allow_many_files()
        if ready is not None:
            ready(url)
        _run(app, listening)
        return bool(app.state.service.working)
    finally:
        listening.close()


def allow_many_files() -> None:
    """Let this process open as many files as it may: every connection is one, and every mapped shard of a store."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ServeError where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ServeError(f"cannot listen on {host}:{port} ({error}); choose another with --host or --port") from error
    return listening


def _application(stores: Sequence[str | Location], **options: Any) -> FastAPI:
    try:
        from hubstore.serve.app import create_app
    except ImportError as error:
        raise MissingDependencyError(
            "serving needs FastAPI, uvicorn and prometheus-client: pip install 'hubstore[serve]'"
        ) from error
    return create_app(stores, **options)


def _run(app: FastAPI, listening: socket.socket) -> None:
    import uvicorn

    from hubstore.serve.protocol import bounded_protocol

    config = uvicorn.Config(
        app,
        http=bounded_protocol(app.state.service.limits),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(app.state.service.limits.timeout_s) + 1,
        timeout_keep_alive=30,
    )
    _quiet_server(config).run(sockets=[listening])


def _quiet_server(config: uvicorn.Config) -> uvicorn.Server:
    """A server that ends well at a signal: uvicorn's own raises the signal once more at its end."""
    import uvicorn

    class Quiet(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Quiet(config)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
