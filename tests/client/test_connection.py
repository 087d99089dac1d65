"""The connection against servers that misbehave: busy, silent, broken off, of another kind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import hubstore
from hubstore.client.connection import ARROW, JSON, AsyncConnection, Connection, Endpoint, Request
from hubstore.errors import HubstoreError, QueryError, ServerError, TokenError

HEALTH = {"status": "ok", "version": "1", "stores": 1}


class Blocking:
    """A connection that blocks."""

    def __init__(self, url, token=None, timeout=5):
        self.url = url
        self.connection = Connection(Endpoint(url, token, timeout))

    def get(self, path, query=(), accept=ARROW):
        return self.connection.send(Request(path, query, accept=accept))


class Awaiting(Blocking):
    """One that is awaited."""

    def __init__(self, url, token=None, timeout=5):
        self.url = url
        self.endpoint = Endpoint(url, token, timeout)

    def get(self, path, query=(), accept=ARROW):
        async def ask():
            connection = AsyncConnection(self.endpoint)
            try:
                return await connection.send(Request(path, query, accept=accept))
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(params=[Blocking, Awaiting], ids=["blocking", "awaiting"])
def client(request):
    return request.param


@contextmanager
def serving(answer, protocol="HTTP/1.1"):
    """A server on a free port: `answer` gets the handler of each request; its address, and the requests that came."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol

        def do_GET(self):
            asked.append(self)
            answer(self)

        def do_POST(self):
            self.given = self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler, status=200, body=b"{}", kind="application/json", **headers):
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def failure(handler, status, kind, message, **headers):
    reply(handler, status, json.dumps({"error": {"kind": kind, "message": message}}).encode(), **headers)


@contextmanager
def raised(client, answer, match, error=ServerError, **options):
    with serving(answer) as (url, _), pytest.raises(error, match=match):
        yield client(url, **options)


def test_a_busy_server_is_asked_again_after_as_long_as_it_says():
    times = []

    def answer(handler):
        times.append(time.monotonic())
        if len(times) < 3:
            failure(handler, 503, "RequestError", "busy", Retry_After="1" if len(times) == 1 else "0")
        else:
            reply(handler, body=b'{"a": 1}')

    with serving(answer) as (url, _):
        assert Blocking(url, timeout=10).get("/x", accept=JSON).json() == {"a": 1}
    assert times[1] - times[0] >= 0.95
    assert times[2] - times[1] < 0.9


def test_a_long_computation_is_asked_for_until_it_is_there(client):
    seen = []

    def answer(handler):
        seen.append(handler.path)
        if len(seen) < 3:
            failure(handler, 504, "RequestError", "it took too long", Retry_After="0")
        else:
            reply(handler, body=b'{"a": 1}')

    with serving(answer) as (url, _):
        assert client(url, timeout=10).get("/x", accept=JSON).json() == {"a": 1}
    with raised(client, lambda h: failure(h, 504, "RequestError", "it took too long"), "too long", timeout=0.3) as to:
        to.get("/x")


def test_a_server_that_stays_busy_is_given_up_when_the_time_is_over():
    started = time.monotonic()
    with raised(
        Blocking, lambda h: failure(h, 503, "RequestError", "busy", Retry_After="1"), "503: busy", timeout=1.5
    ) as to:
        to.get("/x")
    assert 0.9 < time.monotonic() - started < 4


def test_a_date_of_retry_after_and_one_that_is_none_are_waited_for_too(client):
    with serving(lambda h: failure(h, 503, "RequestError", "busy", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")) as (
        url,
        asked,
    ):
        with pytest.raises(ServerError, match="busy"):
            client(url, timeout=0.3).get("/x")
        assert len(asked) > 2
    with raised(
        client, lambda h: failure(h, 503, "RequestError", "busy", Retry_After="soon"), "busy", timeout=0.3
    ) as to:
        to.get("/x")


@pytest.mark.parametrize("kind", ["QueryError", "LensError", "StaleIndexError", "AnalysisError", "NonFiniteError"])
def test_an_error_is_the_class_that_a_local_store_raises(client, kind):
    with raised(
        client, lambda h: failure(h, 400, kind, "so it is"), "^so it is$", getattr(hubstore.errors, kind)
    ) as to:
        to.get("/x")


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (422, "RequestError", QueryError),
        (413, "RequestError", QueryError),
        (404, "RequestError", ServerError),
        (501, "RequestError", ServerError),
        (500, "InternalError", ServerError),
        (500, "annotations", ServerError),
        (400, "HubstoreError", HubstoreError),
    ],
)
def test_other_errors_are_of_the_request_or_of_the_server(client, status, kind, error):
    with raised(client, lambda h: failure(h, status, kind, "told"), "told", error) as to:
        to.get("/x")


