"""Code that comes with a model runs where the user says so, each time, and never because a store does."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.errors import ModelError
from hubstore.serve.encoders import Encoders
from tests.tiny_models import save_tiny_language_model

CODE = """
import os
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

open(os.environ["REMOTE_RAN"], "a").write("ran\\n")

class MyConfig(LlamaConfig):
    model_type = "my_llama"

class MyModel(LlamaModel):
    config_class = MyConfig

class MyForCausalLM(LlamaForCausalLM):
    config_class = MyConfig
"""
TRUST = "--trust-remote-code"
runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose class is its own, and a store and a corpus of it."""
    root = tmp_path_factory.mktemp("remote")
    model = save_tiny_language_model("llama", root / "model")
    (model / "mine.py").write_text(CODE)
    own = {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel", "AutoModelForCausalLM": "mine.MyForCausalLM"}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "my_llama", "auto_map": own}))
    for name in ("two", "more"):
        items = [{"id": f"{name}{i}", "text": f"{name} texts, {i}", "language": "en"} for i in range(2)]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMOTE_RAN", str(root / "ran"))
        patch.setenv("HF_MODULES_CACHE", str(root / "modules"))
        hubstore.extract(root / "two.jsonl", str(model), root / "x.hub", device="cpu", trust_remote_code=True)
    return root


@pytest.fixture(autouse=True)
def ran(folder, monkeypatch, tmp_path):
    """Where the model's code writes that it ran."""
    monkeypatch.setenv("REMOTE_RAN", str(tmp_path / "ran"))
    return tmp_path / "ran"


def commands(root):
    model, store = str(root / "model"), str(root / "x.hub")
    return {
        "append": ["append", store, str(root / "more.jsonl"), "--device", "cpu"],
        "query": ["query", store, "--text", "hello"],
        "lens": ["lens", store, "--keep", "--id", "two0"],
        "plan": ["plan", str(root / "two.jsonl"), "--model", model],
        "steer": ["steer", "--model", model, "--prompt", "a", "--from-text", "a", "--to-text", "b", "--layer", "1"],
        "experiment": ["experiment", "cogs", "--model", model, "--out", str(root / "out")],
    }


@pytest.mark.parametrize("verb", ["append", "query", "lens", "plan", "steer"])
def test_a_verb_that_loads_the_model_wants_to_be_told_again(folder, ran, verb):
    command = commands(folder)[verb]
    refused = runner.invoke(app, command)
    assert isinstance(refused.exception, ModelError)
    assert TRUST in str(refused.exception)
    assert not ran.exists()
    done = runner.invoke(app, [*command, TRUST])
    assert done.exit_code == 0, done.output


def test_a_store_records_that_its_model_ran_code_of_its_own(folder, ran):
    store = hubstore.open(folder / "x.hub")
    assert store.attributes["model"]["remote_code"] is True
    for use in (store.model, store.keep_lens, lambda: store.search(texts=["hello"])):
        with pytest.raises(ModelError, match="trust_remote_code=True"):
            use()
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        hubstore.append(folder / "more.jsonl", folder / "x.hub", device="cpu")
    assert not ran.exists()
    assert store.search(texts=["hello"], k=1, trust_remote_code=True).num_rows


def test_a_server_runs_it_where_it_was_started_so(folder):
    store = hubstore.open(folder / "x.hub")
    source = str(folder / "model")
    with pytest.raises(Exception, match="trust_remote_code=True"):
        Encoders(source, "cpu").load(store)
    Encoders(source, "cpu", trust_remote_code=True).load(store)


def test_the_option_is_there_wherever_a_model_is_loaded():
    for verb in ("extract", "append", "query", "lens", "plan", "serve", "steer", "experiment"):
        assert TRUST in runner.invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output, verb
