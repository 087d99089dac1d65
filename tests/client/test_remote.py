"""A store on a real server beside the same store opened here: the same questions, table for table."""

from __future__ import annotations

import json
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.client import verbs
from hubstore.corpus import Corpus, Item, Media
from hubstore.errors import (
    CorpusError,
    QueryError,
    ServerError,
    TokenError,
)
from tests.client.serving import served
from tests.extraction.test_media import items as media_items
from tests.extraction.test_media import png
from tests.tiny_media import random_image, tiny_media_model
from tests.tiny_models import SAMPLE, tiny_language_model

LANGUAGES = ("en", "es", "ar")
IDS = ["en:3", "ar:19", "es:7"]


@pytest.fixture(scope="module")
def model():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def texts(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("stores") / "texts.hub"
    corpus = hubstore.corpus.read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in LANGUAGES}, limit=20)
    return hubstore.extract(corpus, model, path, with_lens=True, poolings=("mean", "tokens"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "images.hub"
    settings = {"poolings": ("mean",), "dtype": "float32", "previews": True}
    return hubstore.extract(Corpus.from_items(media_items("image")), tiny_media_model("llava"), path, **settings)


@pytest.fixture(scope="module")
def url(texts, model):
    with served(texts.path, model=model, device="cpu") as url:
        yield url


@pytest.fixture(scope="module")
def remote(url):
    with hubstore.connect(url) as store:
        yield store


def record(table):
    return json.loads(table.schema.metadata[b"hubstore"])


def same(found, expected, *, about=True):
    """Rows, columns and types, and how they were made but for where the store is."""
    assert found.schema.equals(expected.schema)
    assert found.equals(expected)
    if about:
        differs = {"store", "revision"}
        told, local = record(found), record(expected)
        assert {k: v for k, v in told.items() if k not in differs} == {
            k: v for k, v in local.items() if k not in differs
        }


def near(found, expected):
    """The same hits; scores as near as a model's states in another batch of texts are."""
    same(found.drop_columns("score"), expected.drop_columns("score"))
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-5)


def test_all_items_come_in_pages(remote, texts, monkeypatch):
    monkeypatch.setattr(verbs, "PAGE", 7)
    columns = ["id", "concept", "language", "modality", "text", "tokens", "truncated"]
    assert remote.name == "texts"
    assert "texts" in repr(remote)
    assert remote.items.select(columns).equals(texts.items.select(columns))


def test_items_are_found_by_text_and_filters(remote, texts):
    found = remote.find_items(languages=["es", "ar"], offset=5, limit=3)
    assert record(found)["total"] == 40
    assert found["position"].to_pylist() == [25, 26, 27]
    word = texts.items["text"][4].as_py().split()[0]
    assert "en:5" in remote.find_items(word.upper(), partitions=["en"])["id"].to_pylist()
    assert remote.find_items(concepts=[texts.items["concept"][0].as_py()])["language"].to_pylist() == list(LANGUAGES)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "layers": ["1", -1]},
        {"exclude_same_language": True, "exclude_self": False},
        {"languages": ["es", "ar"], "modalities": ["text"]},
        {"languages": "es"},
        {"concepts": ["3", "4", "5"]},
        {"pooling": "tokens", "layers": [1], "k": 2},
        {"centered": True, "exclude_same_language": True, "layers": [2, 0]},
        {"search_effort": 20},
        {"k": 59},
    ],
)
def test_neighbors_by_id_are_those_of_the_local_store(remote, texts, options):
    same(remote.search(ids=IDS, **options), texts.search(ids=IDS, **options))


def test_one_id_and_ids_that_come_twice_and_more_than_a_request_takes(remote, texts, monkeypatch):
    same(remote.search(ids="en:1", k=2), texts.search(ids="en:1", k=2))
    twice = ["en:1", "es:2", "en:1", "en:1"]
    same(remote.search(ids=twice, k=2), texts.search(ids=twice, k=2))
    monkeypatch.setattr(hubstore.client.batches, "MOST", 7)
    every = texts.items["id"].to_pylist()
    same(remote.search(ids=every, k=2), texts.search(ids=every, k=2))


