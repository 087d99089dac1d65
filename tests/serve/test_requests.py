"""What every request meets: the token wherever the application is mounted, HEAD, entity tags, compression, and names
of parameters that there are not."""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import hubstore
from hubstore import Corpus, Item, extract
from hubstore.errors import CorpusUnreachableError
from hubstore.serve import Limits, create_app
from hubstore.serve.compression import takes_gzip
from hubstore.store import StoreReader
from tests.extraction.test_generations import away_at, extracted
from tests.extraction.test_generations import items as corpus_of
from tests.report.test_media import made_up
from tests.serve.servers import served
from tests.tiny_models import tiny_language_model

TOKEN = "a-token-of-the-tests"
BEARER = [(b"authorization", f"Bearer {TOKEN}".encode())]
PRIVATE = ("/api/v1/stores", "/metrics", "/api/v1/stores/words/items", "/api/v1/experiments")
PUBLIC = ("/", "/healthz", "/api/docs", "/api/openapi.json", "/static/docs.js")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    items = [Item(f"en:{n}", f"sentence number {n}", "en", f"c{n}") for n in range(40)]
    model = tiny_language_model("llama")
    settings = {"dtype": "float32", "poolings": ["mean", "tokens"], "with_lens": True}
    extract(Corpus.from_items(items), model, folder / "words.hub", **settings)
    made_up(folder / "media.hub")
    return folder


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(app, path: str, headers=(), *, method="GET", kind="http", root_path="") -> Reply:
    """One ASGI request, as servers of any kind make them; a websocket that is refused has status 403."""
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    if kind == "websocket":
        del scope["method"]
        scope["subprotocols"] = []
    sent, coming = [], [{"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"}]

    async def receive():
        return coming.pop() if coming else await asyncio.Event().wait()  # it stays connected

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if kind == "websocket":
        assert [message["type"] for message in sent] == ["websocket.close"]
        return Reply(403, {}, b"")
    said = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], said, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture(scope="module")
def protected(folder):
    return create_app([folder / "words.hub"], token=TOKEN)


@pytest.fixture(scope="module")
def running(folder):
    with served(folder / "words.hub", folder / "media.hub", originals=folder) as running:
        yield running


@pytest.mark.parametrize(
    ("prefix", "root_path"), [("", ""), ("/hub", ""), ("/hub", "/hub"), ("", "/hub"), ("/a/hub", "/a")]
)
def test_a_mounted_application_asks_for_its_token(protected, prefix, root_path):
    mounted = prefix.removeprefix(root_path)
    app = Starlette(routes=[Mount(mounted, app=protected)]) if mounted else protected
    for path in PRIVATE:
        assert ask(app, prefix + path, root_path=root_path).status == 401, path
        assert ask(app, prefix + path, BEARER, root_path=root_path).status == 200, path
    for path in PUBLIC:
        assert ask(app, prefix + path, root_path=root_path).status == 200, path


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/stores",
        "/api//stores",
        "/api/v1/stores/",
        "/API/stores",
        "/api/docs/",
        "/api/docs/../stores",
        "/nothing",
        "/statics",
        "/hub/api/v1/stores",
        "/hub//api/v1/stores",
        "/hub/hub/api/v1/stores",
        "",
    ],
)
@pytest.mark.parametrize("root_path", ["", "/hub", "/hub/"])
def test_a_path_in_any_spelling_gives_no_data_without_the_token(protected, path, root_path):
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "TRACE"):
        reply = ask(protected, path, method=method, root_path=root_path)
        assert reply.status == 401, method


def test_the_fixed_files_are_all_that_their_folder_gives_without_the_token(protected):
    for path in ("/static/../api/v1/stores", "/static//api/v1/stores", "/static/", "/static/../../app.py"):
        assert ask(protected, path).status == 404


def test_a_websocket_without_the_token_is_closed(protected):
    for path in ("/", "/api/v1/stores", "/hub/api/v1/stores"):
        assert ask(protected, path, kind="websocket").status == 403


def test_head_is_get_without_the_body(running, protected):
    for path in (
        "/",
        "/healthz",
        "/metrics",
        "/api/docs",
        "/api/v1/stores",
        "/api/v1/stores/words/items",
        "/api/nothing",
    ):
        got, head = running.get(path), running.ask("HEAD", path)
        assert (head.status, head.body) == (got.status, b""), path
        if path != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"], path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert running.ask("HEAD", "/api/v1/stores/words/item", id="nobody").status == 404
    assert ask(protected, "/healthz", method="HEAD").body == b"", "whatever server calls it"


