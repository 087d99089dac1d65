"""Texts and prompts given now, through a server's model: the lens reads them, and directions steer what follows."""

from __future__ import annotations

import pytest

import hubstore
from hubstore import steer
from hubstore.corpus import Corpus, Item
from hubstore.extraction import encode
from hubstore.lens import read_texts
from hubstore.models import load_model
from hubstore.serve import Limits
from tests.serve.servers import served
from tests.tiny_models import save_tiny_language_model, tiny_model

WORDS = ("A shark bit a teenager", "Rain fell on the city", "Nine ships left")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    save_tiny_language_model("llama", folder / "model")
    items = [Item(f"{n}", words, "en" if n else "de", f"{n}") for n, words in enumerate(WORDS)]
    hubstore.extract(
        Corpus.from_items(items), str(folder / "model"), folder / "texts.hub", dtype="float32", with_lens=True
    )
    return folder


@pytest.fixture(scope="module")
def server(folder):
    limits = Limits(typed=40, new_tokens=64)
    with served(folder / "texts.hub", model=str(folder / "model"), limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder / "model"), head=True, device="cpu")


@pytest.mark.parametrize("variant", ["raw", "normed"])
def test_texts_given_now_are_read_as_the_library_reads_them(server, model, variant):
    query = {"texts": WORDS[:2], "k": 3, "layers": [1, "final"], "variant": variant}
    found = server.post("/api/v1/stores/texts/lens", query)
    expected = read_texts(model, WORDS[:2], k=3, layers=[1, "final"], variant=variant)
    for column in ("layer", "item", "token", "piece", "top_tokens"):
        assert found.columns[column] == expected[column].to_pylist()
    again = server.post("/api/v1/stores/texts/lens", query | {"layers": [1, "1", 1, "final"]})
    assert again.columns["layer"] == found.columns["layer"]
    last = server.post("/api/v1/stores/texts/lens", {"texts": WORDS[:2], "last": True}).columns
    assert len(last["item"]) == 2 * len(model.layer_names())


def test_prompts_are_gone_on_from_as_the_library_does(server, folder, model):
    query = {"from_texts": ["Good"], "to_texts": ["Bad"], "layer": 1, "strengths": [0, 4], "max_new_tokens": 6}
    found = server.post("/api/v1/stores/texts/steer", {"prompts": [WORDS[2]], **query})
    direction = steer.difference_of_texts(model, "Bad", "Good", 1)
    expected = steer.sweep(model, direction, [WORDS[2]], [0, 4], [1], decoding=steer.Decoding(6))
    for column in ("strength", "text", "tokens"):
        assert found.columns[column] == expected[column].to_pylist()
    scale = found.json["about"]["scale"]
    assert scale["direction"] == pytest.approx(direction.norm)
    texts = [Item("", WORDS[2], "und")]
    own = encode(hubstore.open(folder / "texts.hub"), model, texts, ["1"], "last")["1"]
    assert scale["state"] == pytest.approx(float(own.norm()), rel=1e-5)


def test_the_means_of_partitions_are_a_direction_too(server, folder, model):
    query = {"from_partition": "en", "to_partition": "de", "layer": 2, "strengths": [1], "max_new_tokens": 4}
    found = server.post("/api/v1/stores/texts/steer", {"prompts": [WORDS[0]], **query})
    direction = steer.difference_of_partitions(hubstore.open(folder / "texts.hub"), "de", "en", 2)
    expected = steer.sweep(model, direction, [WORDS[0]], [1], [2], decoding=steer.Decoding(4))
    assert found.columns["tokens"] == expected["tokens"].to_pylist()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("lens", {"texts": [" ".join(WORDS * 9)]}, 413, "reads 40 at once"),
        ("lens", {"texts": ["x"], "layers": ["99"]}, 400, "no layer '99'"),
        ("lens", {"texts": ["x"], "layer": "1"}, 422, "did you mean 'layers'?"),
        ("steer", {}, 400, "give one direction"),
        ("steer", {"to_texts": ["a"]}, 400, "both from_texts and to_texts"),
        ("steer", {"to_texts": ["a"], "from_texts": ["a"]}, 400, "direction"),
        ("steer", {"to_texts": ["a"], "from_texts": ["b"], "layer": 99}, 400, "no layer 99"),
        ("steer", {"to_texts": ["a"], "from_texts": ["b"], "max_new_tokens": 33}, 413, "says 64 at once"),
        ("steer", {"to_partition": "xx", "from_partition": "en"}, 404, "no partition 'xx'"),
        ("steer", {"prompts": [""], "to_texts": ["a"], "from_texts": ["b"]}, 422, "prompts"),
        ("lens", {"texts": [""]}, 422, "texts"),
    ],
)
def test_what_is_too_much_or_no_direction_is_refused(server, path, body, status, words):
    asked = {"prompts": ["x"], "layer": 1, **body} if path == "steer" else body
    answer = server.post(f"/api/v1/stores/texts/{path}", asked)
    assert (answer.status, words in answer.error) == (status, True), answer.error


def test_a_store_says_whether_its_model_says_words(server, folder, tmp_path):
    assert server.get("/api/v1/stores/texts").json["generator"]
    with served(folder / "texts.hub") as plain:
        assert not plain.get("/api/v1/stores/texts").json["generator"]
        for path, body in (("lens", {"texts": ["x"]}), ("steer", {"prompts": ["x"], "layer": 1, "to_texts": ["a"]})):
            answer = plain.post(f"/api/v1/stores/texts/{path}", body)
            assert (answer.status, "--model" in answer.error) == (501, True)


def test_a_model_given_without_its_head_says_no_words_and_reads_queries_on(tmp_path):
    items = [Item(f"{n}", words, "en", f"{n}") for n, words in enumerate(WORDS)]
    model = tiny_model("llama")
    hubstore.extract(Corpus.from_items(items), model, tmp_path / "plain.hub", dtype="float32")
    with served(tmp_path / "plain.hub", model=model) as running:
        answer = running.post("/api/v1/stores/plain/lens", {"texts": ["x"]})
        assert (answer.status, "without its head" in answer.error) == (501, True)
        assert not running.get("/api/v1/stores/plain").json["generator"]
        assert running.post("/api/v1/stores/plain/neighbors", {"texts": ["x"]}).status == 200
