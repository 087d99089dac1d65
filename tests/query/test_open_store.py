"""An open store loads its model, its indexes and its means once, and again only what was replaced or let go of."""

from __future__ import annotations

import pytest
import torch

import hubstore
from hubstore.errors import StaleIndexError
from hubstore.index import IndexCache, build
from hubstore.index import layer as layer_module
from hubstore.index import opening as opening_module
from hubstore.opened import store as opened_module
from tests.extraction.test_extraction import items
from tests.index.stores import hub_states, write_store
from tests.tiny_models import save_tiny_model

ROWS, WIDTH = 300, 16


@pytest.fixture
def store(tmp_path):
    states = hub_states(2 * ROWS, WIDTH).view(2, ROWS, WIDTH)
    write_store(tmp_path / "x.hub", states)
    opened = opened_module.Store(tmp_path / "x.hub")
    opened.index(kind="hnsw", device="cpu")
    return opened


@pytest.fixture
def opened_files(monkeypatch):
    """The layers whose FAISS files are opened and checked, one after the other."""
    seen, read, check = [], layer_module.read_faiss, opening_module.check_file

    def counted(store, description, **options):
        seen.append(("read", description.layer))
        return read(store, description, **options)

    def checked(store, description):
        seen.append(("check", description.layer))
        return check(store, description)

    monkeypatch.setattr(layer_module, "read_faiss", counted)
    monkeypatch.setattr(opening_module, "check_file", checked)
    return seen


ONCE = [("read", "0"), ("check", "0"), ("read", "1"), ("check", "1")]


def test_four_searches_of_two_layers_open_two_files(store, opened_files):
    found = [store.search(ids=["item-7"], k=3, device="cpu") for _ in range(4)]
    assert opened_files == ONCE
    assert all(one.equals(found[0]) for one in found)
    assert found[0].equals(opened_module.Store(store.path).search(ids=["item-7"], k=3, device="cpu"))


def test_an_index_that_another_process_replaced_is_opened_anew(store, opened_files):
    store.search(ids=["item-7"], device="cpu")
    build(hubstore.open(store.path), [1], kind="ivf", rebuild=True, device="cpu")
    del opened_files[:]
    kinds = [store.search(ids=["item-7"], device="cpu").schema.metadata[b"hubstore"] for _ in range(2)]
    assert opened_files == ONCE[2:]
    assert all(b'"0": "hnsw", "1": "ivf"' in one for one in kinds)


def test_a_stale_index_is_refused_though_it_was_opened_before(store, opened_files):
    write_store(store.path, hub_states(2 * 60, WIDTH).view(2, 60, WIDTH), first_shard=1)
    grown = opened_module.Store(store.path)
    assert len(grown.search(ids=["item-7"], device="cpu", allow_stale=True))
    with pytest.raises(StaleIndexError):
        grown.search(ids=["item-7"], device="cpu")
    grown.search(ids=["item-7"], device="cpu", allow_stale=True)
    assert opened_files == ONCE


def test_a_closed_store_has_let_go_and_loads_again(store, opened_files):
    with store:
        store.search(ids=["item-7"], layers=[0], device="cpu")
        store.search(ids=["item-7"], layers=[0], device="cpu", centered=True)
        assert store.partition_means
    assert not store.partition_means
    store.search(ids=["item-7"], layers=[0], device="cpu")
    assert opened_files == ONCE[:2] * 2


def test_what_was_not_replaced_is_taken_from_the_cache_of_the_store_as_it_was(store, opened_files):
    before = IndexCache(store, follows=False)
    first = before.layer("0", "mean", device="cpu")
    assert before.layer("0", "mean", device="cpu") is first
    after = IndexCache(opened_module.Store(store.path), before, follows=False)
    after.layer("0", "mean", device="cpu")
    after.layer("1", "mean", device="cpu")
    assert opened_files == ONCE


def test_texts_of_several_searches_load_the_model_once_and_trust_is_asked_for_each_time(tmp_path, monkeypatch):
    source = save_tiny_model("gpt2", tmp_path / "tiny")
    store = hubstore.extract(items(5, "a"), str(source), tmp_path / "x.hub", layers=("0", "1"), device="cpu")
    loads, load = [], hubstore.extraction.load_model_of

    def counted(*arguments, **options):
        loads.append(options["trust_remote_code"])
        return load(*arguments, **options)

    monkeypatch.setattr(hubstore.extraction, "load_model_of", counted)
    for text in ("one", "two", "three"):
        store.search(texts=[text], k=1, device="cpu")
    assert loads == [False]
    store.search(texts=["four"], k=1, device="cpu", trust_remote_code=True)
    assert loads == [False, True]
    store.close()
    store.search(texts=["five"], k=1, device="cpu", trust_remote_code=True)
    assert loads == [False, True, True]


def test_texts_are_encoded_once_for_searches_that_follow_one_another(store, monkeypatch):
    encoded, model = [], object()

    def encode(_store, _model, items, names, _pooled):
        encoded.append([item.text for item in items])
        return {name: torch.ones(len(items), WIDTH) for name in names}

    monkeypatch.setattr("hubstore.extraction.encode", encode)
    monkeypatch.setattr(opened_module.Store, "model", lambda *_, **__: model)
    for k in (1, 2, 3):
        store.search(texts=["one", "two"], layers=[0], k=k)
    assert encoded == [["one", "two"]]
    store.search(texts=["one"], layers=[0])
    store.search(texts=["one"], layers=[1])
    store.close()
    store.search(texts=["one"], layers=[1])
    assert encoded[1:] == [["one"]] * 3
