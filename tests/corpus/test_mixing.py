"""Mixtures of corpora: shares by weight, the same for the same seed, from any item on."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow as pa
import pytest

from hubstore.corpus import Corpus, Item, mix_corpora, mixing, open_corpus, same_source
from hubstore.errors import CorpusError
from hubstore.extraction import Callbacks, Settings, extract
from hubstore.extraction import settings as extraction_settings
from tests.command_line import fail
from tests.extraction.test_crash import content
from tests.tiny_models import tiny_model


def corpus(folder, name, count, **more):
    rows = ({"id": str(i), "text": f"{name} {i}", "language": "en", "concept": f"c{i}", **more} for i in range(count))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / f"{name}.jsonl"


def ids(mixed, **options):
    return [name for batch in mixed.batches(**options) for name in batch.column("id").to_pylist()]


@pytest.fixture
def parts(tmp_path):
    return [open_corpus(corpus(tmp_path, name, count)) for name, count in (("a", 3000), ("b", 900))]


def test_items_are_drawn_by_their_weights_in_each_corpus_own_order(parts):
    mixed = ids(mix_corpora(list(zip(parts, (7, 3), strict=True)), limit=2000))
    shares = Counter(name.split("/")[0] for name in mixed)
    assert sum(shares.values()) == 2000
    assert abs(shares["a.jsonl"] - 1400) < 80  # four standard deviations
    for name, count in shares.items():
        assert [one for one in mixed if one.startswith(f"{name}/")] == [f"{name}/{i}" for i in range(count)]


def test_a_mixture_ends_where_the_corpus_that_is_drawn_has_no_more(parts):
    shares = Counter(name.split("/")[0] for name in ids(mix_corpora(list(zip(parts, (0.7, 0.3), strict=True)))))
    assert shares["b.jsonl"] == 900
    assert abs(shares["a.jsonl"] - 2100) < 250


def test_the_same_seed_gives_the_same_mixture_from_any_item_on(parts, monkeypatch):
    monkeypatch.setattr(mixing, "BLOCK", 64)
    weighted = list(zip(parts, (7, 3), strict=True))
    mixed = mix_corpora(weighted, seed=3, limit=1000)
    whole = ids(mixed)
    assert ids(mixed) == whole != ids(mix_corpora(weighted, seed=4, limit=1000))
    for start in (1, 63, 64, 500, 999, 1000):
        assert ids(mixed, start=start) == whole[start:]
    in_memory = [Corpus.from_items([Item(f"{i}", "x", "en") for i in range(500)], name) for name in "ab"]
    other = mix_corpora([(one, 1) for one in in_memory])  # which cannot seek
    assert ids(other, start=77) == ids(other)[77:]


def test_what_is_called_the_same_in_two_corpora_is_not_the_same(tmp_path):
    (tmp_path / "x").mkdir()
    same = [open_corpus(corpus(folder, "a", 50)) for folder in (tmp_path, tmp_path / "x")]
    items = list(mix_corpora([(one, 1) for one in same], limit=40).items())
    assert len({item.id for item in items}) == 40
    assert {item.concept.split("/")[0] for item in items} == {"a.jsonl", "a.jsonl-2"}


def test_another_weight_seed_or_file_is_another_corpus(parts, tmp_path):
    def source(weights=(7, 3), seed=0, files=None):
        return json.loads(json.dumps(mix_corpora(list(zip(files or parts, weights, strict=True)), seed=seed).source))

    assert same_source(source(), source((7.0, 3.0)))
    assert not same_source(source(), source((6, 3)))
    assert not same_source(source(), source(seed=1))
    assert not same_source(source(), source(files=[parts[0], open_corpus(corpus(tmp_path, "c", 900))]))


def test_columns_of_any_of_the_corpora_are_kept(tmp_path):
    first = open_corpus(corpus(tmp_path, "a", 20, year=1), keep_columns="year")
    second = open_corpus(corpus(tmp_path, "b", 20, source="x"), keep_columns="source")
    mixed = mix_corpora([(first, 1), (second, 1)], limit=20)
    assert mixed.columns == {"year": pa.int64(), "source": pa.string()}
    for item in mixed.items():
        assert dict(item.columns) == (
            {"year": 1, "source": None} if item.id[0] == "a" else {"year": None, "source": "x"}
        )
    other = open_corpus(corpus(tmp_path, "c", 20, year="x"), keep_columns="year")
    with pytest.raises(CorpusError, match=r"'year' is string in c.jsonl, and int64 in a.jsonl"):
        mix_corpora([(first, 1), (other, 1)]).columns  # noqa: B018


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, float("nan"))])
def test_what_is_no_mixture_is_refused(parts, weights):
    with pytest.raises(CorpusError):
        mix_corpora(list(zip(parts, weights, strict=False)))


def test_a_store_of_a_mixture_that_is_interrupted_ends_as_in_one_run(tmp_path, parts, monkeypatch):
    class StopError(Exception):
        pass

    def stop(done):
        if done.shards:
            raise StopError

    monkeypatch.setattr(extraction_settings, "SHARD_ROWS", 8)
    monkeypatch.setattr(extraction_settings, "CHUNK_ROWS", 4)
    mixed = mix_corpora(list(zip(parts, (7, 3), strict=True)), limit=30)
    asked = tiny_model("gpt2"), Settings(layers=("0",), batch_tokens=256)

    def run(path, **options):
        extract(mixed, asked[0], path, asked[1], generation_items=12, **options)

    run(tmp_path / "whole.hub")
    for _ in range(3):
        with pytest.raises(StopError):
            run(tmp_path / "x.hub", watch=Callbacks(progress=stop))
    run(tmp_path / "x.hub")
    assert content(tmp_path / "x.hub") == content(tmp_path / "whole.hub")


def test_the_command_takes_weights(tmp_path):
    from hubstore.cli.corpora import CorpusOptions, open_items

    files = [corpus(tmp_path, "a", 50), corpus(tmp_path, "b", 50)]
    chosen = CorpusOptions(mix=True, mix_seed=5, limit=30)
    found = open_items([f"{files[0]}=0.7", f"{files[1]}=0.3"], chosen)
    expected = mix_corpora([(open_corpus(files[0]), 0.7), (open_corpus(files[1]), 0.3)], seed=5, limit=30)
    assert ids(found) == ids(expected)
    command = ("extract", "--mix", files[0], "--model", "none", "--out", tmp_path / "x.hub")
    assert "is not CORPUS=WEIGHT; write it as a.jsonl=0.7" in fail(*command)