def test_neighbors_of_texts_through_the_servers_model(remote, texts, model):
    asked = ["A new sentence.", "Una frase más larga que la otra.", "Third."]
    same(remote.search(texts=asked, k=4), texts.search(texts=asked, k=4, model=model))
    twice = [*asked, asked[0]]
    near(remote.search(texts=twice, k=4), texts.search(texts=twice, k=4, model=model))
    options = {"exclude_same_language": True, "query_languages": ["en", "es", "en"], "layers": [2]}
    near(remote.search(texts=asked, **options), texts.search(texts=asked, model=model, **options))
    near(
        remote.search(texts=asked, centered=True, **options),
        texts.search(texts=asked, model=model, centered=True, **options),
    )
    same(remote.search(texts=asked, layers=[3]), texts.search(texts=asked, layers=[3], model=model))


def test_an_earlier_releases_names_still_work_and_say_so(remote):
    with pytest.warns(DeprecationWarning, match="centred is deprecated; it is called centered now"):
        found = remote.search(ids=["en:1"], centred=True)
    same(found, remote.search(ids=["en:1"], centered=True))
    with pytest.warns(DeprecationWarning, match="effort is deprecated; it is called search_effort now"):
        remote.search(ids=["en:1"], effort=20)
    with pytest.raises(TypeError, match="unexpected keyword argument 'effrt'"):
        remote.search(ids=["en:1"], effrt=20)


def test_neighbors_of_vectors(remote, texts, monkeypatch):
    rows = texts.hidden(2).take([7, 30, 51, 8, 9])
    many = texts.hidden(1).read().float().repeat(20, 1)
    same(remote.search(vectors=many, k=1, layers=[1]), texts.search(vectors=many, k=1, layers=[1]))
    for given in (rows, rows.float(), rows.float().numpy(), rows[0], rows.double().numpy().tolist()):
        expected = torch.as_tensor(given).float()
        same(remote.search(vectors=given, k=3), texts.search(vectors=expected, k=3))
    monkeypatch.setattr(hubstore.client.batches, "BYTES", 2 * 4 * texts.width)
    options = {"k": 3, "exclude_same_language": True, "query_languages": ["en", "en", "es", "ar", "en"]}
    same(remote.search(vectors=rows.float(), **options), texts.search(vectors=rows.float(), **options))
    by_layer = {layer: texts.hidden(layer).take([7, 30, 51]).float() for layer in ("2", "1")}
    same(
        remote.search(vectors=by_layer, layers=["2", "1"], k=3), texts.search(vectors=by_layer, layers=["2", "1"], k=3)
    )


def test_hidden_states_of_items(remote, texts, monkeypatch):
    for options in ({}, {"layers": [-1, "0"]}, {"pooling": "tokens", "layers": [1]}):
        expected = texts.vectors(IDS, **options)
        same(remote.vectors(IDS, **options), expected, about=False)
        with monkeypatch.context() as patch:
            patch.setattr(verbs, "LINE", 10)
            same(remote.vectors([*IDS, "en:3"], **options), texts.vectors([*IDS, "en:3"], **options), about=False)
    states = np.stack(texts.vectors(IDS, layers=[2])["vector"].to_pylist()).astype(np.float32)
    np.testing.assert_array_equal(states, texts.hidden(2).take(texts.positions(IDS)).float().numpy())
    tokens = texts.vectors(IDS, layers=[2], pooling="tokens")
    counts = texts.items["tokens"].take(pa.array(texts.positions(IDS))).to_pylist()
    assert tokens["token"].to_pylist() == [token for count in counts for token in range(count)]


