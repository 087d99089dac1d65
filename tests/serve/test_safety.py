"""What a hostile client, page or corpus may try, and what a busy server says."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import torch

from hubstore.errors import ServeError, StoreNotFoundError
from hubstore.serve import Limits, create_app, serve
from hubstore.serve.limits import MIB
from hubstore.storage import LocalStorage
from hubstore.store import Layout, write_metadata, write_shard
from tests.report.stores import write_store
from tests.serve.servers import served

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "bidi": "\u202egnp.exe\u202c \u2066left\u2069 \u200f",
    "control": "a\x00b\x07\x1b[31m\x7f\u2028\u2029",
    "quote": '"}],"error":{"kind":"x"}',
    "formula": '=HYPERLINK("http://evil")',
    "emoji": "👩‍👩‍👧‍👦 e\u0301 ﷽",
    "long": "א<b>" * 262_144,
    "../../etc/passwd": "a path",
    "id with spaces & ünïcode/слэш?#%2e": "%3Cscript%3E",
    "": "the id is empty",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("safety") / "plain.hub")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("safety") / "hostile.hub"
    count = len(HOSTILE)
    items = pa.table(
        {
            "id": list(HOSTILE),
            "concept": ["<c>"] * count,
            "language": ["en"] * count,
            "modality": ["text"] * count,
            "text": list(HOSTILE.values()),
            "tokens": pa.array([1] * count, pa.int32()),
            "truncated": [False] * count,
        }
    )
    layout = Layout(("0",), ("mean",), "float32", 8, shard_rows=64, chunk_rows=16)
    states = torch.randn((1, count, 8), generator=torch.Generator().manual_seed(0))
    write_shard(LocalStorage(path), layout, 0, items, {"mean": states})
    about = {"model": {"id": "<script>", "source": "/home/someone/secret/model"}}
    write_metadata(LocalStorage(path), layout, about, count, count)
    return path


def test_hostile_text_is_returned_as_it_is_and_only_as_json(hostile):
    with served(hostile) as running:
        answer = running.get("/api/v1/stores/hostile/items", limit=100)
        assert dict(zip(answer.columns["id"], answer.columns["text"], strict=True)) == HOSTILE
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        for name, text in HOSTILE.items():
            assert running.get("/api/v1/stores/hostile/item", id=name).json["text"] == text
            found = running.get("/api/v1/stores/hostile/neighbors", id=name, k=20)
            assert set(found.columns["query"]) == {name}
            assert {*found.columns["id"], name} == set(HOSTILE)
        assert running.get("/api/v1/stores/hostile/items", q="<SCRIPT>").columns["id"] == ["script"]
        stream = running.get("/api/v1/stores/hostile/items", limit=100, format="arrow").body
        assert pa.ipc.open_stream(stream).read_all()["text"].to_pylist() == list(HOSTILE.values())


def test_a_missing_id_comes_back_in_the_message_as_json(hostile):
    with served(hostile) as running:
        for name in ("<script>no</script>", "\u202e\x00", "x" * 5000):
            answer = running.get("/api/v1/stores/hostile/item", id=name)
            assert answer.status == 404
            assert answer.headers["content-type"] == "application/json"
            assert answer.error


def test_every_answer_has_the_security_headers(store):
    with served(store.path) as running:
        for path in (
            "/",
            "/healthz",
            "/api/v1/stores",
            "/api/nothing",
            "/static/api.js",
            "/api/v1/stores/plain/items?limit=x",
        ):
            headers = running.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers


def test_no_folder_of_the_server_is_in_any_answer(hostile):
    with served(hostile, originals=hostile.parent) as running:
        store = "/api/v1/stores/hostile"
        said = [
            running.get(path, **query).body
            for path, query in (
                ("/api/v1/stores", {}),
                (store, {}),
                (f"{store}/items", {"limit": 3}),
                (f"{store}/items", {"partition": "x"}),
                (f"{store}/neighbors", {"id": "script", "layer": "9"}),
                (f"{store}/neighbors", {"id": "nobody"}),
                (f"{store}/neighbors", {"id": "script", "concept": "x"}),
                (f"{store}/neighbors", {"id": "script", "pooling": "x"}),
                (f"{store}/neighbors", {"id": "script"}),
                (f"{store}/lens", {"id": "script"}),
                (f"{store}/media", {"id": "script"}),
                (f"{store}/curves", {"analysis": "similarity"}),
                (f"{store}/projection", {"language": "x"}),
                (f"{store}/projection", {"layer": "0"}),
            )
        ]
    for body in said:
        assert str(hostile.parent).encode() not in body, body
        assert b"/home/someone" not in body, body


def test_a_token_is_asked_for_wherever_there_is_data(store):
    with served(store.path, token=TOKEN) as running:
        for path in ("/healthz", "/", "/api/docs", "/api/openapi.json", "/static/api.js"):
            assert running.get(path).status in (200, 304), path
        for path in (
            "/api/v1/stores",
            "/api/v1/stores/plain/items",
            "/api/nothing",
            "/nothing",
            "/metrics",
            "/api//stores",
            "/api/docs/",
        ):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}, {"Authorization": ""}):
                answer = running.get(path, headers)
                assert answer.status == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.error
        assert running.get("/api/v1/stores", BEARER).status == 200
        assert running.get("/metrics", BEARER).status == 200
        assert running.ask("POST", "/api/v1/stores/plain/neighbors", b"{}", {}).status == 401


def test_a_public_host_without_a_token_is_refused_before_anything_is_opened(store):
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ServeError, match="token"):
            serve([store.path], host=host)


def test_a_port_that_is_taken_and_a_folder_that_is_no_store_are_said(store, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServeError, match="--port"):
        serve([store.path], port=taken.getsockname()[1])
    with pytest.raises(StoreNotFoundError):
        create_app([tmp_path])


def test_pages_that_point_their_name_at_this_machine_get_nothing(store):
    with served(store.path, hosts=("localhost", "127.0.0.1", "::1")) as running:
        assert running.get("/api/v1/stores", {"Host": f"localhost:{running.port}"}).status == 200
        assert running.get("/api/v1/stores", {"Host": "[::1]:80"}).status == 200
        for host in ("evil.example", f"evil.example:{running.port}", "localhost.evil.example", "", "localhost:x"):
            assert running.get("/api/v1/stores", {"Host": host}).status == 421


def test_bodies_beyond_the_limits_are_413_however_they_come(store):
    with served(store.path, limits=Limits(body=10_000, upload=20_000)) as running:
        path = "/api/v1/stores/plain/neighbors"
        assert running.post(path, b"x" * 10_001).status == 413
        assert running.post(path, b" " * 9_000 + b'{"ids":["en:1"]}').status == 200
        assert running.post(f"{path}/image", b"x" * 20_001, kind="image/png").status == 413
        assert running.post(path, b"x" * 20_001, kind="application/vnd.apache.arrow.stream").status == 413
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        pieces = (b"x" * 1000 for _ in range(1000))
        connection.request("POST", path, pieces, {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_a_body_that_does_not_come_is_given_up(store):
    with (
        served(store.path, limits=Limits(timeout_s=0.3)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection,
    ):
        connection.sendall(
            b"POST /api/v1/stores/plain/neighbors HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


class Stalled:
    """Searches that wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from hubstore import query

        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        real = query.search

        def search(*arguments, **options):
            self.begun.release()
            assert self.go.wait(30)
            return real(*arguments, **options)

        monkeypatch.setattr(query, "search", search)


