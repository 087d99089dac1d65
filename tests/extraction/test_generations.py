"""A corpus of more than one generation: read in one pass, and unfinished for every verb until all of it is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from hubstore import api, cli
from hubstore.corpus import Corpus, Item, open_corpus
from hubstore.errors import (
    CorpusError,
    CorpusUnreachableError,
    CorruptStoreError,
    NonFiniteError,
    StoreError,
    StoreExistsError,
    StoreFormatError,
    UnfinishedStoreWarning,
)
from hubstore.extraction import Settings, append, extract
from hubstore.extraction.spool import ItemStream, KnownIds, spool
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, verify, write_shard
from hubstore.store.reader import NO_ITEMS
from tests.extraction.test_crash import content
from tests.tiny_models import tiny_model

SETTINGS = Settings(layers=("0",), batch_tokens=512)
GENERATION = 20


def items(prefix: str, count: int) -> Corpus:
    return Corpus.from_items(
        [Item(f"{prefix}{i}", f"item {i} of {prefix}", "en", f"c{i}") for i in range(count)], prefix
    )


def away_at(corpus: Corpus, number: int) -> Corpus:
    """A corpus whose disk is away from an item on."""

    def read(refuse):
        for place, item in enumerate(corpus.read(refuse)):
            if place == number:
                raise CorpusUnreachableError("the disk is away")
            yield item

    return replace(corpus, read=read)


def extracted(corpus: Corpus, path, **options):
    return extract(corpus, tiny_model("gpt2"), path, SETTINGS, generation_items=GENERATION, **options)


def appended(corpus: Corpus, path, **options):
    return append(corpus, tiny_model("gpt2"), path, generation_items=GENERATION, **options)


@pytest.fixture
def begun(tmp_path):
    """A store of 20 of the 50 items of a."""
    path = tmp_path / "begun.hub"
    with pytest.raises(CorpusUnreachableError):
        extracted(away_at(items("a", 50), 30), path)
    assert not (path / "plan").exists()
    return path


def test_every_item_is_read_once_and_every_committed_id_hashed_once(tmp_path, monkeypatch):
    read, opened = [], []
    whole = items("a", 95)

    def counted(refuse):
        opened.append(len(read))
        for item in whole.read(refuse):
            read.append(item.id)
            yield item

    monkeypatch.setattr("hubstore.extraction.generations.read_items", lambda *given: pytest.fail("ids are in memory"))
    extracted(replace(whole, read=counted), tmp_path / "x.hub")
    assert len(read) == 95
    assert opened == [0]
    assert {commit.generation for commit in StoreReader(tmp_path / "x.hub").commits} == {0, 1, 2, 3, 4}


def test_a_resumed_run_reads_the_corpus_from_where_it_goes_on(begun):
    asked = []
    whole = items("a", 50)

    def seek(refuse, start):
        asked.append(start)
        return (item for number, item in enumerate(whole.read(refuse)) if number >= start)

    done = extracted(replace(whole, seek=seek), begun)
    assert asked == [20]
    assert (done.items, done.extracted, done.resumed) == (50, 30, True)


def test_another_corpus_is_refused_until_the_first_is_finished(begun):
    with pytest.raises(
        StoreError,
        match=r"begun\.hub: its corpus 'a' is unfinished: 20 items of it so far; run the same "
        r"`hubstore extract` again",
    ):
        appended(items("b", 5), begun)
    with pytest.raises(StoreExistsError, match="corpus 'a' is unfinished"):
        extracted(items("b", 5), begun)
    assert extracted(items("a", 50), begun).items == 50
    assert appended(items("b", 5), begun).items == 55


def test_an_append_interrupted_between_generations_is_finished_by_append_alone(tmp_path):
    path = tmp_path / "x.hub"
    extracted(items("a", 5), path)
    with pytest.raises(CorpusUnreachableError):
        appended(away_at(items("b", 50), 30), path)
    unfinished = r"corpus 'b' is unfinished: 20 items of it so far; run the same `hubstore append`"
    with pytest.raises(StoreError, match=unfinished):
        appended(items("c", 5), path)
    with pytest.raises(StoreError, match=unfinished):
        extracted(items("a", 5), path)
    done = appended(items("b", 50), path)
    assert (done.items, done.extracted, done.resumed) == (55, 30, True)
    assert extracted(items("a", 5), path).extracted == 0


def test_a_store_that_is_read_says_that_it_is_unfinished(begun):
    with pytest.warns(UnfinishedStoreWarning, match="corpus 'a' is unfinished: 20 items"):
        store = api.Store(begun)
    assert (store.unfinished.name, store.unfinished.items, store.unfinished.more) == ("a", 20, True)
    extracted(items("a", 50), begun)
    assert api.Store(begun).unfinished is None


def test_info_and_verify_say_what_is_unfinished_and_reading_commands_note_it(begun, tmp_path, monkeypatch, capsys):
    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["hubstore", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        printed = capsys.readouterr()
        return " ".join((printed.out + printed.err).split())

    unfinished = "its corpus 'a' is unfinished: 20 items of it so far; run the same `hubstore extract` again"
    facts = json.loads(said("info", str(begun), "--json"))
    assert (facts["complete"], facts["items"], facts["corpora"]) == (False, 20, [{"name": "a", "items": 20}])
    assert unfinished in facts["unfinished"]
    assert f"note: {begun}: {unfinished}" in said("verify", str(begun))
    assert unfinished in json.loads(said("verify", str(begun), "--json"))["unfinished"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert f"note: {begun}: {unfinished}" in said("export", str(begun), "--items", "--out", str(tmp_path / "out"))
    extracted(items("a", 50), begun)
    assert json.loads(said("info", str(begun), "--json"))["complete"]
    assert "note" not in said("verify", str(begun))


def test_a_generation_whose_plan_is_gone_is_planned_again_to_the_same_bytes(tmp_path):
    whole, path = tmp_path / "whole.hub", tmp_path / "x.hub"
    extracted(items("a", 50), whole)
    extracted(items("a", 50), path)
    (path / "commits/1.json").unlink()
    store = StoreReader(path)
    assert store.unfinished.missing == (1,)
    assert extracted(items("a", 50), path).extracted == 20
    assert content(path) == content(whole)
    (path / "commits/1.json").unlink()
    other = items("a", 50)
    with pytest.raises(CorpusError, match=r"items 21 to 40 of the corpus are not those that .* was planned with"):
        extracted(replace(other, read=lambda refuse: iter(items("b", 50).read(refuse))), path)


def test_an_id_that_an_earlier_generation_has_is_refused_whether_or_not_the_run_was_interrupted(tmp_path):
    twice = [*items("a", 45).items(), Item("a3", "again", "en")]
    for path, interrupted in ((tmp_path / "x.hub", False), (tmp_path / "y.hub", True)):
        corpus = Corpus.from_items(twice, "a")
        if interrupted:
            with pytest.raises(CorpusUnreachableError):
                extracted(away_at(corpus, 30), path)
        with pytest.raises(CorpusError, match=r"'a3' is in the store already or earlier .* item 46 has it again"):
            extracted(corpus, path)


def test_a_store_of_no_item_is_begun_anew_with_another_request(tmp_path):
    loud, path, fresh = tiny_model("gpt2"), tmp_path / "x.hub", tmp_path / "fresh.hub"
    with torch.no_grad():
        loud.trunk.get_input_embeddings().weight[5:] *= 1e7
    with pytest.raises(NonFiniteError):
        extract(items("a", 5), loud, path, replace(SETTINGS, poolings=("last",), layers=("all",), dtype="float16"))
    for store in (path, fresh):
        extract(items("a", 5), loud, store, replace(SETTINGS, dtype="float32"))
    assert content(path) == content(fresh)


def test_an_append_of_which_nothing_is_committed_makes_room_for_another(tmp_path, monkeypatch):
    path, whole = tmp_path / "x.hub", tmp_path / "whole.hub"
    for store in (path, whole):
        extracted(items("a", 5), store)

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hubstore.extraction.job.run_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        appended(items("b", 5), path)
    monkeypatch.undo()
    assert StoreReader(path).unfinished.name == "b"
    for store in (path, whole):
        appended(items("c", 5), store)
    assert content(path) == content(whole)


def test_an_append_of_which_no_item_is_committed_gives_way_whole_once_the_other_corpus_is_open(tmp_path, monkeypatch):
    path, whole = tmp_path / "x.hub", tmp_path / "whole.hub"
    for store in (path, whole):
        extracted(items("a", 20), store)

    def stop_after_a_broken_shard(work, capture, shards, **options):
        none = {pooling: torch.zeros(1, 0, 32, dtype=torch.float16) for pooling in work.layout.poolings}
        write_shard(work.storage, work.layout, shards[0].shard, NO_ITEMS, none, generation=work.plan.generation)
        raise KeyboardInterrupt

    monkeypatch.setattr("hubstore.extraction.job.run_shards", stop_after_a_broken_shard)
    with pytest.raises(KeyboardInterrupt):
        appended(items("b", 50), path)
    monkeypatch.undo()
    before = {key: data for key, data in content(path).items() if not key.startswith("plan/")}
    assert [commit.items for commit in StoreReader(path).commits] == [20, 0]
    for unreadable, error in ((away_at(items("c", 5), 0), CorpusUnreachableError), (items("c", 0), CorpusError)):
        with pytest.raises(error):
            appended(unreadable, path)
        assert content(path) == before
    for store in (path, whole):
        appended(items("c", 5), store)
    assert content(path) == content(whole)


@pytest.mark.parametrize(
    "corpora",
    [
        "a",
        [1],
        [{"generations": [{"items": 5}]}],
        [{"generations": [{"generation": 0, "shards": [0]}]}],
        [{"generations": 3}],
        [{"identity": "x"}],
    ],
)
def test_metadata_of_other_programs_that_cannot_be_read_is_named(tmp_path, corpora):
    extracted(items("a", 5), tmp_path / "x.hub")
    described_as(tmp_path / "x.hub", corpora=corpora)
    for use in (StoreReader, lambda path: extracted(items("a", 5), path), lambda path: appended(items("b", 5), path)):
        with pytest.raises(CorruptStoreError, match=r"zarr\.json is not as it was written: .*corp"):
            use(tmp_path / "x.hub")


def test_what_other_programs_leave_out_of_the_metadata_is_a_default_or_one_clear_line(tmp_path):
    path = tmp_path / "x.hub"
    extracted(items("a", 5), path)
    described_as(path, corpora=[{}])
    assert StoreReader(path).unfinished is None
    with pytest.raises(StoreExistsError, match="was begun with another request: settings"):
        extracted(items("a", 5), path)
    assert appended(items("b", 5), path).items == 10
    described_as(path, corpora=None, model=None)
    with pytest.raises(StoreFormatError, match=r"zarr\.json has no 'model'"):
        appended(items("c", 5), path)
    with pytest.raises(StoreExistsError, match="was not written by an extraction"):
        extracted(items("a", 5), path)
    described_as(path, layers=None)
    with pytest.raises(StoreFormatError, match=r"zarr\.json has no 'layers'"):
        StoreReader(path)


def test_a_corpus_that_is_finished_after_another_was_appended_is_described_at_its_own_place(begun):
    """Earlier releases let another corpus in between two generations of one."""
    described_as(begun, corpora=[{**StoreReader(begun).attributes["corpora"][0], "more": False}])
    appended(items("b", 30), begun)
    first, second = StoreReader(begun).attributes["corpora"]
    described_as(begun, corpora=[{**first, "more": True}, second])
    assert extracted(items("a", 50), begun).extracted == 30
    store = StoreReader(begun)
    finished, appended_one = store.attributes["corpora"]
    assert appended_one == second
    assert (finished["name"], finished["items"], finished["generation"], finished["more"]) == ("a", 50, 4, False)
    assert [(one["generation"], one["items"], one["shards"]) for one in finished["generations"]] == [
        (0, 20, [0, 1]),
        (3, 20, [3, 4]),
        (4, 10, [4, 5]),
    ]
    assert store.unfinished is None
    assert len(store.hidden("0")) == len(set(store.items["id"].to_pylist())) == 80
    assert verify(LocalStorage(begun)) == []


def test_a_corpus_with_other_times_is_the_same_corpus(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "text": f"text {i}", "language": "en"}) + "\n" for i in range(9)))
    extracted(open_corpus(str(file)), tmp_path / "x.hub")
    os.utime(file, (1, 1))
    assert extracted(open_corpus(str(file), on_error="skip"), tmp_path / "x.hub").extracted == 0


def test_a_plan_that_belongs_to_nothing_is_removed(tmp_path):
    extracted(items("a", 5), tmp_path / "x.hub")
    (tmp_path / "x.hub/plan").mkdir()
    (tmp_path / "x.hub/plan/items.arrow").write_bytes(b"left by a run that was killed as it removed its plan")
    assert extracted(items("a", 5), tmp_path / "x.hub").extracted == 0
    assert not (tmp_path / "x.hub/plan").exists()


def test_a_store_without_its_root_is_not_taken_for_a_new_one(tmp_path):
    extracted(items("a", 5), tmp_path / "x.hub")
    (tmp_path / "x.hub/zarr.json").unlink()
    (tmp_path / "x.hub/plan").mkdir()
    with pytest.raises(StoreError, match=r"zarr\.json is missing, and 1 shards are committed"):
        extracted(items("a", 5), tmp_path / "x.hub")


@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_a_generation_ends_at_the_same_item_however_the_stream_is_cut(tmp_path, rows):
    whole = items("a", 40)
    storage = LocalStorage(tmp_path)
    stream = ItemStream(whole.batches(rows))
    found = [spool(tmp_path / "spool", storage, stream, None, 17, np.inf) for _ in range(3)]
    assert [one.items for one in found] == [17, 17, 6]
    assert [one.ended for one in found] == [False, False, True]
    uncut = spool(tmp_path / "spool", storage, ItemStream(whole.batches()), None, 17, np.inf)
    assert found[0].fingerprint == uncut.fingerprint


def test_generations_of_which_no_item_can_be_read_hold_nothing_up(tmp_path):
    def only_the_last(batch: pa.RecordBatch) -> list[int | None]:
        return [1 if name == "a39" else None for name in batch.column("id").to_pylist()]

    stream = ItemStream(items("a", 40).batches(4))
    found = spool(tmp_path / "spool", LocalStorage(tmp_path), stream, only_the_last, 10, np.inf)
    assert (found.items, found.skipped, found.ended) == (1, 39, True)


def test_known_ids_are_few_sorted_runs():
    rng, known, added = np.random.default_rng(0), KnownIds(), set()
    for _ in range(33):
        new = rng.integers(0, 1 << 63, 100).astype(np.uint64)
        known.add(new)
        added |= set(new.tolist())
    assert len(known._runs) == 2
    asked = np.array([*list(added)[:500], *range(500)], np.uint64)
    assert known.among(asked).tolist() == [int(one) in added for one in asked]


def test_the_fingerprint_is_that_of_earlier_versions(tmp_path):
    given = [
        Item("1", "one", "en", "c"),
        Item("2", "two", "de"),
        Item("ü", "drei", "zh-Hans", "ü"),
    ]
    path = tmp_path / "x.hub"
    extracted(Corpus.from_items(given), path)
    expected = hashlib.sha256()
    for item in given:
        fields = "\x1f".join((item.id, item.concept or "", item.language, item.modality, item.text))
        expected.update(fields.encode() + b"\x1e")
    entry = StoreReader(path).attributes["corpora"][0]["generations"][0]
    assert entry["fingerprint"] == expected.hexdigest()


def test_a_run_that_leaves_out_rows_is_not_gone_on_with_by_one_that_stops_at_them(tmp_path):
    """What is left of the corpus begins after so many items: rows that were left out before it are not among them."""
    file = tmp_path / "rows.jsonl"
    row = '{{"id": "{0}", "text": "text {0}", "language": "en"}}\n'
    file.write_text("no row\n" + "".join(row.format(i) for i in range(3)))
    extracted(open_corpus(str(file), on_error="skip"), tmp_path / "x.hub")
    with pytest.raises(StoreExistsError, match=r"corpus on_error \(there 'skip', asked 'stop'\)"):
        extracted(open_corpus(str(file)), tmp_path / "x.hub")
    assert extracted(open_corpus(str(file), on_error="skip"), tmp_path / "x.hub").items == 3


def described_as(path, **changes):
    """Changes a store's attributes, as if a version had that wrote no digest; None removes one."""
    root = path / "zarr.json"
    described = json.loads(root.read_text())
    attributes = described["attributes"]["hubstore"] | {"digest": None} | changes
    described["attributes"]["hubstore"] = {key: value for key, value in attributes.items() if value is not None}
    root.write_text(json.dumps(described))


