"""What is said of an extraction beforehand, beside what it then is."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain

import pytest

import hubstore
from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import CorpusError, ModelError
from hubstore.extraction import Settings, calibration, counting, extract
from hubstore.extraction.estimate import estimate
from hubstore.store import StoreReader
from tests.tiny_media import tiny_media_model
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "PROBE_BYTES", 1 << 16)
    return folder / "hubstore/speed"


@pytest.mark.parametrize("poolings", [("mean",), ("last", "tokens")])
def test_items_tokens_shards_files_and_bytes_are_those_of_the_store(tmp_path, poolings):
    corpus, model = read_sample("ntrex", limit=40), tiny_model("llama")
    settings = Settings(poolings=poolings, layers=("0", "2"), memory_budget=1 << 16)
    ahead = estimate(corpus, model, settings, folder=tmp_path)
    done = extract(corpus, model, tmp_path / "x.hub", settings)
    store = StoreReader(done.path)
    assert (ahead.counted.items, ahead.counted.error) == (len(store), 0)
    assert ahead.counted.total_tokens == done.progress.tokens
    assert ahead.counted.tokens["text"].truncated == done.progress.truncated
    assert len(ahead.counted.shards) == len(store.commits) > 1
    files = [file for file in (tmp_path / "x.hub").rglob("*") if file.is_file()]
    assert ahead.files == len(files)
    for pooling in poolings:
        arrays = [
            file for file in files if file.is_relative_to(tmp_path / "x.hub/hidden" / pooling) and file.name == "0"
        ]
        assert ahead.states[pooling] == sum(file.stat().st_size for file in arrays) == ahead.sizes[pooling]["float16"]
    tables = sum(file.stat().st_size for file in files if file.parent.name == "items")
    assert 0.3 * tables < ahead.counted.table_bytes < 1.5 * tables


def test_a_large_corpus_is_sampled_and_its_interval_holds_the_truth(tmp_path, model, monkeypatch):
    items = [Item(str(i), "word " * (1 + i * 7919 % 23), "en") for i in range(20_000)]
    corpus = Corpus.from_items(items)
    whole = estimate(corpus, model, folder=None).counted
    assert whole.tokens["text"].exact
    monkeypatch.setattr(counting, "EXACT", {"text": 5000})
    part = estimate(corpus, model, folder=None).counted
    assert part.items == 20_000
    assert part.tokens["text"].read == 4096 + 4 * 256
    assert 0 < part.error < 0.05 * whole.total_tokens
    assert abs(part.total_tokens - whole.total_tokens) < 2 * part.error
    assert sum(part.tokens["text"].lengths.values()) == pytest.approx(20_000)


def test_captions_between_pictures_are_sampled_as_if_they_stood_apart(monkeypatch):
    media_items = pytest.importorskip("tests.extraction.test_media").items
    read_one = counting.read_rows
    read = []
    monkeypatch.setattr(counting, "read_rows", lambda task, rows: read.extend(rows) or read_one(task, rows))
    monkeypatch.setattr(counting, "EXACT", {"text": 8, "image": 8})
    monkeypatch.setattr(counting, "DRAWN", {"text": 4, "image": 4})
    pictures = [item for item in media_items("image", 20) if item.modality == "image"]
    captions = [Item(f"caption{i}", "word " * (i + 1), "en") for i in range(len(pictures))]
    corpus = Corpus.from_items(chain.from_iterable(zip(pictures, captions, strict=True)))
    tokens = estimate(corpus, tiny_media_model("llava"), folder=None).counted.tokens
    assert {one: (of.items, of.read) for one, of in tokens.items()} == {"image": (20, 4), "text": (20, 4)}
    assert len(read) == 4


def test_generations_are_dealt_out_each_by_itself(model):
    corpus, settings = read_sample("ntrex", limit=10), Settings().resolve(model)
    counted = counting.count_corpus(corpus, model, settings, settings.layout(model.width), generation_items=60)
    assert [items for items, _ in counted.shards] == [60, 60, 20]


def test_what_was_measured_is_kept_and_measured_again_only_when_asked(tmp_path, model, cache, monkeypatch):
    corpus = read_sample("ntrex", limit=3)
    first = estimate(corpus, model, folder=tmp_path)
    kept = [json.loads(file.read_text()) for file in cache.iterdir()]
    assert len(kept) == 2
    assert all(one["of"]["processor"] for one in kept)

    def never(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(calibration, "_run_once", never)
    monkeypatch.setattr(calibration, "_write_probe", never)
    assert estimate(corpus, model, folder=tmp_path).speed == first.speed
    with pytest.raises(AssertionError, match="measured again"):
        estimate(corpus, model, folder=tmp_path, again=True)
    with pytest.raises(AssertionError, match="measured again"):
        estimate(corpus, model, Settings(poolings=("last",)), folder=tmp_path)


def test_the_model_is_whole_again_and_nothing_stays_on_the_disk(tmp_path, model):
    estimate(read_sample("ntrex", limit=3), model, Settings(layers=("1",)), folder=tmp_path)
    assert len(model.blocks) == model.depth
    assert list(tmp_path.iterdir()) == []


def test_time_is_between_all_hidden_and_nothing_hidden(tmp_path, model):
    ahead = estimate(read_sample("ntrex", limit=10), model, folder=tmp_path)
    low, high = ahead.between
    assert 0 < low < high <= sum(ahead.seconds.values())
    assert set(ahead.seconds) == {"plan", "model", "tokenise", "write"}
    assert {need.what: need.fits for need in ahead.needs} == {"disk": True, "memory": True}


def test_a_modality_that_the_model_does_not_read_is_refused(model):
    corpus = Corpus.from_items([Item.given("image", hubstore.corpus.Media("a.png", b"x"))])
    with pytest.raises(ModelError, match="no image items"):
        estimate(corpus, model)


def test_plan_in_python_takes_names(tmp_path, model):
    found = hubstore.plan(read_sample("ntrex", limit=2), model, folder=tmp_path, layers=("1",))
    assert found.rows == 28
    assert [one.kind for one in found.indexes][:2] == ["exact", "hnsw"]
    assert json.loads(json.dumps(found.to_json()))["items"] == 28


@pytest.mark.parametrize(("name", "modality"), [("llava", "image"), ("qwen2-audio", "audio")])
def test_pictures_and_sounds_are_counted_as_the_model_reads_them(tmp_path, name, modality):
    media_items = pytest.importorskip("tests.extraction.test_media").items
    model = tiny_media_model(name)
    corpus = Corpus.from_items(media_items(modality))
    ahead = estimate(corpus, model, Settings(poolings=("mean", "tokens")), folder=tmp_path)
    done = extract(corpus, tiny_media_model(name), tmp_path / "x.hub", Settings(poolings=("mean", "tokens")))
    assert ahead.counted.total_tokens == done.progress.tokens
    assert {one: of.items for one, of in ahead.counted.tokens.items()} == {modality: 7, "text": 3}
    assert set(ahead.seconds) == {"plan", "model", "tokenise", "read media", "write"}
    arrays = (tmp_path / "x.hub/hidden").glob("*/*/c/*/0")
    assert sum(ahead.states.values()) == sum(file.stat().st_size for file in arrays)


def test_media_that_cannot_be_read_stop_the_count_unless_they_are_left_out():
    media_items = pytest.importorskip("tests.extraction.test_media").items
    model = tiny_media_model("llava")
    corpus = Corpus.from_items(media_items("image", broken=(3,)))
    with pytest.raises(CorpusError, match="--on-error skip"):
        estimate(corpus, model, folder=None)
    skipping = replace(corpus, skip_errors=True)
    assert estimate(skipping, model, folder=None).counted.tokens["image"].unreadable == 1
