"""What a server answers that is no object store, or an ill one, is one clear line and ends."""

from __future__ import annotations

import http.server
import threading

import pytest

from hubstore.errors import StorageUnreachableError
from hubstore.storage import lease, open_storage

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1"}


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers each method with the status that its server has for it."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.statuses[self.command])
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815

    def log_message(self, *given):
        pass


@pytest.fixture
def storage(monkeypatch, own_cache):
    """A storage of a server that has nothing, whose answers can be chosen."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.statuses = dict.fromkeys(("GET", "HEAD", "PUT", "DELETE", "POST"), 404)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
        monkeypatch.setenv(name, value)
    found = open_storage("s3://lab/x.hub")
    found.statuses = server.statuses
    yield found
    server.shutdown()
    server.server_close()


def test_404_to_a_list_or_a_write_is_one_line_and_no_missing_object(storage):
    for ask in (
        lambda: storage.list("commits"),
        lambda: storage.write("k", b"v"),
        lambda: storage.put_if_absent("k", b"v"),
    ):
        with pytest.raises(StorageUnreachableError, match=r"HTTP 404.*check .*the endpoint") as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_lease_that_is_404_whatever_is_asked_is_given_up(storage, monkeypatch):
    monkeypatch.setattr(lease, "ATTEMPTS", 3)
    with pytest.raises(StorageUnreachableError, match=r"locking s3://lab/x\.hub: .*HTTP 404"), storage.lock():
        pass


def test_what_is_refused_when_it_is_looked_up_and_missing_when_it_is_read_is_missing(storage):
    storage.statuses["HEAD"] = 403
    assert storage.stat("k") is None
    assert not storage.exists("k")