def widened(path, *, older):
    """As an earlier release left a store: it took the longest item there could be for the tokens of a batch."""
    root = path / "zarr.json"
    described = json.loads(root.read_text())
    attributes = described["attributes"]["hubstore"]
    del attributes["digest"]
    for settings in (attributes["settings"], attributes["corpora"][0]["identity"]["settings"]):
        settings["max_tokens"] = settings["batch_tokens"] = 128
    if older:
        for key in ("shards", "batching"):
            del attributes["corpora"][0]["generations"][0][key]
    root.write_text(json.dumps(described))


def test_padded_batches_of_an_earlier_release_are_gone_on_with(tmp_path):
    extracted(items("a", 5), tmp_path / "x.hub")
    widened(tmp_path / "x.hub", older=True)
    asked = replace(SETTINGS, batch_tokens=64)
    done = extract(items("a", 5), tiny_model("gpt2"), tmp_path / "x.hub", asked, generation_items=GENERATION)
    assert (done.items, done.extracted) == (5, 0)
    with pytest.raises(StoreExistsError, match="batch_tokens"):
        extract(items("a", 5), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS, generation_items=GENERATION)


def test_a_store_of_this_release_is_not_gone_on_with_in_smaller_batches(tmp_path):
    extracted(items("a", 5), tmp_path / "x.hub")
    widened(tmp_path / "x.hub", older=False)
    asked = replace(SETTINGS, batch_tokens=64)
    with pytest.raises(StoreExistsError, match=r"batch_tokens \(there 128, asked 64\)"):
        extract(items("a", 5), tiny_model("gpt2"), tmp_path / "x.hub", asked, generation_items=GENERATION)


