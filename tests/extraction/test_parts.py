"""Parts of a run share a store: whichever are killed, stopped and run again, it ends as one process writes it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait

import pytest
from obstore.store import MemoryStore

from hubstore.errors import StoppedError, StoreError, StoreLockedError
from hubstore.extraction import Callbacks, Settings, append, extract, parts, pipeline
from hubstore.extraction import settings as extraction_settings
from hubstore.extraction.parts import Part
from hubstore.storage import LocalStorage, Url
from hubstore.storage.cache import FileCache
from hubstore.storage.lease import LEASE
from hubstore.storage.objects import RemoteStorage
from hubstore.store import StoreReader, verify
from tests.command_line import typed
from tests.extraction import interrupted
from tests.extraction.test_crash import content
from tests.extraction.test_interrupted import _processes, never_ended
from tests.tiny_models import save_tiny_model, tiny_model

SETTINGS = Settings(poolings=("mean",), layers=("0",), batch_tokens=256)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(extraction_settings, "SHARD_ROWS", 4)
    monkeypatch.setattr(extraction_settings, "CHUNK_ROWS", 2)


def run_parts(path, attempts, at_once=4):
    """Run (verb, part, write at which it is killed) in processes, several at a time; what each of them ended with."""
    waiting, running, ended = deque(attempts), {}, []
    while waiting or running:
        while waiting and len(running) < at_once:
            verb, part, at = waiting.popleft()
            ours, its = _processes().Pipe()
            name = "A" if verb == "extract" else "B"
            process = _processes().Process(target=interrupted.run, args=(verb, name, path, at, True, its, part))
            process.start()
            its.close()
            running[ours] = process
        for connection in wait(list(running)):
            try:
                ended.append(connection.recv())
            except EOFError:
                ended.append("killed")
            running.pop(connection).join()
            connection.close()
    return ended


@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_parts_killed_and_run_again_in_any_order_end_as_one_process(tmp_path, count):
    rng = random.Random(count)
    path, killed = tmp_path / "x.hub", 0
    for verb, corpora in (("extract", ("A",)), ("append", ("A", "B"))):
        names = [f"{number}/{count}" for number in range(1, count + 1)]
        attempts = [(verb, part, rng.randrange(1, 50)) for part in names for _ in range(2)] + [
            (verb, names[0], None)
        ] * 2
        rng.shuffle(attempts)
        ended = run_parts(path, attempts)
        killed += ended.count("killed")
        assert set(ended) <= {"killed", None}
        for _ in range(3):  # as many rounds as there are generations
            assert set(run_parts(path, [(verb, part, None) for part in names])) == {None}
            if StoreReader(path).unfinished is None:
                break
        assert content(path) == never_ended(corpora)
    assert killed
    assert [problem for problem in verify(LocalStorage(path)) if problem.wrong] == []


def test_parts_of_one_generation_do_their_own_shards_and_the_last_closes_it(tmp_path, small_shards):
    model, corpus = tiny_model("gpt2"), interrupted.corpus("A")
    extract(corpus, model, tmp_path / "whole.hub", SETTINGS)
    path = tmp_path / "x.hub"
    done = [extract(corpus, model, path, SETTINGS, part=f"{number}/4") for number in (3, 1, 4, 2)]
    assert [(one.extracted, one.missing) for one in done] == [(4, 4), (4 + 1, 2), (4, 1), (4, 0)]
    assert StoreReader(path).unfinished is None
    assert content(path) == content(tmp_path / "whole.hub")
    again = extract(corpus, model, path, SETTINGS, part="2/4")
    assert (again.extracted, again.missing, again.items) == (0, 0, 17)
    with pytest.raises(StoreError, match="was begun with another request"):
        extract(interrupted.corpus("B"), model, path, SETTINGS, part="2/4")


def test_a_part_of_something_else_is_refused_while_others_write_and_does_not_wait_for_them(tmp_path, small_shards):
    model, corpus, path = tiny_model("gpt2"), interrupted.corpus("A"), tmp_path / "x.hub"
    extract(corpus, model, path, SETTINGS, part="1/4")
    other = Settings(poolings=("last",), layers=("0",), batch_tokens=256)
    with (
        LocalStorage(path).share(),
        pytest.raises(StoreError, match="was begun with another request: settings poolings"),
    ):
        extract(corpus, model, path, other, part="2/4")


def test_an_appended_corpus_is_done_in_parts_too(tmp_path, small_shards):
    model = tiny_model("gpt2")
    for name in ("whole.hub", "x.hub"):
        extract(interrupted.corpus("A"), model, tmp_path / name, SETTINGS)
    append(interrupted.corpus("B"), model, tmp_path / "whole.hub")
    for part in ("2/2", "1/2"):
        append(interrupted.corpus("B"), model, tmp_path / "x.hub", part=part)
    assert content(tmp_path / "x.hub") == content(tmp_path / "whole.hub")


@pytest.mark.parametrize("part", [None, "1/1"])
def test_a_run_that_is_asked_to_end_does_so_after_the_shard_in_hand_and_goes_on(tmp_path, small_shards, part):
    model, corpus, path = tiny_model("gpt2"), interrupted.corpus("A"), tmp_path / "x.hub"
    extract(corpus, model, tmp_path / "whole.hub", SETTINGS, generation_items=9)
    committed = []
    for _ in itertools.count():
        begun = []
        watch = Callbacks(progress=begun.append, stop=lambda begun=begun: bool(begun))
        with contextlib.suppress(StoppedError):
            extract(corpus, model, path, SETTINGS, generation_items=9, watch=watch, part=part)
            break
        committed.append(len(StoreReader(path).commits))
    assert committed == [1, 2, 3, 4]
    assert content(path) == content(tmp_path / "whole.hub")


def test_while_a_part_writes_nobody_else_has_the_store_alone(tmp_path):
    storage, other = LocalStorage(tmp_path / "x.hub"), LocalStorage(tmp_path / "x.hub")
    with storage.share(), other.share():
        with pytest.raises(StoreLockedError), LocalStorage(tmp_path / "x.hub").lock():
            pass
        left = tmp_path / "x.hub" / "items"
        left.mkdir()
        (left / ".0.parquet.partial").touch()
    assert (left / ".0.parquet.partial").exists()  # it might be another part's
    with storage.lock():
        assert not left.joinpath(".0.parquet.partial").exists()
        with pytest.raises(StoreLockedError), other.share():
            pass


def test_parts_side_by_side_share_an_object_store(tmp_path, small_shards, monkeypatch):
    memory, corpus, models = MemoryStore(), interrupted.corpus("A"), [tiny_model("gpt2") for _ in range(4)]

    def bucket(path):
        return RemoteStorage(Url("s3", "lab/x.hub"), memory, FileCache(tmp_path / "cache", 1 << 30))

    extract(corpus, models[0], tmp_path / "whole.hub", SETTINGS, generation_items=9)
    monkeypatch.setattr("hubstore.extraction.run.store_files", bucket)
    monkeypatch.setattr(parts, "POLL_S", 0.05)

    def run(number):
        part = f"{number}/3"
        return extract(corpus, models[number], "s3://lab/x.hub", SETTINGS, generation_items=9, part=part)

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run, (1, 2, 3)))
    if min(one.missing for one in done):  # of the last generation, which a part may have ended before
        done += [run(number) for number in (1, 2, 3)]
    assert min(one.missing for one in done) == 0
    copied = tmp_path / "copy.hub"
    for found in memory.list().collect():
        if found["path"] != LEASE:
            path = copied / found["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(memory.get(found["path"]).bytes()))
    assert content(copied) == content(tmp_path / "whole.hub")


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/3", "1/2/3", ""])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(StoreError, match="is not one of several, such as 3/16"):
        Part.of(text)


def test_sigterm_ends_a_command_with_status_75_and_the_same_command_goes_on(tmp_path, small_shards, monkeypatch):
    folder = save_tiny_model("gpt2", tmp_path / "model")
    command = ["extract", "sample:ntrex", "--limit", "2", "--model", folder, "--layers", "0", "--out"]
    assert typed(*command, tmp_path / "whole.hub")[0] == 0
    write, shards = pipeline.write_shard, []

    def written(*given, **options):
        shards.append(1)
        if len(shards) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*given, **options)

    monkeypatch.setattr(pipeline, "write_shard", written)
    before = signal.getsignal(signal.SIGTERM)
    status, _, said = typed(*command, tmp_path / "x.hub")
    assert status == 75, said
    assert "stopped" in said
    assert signal.getsignal(signal.SIGTERM) == before
    assert 1 <= len(StoreReader(tmp_path / "x.hub").commits) < len(StoreReader(tmp_path / "whole.hub").commits)
    assert typed(*command, tmp_path / "x.hub")[0] == 0
    assert content(tmp_path / "x.hub") == content(tmp_path / "whole.hub")