def test_a_token_is_sent_and_a_wrong_one_is_told(client):
    def answer(handler):
        if handler.headers.get("Authorization") == "Bearer right":
            reply(handler, body=b"{}")
        else:
            failure(handler, 401, "RequestError", "the token is missing or wrong")

    with serving(answer) as (url, _):
        assert client(url, "right").get("/x", accept=JSON).json() == {}
        for token in (None, "wrong"):
            with pytest.raises(TokenError, match=r"missing or wrong; give the token .* HUBSTORE_TOKEN"):
                client(url, token).get("/x")
    for token in ("", "two\nlines", "ключ"):
        with pytest.raises(QueryError, match="token has characters"):
            client("http://127.0.0.1", token)


def test_connections_are_kept_and_one_that_the_server_closed_is_opened_anew():
    ports = []

    def answer(handler):
        ports.append(handler.client_address[1])
        reply(handler)
        handler.close_connection = len(ports) == 2  # without a word of it

    with serving(answer) as (url, _):
        connection = Blocking(url, timeout=5)
        for _ in range(3):
            connection.get("/x")
            time.sleep(0.1)
        connection.connection.close()
    assert ports[0] == ports[1] != ports[2]


def test_each_thread_has_a_connection_of_its_own():
    def answer(handler):
        time.sleep(0.05)
        reply(handler, body=handler.path.encode())

    with serving(answer) as (url, _):
        connection, found = Blocking(url, timeout=5), {}

        def ask(number):
            for _ in range(5):
                found.setdefault(number, []).append(connection.get(f"/{number}").body.decode())
            connection.connection.close()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [f"/{number}"] * 5 for number in range(6)}


def test_parameters_are_escaped_repeated_and_left_out_and_a_path_before_them_is_kept(client):
    with serving(reply) as (url, asked):
        query = [("id", "a&b=ü/1"), ("id", "2"), ("pooling", None), ("exclude_self", False)]
        client(url + "/hub/", timeout=5).get("/api/x", query)
    assert asked[0].path == "/hub/api/x?id=a%26b%3D%C3%BC%2F1&id=2&exclude_self=false"


def test_what_is_no_hubstore_server_is_told(client):
    page = b"<html>hello</html>"
    for status in (200, 302, 404, 500):
        with raised(
            client, lambda h, s=status: reply(h, s, page, "text/html"), rf"HTTP {status}, text/html.*hubstore serve"
        ) as to:
            to.get("/x", accept=JSON).json()
    with raised(client, lambda h: reply(h, 200, page, "text/html"), "does not answer as a hubstore server") as to:
        to.get("/x").table()
    with raised(client, lambda h: reply(h, body=b'{"status": "ok"}'), "does not answer as a hubstore server") as to:
        hubstore.connect(to.url)


def test_no_server_a_silent_one_one_that_breaks_off_and_no_host_are_told_apart(client, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port} refuses connections.*hubstore serve"):
        hubstore.connect(f"http://127.0.0.1:{port}")
    with raised(client, lambda h: time.sleep(1), "no answer within 0.2 s", timeout=0.2) as to:
        to.get("/x")
    with raised(client, lambda h: setattr(h, "close_connection", True), "broke off") as to:
        to.get("/x")

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    with raised(client, half, "broke off") as to:
        to.get("/x")
    with serving(reply) as (url, _), pytest.raises(ServerError, match="TLS"):
        client(url.replace("http", "https")).get("/x")

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServerError, match=r"there is no host 'nowhere\.invalid'"):
        client("http://nowhere.invalid").get("/x")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x:port"])
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(QueryError, match="write it as http://127"):
        hubstore.connect(url)


def test_an_address_with_a_password_or_a_query_is_refused_without_repeating_it():
    for url in ("http://user:secret@host", "http://host/?token=secret"):
        with pytest.raises(QueryError, match="has no user, query or fragment") as told:
            hubstore.connect(url)
        assert "secret" not in str(told.value)


def test_the_store_is_named_where_there_are_several(monkeypatch):
    def answer(handler):
        stores = {"stores": [{"name": "a"}, {"name": "b"}]}
        reply(handler, body=json.dumps(HEALTH if handler.path == "/healthz" else stores).encode())

    with serving(answer) as (url, asked):
        monkeypatch.setitem(os.environ, "HUBSTORE_TOKEN", "of-the-environment")
        with pytest.raises(QueryError, match="serves 2 stores; name one of them: a, b"):
            hubstore.connect(url)
        with pytest.raises(QueryError, match="has no store 'c'; it has a, b"):
            hubstore.connect(url, store="c")
        with hubstore.connect(url, "b") as store:
            assert (store.name, store.url) == ("b", url)
        assert {handler.headers["Authorization"] for handler in asked} == {"Bearer of-the-environment"}
