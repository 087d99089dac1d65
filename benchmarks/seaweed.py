"""A real S3 server: SeaweedFS on loopback, with a writer, a reader and a bucket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BUCKET = "lab"
WRITER = {"AWS_ACCESS_KEY_ID": "hubstore-writer", "AWS_SECRET_ACCESS_KEY": "writers-secret-7f3a"}
READER = {"AWS_ACCESS_KEY_ID": "hubstore-reader", "AWS_SECRET_ACCESS_KEY": "readers-secret-91bc"}
STARTS_IN_S = 60

AWS = [name for name in os.environ if name.startswith("AWS_")]
"""What this machine's own environment says, which no test must use."""


def weed() -> Path | None:
    """The server's program, beside the interpreter or on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


class SeaweedFS:
    """A server whose data stay in `folder`, so that it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = _free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identities = [
            _identity("writer", WRITER, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity("reader", READER, ["Read", "List"]),
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        """Where S3's clients ask."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def web(self) -> str:
        """Where plain HTTP gives the objects, below /buckets."""
        return f"http://127.0.0.1:{self.ports[6]}"

    def environment(self, who: dict[str, str] = WRITER) -> dict[str, str]:
        """What a client's environment says; nothing of this machine's own credentials."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            **who,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
        }

    def start(self) -> SeaweedFS:
        """Start, and wait until it takes objects."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        options = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": self.folder / "data",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 256,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 32,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": self.folder / "filer.sock",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self.folder / "s3.sock",
            "s3.config": self.folder / "s3.json",
        }
        program = weed()
        assert program is not None
        command = [program, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """End at once, with whatever it was at."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        import obstore
        from obstore.store import S3Store

        until = time.monotonic() + STARTS_IN_S
        config = {"access_key_id": WRITER["AWS_ACCESS_KEY_ID"], "secret_access_key": WRITER["AWS_SECRET_ACCESS_KEY"]}
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
            **config,
        )
        while True:
            try:
                obstore.put(store, "started", b"yes")  # the bucket is made by an administrator's first object
                return
            except Exception as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(
                        f"SeaweedFS did not start: {(self.folder / 'log').read_text()[-2000:]}"
                    ) from error
                time.sleep(0.1)


def _identity(name: str, keys: dict[str, str], actions: list[str]) -> dict[str, object]:
    pair = {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
    return {"name": name, "credentials": [pair], "actions": actions}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
