"""What a small request may cost, what a page of another site may ask, and which files a server gives."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from typer.testing import CliRunner

from hubstore.cli import app as command_line
from hubstore.errors import CorruptStoreError, ServeError
from hubstore.serve import Limits, create_app, serve
from hubstore.serve.arrow_bodies import read_vectors
from hubstore.serve.http_errors import TooLargeError
from hubstore.serve.limits import MIB
from hubstore.serve.originals import Originals
from hubstore.serve.protocol import HalfOpen
from hubstore.serve.resources import items as item_routes
from hubstore.serve.security import WRONG_TOKENS, WrongTokens
from hubstore.store import StoreReader
from tests.report.stores import write_store
from tests.serve.servers import served

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ARROW = "application/vnd.apache.arrow.stream"
NEIGHBORS = "/api/v1/stores/plain/neighbors"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("bounds") / "plain.hub")


@pytest.fixture(scope="module")
def app(store):
    return create_app([store.path], hosts=("localhost",))


def ask(app, path, headers=None, *, method="GET", body=b"", client="127.0.0.1", gone=False, **query):
    """Status and body of an answer, by the application itself; no status where it answers nothing."""
    sent, said = [], {"Host": "localhost", **(headers or {})}
    waiting = [{"type": "http.disconnect"}] if gone else [{"type": "http.request", "body": body}]

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(query, doseq=True).encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in said.items()],
        "client": (client, 1),
        "server": ("localhost", 80),
    }
    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"] if sent else 0), b"".join(message.get("body", b"") for message in sent[1:])


def stream(rows, width, codec=None, batches=1):
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * width, np.float32)), width)})
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


# -- Arrow


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_vectors_are_read_compressed_or_not(app, codec):
    assert read_vectors(stream(2, 16, codec, batches=3), 1024, 1 << 20).tolist() == np.ones((6, 16)).tolist()
    status, _ = ask(app, NEIGHBORS, {"Content-Type": ARROW}, method="POST", body=stream(2, 16, codec))
    assert status == 200


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("batches", [1, 40])
def test_a_body_that_would_be_large_decompressed_is_413_and_takes_no_memory(app, codec, batches):
    body = stream(1024, 16384 // batches, codec, batches)
    assert len(body) < 1 << 20
    before = pa.total_allocated_bytes()
    most = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    with pytest.raises(TooLargeError, match=r"more than 32 MiB decompressed"):
        read_vectors(body, 1 << 20, 32 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() == most
    assert ask(app, NEIGHBORS, {"Content-Type": ARROW}, method="POST", body=body)[0] == 413


def test_no_column_but_the_vectors_is_decoded():
    table = pa.table(
        {"id": pa.array(["x"] * 3).dictionary_encode(), "vector": pa.array([[1.0]] * 3, pa.list_(pa.float32(), 1))}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read_vectors(sink.getvalue().to_pybytes(), 3, 100).shape == (3, 1)


def test_a_damaged_stream_is_one_clear_error_and_never_another(app):
    body, rng = stream(3, 16, "zstd", 2), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(body)
        damaged[rng.integers(len(body))] ^= 1 << rng.integers(8)
        with contextlib.suppress(ValueError):  # as which all errors of a request count
            read_vectors(bytes(damaged), 1024, 1 << 20)


# -- media and memory


def flac(samples):
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8000, 8, format="FLAC", subtype="PCM_16") as file:
        file.write(np.zeros((samples, 8), np.int16))
    return buffer.getvalue()


def png(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("modality", "data", "said"),
    [("audio", flac(5000), "10,000 samples"), ("image", png(100, 101), "10,100 pixels")],
)
def test_media_of_which_too_much_would_be_decoded_are_413_before_it_is(modality, data, said):
    limits = Limits(samples=10_000, pixels=10_100)
    limits.check_media(modality, data)
    with pytest.raises(TooLargeError, match=f"the {modality} has {said} decoded"):
        Limits(samples=9_999, pixels=10_099).check_media(modality, data)


def test_memory_that_does_not_suffice_is_413(app, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(item_routes, "table_of", fail)
    status, body = ask(app, "/api/v1/stores/plain/items")
    assert (status, b"memory did not suffice" in body) == (413, True)


def test_many_neighbors_of_vectors_are_bounded_as_those_of_items_are(store):
    app = create_app([store.path], limits=Limits(answer=20_000))
    body = stream(100, 16)
    assert ask(app, NEIGHBORS, {"Content-Type": ARROW}, method="POST", body=body, k=70)[0] == 413


def test_a_client_that_goes_away_is_no_error(store, caplog):
    app = create_app([store.path])
    assert ask(app, NEIGHBORS, {"Content-Type": "application/json"}, method="POST", gone=True) == (0, b"")
    assert not caplog.records
    counted = app.state.service.metrics.text({}, {}).decode()
    assert 'status="499"' in counted
    assert 'status="500"' not in counted


def test_bodies_of_all_requests_are_bounded_together_and_given_back(store):
    app = create_app([store.path], limits=Limits(bodies=1000))
    json, body = {"Content-Type": "application/json"}, b'{"ids":["en:1"]}'
    assert ask(app, NEIGHBORS, json, method="POST", body=body + b" " * 1000)[0] == 503
    for _ in range(100):
        assert ask(app, NEIGHBORS, json, method="POST", body=body)[0] == 200


# -- heads of requests


@pytest.fixture(scope="module")
def running(store):
    with served(store.path) as running:
        yield running


@pytest.fixture(scope="module")
def hasty():
    with served(limits=Limits(head_s=0.3)) as running:
        yield running


def begun(running, *, count=1, first=b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"):
    connections = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(count)]
    for connection in connections:
        connection.sendall(first)
    return connections


def closed(connection):
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    connection.close()
    return True


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000,
        b"GET /" + b"x" * 200_000,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"GET /healthz?" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["header", "path", "headers", "parameters"],
)
def test_a_head_that_is_too_large_is_431_before_it_has_come(running, head):
    (connection,) = begun(running, first=b"")
    with contextlib.suppress(OSError):
        connection.sendall(head)
    assert connection.recv(4096).startswith(b"HTTP/1.1 431")
    assert closed(connection)
    assert running.get("/healthz").status == 200


def test_trailers_count_as_a_head_does(running):
    (connection,) = begun(
        running,
        first=f"POST {NEIGHBORS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n".encode(),
    )
    with contextlib.suppress(OSError):
        for _ in range(40):
            connection.sendall(b"X: " + b"y" * 9000 + b"\r\n")
    assert closed(connection)


def test_a_request_of_many_parameters_and_a_body_of_many_portions_are_taken(running):
    assert running.get("/api/v1/stores/plain/items", q="x", concept=["y" * 50] * 1000).status == 200
    (connection,) = begun(
        running,
        first=f"POST {NEIGHBORS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode(),
    )
    connection.sendall(b"1\r\n \r\n" * 40_000)
    connection.sendall(b'10\r\n{"ids":["en:12"]}'[:-1] + b"\r\n1\r\n}\r\n0\r\n\r\n")
    assert b" 200 OK" in connection.recv(4096)
    connection.close()


@pytest.mark.parametrize("first", [b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come_is_given_up(hasty, first):
    (connection,) = begun(hasty, first=first)
    began = time.monotonic()
    assert closed(connection)
    assert time.monotonic() - began < 15
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty.port, timeout=20)) as kept:
        for _ in range(2):  # what has come whole waits for the next as long as it likes
            kept.request("GET", "/healthz")
            answer = kept.getresponse()
            assert (answer.status, answer.will_close) == (200, False)
            answer.read()
            time.sleep(0.4)


def test_of_too_many_half_requests_the_oldest_are_closed():
    gone = []

    class Connection:
        def __init__(self, number):
            self.loop = SimpleNamespace(time=lambda: 0.0, call_later=lambda *_: None)
            self.transport = SimpleNamespace(close=lambda: gone.append(number))

    half_open, connections = HalfOpen(3, 100.0), [Connection(number) for number in range(6)]
    for connection in connections[:4]:
        half_open.add(connection)
    assert (gone, len(half_open)) == ([0], 3)
    half_open.remove(connections[1])
    for connection in connections[3:]:
        half_open.add(connection)
    assert (gone, len(half_open)) == ([0, 2], 3)


# -- other sites, and tokens


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:8160"},
    {"Origin": "https://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
]
OWN = [
    {},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:80"},
    {"Origin": "http://LOCALHOST", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://hub.example", "X-Forwarded-Host": "hub.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_computes_and_keeps_nothing(store, headers):
    app = create_app([store.path], hosts=("localhost",))
    for path, query in (
        ("/api/v1/stores/plain/projection", {"layer": "0", "points": 20}),
        ("/api/v1/stores/plain/curves", {"analysis": "geometry"}),
        ("/api/v1/stores", {}),
        ("/metrics", {}),
    ):
        status, body = ask(app, path, headers, **query)
        assert (status, body.count(b"\n"), b"another site" in body) == (403, 0, True)
    assert ask(app, NEIGHBORS, headers, method="POST", body=b'{"ids":["en:1"]}')[0] == 403
    assert ask(app, f"{NEIGHBORS}/image", headers, method="POST", body=b"x")[0] == 403
    assert ask(app, NEIGHBORS, headers, method="OPTIONS")[0] == 403
    assert not (store.path / "analyses").exists()
    assert ask(app, "/", headers)[0] == 200, "a link to the dashboard is followed"
    assert ask(app, "/healthz", headers)[0] == 200


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_the_servers_own_pages_and_programs_are_answered(app, headers):
    assert ask(app, "/api/v1/stores", headers)[0] == 200
    body = b'{"ids":["en:1"]}'
    assert ask(app, NEIGHBORS, {"Content-Type": "application/json", **headers}, method="POST", body=body)[0] == 200


def test_wrong_tokens_of_one_address_are_bounded_and_others_are_answered(store):
    app = create_app([store.path], token=TOKEN)
    used = "192.0.2.1"
    assert ask(app, "/api/v1/stores", BEARER, client=used)[0] == 200
    for client in ("192.0.2.7", "2001:db8::1"):
        said = [
            ask(app, "/api/v1/stores", {"Authorization": f"Bearer {n}"}, client=client)[0]
            for n in range(WRONG_TOKENS + 9)
        ]
        assert set(said[: WRONG_TOKENS - 5]) == {401}
        assert said[-1] == 429
    assert ask(app, "/api/v1/stores", BEARER, client="192.0.2.7")[0] == 429, "no more guesses are looked at"
    assert ask(app, "/api/v1/stores", BEARER, client="2001:db8::2")[0] == 429, "one network, one client"
    assert ask(app, "/api/v1/stores", BEARER, client="::ffff:192.0.2.7")[0] == 429, "the same address over IPv6"
    assert ask(app, "/api/v1/stores", BEARER, client="::ffff:192.0.2.9")[0] == 200
    assert ask(app, "/api/v1/stores", {}, client="192.0.2.7")[0] == 401, "no token is no guess"
    assert ask(app, "/api/v1/stores", BEARER, client="192.0.2.8")[0] == 200
    for n in range(WRONG_TOKENS + 9):
        ask(app, "/api/v1/stores", {"Authorization": f"Bearer {n}"}, client=used)
    assert ask(app, "/api/v1/stores", BEARER, client=used)[0] == 200, "who has shown the token is not locked out"


def test_a_locked_out_address_is_looked_at_again_after_a_while(monkeypatch):
    wrong, now = WrongTokens(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(WRONG_TOKENS):
        wrong.count("a")
    assert not wrong.looked_at("a")
    now[0] += 1
    assert wrong.looked_at("a")
    wrong.count("a")
    assert not wrong.looked_at("a")


def test_a_mounted_application_bounds_wrong_tokens_too(store):
    app = Starlette(routes=[Mount("/hub", app=create_app([store.path], token=TOKEN))])
    for path in ("/hub/api/v1/stores", "/hub/metrics", "/hub/static/../api/v1/stores"):
        assert ask(app, path)[0] in (401, 404), path
    said = {ask(app, "/hub/api/v1/stores", {"Authorization": "Bearer x"})[0] for _ in range(WRONG_TOKENS + 5)}
    assert said == {401, 429}


def test_white_space_around_a_token_does_not_count(store, monkeypatch):
    from hubstore.cli.serve import _token
    from hubstore.client.remote import _endpoint

    monkeypatch.setenv("HUBSTORE_TOKEN", f"  {TOKEN}\r\n")
    assert _token(None) == TOKEN
    assert _endpoint("http://localhost", None, 1.0)._headers["Authorization"] == f"Bearer {TOKEN}"
    monkeypatch.setenv("HUBSTORE_TOKEN", " \n")
    assert _token(None) is None
    with pytest.raises(ServeError, match="token"):
        serve([store.path], host="192.0.2.1", token=" \n")
    with pytest.raises(ServeError, match="characters that a header cannot carry"):
        serve([store.path], host="192.0.2.1", token="ключ")


# -- originals


@pytest.fixture
def folder(tmp_path):
    """photographs/ with files of every kind, a secret beside it."""
    inside = tmp_path / "photographs"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inside / "inner.png").symlink_to(inside / "deep" / "a.png")
    (inside / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "out").symlink_to(tmp_path)
    (inside / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(inside / "pipe.png")
    with (inside / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    return inside


def test_files_below_the_folder_are_given(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    for named in (folder, linked):
        originals = Originals(named, 100)
        for name in (folder / "deep/a.png", linked / "deep/a.png", folder / "inner.png", "deep/a.png"):
            given = originals.read(str(name))
            assert given == b"a" or (named, name) == (folder, linked / "deep/a.png")


@pytest.mark.parametrize(
    "name",
    [
        "{up}/secret.png",
        "{up}/photographs/../secret.png",
        "../secret.png",
        "deep/../../secret.png",
        "out.png",
        "out/secret.png",
        "zero.png",
        "/dev/zero",
        "pipe.png",
        "pipe.png!a",
        "large.png",
        "large.png!a",
        "deep",
        "",
        ".",
        "none.png",
        "deep/a.png/x",
        "a\x00b",
        "x" * 5000,
        "http://127.0.0.1:9/x.png",
        "https://127.0.0.1:9/x.png",
        "file:///etc/passwd",
        "s3://bucket/x.png",
        "/proc/self/mem",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_given_and_nothing_hangs(folder, name):
    found = []
    reading = threading.Thread(
        target=lambda: found.append(Originals(folder, 100).read(name.replace("{up}", str(folder.parent)))), daemon=True
    )
    reading.start()
    reading.join(20)
    assert found == [None]


def test_members_of_archives_below_the_folder_are_given_up_to_the_bound(folder):
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name, size in (("a.png", 3), ("b.png", 101)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    originals = Originals(folder, 100)
    assert originals.read(f"{folder}/x.tar!a.png") == b"xxx"
    assert [originals.read(f"{folder}/x.tar!{name}") for name in ("b.png", "l.png", "c.png", "")] == [None] * 4
    endless = tarfile.TarInfo("long")
    endless.type, endless.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (folder / "y.tar").write_bytes(endless.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with (folder / "y.tar").open("r+b") as file:
        file.truncate(1 << 40)
    assert originals.read(f"{folder}/y.tar!a.png") is None


@pytest.mark.parametrize("given", [True, "no-such-folder", __file__])
def test_what_is_no_folder_is_said_before_anything_is_served(store, given):
    with pytest.raises(ServeError, match=r"originals is .*, which is no folder; name the one .* originals='FOLDER'"):
        create_app([store.path], originals=given)


@pytest.mark.parametrize(
    "typed", [["STORE", "--originals"], ["--originals", "STORE"], ["STORE", "--originals", "--port", "80"]]
)
def test_the_option_without_a_folder_says_what_to_write(store, typed):
    said = CliRunner().invoke(command_line, ["serve", *(str(store.path) if one == "STORE" else one for one in typed)])
    assert "--originals FOLDER" in str(said.exception)


# -- what is kept, and downloaded


def test_clients_do_not_fill_the_disk_with_large_results(tmp_path):
    store = write_store(tmp_path / "s.hub")
    app = create_app([store.path], limits=Limits(results_bytes=1))
    for seed in range(3):
        assert ask(app, "/api/v1/stores/s/projection", layer="1", points=20, seed=seed)[0] == 200
    assert len(list((store.path / "analyses").rglob("*.parquet"))) == 1


def test_formulas_are_not_in_csv_unless_asked_for(tmp_path):
    formulas = ["=1+1", "+1", "-1", "@x", "\tx", "\rx"]
    store = write_store(tmp_path / "f.hub", texts=dict(enumerate([*formulas, "plain", "a=b"])))
    for safe in (True, False):
        app = create_app([store.path], csv_safe=safe)
        said = ask(app, "/api/v1/stores/f/items", format="csv", limit=8)[1].decode()
        for formula in formulas:
            assert (f'"\'{formula}"' in said) is safe
            assert (f'"{formula}"' in said) is not safe
        assert '"plain"' in said
        assert '"a=b"' in said
        assert "'" not in said.replace("'" if safe else "\0", "", len(formulas))
    numbers = ask(create_app([store.path]), "/api/v1/stores/f/hidden", format="csv", id="en:0", layer="0")[1].decode()
    assert "'" not in numbers


@pytest.mark.parametrize(
    "layers", [["-²"], ["²"], ["-1²"], ["١"], [10**18], [-(10**18)], ["9" * 5000], ["-" + "9" * 5000]]
)
def test_a_layer_that_is_no_number_is_no_error_of_the_servers(app, layers):
    body = f'{{"ids":["en:1"],"layers":{str(layers).replace(chr(39), chr(34))}}}'.encode()
    status, _ = ask(app, NEIGHBORS, {"Content-Type": "application/json"}, method="POST", body=body)
    assert status == 404
    body = b'{"ids":["en:1"],"layers":[' + b"9" * 5000 + b"]}"
    assert ask(app, NEIGHBORS, {"Content-Type": "application/json"}, method="POST", body=body)[0] in (404, 422)


def test_a_mapped_shard_that_lost_its_end_is_one_clear_error_and_no_signal(tmp_path):
    store = write_store(tmp_path / "t.hub")
    states, removed = (StoreReader(store.path).hidden(layer) for layer in ("1", "2"))
    whole, other = states.read(), removed.read()
    (store.path / "hidden/mean/2/c/0/0").unlink()
    assert removed.read().equal(other), "a file that is removed stays mapped"
    shard = store.path / "hidden/mean/1/c/0/0"
    content = shard.read_bytes()
    os.truncate(shard, 0)
    with pytest.raises(CorruptStoreError, match=f"has 0 bytes.*{len(content)}"):
        states.read()
    with pytest.raises(CorruptStoreError):
        states.take([3])
    shard.write_bytes(content)  # in place, as it was written
    assert states.read().equal(whole)


GROWN_BY_FREED_ARRAYS = """
import sys
import numpy as np
from hubstore.serve.pools import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

np.ones(30 << 20, np.uint8)  # freed at once; glibc's own threshold is there from now on
before = resident()
arrays, held = zip(*((np.ones(2 << 20, np.uint8), bytearray(100_000)) for _ in range(40)))
del arrays
if sys.argv[1] == "returned":
    return_freed_memory()
print(resident() - before)
"""


@pytest.mark.parametrize(("freed", "least", "most"), [("returned", -MIB, 8 * MIB), ("kept", 70 * MIB, 100 * MIB)])
def test_arrays_that_a_server_frees_are_the_systems_again(freed, least, most):
    command = [sys.executable, "-c", GROWN_BY_FREED_ARRAYS, freed]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert least <= int(grown) <= most
