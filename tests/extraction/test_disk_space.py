"""What cannot fit on the disk is refused before it is begun, with the numbers."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import StoreError
from hubstore.extraction import Settings, append, extract
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader
from tests.tiny_models import tiny_model

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def leave(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, free))


def test_an_extraction_that_cannot_fit_is_refused_with_numbers_and_leaves_no_plan(tmp_path, monkeypatch, model):
    leave(monkeypatch, 40_000)
    corpus = read_sample("ntrex", limit=20)
    with pytest.raises(StoreError, match=r"1 of the 4 layers fit .*--ignore-space") as refused:
        extract(corpus, model, tmp_path / "x.hub", Settings())
    assert "280 items x 4 layers x 32 in float16, pooling mean, need 0.13 MB and the disk has 0.04 MB" in str(
        refused.value
    )
    assert list((tmp_path / "x.hub").rglob("*")) == []
    done = extract(corpus, model, tmp_path / "x.hub", Settings(), ignore_space=True)
    assert done.items == done.extracted


def test_what_is_refused_is_what_the_arrays_would_have_had_to_the_byte(tmp_path, monkeypatch, model):
    corpus, settings = read_sample("ntrex", limit=20), Settings(poolings=("mean", "tokens"))
    extract(corpus, model, tmp_path / "a.hub", settings)
    there = sum(file.stat().st_size for file in (tmp_path / "a.hub/hidden").glob("*/*/c/*/0"))
    leave(monkeypatch, there - 1)
    with pytest.raises(StoreError, match="the disk has"):
        extract(corpus, model, tmp_path / "b.hub", settings)
    leave(monkeypatch, there)
    assert extract(corpus, model, tmp_path / "b.hub", settings).extracted == 20 * 14


def test_an_append_that_cannot_fit_leaves_the_store_as_it_was(tmp_path, monkeypatch, model):
    extract(read_sample("ntrex", limit=3), model, tmp_path / "x.hub", Settings())
    before = StoreReader(tmp_path / "x.hub").digest
    more = Corpus.from_items([Item("new", "A new sentence.", "en")])
    leave(monkeypatch, 100)
    with pytest.raises(StoreError, match="1 items x 4 layers"):
        append(more, model, tmp_path / "x.hub")
    assert not (tmp_path / "x.hub/plan").exists()
    assert StoreReader(tmp_path / "x.hub").digest == before
    leave(monkeypatch, 1 << 30)
    assert append(more, model, tmp_path / "x.hub").extracted == 1


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_the_one_above(tmp_path):
    assert LocalStorage(tmp_path / "a/b/c").free_bytes() > 0