def test_a_full_server_says_503_and_when_to_come_back(store, monkeypatch):
    stalled = Stalled(monkeypatch)
    limits = Limits(searches=1, waiting=2)
    with served(store.path, limits=limits) as running, ThreadPoolExecutor(3) as clients:
        path = "/api/v1/stores/plain/neighbors"
        first = clients.submit(running.get, path, id="en:0")
        assert stalled.begun.acquire(timeout=30)
        others = [clients.submit(running.get, path, id=f"en:{n}") for n in (1, 2)]
        until = time.monotonic() + 20
        while b'work="searches waiting"} 2.0' not in running.get("/metrics").body and time.monotonic() < until:
            time.sleep(0.01)
        refused = running.get(path, id="en:3")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert running.get("/healthz").status == 200
        assert running.get("/api/v1/stores/plain/items").status == 200, "other work goes on"
        stalled.go.set()
        answers = [one.result() for one in (first, *others)]
    assert [answer.columns["query"][0] for answer in answers] == ["en:0", "en:1", "en:2"]


def test_what_takes_too_long_is_504_and_the_next_is_answered(store, monkeypatch):
    stalled = Stalled(monkeypatch)
    with served(store.path, limits=Limits(searches=1, timeout_s=0.3)) as running:
        path = "/api/v1/stores/plain/neighbors"
        assert running.get(path, id="en:0").status == 504
        assert running.get(path, id="en:1").status == 504, "it waited in vain"
        stalled.go.set()
        until = time.monotonic() + 20
        while running.get(path, id="en:2").status != 200:
            assert time.monotonic() < until