@pytest.mark.parametrize(("older", "tokens"), [(True, 2048), (False, 128)])
def test_what_is_appended_to_a_store_of_an_earlier_release_goes_in_batches_of_todays_size(tmp_path, older, tokens):
    extracted(items("a", 5), tmp_path / "x.hub")
    widened(tmp_path / "x.hub", older=older)
    appended(items("b", 5), tmp_path / "x.hub")
    store = StoreReader(tmp_path / "x.hub")
    assert store.attributes["corpora"][1]["identity"]["settings"]["batch_tokens"] == tokens
    assert Settings.of_store(store.attributes).resolve(tiny_model("gpt2")).batch_tokens == tokens


def test_token_rows_of_two_generations_that_lack_commits_lie_behind_one_another(tmp_path):
    """The second begins where the first ends, which is known when that has been extracted again."""
    settings = replace(SETTINGS, poolings=("tokens",))
    options = {"generation_items": 10}
    extract(items("a", 40), tiny_model("gpt2"), tmp_path / "x.hub", replace(settings, memory_budget=1), **options)
    whole = content(tmp_path / "x.hub")
    shards = sorted(commit.shard for commit in StoreReader(tmp_path / "x.hub").commits)
    ends = [one["shards"] for one in StoreReader(tmp_path / "x.hub").attributes["corpora"][0]["generations"]]
    assert len(shards) > 2
    for shard in (ends[1][1] - 1, ends[2][0]):
        (tmp_path / f"x.hub/commits/{shard}.json").unlink()
    extract(items("a", 40), tiny_model("gpt2"), tmp_path / "x.hub", replace(settings, memory_budget=1), **options)
    assert content(tmp_path / "x.hub") == whole


def test_a_store_whose_commits_are_missing_is_not_begun_anew(tmp_path):
    extracted(items("a", 5), tmp_path / "x.hub")
    shutil.rmtree(tmp_path / "x.hub/commits")
    (tmp_path / "x.hub/analyses").mkdir()
    (tmp_path / "x.hub/analyses/similarity.parquet").write_bytes(b"made of items")
    with pytest.raises(StoreError, match="its commits are missing"):
        extracted(items("b", 5), tmp_path / "x.hub")
    assert (tmp_path / "x.hub/analyses/similarity.parquet").exists()
