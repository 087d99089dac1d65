"""The example of every public function runs, over a tiny store, and gives what it says."""

from __future__ import annotations

import asyncio
import doctest
import inspect
from importlib import import_module

import pytest
import torch
import transformers

import hubstore
from hubstore.corpus import read_memory
from hubstore.opened.item import StoredItem
from hubstore.plots.store import StorePlots
from tests.client.serving import served
from tests.tiny_models import SAMPLE, VOCABULARY, save_tiny_language_model, tiny_tokenizer

HUB_ID = "intfloat/multilingual-e5-small"
COUNT = 12
VERBS = [
    f"{kind.__name__}.{name}"
    for kind in (hubstore.Store, StorePlots, StoredItem)
    for name, member in inspect.getmembers(kind)
    if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    and member.__doc__ and "Example:" in (inspect.getdoc(member) or "")
]  # fmt: skip
FUNCTIONS = [name for name in hubstore.__all__ if inspect.isfunction(getattr(hubstore, name))]
MODULES = ["hubstore.tags", "hubstore.store.rows", "hubstore.corpus.memory"]
"""Modules of functions that a user meets through others."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny store with a lens, a copy of it to append to, and a model that stands for one of a hub."""
    folder = tmp_path_factory.mktemp("examples")
    corpus = hubstore.corpus.read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in ("en", "es", "ar")}, limit=COUNT)
    save_tiny_language_model("llama", folder / "causal")
    for name in ("demo", "grown"):
        hubstore.extract(corpus, str(folder / "causal"), folder / f"{name}.hub", with_lens=name == "demo", device="cpu")
    torch.manual_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = transformers.XLMRobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=130, pad_token_id=1, **small)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "model")
    tiny_tokenizer("encoder").save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def names(folder):
    """What an example may name."""
    with served(folder / "demo.hub", device="cpu") as url:
        store = hubstore.open(folder / "demo.hub")
        yield {"hubstore": hubstore, "store": store, "asyncio": asyncio, "url": url, "read_memory": read_memory}


def run(names, owner, name, folder, monkeypatch):
    """Runs the examples of one docstring; the model of a hub is the tiny one."""
    monkeypatch.chdir(folder)
    text = inspect.getdoc(owner) or ""
    assert ">>>" in text, f"{name} has no example"
    test = doctest.DocTestParser().get_doctest(text.replace(HUB_ID, "model"), dict(names), name, None, None)
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_every_public_function_runs_as_printed(names, folder, monkeypatch, name):
    run(names, getattr(hubstore, name), name, folder, monkeypatch)


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_every_verb_of_a_store_runs_as_printed(names, folder, monkeypatch, verb):
    kind, name = verb.split(".")
    owner = {one.__name__: one for one in (hubstore.Store, StorePlots, StoredItem)}[kind]
    run(names, getattr(owner, name), verb, folder, monkeypatch)


def test_the_example_of_a_store_runs_as_printed(names, folder, monkeypatch):
    run(names, hubstore.Store, "Store", folder, monkeypatch)
    run(names, hubstore.Store.__getitem__, "Store[...]", folder, monkeypatch)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_what_users_meet_by_way_of_others_run_as_printed(names, module):
    found = doctest.testmod(import_module(module), extraglobs=names)
    assert found.attempted
    assert found.failed == 0


def test_every_verb_of_a_store_but_those_of_files_and_models_has_an_example():
    without = {"model", "keep_lens", "close", "positions", "find", "items_at", "preview", "layer_name", "layer_names",
               "pooling_name", "partition", "token_ranges"}  # fmt: skip
    verbs = {name for name, member in inspect.getmembers(hubstore.Store, inspect.isfunction) if name[0] != "_"}
    assert verbs - {verb.split(".")[1] for verb in VERBS} - without - {"hidden"} == set()
