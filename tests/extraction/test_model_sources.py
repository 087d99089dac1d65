"""A store names its model, and may be anybody's: no hub is asked for what only a store names."""

from __future__ import annotations

import json
import shutil
import socket
from functools import partial

import huggingface_hub
import pytest
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.errors import ModelError
from hubstore.extraction import load_model_of
from hubstore.extraction.loading import load_of_store, load_same
from tests.store.everything import change_root
from tests.tiny_models import save_tiny_language_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache of models with one in it, and a store that was made with it."""
    root = tmp_path_factory.mktemp("made")
    model = root / "hub/models--me--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    save_tiny_language_model("gpt2", model / "snapshots" / COMMIT)
    items = [{"id": str(i), "text": f"some text {i}", "language": "en"} for i in range(3)]
    (root / "a.jsonl").write_text("\n".join(map(json.dumps, items)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "hub"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        store = hubstore.extract(root / "a.jsonl", "me/tiny", root / "x.hub", layers=("1",), device="cpu")
    assert store.attributes["model"]["source"] == "me/tiny"
    return root


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    shutil.copytree(made / "hub", tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def store(made, cache, tmp_path):
    shutil.copytree(made / "x.hub", tmp_path / "x.hub")
    return hubstore.open(tmp_path / "x.hub")


@pytest.fixture
def asked(monkeypatch):
    """The hosts that are asked for while no other says that there is no network."""
    hosts = []

    def lookup(host, *arguments, **options):
        hosts.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return hosts


def says(store, **changes):
    """The store, opened again, with other words about its model."""
    change_root(store.path, lambda attributes: attributes["model"].update(changes))
    return hubstore.open(store.path)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_model_in_the_cache_is_loaded_from_there_and_no_hub_is_asked(store, tmp_path, asked, revision):
    store = says(store, revision=revision)
    assert store.search(texts=["some text 1"], k=1, device="cpu")["id"].to_pylist() == ["1"]
    found = load_model_of(store, device="cpu", head=True).identity
    assert {key: found[key] for key in ("id", "source", "revision")} == {
        "id": "me/tiny",
        "source": "me/tiny",
        "revision": COMMIT,
    }
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "more", "text": "some more", "language": "en"}))
    assert len(hubstore.append(tmp_path / "b.jsonl", store.path, device="cpu")) == 4
    same = load_same("cpu", partial(load_of_store, path=store.path, trust=False), found, named=False)
    assert same.identity == load_model_of(store, device="cpu").identity
    assert asked == []


@pytest.mark.parametrize("lost", ["all", "weights", "a part"])
def test_a_model_that_is_not_whole_here_is_not_fetched_unless_it_is_named(store, cache, asked, lost):
    snapshot = cache / "models--me--tiny/snapshots" / COMMIT
    if lost == "all":
        shutil.rmtree(cache / "models--me--tiny")
    elif lost == "weights":
        (snapshot / "model.safetensors").unlink()
    else:
        (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part-2.safetensors"}}))
    done = runner.invoke(app, ["query", str(store.path), "--text", "hello"])
    assert isinstance(done.exception, ModelError)
    assert str(done.exception).endswith("What a store names is fetched only if you name it too: --model me/tiny")
    with pytest.raises(ModelError, match="model='me/tiny'"):
        hubstore.open(store.path).model()
    assert asked == []


def test_a_model_that_the_user_names_is_fetched(store, cache, monkeypatch):
    shutil.rmtree(cache)

    def load(name, **options):
        raise ModelError(f"{name} is fetched")

    monkeypatch.setitem(load_model_of.__globals__, "load_model", load)  # the module has the name of its function
    with pytest.raises(ModelError, match="me/tiny is fetched"):
        store.model("me/tiny", "cpu")


def test_further_models_that_only_the_store_names_are_not_fetched(store, asked):
    with pytest.raises(ModelError, match=r"made with 'evil/other'.*`hf download evil/other`"):
        says(store, also=["evil/other"]).model("me/tiny", "cpu")
    assert asked == []


def test_a_revision_that_only_the_store_names_runs_no_code_that_is_not_here(store, asked):
    proposed = says(store, revision="refs/pr/7")
    with pytest.raises(ModelError, match=r"`hf download me/tiny --revision refs/pr/7`"):
        proposed.model("me/tiny", "cpu", trust_remote_code=True)
    assert asked == []


@pytest.mark.parametrize("source", ["../../x", "https://evil/x", "", "\x1b[31m/x", "a\nb", "-x", "a" * 5000])
@pytest.mark.parametrize("field", ["source", "also"])
def test_what_is_no_name_of_a_model_is_one_short_line(store, asked, source, field):
    store = says(store, **{field: [source] if field == "also" else source})
    done = runner.invoke(app, ["query", str(store.path), "--text", "hello", "--device", "cpu"])
    assert isinstance(done.exception, ModelError)
    message = str(done.exception)
    assert "this machine's cache" in message
    assert message.isprintable()
    assert len(message) < 700
    assert asked == []
