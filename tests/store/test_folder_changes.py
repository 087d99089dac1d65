"""What was opened by a relative path stays open when the process goes to another folder."""

from __future__ import annotations

import os
from pathlib import Path

import hubstore
from hubstore.corpus import open_corpus
from hubstore.serve.encoders import Encoders
from hubstore.storage import LocalStorage, open_storage
from hubstore.storage.cache import user_cache
from hubstore.store.export import export
from tests.report.stores import write_store


def test_a_store_is_read_written_and_searched_after_a_change_of_folder(tmp_path, monkeypatch):
    write_store(tmp_path / "s.hub")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    store, storage, folder = hubstore.open("s.hub"), open_storage("s.hub"), LocalStorage(tmp_path / "s.hub")
    wanted = store.search(ids=["en:1"], layers=[1], k=3)["id"].to_pylist()
    os.chdir("other")
    assert store.search(ids=["en:1"], layers=[1], k=3)["id"].to_pylist() == wanted
    assert hubstore.open(store.path).digest == store.digest
    assert storage.read("zarr.json") == folder.read("zarr.json")
    assert store.verify() == []
    store.index(layers=[1], kind="exact")
    assert folder.exists("indexes/mean/1/index.json")
    store.analyze(["similarity"], bootstrap=10, layers=[1], device="cpu")
    assert folder.list("analyses")
    assert sorted(os.listdir(tmp_path / "other")) == []


def test_a_corpus_an_export_a_report_and_a_server_hold_whole_paths(tmp_path, monkeypatch):
    write_store(tmp_path / "s.hub")
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "text": "one", "language": "en"}\n')
    for name in ("other", "model", "experiments"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus("rows.jsonl", text="text", language="language")
    written = export(hubstore.open("s.hub"), Path("out"), layers=[1])
    model = Encoders("model", "cpu")
    monkeypatch.setenv("HUBSTORE_CACHE", "cache")
    user_cache.cache_clear()
    cache = user_cache()
    os.chdir("other")
    assert [item.text for item in corpus.items()] == ["one"]
    assert all(path.is_file() for path in written)
    assert model.names == {str(tmp_path / "model"): "model"}
    assert cache.folder == tmp_path / "cache"
    user_cache.cache_clear()
