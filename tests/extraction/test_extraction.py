"""From a corpus to a store: every item's states are those of the model, whatever the batching and the sharding."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import CorpusError, ModelError, NonFiniteError, StoreError, StoreExistsError
from hubstore.extraction import Callbacks, Settings, append, extract
from hubstore.extraction.plan import load_plan
from hubstore.forward import Capture, make_batch, tokenize
from hubstore.forward.members import batch_members
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, verify, write_shard
from tests.tiny_models import tiny_model

ALL = ("last", "mean", "first", "tokens")


def sample(limit: int = 12, languages: tuple[str, ...] = ("en", "zh-Hans", "ar")) -> Corpus:
    return read_sample("ntrex", languages=list(languages), limit=limit)


def items(count: int, prefix: str = "item") -> Corpus:
    return Corpus.from_items(
        Item(
            f"{prefix}-{i}", f"Sentence {i} of {prefix}" + " and more" * (i % 7), ("en", "de", "ru")[i % 3], str(i // 3)
        )
        for i in range(count)
    )


def settings(**changes) -> Settings:
    return replace(Settings(poolings=ALL, layers=("all", "final"), dtype="float32", batch_tokens=256), **changes)


@pytest.mark.parametrize("family", ["llama", "xlm-roberta"])
def test_every_row_is_the_state_of_its_item_run_alone(tmp_path, family):
    model = tiny_model(family)
    extract(sample(), model, tmp_path / "x.hub", settings())
    store = StoreReader(tmp_path / "x.hub")
    assert len(store) == 36
    assert store.layers == ("0", "1", "2", "3", "final")
    capture = Capture(tiny_model(family), store.layers, ALL, torch.float32)
    ranges = store.token_ranges()
    for position in (0, 5, 13, 35):
        ids = tokenize(model, [store.items["text"][position].as_py()], 128)[0][0]
        assert store.items["tokens"][position].as_py() == len(ids)
        alone = capture.run(make_batch(model, [ids]))
        for number, layer in enumerate(store.layers):
            for pooling in ("last", "mean", "first"):
                ours = store.hidden(layer, pooling).take([position])
                torch.testing.assert_close(ours, alone[pooling][number], rtol=1e-4, atol=1e-5)
            tokens = store.hidden(layer, "tokens").read(*map(int, ranges[position]))
            torch.testing.assert_close(tokens, alone["tokens"][number], rtol=1e-4, atol=1e-5)


def test_rows_are_ordered_by_partition_and_then_by_corpus(tmp_path):
    extract(items(30), tiny_model("llama"), tmp_path / "x.hub", settings())
    store = StoreReader(tmp_path / "x.hub")
    assert [(p.name, p.ranges) for p in store.partitions.values()] == [
        ("en", ((0, 10),)),
        ("de", ((10, 20),)),
        ("ru", ((20, 30),)),
    ]
    assert store.items["id"].to_pylist()[:3] == ["item-0", "item-3", "item-6"]


def test_the_sharding_does_not_change_the_states(tmp_path):
    extract(sample(100, ("en", "es", "ar", "ko")), tiny_model("bert"), tmp_path / "one.hub", settings())
    extract(sample(100, ("en", "es", "ar", "ko")), tiny_model("bert"), tmp_path / "many.hub", settings(memory_budget=1))
    one, many = StoreReader(tmp_path / "one.hub"), StoreReader(tmp_path / "many.hub")
    assert len(one.commits) == 1
    assert len(many.commits) >= 2
    assert one.items["id"].equals(many.items["id"])
    for pooling in ALL:
        torch.testing.assert_close(one.hidden(3, pooling).read(), many.hidden(3, pooling).read(), rtol=1e-4, atol=1e-5)
    assert verify(many.storage) == []


def test_half_precision_stores_hold_the_float32_states_rounded(tmp_path):
    for dtype in ("float32", "float16", "bfloat16"):
        extract(sample(), tiny_model("llama"), tmp_path / dtype, settings(dtype=dtype))
    exact = StoreReader(tmp_path / "float32").hidden(2).read()
    for dtype in (torch.float16, torch.bfloat16):
        stored = StoreReader(tmp_path / str(dtype).removeprefix("torch.")).hidden(2)
        assert stored.dtype is dtype
        assert torch.equal(stored.read(), exact.to(dtype))


def test_auto_keeps_bfloat16_and_turns_float32_into_float16(tmp_path):
    extract(sample(4), tiny_model("llama", dtype=torch.bfloat16), tmp_path / "b", Settings())
    extract(sample(4), tiny_model("llama"), tmp_path / "f", Settings())
    assert StoreReader(tmp_path / "b").dtype is torch.bfloat16
    assert StoreReader(tmp_path / "f").dtype is torch.float16


def test_a_state_beyond_float16_stops_with_layer_item_and_remedy(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.trunk.get_input_embeddings().weight[5:] *= 1e7
    with pytest.raises(NonFiniteError, match=r"item '.*', layer 0, pooling last: .*beyond float16's 65504.*--dtype"):
        extract(sample(4), model, tmp_path / "x.hub", settings(dtype="float16"))
    assert StoreReader(tmp_path / "x.hub").commits == ()


def test_a_shard_is_written_while_another_waits_for_the_disk(tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=20)

    def wait_for_another(*arguments, **options):
        if arguments[2] < 2:
            together.wait()
        return write_shard(*arguments, **options)

    monkeypatch.setattr("hubstore.extraction.pipeline.write_shard", wait_for_another)
    extract(items(600), tiny_model("gpt2"), tmp_path / "x.hub", Settings(layers=("1",), memory_budget=1))
    assert not together.broken
    assert len(StoreReader(tmp_path / "x.hub").commits) == 3


def test_nan_from_the_model_is_refused_and_names_the_model(tmp_path):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.blocks[1].ln_1.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"tiny-gpt2 gives states that are not finite at layer 2"):
        extract(sample(4), model, tmp_path / "x.hub", settings())
    assert LocalStorage(tmp_path / "x.hub").list("commits") == []


def test_the_template_is_read_and_the_text_is_kept_without_it(tmp_path):
    extract(sample(4), tiny_model("bert"), tmp_path / "p.hub", settings(template="query: {text}"))
    extract(sample(4), tiny_model("bert"), tmp_path / "n.hub", settings())
    with_prefix, without = StoreReader(tmp_path / "p.hub"), StoreReader(tmp_path / "n.hub")
    assert with_prefix.items["text"].equals(without.items["text"])
    longer, as_is = with_prefix.items["tokens"].to_numpy(), without.items["tokens"].to_numpy()
    assert (longer[longer < 128] > as_is[longer < 128]).all()
    assert not torch.equal(with_prefix.hidden(2).read(), without.hidden(2).read())


def test_long_texts_are_cut_counted_and_marked(tmp_path):
    corpus = Corpus.from_items([Item("a", "word " * 300, "en"), Item("b", "short", "en")])
    done = extract(corpus, tiny_model("bert"), tmp_path / "x.hub", settings())
    assert done.progress.truncated == 1
    assert StoreReader(tmp_path / "x.hub").items["truncated"].to_pylist() == [True, False]


def test_append_adds_items_with_the_settings_of_the_store(tmp_path):
    path = tmp_path / "x.hub"
    extract(items(20, "first"), tiny_model("llama"), path, settings(template="Q {text}", layers=("1", "3")))
    before = StoreReader(path).hidden(3).read()
    done = append(items(10, "second"), tiny_model("llama"), path)
    store = StoreReader(path)
    assert done.items == len(store) == 30
    assert done.extracted == 10
    assert torch.equal(store.hidden(3).read(0, 20), before)
    assert store.partition("en").ranges == ((0, 7), (20, 24))
    assert store.token_ranges()[-1, 1] == len(store.hidden(3, "tokens"))
    assert verify(store.storage) == []
    alone = extract(
        items(10, "second"), tiny_model("llama"), tmp_path / "y.hub", settings(template="Q {text}", layers=("1", "3"))
    )
    torch.testing.assert_close(store.hidden(3).read(20), StoreReader(alone.path).hidden(3).read(), rtol=1e-4, atol=1e-5)
    again = append(items(10, "second"), tiny_model("llama"), path)
    assert (again.extracted, again.items) == (0, 30), "it is there already, as after a run that was killed at its end"
    with pytest.raises(CorpusError, match=r"id 'second-0' is in the store already \(9 such items"):
        append(items(9, "second"), tiny_model("llama"), path)
    assert load_plan(store.storage) is None, "a refused corpus leaves no plan behind"
    assert len(StoreReader(path)) == 30
    with pytest.raises(ModelError, match="was made with tiny-llama, whose weights differ"):
        append(items(5, "third"), tiny_model("llama", seed=1), path)


def test_a_corpus_planned_in_generations_holds_the_same_states(tmp_path):
    extract(items(50), tiny_model("llama"), tmp_path / "one.hub", settings())
    done = extract(items(50), tiny_model("llama"), tmp_path / "many.hub", settings(), generation_items=20)
    one, many = StoreReader(tmp_path / "one.hub"), StoreReader(tmp_path / "many.hub")
    assert done.items == done.extracted == len(many) == 50
    assert {commit.generation for commit in many.commits} == {0, 1, 2}
    positions = many.positions(one.items["id"].to_pylist())
    torch.testing.assert_close(many.hidden(2).take(positions), one.hidden(2).read(), rtol=1e-4, atol=1e-5)


def test_a_run_of_several_generations_reports_what_all_of_them_did(tmp_path):
    short = settings(max_tokens=8)
    one = extract(items(50), tiny_model("gpt2"), tmp_path / "one.hub", short).progress
    many = extract(items(50), tiny_model("gpt2"), tmp_path / "many.hub", short, generation_items=20).progress
    reported = ("items", "total", "tokens", "truncated", "skipped")
    assert [getattr(many, name) for name in reported] == [getattr(one, name) for name in reported]
    assert (many.items, many.truncated, many.shards, many.workers) == (50, 50, 3, 1)


def test_generations_cut_a_long_stream_and_keep_partitions_as_few_ranges(tmp_path):
    count = 9000
    corpus = items(count)
    extract(corpus, tiny_model("gpt2"), tmp_path / "x.hub", Settings(layers=("1",)), generation_items=4096)
    store = StoreReader(tmp_path / "x.hub")
    assert len(store) == count
    assert {commit.generation for commit in store.commits} == {0, 1, 2}
    assert len(store.partition("en").ranges) == 3
    entry = store.attributes["corpora"][0]
    assert entry["items"] == count
    assert not entry["more"]


def test_running_a_finished_extraction_again_does_nothing(tmp_path):
    first = extract(sample(), tiny_model("llama"), tmp_path / "x.hub", settings())
    again = extract(sample(), tiny_model("llama"), tmp_path / "x.hub", settings())
    assert (first.extracted, again.extracted, again.items) == (36, 0, 36)


def test_another_request_for_the_same_path_is_refused_and_says_what_differs(tmp_path):
    path = tmp_path / "x.hub"
    extract(sample(), tiny_model("llama"), path, settings())
    with pytest.raises(StoreExistsError, match="settings template"):
        extract(sample(), tiny_model("llama"), path, settings(template="Q: {text}"))
    with pytest.raises(StoreExistsError, match="model weights"):
        extract(sample(), tiny_model("llama", seed=1), path, settings())
    with pytest.raises(StoreExistsError, match="corpus"):
        extract(sample(5), tiny_model("llama"), path, settings())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("")
    with pytest.raises(StoreExistsError, match=r"no hubstore store \(it holds thesis.tex\)"):
        extract(sample(), tiny_model("llama"), tmp_path / "folder", settings())
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


def test_an_empty_corpus_and_a_repeated_id_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="the corpus is empty"):
        extract(Corpus.from_items([]), tiny_model("llama"), tmp_path / "a.hub", settings())
    twice = Corpus.from_items([Item("x", "one", "en"), Item("y", "two", "en"), Item("x", "three", "de")])
    with pytest.raises(CorpusError, match="id 'x' stands twice in the corpus, as items 1 and 3"):
        extract(twice, tiny_model("llama"), tmp_path / "b.hub", settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("7",)}, "has no layer '7'; it has 0 to 3 and final"),
        ({"poolings": ("max",)}, "pooling 'max' is not known"),
        ({"poolings": ("mean", "mean")}, "name each once"),
        ({"dtype": "float64"}, "dtype 'float64' is not known"),
        ({"template": "no place"}, r"must hold \{text\} exactly once"),
        ({"max_tokens": 1000}, "takes 1 to 128 tokens"),
        ({"compressor": "zip"}, "compressor 'zip' is not known"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises((StoreError, ModelError), match=message):
        extract(sample(2), tiny_model("llama"), tmp_path / "x.hub", settings(**changes))
    assert not (tmp_path / "x.hub").exists()


def test_progress_counts_items_tokens_and_padding(tmp_path):
    seen = []
    done = extract(sample(), tiny_model("llama"), tmp_path / "x.hub", settings(), watch=Callbacks(progress=seen.append))
    last = done.progress
    assert last.items == last.total == 36
    assert last.tokens == sum(StoreReader(done.path).items["tokens"].to_pylist())
    assert last.tokens <= last.padded
    assert 0.5 < last.useful <= 1
    assert [p.items for p in seen] == sorted(p.items for p in seen)


def test_batches_hold_every_item_once_longest_first_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 100, 1000).astype(np.int32)
    batches = list(batch_members(lengths, 512))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert all(len(batch) * lengths[batch].max() <= 512 for batch in batches)
    assert lengths[batches[0][0]] == lengths.max()


def test_the_store_says_what_it_was_made_from(tmp_path):
    extract(sample(), tiny_model("llama"), tmp_path / "x.hub", settings())
    attributes = json.loads((tmp_path / "x.hub/zarr.json").read_text())["attributes"]["hubstore"]
    assert attributes["model"]["weights"] == tiny_model("llama").identity["weights"]
    assert attributes["self_check"]["deviation"] < 1e-4
    assert attributes["settings"]["padding"] == "right"
    assert attributes["corpora"][0]["generations"][0]["partitions"] == [
        ["text", "en", 12],
        ["text", "zh-Hans", 12],
        ["text", "ar", 12],
    ]
