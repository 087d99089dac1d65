"""What the API answers is what the store holds, in every format."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

import hubstore
from hubstore.analysis import projection, similarity
from hubstore.corpus import Corpus, Item, Media
from hubstore.index import build
from hubstore.query import search
from hubstore.serve import Limits
from hubstore.store import StoreReader
from tests.extraction.test_media import png
from tests.report.stores import write_store
from tests.report.test_media import made_up
from tests.serve.servers import served
from tests.tiny_media import random_image, tiny_media_model
from tests.tiny_models import tiny_language_model

ARROW = {"Accept": "application/vnd.apache.arrow.stream"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> StoreReader:
    return write_store(tmp_path_factory.mktemp("api") / "sentences.hub")


@pytest.fixture(scope="module")
def server(store):
    with served(store.path) as running:
        yield running


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> StoreReader:
    return made_up(tmp_path_factory.mktemp("api") / "media.hub")


@pytest.fixture(scope="module")
def media_server(media):
    with served(media.path) as running:
        yield running


def arrow(answer) -> pa.Table:
    return pa.ipc.open_stream(answer.body).read_all()


def test_health_needs_no_store_to_be_open(server):
    assert server.get("/healthz").json == {"status": "ok", "version": hubstore.__version__, "stores": 1}


def test_stores_are_described(server, store):
    [summary] = server.get("/api/v1/stores").json["stores"]
    assert (summary["name"], summary["items"], summary["revision"]) == ("sentences", len(store), store.digest)
    info = server.get("/api/v1/stores/sentences").json
    assert info["layers"] == list(store.layers)
    assert [part["name"] for part in info["partitions"]] == list(store.partitions)
    assert (info["concepts"], info["dtype"], info["width"]) == (24, "float32", 16)
    assert info["provenance"]["model"]["id"] == "made-up"
    assert [info[name] for name in ("lens", "previews", "encoder", "originals")] == [False] * 4


def test_stores_of_one_name_are_told_apart(tmp_path):
    paths = [write_store(tmp_path / folder / "same.hub", concepts=3).path for folder in ("a", "b", "c")]
    with served(*paths) as running:
        assert [one["name"] for one in running.get("/api/v1/stores").json["stores"]] == ["same", "same-2", "same-3"]


def test_items_come_in_pages_and_the_filters_narrow_them(server, store):
    path = "/api/v1/stores/sentences/items"
    first = server.get(path, limit=10).json
    assert first["about"]["total"] == len(store)
    assert first["columns"]["id"] == store.items["id"].to_pylist()[:10]
    assert server.get(path, limit=10, offset=65).columns["position"] == list(range(65, 72))
    assert server.get(path, limit=10, offset=1000).columns["id"] == []
    assert server.get(path, language=["he", "zh-Hans"]).json["about"]["total"] == 48
    assert server.get(path, partition="he", concept=["c3", "c5"]).columns["id"] == ["he:3", "he:5"]
    assert server.get(path, modality="image").json["about"]["total"] == 0
    assert server.get(path, q="SENTENCE 7 in").columns["id"] == ["en:7", "he:7", "zh-Hans:7"]
    assert server.get(path, q="HE:23").columns["id"] == ["he:23"]
    assert server.get(path, q=".*").json["about"]["total"] == 0


def test_an_item_has_its_equivalents(server):
    item = server.get("/api/v1/stores/sentences/item", id="he:4").json
    assert (item["text"], item["position"]) == ("sentence 4 in he", 28)
    assert item["equivalents"] == ["en:4", "zh-Hans:4"]


def test_neighbors_are_those_of_a_search(server, store):
    asked = {"layer": ["1", "-1"], "k": 4, "exclude_same_language": "true", "language": ["he", "zh-Hans"]}
    answer = server.get("/api/v1/stores/sentences/neighbors", ARROW, id=["en:3", "he:8"], **asked)
    expected = search(
        store, ids=["en:3", "he:8"], k=4, layers=["1", "-1"], languages=["he", "zh-Hans"], exclude_same_language=True
    )
    found = arrow(answer)
    assert found.drop_columns("preview").equals(expected)
    about = json.loads(found.schema.metadata[b"hubstore"])
    assert (about["store"], about["revision"], about["k"]) == ("sentences", store.digest, 4)
    assert answer.headers["hubstore-revision"] == store.digest


def test_vectors_may_be_json_or_arrow(server, store):
    rows = store.hidden(2).take([5, 40]).float().numpy()
    path = "/api/v1/stores/sentences/neighbors"
    expected = search(store, vectors=rows, k=3, layers=[2])
    by_json = server.post(path, {"vectors": rows.tolist(), "k": 3, "layers": [2]})
    assert by_json.columns["id"] == expected["id"].to_pylist()
    assert by_json.columns["query"] == expected["query"].to_pylist()
    one = server.post(path, {"vectors": rows[0].tolist(), "k": 3, "layers": ["2"]})
    assert one.columns["id"] == expected["id"].to_pylist()[:3]
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 16)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    streamed = server.post(path, sink.getvalue().to_pybytes(), ARROW, kind=ARROW["Accept"], k=3, layer=2)
    assert arrow(streamed).drop_columns("preview").equals(expected)


def test_lists_have_one_name_in_parameters_and_bodies_and_the_singular_beside_it(server):
    path = "/api/v1/stores/sentences/neighbors"
    asked = {"k": 3, "layers": ["1", "2"], "languages": ["he"]}
    expected = server.get(path, id="en:1", k=3, layer=["1", "2"], language="he").columns
    assert set(expected["layer"]) == {"1", "2"}
    assert server.get(path, ids="en:1", **asked).columns == expected
    for body in ({"ids": ["en:1"], **asked}, {"ids": ["en:1"], "k": 3, "layer": [1, 2], "language": ["he"]}):
        assert server.post(path, json.dumps(body).encode()).columns == expected
    one = server.post(path, json.dumps({"ids": ["en:1"], "k": 3, "layer": 1, "language": "he"}).encode()).columns
    assert one == server.get(path, ids="en:1", k=3, layers="1", languages="he").columns
    assert server.get(path, ids="en:1", layers="1", layer="2").status == 422


def test_hidden_states_come_back_to_the_bit(server, store):
    found = arrow(server.get("/api/v1/stores/sentences/hidden", ARROW, id=["en:1", "he:2"], layer=["0", "3"]))
    assert found["id"].to_pylist() == ["en:1", "he:2", "en:1", "he:2"]
    assert found["layer"].to_pylist() == ["0", "0", "3", "3"]
    expected = np.concatenate([store.hidden(layer).take([1, 26]).numpy() for layer in (0, 3)])
    assert np.array_equal(np.stack(found["vector"].to_numpy(zero_copy_only=False)), expected)


@pytest.mark.parametrize("form", ["json", "arrow", "csv", "parquet"])
def test_one_table_in_every_format(server, form):
    answer = server.get("/api/v1/stores/sentences/items", limit=5, format=form)
    name = {"arrow": "arrows"}.get(form, form)
    assert answer.headers["content-disposition"] == f'attachment; filename="sentences-items.{name}"'
    columns = {
        "json": lambda body: json.loads(body)["columns"],
        "arrow": lambda body: pa.ipc.open_stream(body).read_all().to_pydict(),
        "csv": lambda body: csv.read_csv(io.BytesIO(body)).to_pydict(),
        "parquet": lambda body: pq.read_table(io.BytesIO(body)).to_pydict(),
    }[form](answer.body)
    plain = server.get("/api/v1/stores/sentences/items", limit=5)
    assert "content-disposition" not in plain.headers
    assert {name: values for name, values in columns.items() if name != "media"} == {
        name: values for name, values in plain.columns.items() if name != "media"
    }


def test_the_accept_header_chooses_and_its_weights_count(server):
    def kind(accept: str) -> str:
        return server.get("/api/v1/stores/sentences/items", {"Accept": accept}, limit=1).headers["content-type"]

    assert kind("text/csv;q=0.5, application/vnd.apache.parquet") == "application/vnd.apache.parquet"
    assert kind("text/csv;q=0.5, application/json;q=0.9").startswith("application/json")
    assert kind("*/*").startswith("application/json")
    assert kind("text/csv;q=x,;,").startswith("application/json")


def test_curves_come_from_a_kept_table_or_are_computed_and_kept(server, store):
    path = "/api/v1/stores/sentences/curves"
    computed = server.get(path, analysis="similarity", pair="he:en")
    assert set(zip(computed.columns["x"], computed.columns["y"], strict=True)) == {("en", "he")}
    assert computed.columns["value"] == pytest.approx(similarity(store, [("en", "he")])["value"].to_pylist())
    [kept] = server.get("/api/v1/stores/sentences/analyses").json["analyses"]
    assert (kept["analysis"], kept["current"]) == ("similarity", True)
    again = server.get(f"/api/v1/stores/sentences/analyses/similarity/{kept['key']}")
    assert again.columns == computed.columns
    similarity(store)  # all pairs: now every pair is in a kept table
    found = server.get(path, analysis="similarity", pair="en:zh-Hans", layer="2").json
    assert found["about"]["parameters"]["pairs"] is None
    assert set(found["columns"]["y"]) == {"zh-Hans"}
    assert set(found["columns"]["layer"]) == {"2"}
    spread = server.get(path, analysis="geometry", partition="he").columns
    assert set(spread["x"]) == {"he"}
    both = server.get(path, analysis="retrieval", pair="en:he").columns
    assert set(zip(both["x"], both["y"], strict=True)) == {("en", "he"), ("he", "en")}


def test_a_map_is_the_stores_projection(server, store):
    answer = server.get("/api/v1/stores/sentences/projection", ARROW, layer=["1", "2"], points=30, seed=3)
    expected = projection(store, layers=["1", "2"], points=30, seed=3)
    found = arrow(answer)
    assert found.equals(expected)
    assert json.loads(found.schema.metadata[b"hubstore"])["sampled"] == len(set(found["id"].to_pylist()))
    two = server.get("/api/v1/stores/sentences/projection", layer="1", points=30, seed=3, fields=["x", "id"]).columns
    assert list(two) == ["layer", "id", "x"]
    assert server.get("/api/v1/stores/sentences/projection", layer="1", fields="color").status == 400
    listed = server.get("/api/v1/stores/sentences").json["projections"]
    assert {"layer": "2", "pooling": "mean", "method": "pca", "points": 30} in listed


def test_previews_are_the_stores_bytes_and_browsers_may_keep_them(media_server, media):
    path = "/api/v1/stores/media/preview"
    image_answer = media_server.get(path, id="image/zxx:3", revision=media.digest)
    assert image_answer.body == media.preview("image/zxx:3")
    assert image_answer.headers["content-type"] == "image/webp"
    assert "immutable" in image_answer.headers["cache-control"]
    assert image_answer.headers["x-content-type-options"] == "nosniff"
    audio_answer = media_server.get(path, id="audio/zxx:3")
    assert audio_answer.body == media.preview("audio/zxx:3")
    assert audio_answer.headers["content-type"] == "audio/mpeg"
    assert "immutable" not in audio_answer.headers["cache-control"]
    tag = {"If-None-Match": audio_answer.headers["etag"]}
    assert media_server.get(path, tag, id="audio/zxx:3").status == 304
    assert media_server.get(path, id="text/en:3").status == 404


def test_items_and_neighbors_say_which_have_previews_and_name_files_alone(media_server):
    items = media_server.get("/api/v1/stores/media/items", partition=["en", "image/zxx"], limit=100).columns
    assert items["preview"] == [modality == "image" for modality in items["modality"]]
    assert items["media"][-1] == "image-11.bin"
    hits = media_server.get("/api/v1/stores/media/neighbors", id="image/zxx:1", layer="1", k=20).columns
    assert hits["preview"] == [modality != "text" for modality in hits["modality"]]
    assert all("/" not in name for name in hits["media"] if name)


def test_files_of_items_are_given_only_where_the_server_is_told_to(tmp_path):
    shown, other = tmp_path / "shown.png", tmp_path / "secret.txt"
    shown.write_bytes(png(random_image(1)))
    other.write_bytes(b"root:x:0:0")
    items = [
        Item("a", "", "zxx", "a", "image", Media(str(shown))),
        Item("b", "", "zxx", "b", "image", Media(str(shown))),
    ]
    hubstore.extract(Corpus.from_items(items), tiny_media_model("llava"), tmp_path / "x.hub", dtype="float32")
    with served(tmp_path / "x.hub", originals=tmp_path) as running:
        found = running.get("/api/v1/stores/x/media", id="a")
        assert (found.body, found.headers["content-type"]) == (shown.read_bytes(), "image/png")
        shown.write_bytes(other.read_bytes())
        assert running.get("/api/v1/stores/x/media", id="b").status == 404
    with served(tmp_path / "x.hub") as running:
        assert running.get("/api/v1/stores/x/media", id="a").status == 404


def test_the_lens_reads_what_the_store_keeps(tmp_path):
    model = tiny_language_model("llama")
    items = [Item(f"{n}", text, "en", f"{n}") for n, text in enumerate(["one two three", "it rained", "a day"])]
    kept = hubstore.extract(Corpus.from_items(items), model, tmp_path / "l.hub", dtype="float32", with_lens=True)
    with served(tmp_path / "l.hub") as running:
        assert running.get("/api/v1/stores/l").json["lens"]
        found = arrow(running.get("/api/v1/stores/l/lens", ARROW, id=["1", "2"], layer=["1", "3"], k=3))
        assert found.equals(kept.lens(["1", "2"], layers=["1", "3"], k=3))
        summary = running.get("/api/v1/stores/l/lens/summary", layer="2", variant="normed").columns
        assert summary["value"] == pytest.approx(kept.lens_summary(layers=["2"], variant="normed")["value"].to_pylist())
        assert running.get("/api/v1/stores/l/lens", id="1", target="no token").status == 400


def test_what_is_not_there_is_404_and_what_is_wrong_400(server):
    store = "/api/v1/stores/sentences"
    for path, query in (
        ("/api/v1/stores/other", {}),
        ("/api/nothing", {}),
        (f"{store}/item", {"id": "x"}),
        (f"{store}/neighbors", {"id": "x"}),
        (f"{store}/neighbors", {"id": "en:1", "layer": "9"}),
        (f"{store}/neighbors", {"id": "en:1", "pooling": "last"}),
        (f"{store}/items", {"partition": "x"}),
        (f"{store}/preview", {"id": "en:1"}),
        (f"{store}/analyses/similarity/{'0' * 32}", {}),
        (f"{store}/analyses/../../zarr.json", {}),
        (f"{store}/curves", {"analysis": "similarity", "pair": "en:xx"}),
    ):
        answer = server.get(path, **query)
        assert (answer.status, bool(answer.error)) == (404, True), path
    for path, query in (
        (f"{store}/items", {"limit": 5000}),
        (f"{store}/neighbors", {"id": "en:1", "language": "xx"}),
        (f"{store}/curves", {"analysis": "astrology"}),
        (f"{store}/curves", {"analysis": "similarity", "pair": "en"}),
        (f"{store}/curves", {"analysis": "geometry", "pair": "en:he"}),
        (f"{store}/projection", {"points": 10**7}),
        (f"{store}/projection", {"language": "xx"}),
    ):
        answer = server.get(path, **query)
        assert (answer.status, bool(answer.error)) == (400, True), path
    assert server.post(f"{store}/neighbors", {"ids": ["en:1"], "texts": ["x"]}).status == 400
    assert server.post(f"{store}/neighbors", {"vectors": [1.0, 2.0]}).status == 400
    assert server.post(f"{store}/neighbors", {"vectors": [[1.0], [1.0, 2.0]]}).status == 400
    assert server.post(f"{store}/neighbors", {"vectors": [1e300] * 16}).status == 400
    assert server.get(f"{store}/neighbors", id="en:1", k=0).status == 422
    assert server.post(f"{store}/neighbors", {"idz": ["en:1"]}).status == 422
    assert server.post(f"{store}/neighbors", b"{").status == 422
    assert server.post(f"{store}/neighbors", b"[NaN]").status == 422
    assert server.post(f"{store}/neighbors", b"x", kind="text/plain").status == 415
    assert server.post(f"{store}/neighbors", b"x", kind=ARROW["Accept"]).status == 415
    assert server.ask("DELETE", store).status == 405


def test_what_needs_a_model_or_a_lens_says_so(server):
    store = "/api/v1/stores/sentences"
    for answer in (
        server.post(f"{store}/neighbors", {"texts": ["hello"]}),
        server.post(f"{store}/neighbors/image", b"x", kind="image/png"),
        server.post(f"{store}/neighbors/audio", b"x", kind="audio/wav"),
        server.get(f"{store}/lens", id="en:1"),
        server.get(f"{store}/lens/summary"),
    ):
        assert (answer.status, bool(answer.error)) == (501, True)


def test_a_stale_index_is_409_unless_that_is_allowed(tmp_path):
    import torch

    from hubstore.bench.states import hub_states
    from tests.index.stores import write_store as write_rows

    states = hub_states(600, 16)[None]
    store = write_rows(tmp_path / "s.hub", states[:, :512], shard_rows=512)
    build(store, kind="hnsw")
    with served(store.path) as strict, served(store.path, allow_stale=True) as lenient:
        path = "/api/v1/stores/s/neighbors"
        before = strict.get(path, id="item-3").columns
        write_rows(tmp_path / "s.hub", torch.as_tensor(states[:, 512:]), first_shard=1, shard_rows=512)
        until = time.monotonic() + 20
        while strict.get(path, id="item-3").status != 409 and time.monotonic() < until:
            time.sleep(0.05)
        assert "holds 512 rows" in strict.get(path, id="item-3").error
        assert strict.get("/api/v1/stores/s").json["indexes"][0]["stale"]
        assert lenient.get(path, id="item-3").columns == before
        build(StoreReader(store.path))
        while strict.get(path, id="item-3").status != 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert strict.get(path, id="item-550").columns["query"] == ["item-550"] * 10


def test_answers_beyond_the_limits_are_413(store):
    with served(store.path, limits=Limits(answer=1000)) as running:
        assert running.get("/api/v1/stores/sentences/items", limit=50).status == 413
        assert running.get("/api/v1/stores/sentences/hidden", id=["en:1", "en:2"]).status == 200
        assert running.get("/api/v1/stores/sentences/hidden", id=[f"en:{n}" for n in range(20)]).status == 413


def test_experiments_are_listed_with_verdict_table_and_figure(store, tmp_path):
    from hubstore.experiments.result import Result, make_table, write_result
    from hubstore.plots.experiment import Plot

    outcome = Result(
        "yes",
        "0.31 at layer 9",
        12,
        make_table([{"layer": "9", "quantity": "difference", "value": 0.31}]),
        (Plot("title", "y", ("difference",)),),
        ("a note",),
    )
    about = {"name": "multilingual-similarity", "title": "t", "claim": "c", "made_from": {"model": {"id": "/models/m"}}}
    for folder in ("one", "two"):
        write_result(tmp_path / folder / "multilingual-similarity", outcome, {**about, "stores": {}}, b"\x89PNG")
    with served(store.path, experiment_folders=[tmp_path / "one", tmp_path / "two"]) as running:
        first, second = running.get("/api/v1/experiments").json["experiments"]
        assert (first["name"], second["name"]) == ("multilingual-similarity", "multilingual-similarity-2")
        assert (first["shown"], first["claim"], first["model"], first["notes"]) == (True, "c", "m", ["a note"])
        assert first["verdict"] == "yes"
        table = running.get("/api/v1/experiments/multilingual-similarity-2").json
        assert (table["columns"]["value"], table["about"]["figure"]) == ([0.31], "0.31 at layer 9")
        assert running.get("/api/v1/experiments/multilingual-similarity/figure").body == b"\x89PNG"
        assert running.get("/api/v1/experiments/none").status == 404


def test_metrics_count_what_was_answered(store):
    with served(store.path) as running:
        for _ in range(3):
            running.get("/api/v1/stores/sentences/neighbors", id="en:1")
        running.get("/api/v1/stores/sentences/neighbors", id="nobody")
        lines = running.get("/metrics").body.decode().splitlines()
        route = 'method="GET",route="/api/v1/stores/{store}/neighbors"'
        assert f'hubstore_requests_total{{{route},status="200"}} 3.0' in lines
        assert f'hubstore_requests_total{{{route},status="404"}} 1.0' in lines
        assert 'hubstore_store_items{store="sentences"} 72.0' in lines
        assert 'hubstore_batch_requests_bucket{le="1.0"} 4.0' in lines


def test_the_pages_load_nothing_from_elsewhere(server):
    page = server.get("/api/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("docs.js", "docs.css", "api.js", "plotly-cartesian.min.js"):
        answer = server.get(f"/static/{name}")
        assert answer.status == 200
        assert server.get(f"/static/{name}", {"If-None-Match": answer.headers["etag"]}).status == 304
        if name != "plotly-cartesian.min.js":
            assert b"http" not in answer.body
    assert b"http" not in page.body
    for name in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "/etc/passwd", "docs.html/x"):
        assert server.get(f"/static/{name}").status == 404
    assert server.get("/api/openapi.json").json["openapi"].startswith("3.")
