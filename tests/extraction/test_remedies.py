"""Every remedy that a message of extraction prints is carried out, and the store is then as if nothing had happened."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hubstore.corpus import Corpus, Item
from hubstore.errors import CorpusError, CorruptStoreError, StoreError, StoreExistsError
from hubstore.extraction import (
    Callbacks,
    Settings,
    append,
    extract,
    generations,
    pipeline,
    plan,
    resume,
    settings,
    spool,
)
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, unfinished, verify
from tests.command_line import typed
from tests.extraction.interrupted import GENERATION, SETTINGS, corpus
from tests.extraction.test_crash import content
from tests.store.everything import change_root
from tests.tiny_models import tiny_model

TOKENS = Settings(poolings=("mean", "tokens"), layers=("0",), batch_tokens=256, memory_budget=1)

CARRIED_OUT = {
    "was not written by an extraction": "test_a_store_of_another_writer_is_left_alone",
    "; what this command asks for is there": "test_an_extraction_is_told_of_an_append_that_is_unfinished",
    "was begun with another request": "test_another_request_is_told_how_the_store_was_begun",
    "shards are committed; bring it back from a copy": "test_a_root_that_is_lost_is_brought_back",
    "and no committed item: its commits are missing": "test_commits_that_are_lost_beside_an_index_are_brought_back",
    ", and then append another corpus": "test_an_append_is_told_of_what_is_unfinished",
    "stands twice in the corpus": "test_ids_are_to_differ",
    "is in the store already": "test_ids_are_to_differ",
    "are not those that": "test_a_corpus_that_was_changed_is_brought_back",
    "was changed after it was planned": "test_a_damaged_plan_is_removed_as_its_message_says",
    "is not as it was written": "test_a_damaged_plan_is_removed_as_its_message_says",
    "the plan's items could not be written there": "test_crash.py: a full disk",
    "what is appended can keep no other": "test_columns.py: a store that keeps no columns",
    "say so with": "test_columns.py: what is appended",
    "say which of them": "test_columns.py: what is appended",
}
"""A part of each message of these modules, and what carries out its remedy."""


def go(verb, name, path, *, config=SETTINGS, watch=None, **changed):
    """Extract or append one of three corpora, in generations of two small shards."""
    given, model = replace(corpus(name), **changed), tiny_model("gpt2")
    if verb == "extract":
        return extract(given, model, path, config, generation_items=GENERATION, watch=watch)
    return append(given, model, path, generation_items=GENERATION, watch=watch)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(settings, "SHARD_ROWS", 4)
    monkeypatch.setattr(settings, "CHUNK_ROWS", 2)
    monkeypatch.setattr(settings, "TOKEN_CHUNK_ROWS", 2)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of an extraction and an append: pooled rows, and tokens; as they are now, and as older versions wrote."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in (("SHARD_ROWS", 4), ("CHUNK_ROWS", 2), ("TOKEN_CHUNK_ROWS", 2)):
            patch.setattr(settings, name, rows)
        for name, config in (("mean", SETTINGS), ("tokens", TOKENS)):
            go("extract", "A", folder / name / "x.hub", config=config)
            go("append", "B", folder / name / "x.hub")
            shutil.copytree(folder / name, folder / f"older-{name}")
            root = folder / f"older-{name}" / "x.hub" / "zarr.json"
            described = json.loads(root.read_text())
            described["attributes"]["hubstore"].pop("digest", None)
            for entry in described["attributes"]["hubstore"]["corpora"]:
                for one in entry["generations"]:
                    del one["shards"]
            root.write_text(json.dumps(described))
    return folder


KINDS = ("mean", "tokens", "older-mean", "older-tokens")


@pytest.fixture(params=KINDS)
def store(request, stores, tmp_path):
    shutil.copytree(stores / request.param / "x.hub", tmp_path / "x.hub")
    return tmp_path / "x.hub"


def config_of(path):
    return TOKENS if "tokens" in StoreReader(path).poolings else SETTINGS


def lose(path, choose):
    """Remove the commits of which `choose` is true, by their place among those of their generations."""
    commits = StoreReader(path).commits
    last = {commit.generation: commit.shard for commit in commits}
    lost = [commit for commit in commits if choose(commit, commit.shard == last[commit.generation])]
    for commit in lost:
        (path / f"commits/{commit.shard}.json").unlink()
    return lost


LOST = {
    "first": lambda commit, last: commit.shard == 0,
    "last of each generation": lambda commit, last: last,
    "a generation": lambda commit, last: commit.generation == 1,
    "all but one of each generation": lambda commit, last: not last,
    "the extraction": lambda commit, last: commit.generation < 3,
    "the append": lambda commit, last: commit.generation > 2,
    "the append's last generation": lambda commit, last: commit.generation == 4,
    "all": lambda commit, last: True,
}


@pytest.mark.parametrize("lost", LOST)
def test_what_is_not_committed_any_more_is_said_by_all_and_extracted_again(store, lost):
    before, config = content(store), config_of(store)
    gone = lose(store, LOST[lost])
    items = {commit.generation < 3 for commit in gone}
    found = StoreReader(store)
    assert found.unfinished is not None
    assert found.unfinished.verb == ("extract" if True in items else "append")
    assert len(found) == 27 - sum(commit.items for commit in gone)
    if found.commits:
        said = json.loads(typed("info", store, "--json")[1])
        assert not said["complete"]
        assert said["shards_missing"] > 0
    if True in items:
        done = go("extract", "A", store, config=config)
        assert done.extracted == sum(commit.items for commit in gone if commit.generation < 3)
    if False in items:
        done = go("append", "B", store)
        assert done.extracted == sum(commit.items for commit in gone if commit.generation > 2)
    after = content(store)
    assert after.keys() == before.keys()
    assert {key for key in after if after[key] != before[key]} <= ({"zarr.json"} if lost == "all" else set())
    assert StoreReader(store).unfinished is None
    assert not go("extract", "A", store, config=config).extracted


@pytest.mark.parametrize("folder", ["hidden", "items", "commits"])
def test_a_damaged_shard_is_mended_as_verify_says(store, folder):
    before = content(store)
    damaged = sorted(path for path in (store / folder).rglob("*") if path.is_file() and path.name != "zarr.json")[3]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    problems = [one for one in verify(LocalStorage(store)) if one.wrong]
    assert [one.key for one in problems] == [damaged.relative_to(store).as_posix()]
    status, said, more = typed("verify", store)
    assert status == 1
    assert re.search(r"remove .*commits/.* and run", said + more) or f"error: {damaged} is not a commit" in more
    key = damaged.relative_to(store).as_posix()
    commits = [json.loads(data) for one, data in before.items() if one.startswith("commits/")]
    commit = next(one for one in commits if key in (*one["files"], f"commits/{one['shard']}.json"))
    (store / f"commits/{commit['shard']}.json").unlink()
    verb, name = ("extract", "A") if commit["generation"] < 3 else ("append", "B")
    assert go(verb, name, store, config=config_of(store)).extracted
    assert content(store) == before


class StoppedError(Exception):
    """What a test ends a run with."""


@pytest.fixture
def interrupted(tmp_path, stores, monkeypatch):
    """A store of which some shards of the first generation are committed, its plan, and what it is to become."""
    path = tmp_path / "x.hub"
    monkeypatch.setattr(pipeline, "WRITERS", 1)  # or both shards of the generation would be committed

    def stop(done):
        if list(path.glob("commits/*.json")):
            raise StoppedError

    with pytest.raises(StoppedError):
        go("extract", "A", path, watch=Callbacks(progress=stop))
    assert (path / "plan/plan.json").exists()
    assert 0 < len(StoreReader(path)) < GENERATION
    go("extract", "A", tmp_path / "whole.hub")
    return path, content(tmp_path / "whole.hub")


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "other": lambda data: bytes(byte ^ 0xA5 for byte in data),
    "a bit": lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
    "nested": lambda data: b"[" * 100_000,
    "null": lambda data: b"null",
    "a list": lambda data: b"[]",
    "an object": lambda data: b"{}",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["plan.json", "items.arrow", "order.npy"])
def test_a_damaged_plan_is_removed_as_its_message_says(interrupted, file, damage):
    path, whole = interrupted
    damaged = DAMAGES[damage]((path / "plan" / file).read_bytes())
    if damaged is None:
        (path / "plan" / file).unlink()
    else:
        (path / "plan" / file).write_bytes(damaged)
    with contextlib.suppress(CorruptStoreError):
        go("extract", "A", path)
    if (path / "plan").exists():
        with pytest.raises(CorruptStoreError, match=f"remove {path / 'plan'} and run the same command again"):
            go("extract", "A", path)
        shutil.rmtree(path / "plan")
        go("extract", "A", path)
    assert content(path) == whole


def test_a_store_of_another_writer_is_left_alone(stores, tmp_path):
    shutil.copytree(stores / "mean/x.hub", tmp_path / "x.hub")
    change_root(tmp_path / "x.hub", lambda attributes: attributes.update(corpora=[]))
    before = content(tmp_path / "x.hub")
    with pytest.raises(StoreExistsError, match=r"was not written by an extraction.*give the new store another path"):
        go("extract", "A", tmp_path / "x.hub")
    assert content(tmp_path / "x.hub") == before
    assert go("extract", "A", tmp_path / "another.hub").items == 17


def test_an_extraction_is_told_of_an_append_that_is_unfinished(stores, tmp_path):
    path = tmp_path / "x.hub"
    shutil.copytree(stores / "mean/x.hub", path)
    before = content(path)
    lose(path, LOST["the append's last generation"])
    with pytest.raises(StoreError, match=r"'B' is unfinished.*same `hubstore append` again.*asks for is there"):
        go("extract", "A", path)
    assert go("append", "B", path).extracted
    assert content(path) == before


def test_an_append_is_told_of_what_is_unfinished(interrupted, stores, tmp_path):
    path, whole = interrupted
    with pytest.raises(StoreError, match=r"'A' is unfinished.*same `hubstore extract` again.*then append another"):
        go("append", "B", path)
    go("extract", "A", path)
    assert content(path) == whole
    go("append", "B", path)
    assert content(path) == content(stores / "mean/x.hub")


def test_another_request_is_told_how_the_store_was_begun(interrupted):
    path, whole = interrupted
    with pytest.raises(StoreExistsError, match=r"was begun with another request: settings dtype.*ask for"):
        go("extract", "A", path, config=replace(SETTINGS, dtype="float32"))
    go("extract", "A", path)
    assert content(path) == whole


def test_a_root_that_is_lost_is_brought_back(store):
    before = content(store)
    (store / "zarr.json").unlink()
    with pytest.raises(CorruptStoreError, match=r"shards are committed; bring it back from a copy"):
        go("extract", "A", store)
    (store / "zarr.json").write_bytes(before["zarr.json"])
    go("extract", "A", store, config=config_of(store))
    assert content(store) == before


def test_commits_that_are_lost_beside_an_index_are_brought_back(stores, tmp_path):
    path = tmp_path / "x.hub"
    shutil.copytree(stores / "mean/x.hub", path)
    assert typed("index", path, "--kind", "exact")[0] == 0
    before = content(path)
    shutil.move(path / "commits", tmp_path / "commits")
    with pytest.raises(CorruptStoreError, match=r"has indexes and no committed item: its commits are missing; "):
        go("extract", "A", path, config=replace(SETTINGS, dtype="float32"))
    shutil.move(tmp_path / "commits", path / "commits")
    assert not go("extract", "A", path).extracted
    assert content(path) == before


def test_ids_are_to_differ(stores, tmp_path):
    path = tmp_path / "x.hub"
    shutil.copytree(stores / "mean/x.hub", path)
    before = content(path)
    twice = [Item("C0", "a", "en"), Item("C0", "b", "en")]
    for items, message in (
        (twice, "stands twice in the corpus.*give every item an id of its own"),
        ([Item("A3", "a", "en")], "is in the store already.*leave out what the store has"),
    ):
        with pytest.raises(CorpusError, match=message):
            append(Corpus.from_items(items, "C"), tiny_model("gpt2"), path, generation_items=GENERATION)
        assert content(path) == before
    append(Corpus.from_items([Item("C0", "a", "en"), Item("C1", "b", "en")]), tiny_model("gpt2"), path)
    assert StoreReader(path).unfinished is None


def test_a_corpus_that_was_changed_is_brought_back(store):
    before, config = content(store), config_of(store)
    lose(store, LOST["a generation"])
    left = content(store)

    def read(refuse):
        for item in corpus("A").read(refuse):
            yield replace(item, text=item.text + "!") if item.id == "A9" else item

    with pytest.raises(CorpusError, match=r"items 8 to 14 of the corpus are not those .* run again with the corpus"):
        go("extract", "A", store, config=config, read=read, described=dict(corpus("A").source))
    assert content(store) == left
    go("extract", "A", store, config=config)
    assert content(store) == before


def test_every_message_of_what_can_be_gone_on_with_is_among_those_whose_remedy_is_carried_out():
    for module in (resume, generations, plan, spool, unfinished):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and "Error" in ast.unparse(node.exc.func):
                parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
                said = "".join(part for part in parts if isinstance(part, str))
                named = [part for part in CARRIED_OUT if part in said]
                assert named or ast.unparse(node.exc.func) in ("NoItemsError", "IndexError", "TypeError"), said