def test_analyses_are_those_of_the_local_store(remote, texts):
    names = ["similarity", "geometry"]
    for found, expected in zip(
        remote.analyze(names).values(), texts.analyze(names, device="cpu").values(), strict=True
    ):
        same(found, expected)
    pairs = [("es", "en")]
    found = remote.analyze(["similarity", "clustering"], pairs=pairs, layers=["1"])
    assert set(zip(*(found["similarity"][side].to_pylist() for side in "xy"), strict=True)) == {("en", "es")}
    assert set(found["clustering"]["x"].to_pylist()) == {"en", "es"}
    assert set(found["similarity"]["layer"].to_pylist()) == {"1"}
    kept = remote.analyses()
    assert {one["analysis"] for one in kept} >= {"similarity", "geometry"}
    chosen = next(one for one in kept if one["analysis"] == "similarity" and one["parameters"]["pairs"] is None)
    same(remote.analysis("similarity", chosen["key"]), texts.analyze(["similarity"], device="cpu")["similarity"])


def test_the_lens_reads_what_it_reads_here(remote, texts, monkeypatch):
    word = texts.lens(["en:1"], device="cpu")["top_tokens"][0].as_py()[0]
    options = {"layers": ["1", "3"], "variant": "normed", "k": 2, "targets": [word]}
    same(remote.lens(IDS, **options), texts.lens(IDS, device="cpu", **options))
    monkeypatch.setattr(verbs, "IDS", 2)
    found, expected = remote.lens(IDS), texts.lens(IDS, device="cpu")
    rounded = ["top_log_probabilities", "entropy"]
    same(found.drop_columns(rounded), expected.drop_columns(rounded))
    np.testing.assert_allclose(found["entropy"].to_numpy(), expected["entropy"].to_numpy(), atol=1e-4)
    options = {"partitions": ["es"], "layers": [1]}
    same(remote.lens_summary(**options), texts.lens_summary(device="cpu", **options))


def test_maps_are_those_of_the_local_store(remote, texts):
    same(remote.projection(), texts.projection(device="cpu"))
    options = {"layers": [2, 1], "points": 30, "seed": 4, "languages": ["en", "es"], "modalities": ["text"]}
    same(remote.projection(**options), texts.projection(device="cpu", **options))


def test_images_are_asked_for_by_path_by_bytes_and_as_media(images, tmp_path):
    data = [png(random_image(90 + i)) for i in range(2)]
    (tmp_path / "a.png").write_bytes(data[0])
    asked = [tmp_path / "a.png", data[1], Media("a name", data[0])]
    model = tiny_media_model("llava")
    with served(images.path, model=model, device="cpu") as url, hubstore.connect(url) as remote:
        expected = images.search(images=asked, k=3, layers=[1, 2], model=model)
        shown = [None if name is None else name.rpartition("!")[2] for name in expected["media"].to_pylist()]
        expected = expected.set_column(9, "media", pa.array(shown, pa.string()))
        same(remote.search(images=asked, k=3, layers=[1, 2]), expected)
        assert remote.search(images=str(tmp_path / "a.png"), k=1)["query"][0].as_py() == str(tmp_path / "a.png")
        assert remote.preview("m1") == images.preview("m1")
        assert remote.preview("t1") is None
        assert images.preview("m1")[:4] == b"RIFF"
        with pytest.raises(QueryError, match="'nobody'"):
            remote.preview("nobody")
        with pytest.raises(CorpusError, match=r"nowhere\.png cannot be read"):
            remote.search(images=[tmp_path / "nowhere.png"])
        with pytest.raises(CorpusError):
            remote.search(images=[b"no image"])


def test_messages_call_the_store_by_its_name(remote, texts):
    with pytest.raises(QueryError) as told:
        remote.search(ids=["en:1"], layers=["9"])
    assert str(texts.path.parent) not in str(told.value)
    assert "has no layer '9'; it keeps 0, 1, 2, 3" in str(told.value)


def test_a_server_without_a_model_says_that_texts_need_one(images):
    with served(images.path) as url, hubstore.connect(url) as remote:
        with pytest.raises(ServerError, match="--model"):
            remote.search(texts=["a text"])
        with pytest.raises(ServerError, match="keeps no lens"):
            remote.lens(["m1"])


