"""The commit log opens a store as its commits do, and counts for nothing where they say otherwise."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pytest
import torch

from hubstore.errors import CorruptStoreError
from hubstore.storage import LocalStorage
from hubstore.store import Layout, StoreReader, log, verify, write_metadata, write_shard
from hubstore.store.commit import Commit, decode_commits
from hubstore.store.log import decode_log, log_key, read_commits, write_log
from hubstore.store.records import sealed

COMMITS = 7


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(log, "FEWEST_COMMITS", 3)
    monkeypatch.setattr(log, "PART_COMMITS", 4)


@pytest.fixture(params=["none", "blosc-lz4-bitshuffle"])
def storage(request, tmp_path):
    """Shards of 0 to 6 items, of one to three tokens each, of which every second has previews; the log is not there."""
    storage = LocalStorage(tmp_path / "x.hub")
    layout = Layout(("0", "3", "final"), ("mean", "tokens"), "float16", 4, 8, 4, request.param)
    write_metadata(storage, layout, {"model": {}}, 8 * COMMITS, 64)
    first = 0
    for shard in range(COMMITS):
        add(storage, layout, shard, first)
        first += -(-sum(1 + i % 3 for i in range(shard)) // 8)
    age(storage)
    return storage


def add(storage, layout, shard, first, value=0.5):
    tokens = [1 + i % 3 for i in range(shard)]
    items = pa.table(
        {
            "id": pa.array([f"{shard}/{i}" for i in range(shard)], pa.string()),
            "language": pa.array([("en", "de")[2 * i >= shard] for i in range(shard)], pa.string()),
            "modality": pa.array(["text"] * shard, pa.string()),
            "text": pa.array(["a"] * shard, pa.string()),
            "tokens": pa.array(tokens, pa.int32()),
        }
    )
    previews = pa.table({"id": items["id"], "data": pa.array([b"x"] * shard, pa.binary())}) if shard % 2 else None
    states = {name: torch.full((3, rows, 4), value).half() for name, rows in (("mean", shard), ("tokens", sum(tokens)))}
    return write_shard(storage, layout, shard, items, states, first_token_shard=first, previews=previews)


def age(storage):
    """Commits are older than what is written from now on."""
    for path in (storage.root / "commits").iterdir():
        os.utime(path, ns=(10**9, 10**9))


def layout_of(storage):
    return Layout.from_json(StoreReader(storage.root).attributes)


def said(commit):
    names = ("shard", "items", "generation", "first_token_shard", "tokens", "runs", "digest")
    return {name: getattr(commit, name) for name in names} | {"files": dict(commit.files)}


def single(storage):
    keys = [f"commits/{shard}.json" for shard in range(COMMITS)]
    return list(decode_commits(storage, layout_of(storage), keys))


def written(storage):
    layout = layout_of(storage)
    write_log(storage, layout, read_commits(storage, layout))
    return layout


def test_commits_read_from_the_log_say_what_their_own_files_say(storage):
    before = StoreReader(storage.root)
    layout = written(storage)
    assert storage.list("log") == ["log/0.json", "log/1.json"]
    found = read_commits(storage, layout)
    assert [type(commit).__name__ for commit in found] == ["LoggedCommit"] * COMMITS
    assert list(map(said, found)) == list(map(said, single(storage)))
    for logged, own in zip(found, single(storage), strict=True):
        assert logged.times["committed"] == own.times["committed"]
        assert len(logged.files) == len(own.files)
        assert all(logged.files[key] == record and key in logged.files for key, record in own.files.items())
        others = ("hidden/mean/0/c/99/0", "hidden/last/0/c/0/0", "items/99.parquet", "hidden/mean/0/c/x/0", "a")
        assert not any(key in logged.files for key in others)
    store = StoreReader(storage.root)
    assert store.digest == before.digest
    assert store.items == before.items
    assert store.partitions == before.partitions
    for pooling in ("mean", "tokens"):
        assert torch.equal(store.hidden("3", pooling).read(), before.hidden("3", pooling).read())
    assert store.preview("3/1") == b"x"
    assert [problem for problem in verify(storage) if problem.key != "zarr.json"] == []


def test_a_store_of_few_commits_gets_no_log(storage, monkeypatch):
    monkeypatch.setattr(log, "FEWEST_COMMITS", COMMITS + 1)
    written(storage)
    assert storage.list("log") == []


def test_a_log_that_says_everything_already_is_not_written_again(storage):
    layout = written(storage)
    before = {key: storage.stat(key) for key in storage.list("log")}
    write_log(storage, layout, read_commits(storage, layout))
    assert {key: storage.stat(key) for key in storage.list("log")} == before
    (storage.root / "commits" / "6.json").unlink()
    (storage.root / "commits" / "5.json").unlink()
    (storage.root / "commits" / "4.json").unlink()
    write_log(storage, layout, read_commits(storage, layout))
    assert storage.list("log") == ["log/0.json"]


def test_a_commit_that_is_gone_new_or_written_again_counts_by_itself(storage):
    layout = written(storage)
    commits = read_commits(storage, layout)
    gone, again = commits[2], commits[5]
    (storage.root / "commits" / "2.json").unlink()
    (storage.root / "commits" / "5.json").unlink()
    new = add(storage, layout, 5, again.first_token_shard, value=0.25)
    found = {commit.shard: commit for commit in read_commits(storage, layout)}
    assert gone.shard not in found
    assert found[5].digest == new.digest != again.digest
    assert type(found[5]) is Commit
    assert StoreReader(storage.root).hidden("0", "mean").read()[-7].tolist() == [0.25] * 4
    [problem] = [problem for problem in verify(storage) if problem.key.startswith("log/")]
    assert "says of shard 5 what its commit does not; remove the folder log" in problem.what
    write_log(storage, layout, read_commits(storage, layout))
    assert not [problem for problem in verify(storage) if problem.key.startswith("log/")]


def test_a_damaged_log_is_passed_over_and_found_by_verify(storage):
    layout = written(storage)
    expected = list(map(said, single(storage)))
    path = storage.root / "log" / "0.json"
    good = path.read_bytes()
    for bad in (good[:-20], good.replace(b"A", b"B", 1), b"{}", b""):
        path.write_bytes(bad)
        assert list(map(said, read_commits(storage, layout))) == expected
        assert [problem.key for problem in verify(storage) if problem.wrong] == ["log/0.json"]


def test_verify_holds_the_digests_of_the_log_itself_against_the_commits(storage):
    written(storage)
    said = json.loads(storage.read(log_key(0)))
    digests = bytearray(log.base64.b64decode(said["digests"]))
    digests[0] ^= 1
    del said["digest"]
    storage.write(log_key(0), sealed({**said, "digests": log.base64.b64encode(digests).decode()}))
    (found,) = (problem for problem in verify(storage) if problem.wrong)
    assert found.key == log_key(0)
    assert "says of shard 0 what its commit does not" in found.what


CHANGES = {
    "its shards are not in order": lambda numbers, files, runs: numbers["shard"].__setitem__(1, 0),
    "have more items than rows": lambda numbers, files, runs: numbers["items"].__setitem__(0, 9),
    "other files than its commits list": lambda numbers, files, runs: numbers["tokens"].__setitem__(3, 60),
    "rows of tokens where there are none": lambda numbers, files, runs: numbers["tokens"].__setitem__(0, 1),
    "tokens which its files do not hold": lambda numbers, files, runs: numbers["tokens"].__setitem__(3, 1 << 39),
    "a number of tokens that no commit has": lambda numbers, files, runs: numbers["tokens"].__setitem__(3, -1),
    "in sizes that their rows do not have": lambda numbers, files, runs: files["sizes"].__setitem__(3, 1 << 40),
    "runs have other items": lambda numbers, files, runs: runs["run_items"].__setitem__(0, 3),
    "runs are of no partition": lambda numbers, files, runs: runs["run_partitions"].__setitem__(0, 2),
    "other runs than its commits": lambda numbers, files, runs: numbers["runs"].__setitem__(0, 1),
}


@pytest.mark.parametrize("problem", CHANGES)
def test_a_log_signed_by_a_stranger_is_held_against_the_layout(storage, problem):
    layout = written(storage)
    said = json.loads(storage.read(log_key(0)))
    arrays = []
    for name, kinds in (("numbers", log.NUMBERS), ("files", log.FILES), ("runs", log.RUNS)):
        decoded = {
            one: np.frombuffer(log.base64.b64decode(said[name][one]), kind).copy() for one, kind in kinds.items()
        }
        arrays.append(decoded)
    CHANGES[problem](*arrays)
    for name, decoded in zip(("numbers", "files", "runs"), arrays, strict=True):
        said[name] = {one: log._base64(array) for one, array in decoded.items()}
    del said["digest"]
    with pytest.raises(CorruptStoreError, match=problem):
        decode_log(sealed(said), layout, "log/0.json")