def test_an_id_that_is_not_there_is_404_whatever_the_browser_has(running):
    path = "/api/v1/stores/media"
    revision = running.get(path).json["revision"]
    item = next(one for one in records(running.get(f"{path}/items", limit=1000)) if one["preview"])
    for seen in (f'"{revision}"', f'W/"{revision}"', "*", f'"other", "{revision}"'):
        assert running.get(f"{path}/preview", {"If-None-Match": seen}, id="nobody").status == 404
        assert running.get(f"{path}/media", {"If-None-Match": seen}, id="nobody").status == 404
        known = running.get(f"{path}/preview", {"If-None-Match": seen}, id=item["id"])
        assert (known.status, known.body) == (304, b"")
    assert running.get(f"{path}/preview", {"If-None-Match": '"other"'}, id=item["id"]).status == 200


def records(answer):
    columns = answer.columns
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_text_is_compressed_for_clients_that_take_it_and_states_are_not(running):
    takes = {"Accept-Encoding": "br, gzip;q=0.8"}
    for path in ("/", "/static/docs.js", "/static/docs.css", "/api/openapi.json", "/api/v1/stores/words/items"):
        plain, packed = running.get(path), running.get(path, takes)
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip", path
        assert "Accept-Encoding" in packed.headers["vary"]
        assert "Accept-Encoding" in plain.headers["vary"], "a cache keeps both apart"
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) / 2
        tag = packed.headers.get("etag")
        assert tag is None or running.get(path, {**takes, "If-None-Match": tag}).status == 304
    assert "content-encoding" not in running.get("/healthz", takes).headers, "it is small"
    hidden = running.get("/api/v1/stores/words/hidden", takes, id=[f"en:{n}" for n in range(40)], format="arrow")
    assert "content-encoding" not in hidden.headers
    assert len(pa.ipc.open_stream(hidden.body).read_all()) > 40


def test_gzip_is_taken_where_its_weight_is_above_zero():
    assert takes_gzip("gzip")
    assert takes_gzip("deflate, GZIP; q=0.5")
    assert takes_gzip("*")
    assert not takes_gzip("")
    assert not takes_gzip("gzip;q=0, *")
    assert not takes_gzip("identity, br")
    assert not takes_gzip("gzip;q=x")


@pytest.mark.parametrize(
    ("path", "misspelled", "meant"),
    [
        ("/items", "langauges", "languages"),
        ("/items", "ofset", "offset"),
        ("/neighbors", "exclude_same_langauge", "exclude_same_language"),
        ("/neighbors", "layres", "layers"),
        ("/hidden", "poolings", "pooling"),
        ("/lens", "varient", "variant"),
        ("/projection", "point", "points"),
        ("/curves", "piars", "pairs"),
        ("", "formt", "format"),
    ],
)
def test_a_misspelled_parameter_is_named_with_the_one_that_it_is_near(running, path, misspelled, meant):
    needed = {"/curves": {"analysis": "geometry"}, "/items": {}, "/projection": {}, "": {}}.get(path, {"id": "en:1"})
    answer = running.get(f"/api/v1/stores/words{path}", **needed, **{misspelled: "1"})
    assert answer.status == 422
    assert repr(misspelled) in answer.error
    assert repr(meant) in answer.error
    assert running.get("/api/v1/stores", zzz="1").status == 422


def test_a_misspelled_field_of_a_body_and_a_parameter_beside_a_body_are_refused(running):
    path = "/api/v1/stores/words/neighbors"
    answer = running.post(path, {"ids": ["en:1"], "exclude_selves": True})
    assert answer.status == 422
    assert "'exclude_self'" in answer.error
    beside = running.post(path, {"ids": ["en:1"]}, k=3)
    assert beside.status == 422
    assert "k" in beside.error
    assert running.post(path, {"ids": ["en:1"]}, format="json").status == 200


def test_tokens_are_counted_before_they_are_read(folder):
    ids = [f"en:{n}" for n in range(40)]
    with served(folder / "words.hub", limits=Limits(answer=100_000)) as running:
        path = "/api/v1/stores/words"
        for pooling in ("mean", "tokens"):
            assert running.get(f"{path}/hidden", id=ids[:1], pooling=pooling).status == 200
        assert running.get(f"{path}/hidden", id=ids, pooling="tokens").status == 413
        assert running.get(f"{path}/hidden", id=ids, pooling="mean", layer="0").status == 200
        assert running.get(f"{path}/lens", id=ids, pooling="tokens", k=50).status == 413
        assert running.get(f"{path}/neighbors", id=ids, pooling="tokens", k=100).status == 413
        assert running.get(f"{path}/neighbors", id=ids[:1], pooling="tokens", k=1).status == 200