def test_several_stores_and_a_token(texts, images):
    with served(texts.path, images.path, token="secret") as url:
        for token in (None, "wrong"):
            with pytest.raises(TokenError):
                hubstore.connect(url, token=token, store="texts")
        with pytest.raises(QueryError, match="name one of them: texts, images"):
            hubstore.connect(url, token="secret")
        with pytest.warns(DeprecationWarning, match="the token before the store's name is deprecated"):
            hubstore.connect(url, "secret", "images").close()
        with hubstore.connect(url, "images", token="secret") as remote:
            assert len(remote) == 10


def test_several_threads_may_ask_one_store(remote, texts):
    found = {}

    def ask(name):
        found[name] = [remote.search(ids=[name], k=3) for _ in range(5)]
        remote.close()

    names = texts.items["id"].to_pylist()[:12]
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        expected = texts.search(ids=[name], k=3)
        for table in found[name]:
            same(table, expected)


def test_a_store_that_grows_is_seen_and_what_takes_several_answers_is_of_one_state(tmp_path, model, monkeypatch):
    def items(name, count):
        return Corpus.from_items([Item(f"{name}{i}", f"text {i} of {name}", "en", f"{i}") for i in range(count)])

    grown = hubstore.extract(items("a", 9), model, tmp_path / "x.hub", poolings=("mean",))
    monkeypatch.setattr(verbs, "PAGE", 4)
    with served(grown.path, device="cpu") as url, hubstore.connect(url) as remote:
        assert len(remote.items) == 9
        asked, send = [], remote.connection.send

        def extended(request):
            answer = send(request)
            asked.append(request.path)
            if len(asked) == 2:
                hubstore.append(items("b", 5), grown.path, model=model)
                while json.loads(send(verbs.Request("/api/v1/stores/x")).body)["revision"] == grown.digest:
                    pass
            return answer

        monkeypatch.setattr(remote.connection, "send", extended)
        assert remote.items["id"].to_pylist() == hubstore.open(grown.path).items["id"].to_pylist()
        assert len(asked) > 4
        assert len(remote) == 14
        assert remote.search(ids=["b3"], k=1, layers=[0]).num_rows == 1


def test_a_store_that_changes_each_time_is_given_up(remote, monkeypatch):
    count = iter(range(100))
    monkeypatch.setattr(verbs.Answer, "revision", property(lambda _: str(next(count))))
    with pytest.raises(ServerError, match="changed each of the 5 times"):
        remote.search(ids=["en:1", "en:1"])


def run(*arguments, code=0, **environment):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", **environment})
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.exception


def test_the_command_line_prints_the_same_of_a_server(url, texts, tmp_path):
    np.save(tmp_path / "v.npy", texts.hidden(1).take([3]).float().numpy())
    asked = ["--layers", "1,-1", "-k", 3, "--exclude-same-language", "--query-language", "en"]
    for what in (["--id", "en:3", "--id", "es:4"], ["--vector", tmp_path / "v.npy"]):
        for form in ([], ["--json"]):
            expected = run("query", texts.path, *what, *asked, *form)
            assert run("query", "--url", url, *what, *asked, *form) == expected
            assert run("query", "texts", "--url", url, *what, *asked, *form) == expected
    assert "A new sentence." in run("query", "--url", url, "--text", "A new sentence.", "-k", 1)


def test_the_command_line_takes_a_token_and_refuses_what_the_server_chooses(texts, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with served(texts.path, token="secret") as url:
        asked = ("query", "--url", url, "--id", "en:1", "--json")
        assert isinstance(run(*asked, code=1), TokenError)
        expected = run("query", texts.path, "--id", "en:1", "--json")
        assert run(*asked, "--token-file", tmp_path / "token") == expected
        assert run(*asked, HUBSTORE_TOKEN="secret") == expected
        assert "token cannot be read" in str(run(*asked, "--token-file", tmp_path / "none", code=1))
        for option in (["--model", "x"], ["--device", "cpu"], ["--allow-stale"]):
            assert "the server's to choose" in str(run(*asked, *option, code=1))
    assert "which store?" in str(run("query", "--id", "en:1", code=1))
    assert "is for a server" in str(run("query", texts.path, "--id", "en:1", "--token-file", "x", code=1))
