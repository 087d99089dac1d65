"""Stores on a real S3 server: every verb, byte for byte the local store, and what servers and credentials do to it."""

from __future__ import annotations

import functools
import http.server
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import hubstore
from benchmarks.seaweed import BUCKET, READER, SeaweedFS
from hubstore.cli import app
from hubstore.errors import CorpusError, StorageUnreachableError, StoreAccessError, StoreError, StoreLockedError
from hubstore.storage import LocalStorage, open_storage
from hubstore.storage import objects as remote
from hubstore.store import StoreReader, verify, write_metadata, write_shard
from tests.command_line import fail
from tests.extraction import victim
from tests.store.seaweed import enter, needs_weed
from tests.store.test_roundtrip import item_table, layout
from tests.tiny_models import SAMPLE, save_tiny_language_model, tiny_model

pytestmark = needs_weed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = SeaweedFS(tmp_path_factory.mktemp("seaweed")).start()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def client(server, own_cache, monkeypatch):
    """The environment of a writer, and a cache of the test's own."""
    enter(server, monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_language_model("llama", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def url(request):
    name = request.node.name.partition("[")[0]
    return f"s3://{BUCKET}/{name}/x.hub"


def content(storage) -> dict[str, bytes]:
    """Every object of a store; of a commit all but its times."""
    found = {key: storage.read(key) for key in storage.list("")}
    for key, data in found.items():
        if key.startswith("commits/"):
            found[key] = json.dumps({**json.loads(data), "times": None}, sort_keys=True).encode()
    return found


def run(*arguments):
    """A command: what it prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    if result.exception:
        raise result.exception
    return result.stdout


def test_every_verb_of_the_command_line_works_on_a_url_as_on_a_folder(tmp_path, url, model):
    local = tmp_path / "x.hub"
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in ("en", "es", "ar")]
    more = tmp_path / "more.jsonl"
    rows = [{"id": f"m{i}", "text": f"one more {i}", "language": "en"} for i in range(9)]
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for store in (local, url):
        run("extract", "--parallel", *parallel, "-m", model, "-o", store, "--limit", 20, "--with-lens")
        run("append", store, more, "--model", model)
        run("index", store, "--layers", "1,2", "--kind", "hnsw")
    said = json.loads(run("info", url, "--json"))
    assert (said["items"], said["complete"], said["lens"], len(said["indexes"])) == (69, True, True, 2)
    assert "as they were written" in run("verify", url)
    for asked in (
        ("query", "--id", "en:1", "--layers", "0,1,2", "-k", 5, "--json"),
        ("query", "--text", "hello", "--layers", "-1", "--model", model, "--json"),
        ("analyze", "retrieval", "--pair", "en:es", "--bootstrap", 20, "--json"),
        ("lens", "--id", "en:1", "--json"),
        ("projection", "--layers", "1", "--json"),
    ):
        verb, *rest = asked
        assert run(verb, url, *rest).replace(url, "") == run(verb, local, *rest).replace(str(local), "")
    run("export", url, "-o", tmp_path / "there", "--layers", "2")
    run("export", local, "-o", tmp_path / "here", "--layers", "2")
    assert (tmp_path / "there/layer-2.npy").read_bytes() == (tmp_path / "here/layer-2.npy").read_bytes()
    there, here = content(open_storage(url)), content(LocalStorage(local))
    assert there.keys() == here.keys()
    made = {key for key in here if key.startswith(("analyses/", "indexes/"))}  # each from its own store, with its name
    assert [key for key in sorted(here.keys() - made) if here[key] != there[key]] == []


def test_a_server_answers_from_a_store_on_another(url):
    from starlette.testclient import TestClient

    from hubstore.serve.app import create_app

    rows = [hubstore.Item(f"i{n}", f"sentence {n}", "en", str(n)) for n in range(30)]
    hubstore.extract(hubstore.Corpus.from_items(rows), tiny_model("gpt2"), url, poolings=("mean",))
    expected = hubstore.open(url).search(ids=["i3"], layers=[1], k=3)
    with TestClient(create_app([url]), base_url="http://127.0.0.1") as asking:
        assert asking.get("/api/v1/stores/x").json()["items"] == 30
        found = asking.get("/api/v1/stores/x/items?limit=3")
        assert found.status_code == 200
        assert url not in found.text
        path, asked = "/api/v1/stores/x/neighbors?id=i3&layer=1&k=3", {"Accept": "application/vnd.apache.arrow.stream"}
        answer = asking.get(path, headers=asked)
    assert pa.ipc.open_stream(answer.content).read_all()["id"].to_pylist() == expected["id"].to_pylist()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.extraction.victim"])
    return context


def attempt(environment, path):
    os.environ.update(environment)
    victim.run(path)


def test_killed_at_random_moments_the_store_ends_byte_identical_to_a_local_one(tmp_path, url, server, processes):
    victim.run(tmp_path / "whole.hub")
    expected = content(LocalStorage(tmp_path / "whole.hub"))
    environment = {**server.environment(), "HUBSTORE_CACHE": str(tmp_path / "cache")}
    storage = open_storage(url)
    kills = 0
    for commits in (0, 1, 3, 5, None):
        process = processes.Process(target=attempt, args=(environment, url))
        process.start()
        while commits is not None and process.is_alive() and len(storage.list("commits")) <= commits:
            time.sleep(0.01)
        if commits is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        kills += process.exitcode == -signal.SIGKILL
    assert process.exitcode == 0, "after the kills the same command finishes, and waits for no lease"
    assert kills >= 3
    assert content(storage) == expected
    assert verify(storage) == []


def test_a_server_that_is_killed_and_restarted_in_the_midst_of_writing_loses_nothing(tmp_path, url, processes):
    own = SeaweedFS(tmp_path / "own").start()
    environment = {**own.environment(), "HUBSTORE_CACHE": str(tmp_path / "cache")}
    os.environ.update(environment)
    try:
        victim.run(tmp_path / "whole.hub")
        process = processes.Process(target=attempt, args=(environment, url))
        process.start()
        storage = open_storage(url)
        while len(storage.list("commits")) < 2:
            time.sleep(0.01)
        own.kill()
        time.sleep(1)
        own.start()
        process.join(200)
        if process.exitcode != 0:  # a clear error is allowed, and the same command then goes on
            attempt(environment, url)
        assert content(open_storage(url)) == content(LocalStorage(tmp_path / "whole.hub"))
        assert verify(open_storage(url)) == []
    finally:
        own.kill()


def test_a_server_that_stays_away_is_named_after_the_time_of_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote, "FIRST_PATIENCE", timedelta(seconds=1))
    with pytest.raises(StorageUnreachableError, match=r"the server failed or cannot be reached.* run the same command"):
        StoreReader("s3://lab/x.hub")


def secrets(environment) -> list[str]:
    return [value for name, value in environment.items() if "KEY" in name]


def test_who_may_only_read_reads_and_is_told_what_is_refused(url, server, monkeypatch):
    victim_run = hubstore.Corpus.from_items([hubstore.Item(f"i{n}", f"text {n}", "en", str(n)) for n in range(8)])
    hubstore.extract(victim_run, tiny_model("gpt2"), url, poolings=("mean",))
    for name, value in server.environment(READER).items():
        monkeypatch.setenv(name, value)
    store = hubstore.open(url)
    assert store.search(ids=["i1"], layers=[1], k=2).num_rows == 2
    assert store.verify() == []
    assert len(store.projection(layers=[1])) > 0  # given, and not kept
    assert open_storage(url).list("analyses") == []
    with pytest.raises(StoreAccessError, match="the credentials do not allow it") as error:
        store.index(kind="hnsw")
    again = hubstore.Corpus.from_items([hubstore.Item("j", "text", "en")])
    with pytest.raises(StoreAccessError, match=r"locking s3://lab/.* do not allow it \(AccessDenied\)"):
        hubstore.append(again, url, model=tiny_model("gpt2"))
    assert not any(secret in str(error.value) for secret in secrets(server.environment(READER)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another-secret"}, "does not know these credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "nobody-at-all"}, "does not know these credentials (InvalidAccessKeyId)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials for s3://lab/x.hub are found"),
    ],
)
def test_credentials_that_are_wrong_or_missing_are_one_clear_line(server, monkeypatch, changed, said):
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    printed = fail("info", "s3://lab/x.hub")
    assert said in printed
    assert printed.count("\n") == 1
    assert not any(secret in printed for secret in secrets({**server.environment(), **changed}) if secret)


EXPIRED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>
<Token-0>the-session-token</Token-0></Error>"""


class Expired(http.server.BaseHTTPRequestHandler):
    """Answers as S3 does to a session whose time is over."""

    def do_GET(self):
        self.send_response(400)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(EXPIRED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(EXPIRED)

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def log_message(self, *given):
        pass


def test_expired_credentials_are_named_as_such(monkeypatch):
    answering = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Expired)
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{answering.server_port}")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
        storage = open_storage("s3://lab/x.hub")
        for attempted in (lambda: storage.exists("k"), lambda: storage.read("k"), lambda: storage.write("k", b"v")):
            with pytest.raises(StoreAccessError, match=r"have expired \(ExpiredToken\); renew them") as error:
                attempted()
            assert "the-session-token" not in str(error.value)
    finally:
        answering.shutdown()
        answering.server_close()


def test_of_two_writers_of_one_shard_one_wins(url):
    shape = layout("float32", poolings=("mean",))
    storages = [open_storage(url), open_storage(url)]
    write_metadata(storages[0], shape, {"corpora": []}, 64, 0)
    start, outcomes = threading.Barrier(2), []

    def write(storage):
        states = {"mean": torch.ones(3, 64, shape.width)}
        start.wait()
        try:
            outcomes.append(write_shard(storage, shape, 0, item_table(0, [1] * 64), states))
        except StoreError as error:
            outcomes.append(str(error))

    writers = [threading.Thread(target=write, args=(storage,)) for storage in storages]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(refused) == 1
    assert "this shard is committed already; its rows stay as they are" in refused[0]
    assert len(StoreReader(url).commits) == 1
    assert verify(storages[0]) == []


def test_create_and_the_lease_hold_between_clients_of_a_real_server(url):
    first, second = open_storage(url), open_storage(url)
    won = [first.put_if_absent("k", b"a"), second.put_if_absent("k", b"b")]
    assert won == [True, False]
    with first.lock():
        with pytest.raises(StoreLockedError, match="is being written by process"), second.lock():
            pass
        version = dict(first._lease._version)
        assert first._lease._put(version)  # renewed
        assert not first._lease._put(version)  # by one that was replaced
    with second.lock():
        second.write("k", b"c")


def test_corpora_and_media_by_url_are_read_as_local_files_are(tmp_path):
    from PIL import Image

    from hubstore.corpus import open_corpus
    from hubstore.corpus.remote import medium_name
    from hubstore.media.decode import open_image

    rows = [{"id": f"r{i}", "text": f"text number {i}", "language": "en"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    Image.fromarray(np.full((4, 4, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    (tmp_path / "pictures.jsonl").write_text('{"id":"p","image":"gray.png"}\n')
    storage = open_storage(f"s3://{BUCKET}/corpora")
    for path in tmp_path.iterdir():
        if path.is_file():
            storage.write(path.name, path.read_bytes())
    for name in ("a.jsonl", "a.parquet"):
        here, there = open_corpus(tmp_path / name), open_corpus(f"s3://{BUCKET}/corpora/{name}")
        assert pa.Table.from_batches(here.batches()).equals(pa.Table.from_batches(there.batches()))
        assert there.source == open_corpus(f"s3://{BUCKET}/corpora/{name}").source
    (image,) = pa.Table.from_batches(
        open_corpus(f"s3://{BUCKET}/corpora/pictures.jsonl", image="image").batches()
    ).to_pylist()
    assert image["media"] == f"s3://{BUCKET}/corpora/gray.png"
    assert open_image(hubstore.corpus.Media(image["media"])).size == (4, 4)
    assert medium_name(Path(image["media"])) == image["media"]
    with pytest.raises(CorpusError, match=r"s3://lab/corpora/none\.jsonl: there is no such object; check the URL"):
        open_corpus(f"s3://{BUCKET}/corpora/none.jsonl")


def test_scans_and_takes_are_those_of_a_local_store(tmp_path, url):
    shape = layout("float16", poolings=("mean",))
    for storage in (LocalStorage(tmp_path / "x.hub"), open_storage(url)):
        generator = torch.Generator().manual_seed(0)
        for shard in range(5):
            states = {"mean": torch.randn(3, 64, shape.width, generator=generator).half()}
            write_shard(storage, shape, shard, item_table(shard, [1] * 64), states)
        write_metadata(storage, shape, {"corpora": []}, 320, 0)
    here, there = StoreReader(tmp_path / "x.hub").hidden("1"), StoreReader(url).hidden("1")
    wanted = np.random.default_rng(0).integers(0, 320, 50)
    assert torch.equal(here.take(wanted), there.take(wanted))
    assert torch.equal(here.read(), there.read())
    shutil.rmtree(Path(os.environ["HUBSTORE_CACHE"]), ignore_errors=True)
    assert torch.equal(here.read(10, 200), StoreReader(url).hidden("1").read(10, 200))


def test_a_store_behind_a_web_server_is_read_and_searched_and_not_written(url, server):
    rows = [hubstore.Item(f"i{n}", f"sentence {n}", "en", str(n)) for n in range(40)]
    hubstore.extract(hubstore.Corpus.from_items(rows), tiny_model("gpt2"), url, poolings=("mean", "tokens"))
    stored = hubstore.open(url)
    stored.index(kind="hnsw")
    served = hubstore.open(f"{server.web}/buckets/{url.removeprefix('s3://')}")
    assert served.digest == stored.digest
    assert served.items.equals(stored.items)
    assert served.verify() == []
    assert torch.equal(served.hidden(1, "tokens").read(), stored.hidden(1, "tokens").read())
    assert torch.equal(served.hidden(1).take([7, 3]), stored.hidden(1).take([7, 3]))
    asked = {"ids": ["i3"], "layers": [1], "k": 5}
    assert served.search(**asked).equals(stored.search(**asked))
    assert served.storage.list("") == [key for key in stored.storage.list("") if not key.startswith("analyses/")]
    assert len(served.projection(layers=[1])) == 40  # given, and not kept
    with pytest.raises(StoreAccessError, match=r"is read over http, which cannot be written to"):
        served.index(kind="hnsw", rebuild=True)


def test_a_web_server_that_gives_no_ranges_is_named(tmp_path):
    shape = layout("float16", poolings=("mean",))
    local = LocalStorage(tmp_path / "x.hub")
    write_shard(local, shape, 0, item_table(0, [1] * 64), {"mean": torch.ones(3, 64, shape.width).half()})
    write_metadata(local, shape, {"corpora": []}, 64, 0)
    handler = functools.partial(Quiet, directory=tmp_path)
    answering = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    try:
        store = StoreReader(f"http://127.0.0.1:{answering.server_port}/x.hub")
        with pytest.raises(StoreError, match=r"reading needs byte ranges"):
            store.hidden("1").take([1])
    finally:
        answering.shutdown()
        answering.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's own file server, which knows no ranges."""

    def log_message(self, *given):
        pass
