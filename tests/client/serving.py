"""A real server in this process, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from hubstore.serve import create_app
from hubstore.serve.server import listen


@contextmanager
def served(*paths: Path, **options: Any) -> Iterator[str]:
    """The address of a server of stores, with `create_app`'s options."""
    server = uvicorn.Server(uvicorn.Config(create_app(paths, **options), log_level="warning", access_log=False))
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