def test_an_error_of_the_servers_own_is_told_to_the_log_and_not_to_the_client(store, monkeypatch, caplog):
    from hubstore.serve.resources import items

    def fail(*_):
        raise RuntimeError("at /secret/place")

    monkeypatch.setattr(items, "table_of", fail)
    with served(store.path) as running, caplog.at_level(logging.ERROR, "hubstore.serve"):
        answer = running.get("/api/v1/stores/plain/items")
        assert answer.status == 500
        assert answer.json["error"]["kind"] == "InternalError"
        assert "secret" not in answer.error
        assert "Traceback" not in answer.error
        assert answer.headers["x-content-type-options"] == "nosniff"
    number = answer.error.rsplit(" ", 1)[-1]
    assert any(number in record.getMessage() and record.exc_info for record in caplog.records)


def test_clients_do_not_fill_the_disk_with_results(tmp_path):
    store = write_store(tmp_path / "s.hub")
    with served(store.path, limits=Limits(results=3)) as running:
        for seed in range(6):
            answer = running.get("/api/v1/stores/s/projection", layer="1", points=20, seed=seed)
            assert (answer.status, answer.json["rows"]) == (200, 20)
        assert len(running.get("/api/v1/stores/s/analyses").json["analyses"]) == 3
        assert len(list((store.path / "analyses").rglob("*"))) == 4  # the folder of their kind too


def test_a_damaged_store_is_an_internal_error_that_names_no_file(tmp_path):
    store = write_store(tmp_path / "broken.hub")
    (store.path / "hidden/mean/1/c/0/0").write_bytes(b"short")
    with served(store.path) as running:
        answer = running.get("/api/v1/stores/broken/neighbors", id="en:1")
        assert answer.status == 500
        assert str(tmp_path) not in answer.error
        assert "hidden" not in answer.error


def test_unreadable_uploads_are_415_and_other_requests_of_the_batch_are_answered(store):
    with served(store.path) as running:
        path = "/api/v1/stores/plain/neighbors"
        assert running.post(f"{path}/image", b"", kind="image/png").status == 415
        for body in (b"", b"ARROW1", b"\xff" * 100, b"\x00" * MIB):
            assert running.post(path, body, kind="application/vnd.apache.arrow.stream").status == 415
        deep = json.dumps({"vectors": [[1.0]]}).replace("[1.0]", "[" * 2000 + "]" * 2000)
        assert running.post(path, deep.encode()).status == 422
        assert running.post(path, b'{"ids":["\\ud800"]}').status in (404, 422)
