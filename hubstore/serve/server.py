"""Running the application: the socket first, then what is slow."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubstore.errors import MissingDependencyError, ServeError

if TYPE_CHECKING:
    import uvicorn

    from hubstore.serve.limits import Limits

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BACKLOG = 2048


def serve(
    stores: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serve stores until the process is told to stop (SIGINT, SIGTERM); requests in work are answered first.

    Args:
        stores: the stores' folders.
        host: where to listen; another than this machine's loopback needs a token.
        port: 0 takes a free one.
        token: what clients must send.
        limits: what the server takes on.
        ready: called with the server's URL when it listens.
        options: of `create_app`.

    Raises:
        ServeError: the host is public and there is no token, or the port is taken.
        StoreNotFoundError: there is no store at a path.
        MissingDependencyError: FastAPI or uvicorn is not installed.
    """
    public = not is_loopback(host)
    if public and not token:
        raise ServeError(
            f"{host} is reachable from other machines; give a token (--token-file FILE, or HUBSTORE_TOKEN in the "
            "environment), or stay on 127.0.0.1 and reach it through an SSH tunnel"
        )
    listening = listen(host, port)
    url = f"http://{_shown(host)}:{listening.getsockname()[1]}"
    try:
        server = _server(stores, token, limits, None if public else LOOPBACK, options)
        if ready is not None:
            ready(url)
        server.run(sockets=[listening])
    finally:
        listening.close()


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


def _server(
    stores: Sequence[str | Path],
    token: str | None,
    limits: Limits | None,
    hosts: Sequence[str] | None,
    options: dict[str, Any],
) -> uvicorn.Server:
    try:
        import uvicorn

        from hubstore.serve.app import create_app
    except ImportError as error:
        raise MissingDependencyError("serving needs FastAPI and uvicorn: pip install 'hubstore[serve]'") from error
    from hubstore.serve.limits import Limits

    limits = limits or Limits()
    app = create_app(stores, limits=limits, token=token, hosts=hosts, **options)
    logging.getLogger("hubstore.serve").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.timeout_s) + 1,
        timeout_keep_alive=30,
        limit_concurrency=None,
    )
    return _quiet_server(config)


def _quiet_server(config: uvicorn.Config) -> uvicorn.Server:
    """A server that ends well when it is told to: uvicorn's own raises the signal once more at its end."""
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
