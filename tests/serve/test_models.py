"""Queries of texts and images through the server's model, and requests that are answered together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

import hubstore
from hubstore.corpus import Corpus, Item, Media
from hubstore.errors import ModelError
from hubstore.extraction import Settings, extract
from hubstore.serve import Limits, encoders
from hubstore.serve.http_errors import NeedsModelError
from tests.extraction.test_media import png
from tests.report.stores import write_store
from tests.serve.servers import served
from tests.tiny_media import random_image, tiny_media_model
from tests.tiny_models import save_tiny_model, tiny_model

WORDS = ("It rained", "A day in spring", "The harbour", "Nine ships", "Snow on the hills", "A short letter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model("bert", tmp_path_factory.mktemp("models") / "secret-folder" / "bert")


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "texts.hub"
    items = [Item(f"{n}", f"{words}.", "en", f"{n}") for n, words in enumerate(WORDS)]
    return hubstore.extract(Corpus.from_items(items), str(folder), path, dtype="float32", poolings=("mean", "tokens"))


@pytest.fixture(scope="module")
def server(store, folder):
    with served(store.path, model=str(folder)) as running:
        yield running


def test_texts_are_read_as_the_store_was(server, store):
    found = server.post("/api/v1/stores/texts/neighbors", {"texts": ["Nine ships", "It rained"], "k": 3, "layers": [2]})
    expected = store.search(texts=["Nine ships", "It rained"], k=3, layers=[2])
    assert found.columns["query"] == expected["query"].to_pylist()
    assert found.columns["id"] == expected["id"].to_pylist()
    assert found.columns["score"] == pytest.approx(expected["score"].to_pylist(), abs=1e-5)
    assert server.get("/api/v1/stores/texts").json["encoder"]


def test_the_models_folder_is_named_nowhere(server, folder):
    bodies = [server.get("/api/v1/stores/texts").body, server.get("/api/v1/stores/texts/neighbors", id="1").body]
    bodies.append(server.post("/api/v1/stores/texts/neighbors/image", b"x", kind="image/png").body)
    assert not any(str(folder.parent).encode() in body for body in bodies)


def test_tokens_are_neighbors_too_and_requests_of_one_item_are_not_mixed_up(server, store):
    path = "/api/v1/stores/texts/neighbors"
    expected = {n: store.search(ids=[str(n)], k=2, layers=[1], pooling="tokens") for n in range(4)}
    with ThreadPoolExecutor(8) as clients:
        asked = [(n, clients.submit(server.get, path, id=n, k=2, layer=1, pooling="tokens")) for n in [*range(4)] * 3]
        for n, answer in asked:
            columns = answer.result().columns
            assert columns["query"] == expected[n]["query"].to_pylist()
            assert columns["token"] == expected[n]["token"].to_pylist()
    rows = server.get("/api/v1/stores/texts/hidden", id=["2", "0"], layer="1", pooling="tokens").columns
    ranges = store.token_ranges()[[2, 0]]
    assert rows["token"] == [token for start, stop in ranges for token in range(stop - start)]
    assert rows["vector"][-1] == pytest.approx(store.hidden(1, "tokens").read()[ranges[1][1] - 1].tolist())


def test_a_model_that_is_not_the_stores_reads_no_query_of_it(tmp_path):
    store = write_store(tmp_path / "other.hub")
    with served(store.path, model=tiny_model("llama")) as running:
        answer = running.post("/api/v1/stores/other/neighbors", {"texts": ["x"]})
        assert answer.status == 501
        assert "use the model that the store was made with" in answer.error
        assert not running.get("/api/v1/stores/other").json["encoder"]
        assert running.get("/api/v1/stores/other/neighbors", id="en:1").status == 200


def test_a_load_that_failed_is_tried_again_after_a_pause(store, folder, monkeypatch):
    loads, now = [], [1000.0]
    load = hubstore.extraction.load_model_of

    def fails_once(*arguments, **options):
        loads.append(arguments)
        if len(loads) == 1:
            raise ModelError("the disk did not answer")
        return load(*arguments, **options)

    monkeypatch.setattr(hubstore.extraction, "load_model_of", fails_once)
    monkeypatch.setattr(encoders, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept = encoders.Encoders(str(folder), "cpu")
    for _ in range(2):
        with pytest.raises(NeedsModelError, match="did not answer"):
            kept.load(store)
        assert not kept.reads(store)
    assert len(loads) == 1, "not within the pause"
    now[0] += encoders.PAUSE_S
    assert kept.reads(store)
    kept.load(store)
    assert kept.encoder(store, ["2"], "mean")([Item("q", "It rained", "en")])["2"].shape == (1, store.width)
    assert len(loads) == 2


def test_a_model_that_is_another_is_not_loaded_again(store, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(encoders, "time", SimpleNamespace(monotonic=lambda: now[0]))
    other = encoders.Encoders(tiny_model("llama", seed=9), "cpu")
    with pytest.raises(NeedsModelError, match="use the model that the store was made with"):
        other.load(store)
    now[0] += 1000 * encoders.PAUSE_S
    assert not other.reads(store)


def test_images_are_uploaded_and_those_that_are_none_are_415(tmp_path):
    model = tiny_media_model("llava")
    images = [png(random_image(n)) for n in range(4)]
    items = [Item(f"{n}", "", "zxx", f"{n}", "image", Media(f"{n}.png", data)) for n, data in enumerate(images)]
    extract(Corpus.from_items(items), model, tmp_path / "p.hub", Settings(dtype="float32", poolings=("mean",)))
    with served(tmp_path / "p.hub", model=model) as running, ThreadPoolExecutor(4) as clients:
        path = "/api/v1/stores/p/neighbors/image"
        asked = [clients.submit(running.post, path, data, kind="image/png", k=1, layer=2) for data in images]
        bad = clients.submit(running.post, path, b"no image", kind="image/png", k=1, layer=2)
        assert [answer.result().columns["id"] for answer in asked] == [["0"], ["1"], ["2"], ["3"]]
        assert all(answer.result().columns["query"] == ["image 0"] for answer in asked)
        assert bad.result().status == 415
        assert running.post("/api/v1/stores/p/neighbors/audio", b"x", kind="audio/wav", layer=2).status == 501


def test_requests_that_come_while_a_search_runs_are_answered_by_one(tmp_path, monkeypatch):
    from hubstore import query

    store = write_store(tmp_path / "b.hub")
    real, begun, go, sizes = query.search, threading.Semaphore(0), threading.Event(), []

    def search(*arguments, ids=None, vectors=None, **options):
        sizes.append(len(ids if ids is not None else vectors))
        begun.release()
        assert go.wait(30)
        return real(*arguments, ids=ids, vectors=vectors, **options)

    monkeypatch.setattr(query, "search", search)
    path = "/api/v1/stores/b/neighbors"
    with served(store.path, limits=Limits(searches=1)) as running, ThreadPoolExecutor(16) as clients:
        first = clients.submit(running.get, path, id="en:0")
        assert begun.acquire(timeout=30)
        asked = [["he:1", "en:1"], ["en:1"], ["en:2", "en:3"], ["he:1"], ["nobody"]]
        together = [clients.submit(running.get, path, id=ids, k=3) for ids in asked]
        rows = [store.hidden(1).take([n]).float().tolist() for n in range(3)]
        vectors = [clients.submit(running.post, path, {"vectors": row, "k": 2, "layers": [1]}) for row in rows]
        waiting = b'work="searches waiting"} %d.0' % (len(asked) + len(rows))
        while waiting not in running.get("/metrics").body:
            pass
        go.set()
        assert first.result().status == 200
        for ids, answer in zip(asked[:-1], together, strict=False):
            expected = real(store, ids=ids, k=3)
            assert answer.result().columns["query"] == expected["query"].to_pylist()
            assert answer.result().columns["id"] == expected["id"].to_pylist()
        assert together[-1].result().status == 404
        for n, answer in enumerate(vectors):
            expected = real(store, vectors=rows[n], k=2, layers=[1])
            assert answer.result().columns["query"] == ["vector 0"] * 2
            assert answer.result().columns["id"] == expected["id"].to_pylist()
    # The unknown id made the batch be asked one by one; the vectors went together.
    assert sizes[0] == 1
    assert sizes.count(3) == 1
