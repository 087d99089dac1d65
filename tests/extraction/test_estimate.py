"""What is said of an extraction beforehand, beside what it then is."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch

import hubstore
from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import CorpusError, ModelError
from hubstore.extraction import Callbacks, Settings, extract, workload
from hubstore.extraction import estimate as estimate_of
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
    monkeypatch.setattr(workload, "SECONDS", 0.0)
    monkeypatch.setattr(estimate_of, "PROBE_BYTES", 1 << 16)
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
    monkeypatch.setattr(workload, "EXACT", {"text": 5000})
    part = estimate(corpus, model, folder=None).counted
    assert part.items == 20_000
    assert part.tokens["text"].read == 4096 + 4 * 256
    assert 0 < part.error < 0.05 * whole.total_tokens
    assert abs(part.total_tokens - whole.total_tokens) < 2 * part.error
    assert sum(part.tokens["text"].lengths.values()) == pytest.approx(20_000)


def test_captions_between_images_are_sampled_as_if_they_stood_apart(monkeypatch):
    media_items = pytest.importorskip("tests.extraction.test_media").items
    read_one = workload.read_rows
    read = []
    monkeypatch.setattr(workload, "read_rows", lambda task, rows: read.extend(rows) or read_one(task, rows))
    monkeypatch.setattr(workload, "EXACT", {"text": 8, "image": 8})
    monkeypatch.setattr(workload, "DRAWN", {"text": 4, "image": 4})
    images = [item for item in media_items("image", 20) if item.modality == "image"]
    captions = [Item(f"caption{i}", "word " * (i + 1), "en") for i in range(len(images))]
    corpus = Corpus.from_items(chain.from_iterable(zip(images, captions, strict=True)))
    tokens = estimate(corpus, tiny_media_model("llava"), folder=None).counted.tokens
    assert {one: (of.items, of.read) for one, of in tokens.items()} == {"image": (20, 4), "text": (20, 4)}
    assert len(read) == 4


def test_generations_are_dealt_out_each_by_itself(model):
    corpus, settings = read_sample("ntrex", limit=10), Settings().resolve(model)
    counted = workload.count_corpus(corpus, model, settings, settings.layout(model.width), generation_items=60)
    assert [items for items, _ in counted.shards] == [60, 60, 20]


def test_what_was_measured_is_kept_and_measured_again_only_when_asked(tmp_path, model, cache, monkeypatch):
    corpus = read_sample("ntrex", limit=3)
    first = estimate(corpus, model, folder=tmp_path)
    kept = [json.loads(file.read_text()) for file in cache.iterdir()]
    assert len(kept) == 2
    assert all(one["of"]["processor"] for one in kept)

    def never(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(workload, "_run_once", never)
    monkeypatch.setattr(estimate_of, "_write_probe", never)
    assert estimate(corpus, model, folder=tmp_path).speed == first.speed
    with pytest.raises(AssertionError, match="measured again"):
        estimate(corpus, model, folder=tmp_path, refresh=True)
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
    assert set(ahead.seconds) == {"plan", "model", "tokenize", "write"}
    printed = ahead.to_json()["seconds"]
    assert printed["tokenise"] == printed["tokenize"]  # its older name
    assert {need.what: need.fits for need in ahead.needs} == {"disk": True, "memory": True}


def test_a_folder_that_takes_nothing_is_no_obstacle(model):
    found = hubstore.plan(read_sample("ntrex", limit=2), model, folder="/proc/x.hub")
    assert found.extraction.speed.write_seconds is None
    assert "write" not in found.extraction.seconds


def test_a_shard_is_written_to_measure_as_it_will_be(tmp_path, model, monkeypatch):
    layouts, write = [], estimate_of.write_shard
    monkeypatch.setattr(estimate_of, "write_shard", lambda *given: layouts.append(given[1]) or write(*given))
    for compressor in ("none", "blosc-lz4-bitshuffle"):
        estimate(read_sample("ntrex", limit=2), model, Settings(compressor=compressor), folder=tmp_path)
    assert [layout.compressor for layout in layouts] == ["none", "blosc-lz4-bitshuffle"]


def test_several_devices_divide_the_time_and_each_has_its_shards_in_memory(model):
    corpus, settings = read_sample("ntrex", limit=20), Settings(poolings=("tokens",), memory_budget=1)
    one, two, many = (estimate(corpus, model, settings, folder=None, devices=count) for count in (1, 2, 1000))
    slots = estimate_of.SLOTS * estimate_of._largest_shard(one.layout, one.counted)
    shards = len(one.counted.shards)
    assert two.seconds["model"] == pytest.approx(one.seconds["model"] / 2)
    assert many.seconds["model"] == pytest.approx(one.seconds["model"] / shards)
    memory = [ahead.needs[0].needed for ahead in (one, two, many)]
    assert [needed - memory[0] for needed in memory] == [0, slots, (shards - 1) * slots]


def test_of_a_store_that_is_half_done_only_what_is_left_counts(tmp_path, model):
    corpus = read_sample("ntrex", limit=10)
    settings = Settings(poolings=("mean", "tokens"), layers=("1",), memory_budget=1)
    path = tmp_path / "x.hub"
    whole = estimate(corpus, model, settings, folder=path)

    def stop(done):
        if done.shards:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(corpus, tiny_model("llama"), path, settings, watch=Callbacks(progress=stop))
    committed = sum(commit.items for commit in StoreReader(path).commits)
    left = estimate(corpus, model, settings, folder=path)
    assert 0 < left.committed == committed < whole.counted.items
    assert left.seconds["model"] == pytest.approx(whole.seconds["model"] * (1 - committed / whole.counted.items))
    assert left.seconds["plan"] == 0
    assert left.needs[0].needed < whole.needs[0].needed
    assert estimate(corpus, model, Settings(), folder=path).committed == 0
    extract(corpus, tiny_model("llama"), path, settings)
    done = estimate(corpus, model, settings, folder=path)
    assert (done.committed, done.between) == (whole.counted.items, (0, 0))


def test_memory_of_a_gpu_is_counted_once(model, monkeypatch):
    ahead = estimate(read_sample("ntrex", limit=2), model, folder=None)
    taken = {"now": 100, "most": 900, "cached": 50}  # loading the model took 900 for a while
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: taken.update(most=taken["now"]))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: taken.update(cached=0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 - taken["now"] - taken["cached"], 1000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    with workload._most_on(torch.device("cuda")) as most:
        taken["most"] = 130
    assert most() == 30
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    speed = replace(ahead.speed, device_bytes=30)
    begun = estimate_of._Begun()
    need = estimate_of._needs(on_gpu, ahead.layout, ahead.counted, speed, ahead.states, None, begun, 2)[-1]
    slots = estimate_of.SLOTS * estimate_of._largest_shard(ahead.layout, ahead.counted)
    assert (need.needed, need.available) == (slots + 30, 900)
    assert need.where == "each of 2, as a GPU, beside the model's weights"


def test_the_longest_texts_and_the_largest_media_say_what_a_gpu_needs(monkeypatch):
    """In a batch of as many tokens, longer texts take more; what shorter ones took is of no use to them."""
    media_items = pytest.importorskip("tests.extraction.test_media").items
    seen = []

    @contextlib.contextmanager
    def most_on(device):
        yield lambda: seen[-1]

    def run_once(capture, batch):
        seen.append(1000 if batch.modality == "image" else len(batch.arrays["token_rows"]) // batch.items)

    monkeypatch.setattr(workload, "_most_on", most_on)
    monkeypatch.setattr(workload, "_run_once", run_once)
    model = tiny_media_model("llava")
    short, long = ([Item("t", "word " * count, "en")] for count in (5, 50))
    needed = [
        estimate(Corpus.from_items(given), model, folder=None).speed.device_bytes
        for given in (long, short, long, [*short, *media_items("image")])
    ]
    assert needed[0] == needed[2] > needed[1] > 0
    assert needed[3] == 1000


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
def test_images_and_audio_are_counted_as_the_model_reads_them(tmp_path, name, modality):
    media_items = pytest.importorskip("tests.extraction.test_media").items
    model = tiny_media_model(name)
    corpus = Corpus.from_items(media_items(modality))
    ahead = estimate(corpus, model, Settings(poolings=("mean", "tokens")), folder=tmp_path)
    done = extract(corpus, tiny_media_model(name), tmp_path / "x.hub", Settings(poolings=("mean", "tokens")))
    assert ahead.counted.total_tokens == done.progress.tokens
    assert {one: of.items for one, of in ahead.counted.tokens.items()} == {modality: 7, "text": 3}
    assert set(ahead.seconds) == {"plan", "model", "tokenize", "read media", "write"}
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