def test_a_layer_that_is_no_number_is_not_there(running):
    for layer in ("-²", "-" + "9" * 4000, "--1", "-0", "-", "-99", "\u0661"):
        for path in ("neighbors", "hidden", "lens"):
            assert running.get(f"/api/v1/stores/words/{path}", id="en:1", layer=layer).status == 404, layer
    assert running.get("/api/v1/stores/words/hidden", id="en:1", layer="-1").status == 200


def test_a_browser_that_has_a_preview_or_a_file_costs_no_reading_of_it(folder, monkeypatch):
    path = "/api/v1/stores/media"
    with served(folder / "media.hub", originals=folder) as server:
        item = next(one for one in records(server.get(f"{path}/items", limit=1000)) if one["preview"])
        tag = {"If-None-Match": server.get(f"{path}/preview", id=item["id"]).headers["etag"]}
        for owner, read in ((StoreReader, "preview"), (Path, "read_bytes")):
            monkeypatch.setattr(owner, read, lambda *arguments: pytest.fail("it is read"))
        assert server.get(f"{path}/preview", tag, id=item["id"]).status == 304
        assert server.get(f"{path}/media", tag, id=item["id"]).status == 304


def test_a_store_that_is_unfinished_says_so_in_the_list_and_by_itself(folder, tmp_path):
    begun = tmp_path / "begun.hub"
    with pytest.raises(CorpusUnreachableError):
        extracted(away_at(corpus_of("a", 50), 30), begun)
    with served(begun, folder / "words.hub") as server:
        unfinished, whole = server.get("/api/v1/stores").json["stores"]
        for found in (unfinished, server.get("/api/v1/stores/begun").json):
            assert not found["complete"]
            assert found["unfinished"].startswith("its corpus 'a' is unfinished: 20 items of it so far; run the same")
        assert (whole["complete"], whole["unfinished"]) == (True, None)


def test_only_public_modules_of_the_web_framework_are_used():
    for file in (Path(hubstore.__file__).parent / "serve").rglob("*.py"):
        assert not re.search(r"(starlette|fastapi)\.[\w.]*\b_|Responder", file.read_text()), file


def test_no_two_files_of_the_pages_have_one_name(running):
    folders = [Path(hubstore.serve.__path__[0]) / name for name in ("dashboard", "docs")]
    dashboard, docs = ({path.name for path in folder.iterdir()} for folder in folders)
    assert {"index.html", "api.js"} <= dashboard
    assert not dashboard & docs
    assert running.get("/static/docs.js").body == (folders[1] / "docs.js").read_bytes()
    assert running.get("/static/%00").status == 404


def test_an_earlier_releases_spellings_are_still_answered_and_named_as_deprecated(running):
    store, asked = "/api/v1/stores/words", {"id": ["en:1", "en:2"], "layer": "1", "k": 3}
    centered = running.get(f"{store}/neighbors", centered="true", **asked).json
    assert centered != running.get(f"{store}/neighbors", **asked).json
    assert running.get(f"{store}/neighbours", centred="true", **asked).json == centered
    body = {"ids": ["en:1", "en:2"], "layers": [1], "k": 3}
    assert running.post(f"{store}/neighbors", {**body, "centered": True}).json == centered
    assert running.post(f"{store}/neighbours", {**body, "centred": True}).json == centered
    assert running.get(f"{store}/neighbors", centered="1", centred="1", **asked).status == 422
    older = f"/api{store.removeprefix('/api/v1')}"
    assert running.get(f"{older}/neighbours", centred="true", **asked).json == centered
    assert running.get("/api/stores").json == running.get("/api/v1/stores").json
    paths = running.get("/api/openapi.json").json["paths"]
    assert {path for path in paths if path.startswith("/api/") and not path.startswith("/api/v1/")} == set()
    names = [one["name"] for one in paths["/api/v1/stores/{store}/neighbors"]["get"]["parameters"]]
    assert "centered" in names
    assert "centred" not in names
    assert running.get(f"{store}/neighbors", effort="9", **asked).json["rows"]
    assert running.get(f"{store}/neighbors", effort="9", search_effort="9", **asked).status == 422


def test_a_misspelled_parameter_is_an_error_wherever_parameters_are_taken(running):
    paths = running.get("/api/openapi.json").json["paths"]
    for path in paths:
        asked = path.replace("{store}", "words").replace("{name}", "x").replace("{analysis}", "x").replace("{key}", "x")
        if path.startswith("/api/") and "get" in paths[path]:
            answer = running.get(asked, formatt="json")
            assert answer.status == 422, path
            assert "formatt" in answer.error or "Field required" in answer.error
