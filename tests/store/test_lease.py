"""A remote store has one writer, whatever clocks and servers do, and processes that it starts write by its right."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pickle
import threading
import time
from datetime import timedelta

import obstore
import pytest
import torch
from obstore.store import MemoryStore

from hubstore.errors import StorageUnreachableError, StoreError, StoreLockedError
from hubstore.storage import LocalStorage, open_storage
from hubstore.storage import lease as lease_module
from hubstore.storage import objects as remote
from hubstore.storage.lease import LEASE, DelegatedLease, Lease, Owner
from hubstore.storage.location import Url
from hubstore.storage.objects import RemoteStorage
from hubstore.store import StoreReader, verify, write_metadata, write_shard
from tests.store.test_roundtrip import item_table, layout

ROOT = Url("s3", "lab/x.hub")
SHAPE = layout("float32", poolings=("mean",))


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def storage(store):
    return RemoteStorage(ROOT, store)


def lease(store, seconds=60.0, *, machine=None):
    made = Lease(lambda: store, ROOT, seconds)
    if machine is not None:
        made._owner = Owner("elsewhere", 1, machine, made.token)
    return made


def owner_of(store):
    return json.loads(bytes(obstore.get(store, LEASE).bytes()))["owner"]["token"]


def test_one_writer_at_a_time_and_the_next_when_it_is_done(store, storage):
    other = RemoteStorage(ROOT, store)
    with storage.lock():
        assert storage.list("") == []
        with pytest.raises(StoreLockedError, match=r"s3://lab/x.hub is being written by process \d+ on"), other.lock():
            pass
    with other.lock():
        other.write("k", b"v")
    assert other.list("") == ["k"]


def test_the_lease_of_a_process_that_ended_is_taken_at_once(store, storage, monkeypatch):
    with storage.lock():
        monkeypatch.setattr(lease_module.os, "kill", lambda pid, signal: (_ for _ in ()).throw(ProcessLookupError()))
        with lease(store).held():
            with pytest.raises(StoreLockedError, match="the right to write ended"):
                storage.put_if_absent("k", b"")
            renew_once(storage._lease)
            with pytest.raises(StoreLockedError, match="the right to write ended"):
                storage.write("k", b"")
            monkeypatch.undo()


def renew_once(held):
    """What the renewing thread finds out when its time comes."""
    ended, held._ended = held._ended, Once()
    held._renew()
    held._ended = ended


class Once:
    """An event of an ending that comes after one round."""

    def __init__(self):
        self._rounds = iter((False, True))

    def wait(self, seconds):
        return next(self._rounds)


def test_a_lease_of_another_machine_ends_by_itself(store):
    lease(store, 0.3, machine="another")._take()  # and nobody renews it
    with pytest.raises(StoreLockedError, match="its right to write ends in 0 s"), lease(store, 0.3).held():
        pass
    time.sleep(0.35)
    with lease(store, 0.3).held():
        pass


def test_a_lease_that_others_take_each_time_it_is_free_is_locked_and_not_missing(store):
    with lease(store, machine="another").held():
        pass
    late = lease(store)
    late._put = lambda *args: False  # somebody was faster
    with pytest.raises(StoreLockedError, match=r"is being written by process 1 on elsewhere"):
        late._take()


def test_a_lease_is_renewed_while_it_is_held_and_given_back(store):
    with lease(store, 0.2).held():
        time.sleep(0.5)
        with pytest.raises(StoreLockedError), lease(store).held():
            pass
    with lease(store).held():
        pass


def test_a_clock_that_is_ahead_takes_no_lease_that_is_renewed(store):
    living = lease(store, 0.4, machine="another")
    put = living._put
    living._put = lambda mode, until=None: put(mode, time.time() - 1)  # as a clock shows it that is ahead
    living._take()
    renewing = threading.Thread(target=living._renew)
    renewing.start()
    try:
        with pytest.raises(StoreLockedError, match="is being written by process 1 on elsewhere"):
            lease(store, 0.4)._take()
        assert owner_of(store) == living.token
    finally:
        living._ended.set()
        renewing.join()
    started = time.monotonic()
    lease(store, 0.4)._take()
    assert 0.1 < time.monotonic() - started < 20, "it was seen not to be renewed for a renewal and a third"


def test_a_lease_that_was_taken_stays_when_its_former_owner_gives_it_back(store, monkeypatch):
    late, next_one = lease(store, machine="another"), lease(store)
    late._take()
    read = lease_module._read

    def read_and_lose(client, root):
        found = read(client, root)
        monkeypatch.undo()
        next_one._put(found.version)
        return found

    monkeypatch.setattr(lease_module, "_read", read_and_lose)
    late._give_back()
    assert owner_of(store) == next_one.token
    with pytest.raises(StoreLockedError):
        lease(store)._take()


def test_a_lease_that_cannot_be_read_is_not_lost(store, monkeypatch):
    held = lease(store)
    held._take()
    before = dict(held._version)
    held._put(before)  # the answer to which is lost
    held._version = before

    def unreachable(client, root):
        raise StorageUnreachableError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(lease_module, "_read", unreachable)
        renew_once(held)
        held.check()
    renew_once(held)
    renew_once(held)
    held.check()
    assert held._version == lease_module._read(store, ROOT).version
    obstore.delete(store, LEASE)
    renew_once(held)
    with pytest.raises(StoreLockedError, match="the right to write ended"):
        held.check()


def test_a_lease_is_renewed_by_the_client_that_has_the_patience_of_now(store):
    storage = RemoteStorage(ROOT, store, first=MemoryStore())
    with storage.lock():
        assert storage._lease._client() is storage._client._first
        storage.exists("k")
        assert storage._lease._client() is store


class Bucket(http.server.BaseHTTPRequestHandler):
    """A small S3, which honors some conditions and ignores or refuses others."""

    protocol_version = "HTTP/1.1"
    honored: tuple[str, ...] = ()
    unsupported = False
    objects: dict[str, tuple[bytes, str]]

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, version = self.objects.get(self.path, (b"", None))
        absent, match = self.headers.get("If-None-Match"), self.headers.get("If-Match")
        if self.unsupported and (absent or match):
            self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        elif (absent and version and "If-None-Match" in self.honored) or (
            match and match != version and "If-Match" in self.honored
        ):
            self.answer(412)
        else:
            self.objects[self.path] = body, f'"{hash(body)}"'
            self.answer(200, version=self.objects[self.path][1])

    def do_GET(self):
        body, version = self.objects.get(self.path, (b"", None))
        self.answer(200 if version else 404, body, version)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, body=b"", version=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if version:
            self.send_header("ETag", version)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *given):
        pass


@pytest.fixture
def served(monkeypatch):
    """Gives a storage on a server of which is said what it honors."""
    with contextlib.ExitStack() as running:

        def serve(**how):
            handler = type("Served", (Bucket,), {"objects": {}, **how})
            server = running.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            running.callback(server.shutdown)
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "an-id",
                "AWS_SECRET_ACCESS_KEY": "a-secret",
                "AWS_REGION": "us-east-1",
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(remote, "FIRST_PATIENCE", timedelta(seconds=0.2))
            return open_storage(str(ROOT))

        yield serve


@pytest.mark.parametrize(
    "how",
    [{}, {"honored": ("If-None-Match",)}, {"honored": ("If-Match",)}, {"unsupported": True}],
    ids=["none", "no If-Match", "no If-None-Match", "unsupported"],
)
def test_a_server_that_knows_no_conditions_is_not_written_to(served, how):
    storage = served(**how)
    for _ in range(2):  # and what the first leaves locks nobody out
        with (
            pytest.raises(
                StoreError,
                match=r"s3://lab/x\.hub cannot be written to: its server does not honor conditional puts .* "
                "extract into a folder, and copy that there",
            ) as refused,
            storage.lock(),
        ):
            pass
        assert not isinstance(refused.value, StoreLockedError)


def test_a_server_that_honors_conditions_is(served):
    storage = served(honored=("If-None-Match", "If-Match"))
    for _ in range(2):
        with storage.lock():
            storage.write("k", b"v")


@pytest.fixture
def connected(monkeypatch, store):
    """Storages that travel find the store in memory, and lend leases of a quarter of a second."""
    monkeypatch.setattr(remote, "connect", lambda *given: store)
    monkeypatch.setattr(remote, "DelegatedLease", functools.partial(DelegatedLease, seconds=0.25))


def replaced(store):
    lease(store)._put(lease_module._read(store, ROOT).version)


def removed(store):
    obstore.delete(store, LEASE)


def not_renewed(store):
    time.sleep(0.3)


@pytest.mark.parametrize("lost", [replaced, removed, not_renewed])
def test_a_worker_writes_by_the_lease_of_who_started_it_and_no_longer(store, storage, connected, lost):
    with storage.lock():
        worker = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(storage))))
        worker.write("k", b"v")
        lost(store)
        with pytest.raises(StoreLockedError, match="the right to write ended"):
            worker.put_if_absent("c", b"v")
        time.sleep(0.1)
        for write in (lambda: worker.write("k", b"w"), lambda: worker.delete("k")):
            with pytest.raises(StoreLockedError, match="the right to write ended"):
                write()
    assert worker.read("k") == b"v"


def test_a_lease_that_was_given_back_is_lent_no_more(store, storage, connected):
    with storage.lock():
        worker = pickle.loads(pickle.dumps(storage))
    with pytest.raises(StoreLockedError, match="the right to write ended"):
        worker.write("k", b"v")
    pickle.loads(pickle.dumps(storage)).write("k", b"v")  # outside of a lock nothing is lent


def test_a_worker_asks_for_the_lease_as_often_as_it_is_renewed(store, storage, connected, monkeypatch):
    asked = []
    read = lease_module._read
    with storage.lock():
        worker = pickle.loads(pickle.dumps(storage))
        monkeypatch.setattr(lease_module, "_read", lambda *given: asked.append(1) or read(*given))
        worker._lease._seconds = 60
        for number in range(20):
            worker.write(f"k{number}", b"")
        assert len(asked) == 1
        worker.put_if_absent("c", b"")
        assert len(asked) == 2


def states(value):
    return {"mean": torch.full((3, 64, SHAPE.width), value)}


def items():
    return item_table(0, [1] * 64)


class Interleaved(RemoteStorage):
    """Another writer commits the shard as soon as this one has seen that there is none."""

    def __init__(self, store, other):
        super().__init__(ROOT, store)
        self._other = other

    def exists(self, key):
        there = super().exists(key)
        other, self._other = self._other, lambda: None
        other()
        return there


def test_what_is_committed_is_what_is_there_when_two_write_one_shard(store, storage):
    write_metadata(storage, SHAPE, {"corpora": []}, 64, 0)
    late = Interleaved(store, lambda: write_shard(storage, SHAPE, 0, items(), states(1.0)))
    commit = write_shard(late, SHAPE, 0, items(), states(1.5))
    assert verify(storage) == []
    assert StoreReader(ROOT, storage).commits[0].digest == commit.digest
    assert StoreReader(ROOT, storage).hidden("1").read().unique().tolist() == [1.5]


def test_a_shard_that_another_wrote_with_the_same_bytes_stays(store, storage):
    write_metadata(storage, SHAPE, {"corpora": []}, 64, 0)
    late = Interleaved(store, lambda: write_shard(storage, SHAPE, 0, items(), states(1.0)))
    with pytest.raises(StoreError, match="this shard is committed already; its rows stay as they are"):
        write_shard(late, SHAPE, 0, items(), states(1.0))
    assert verify(storage) == []


def test_two_that_write_one_shard_of_a_folder_leave_what_is_committed(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    write_metadata(storage, SHAPE, {"corpora": []}, 64, 0)
    late = LocalStorage(tmp_path)

    def exists(key):
        del late.exists
        write_shard(storage, SHAPE, 0, items(), states(1.0))
        return False

    late.exists = exists
    write_shard(late, SHAPE, 0, items(), states(1.5))
    assert verify(storage) == []


def test_a_writer_whose_right_ended_says_what_it_wrote_over(store, storage):
    write_metadata(storage, SHAPE, {"corpora": []}, 64, 0)
    own = lease(store)

    def lose():
        replaced(store)
        write_shard(storage, SHAPE, 0, items(), states(1.0))

    late = Interleaved(store, lose)
    late._lease = own
    own._take()
    with pytest.raises(
        StoreLockedError,
        match=r"x.hub/hidden/.*: this process wrote over it when its right to write had ended.* `hubstore verify s3://",
    ):
        write_shard(late, SHAPE, 0, items(), states(1.5))


def test_a_writer_whose_right_ended_before_it_wrote_says_only_that(store, storage):
    write_metadata(storage, SHAPE, {"corpora": []}, 64, 0)
    late = Interleaved(store, lambda: write_shard(storage, SHAPE, 0, items(), states(1.0)))
    late._lease = lease(store)
    with pytest.raises(StoreLockedError, match="the right to write ended"):
        write_shard(late, SHAPE, 0, items(), states(1.5))
    assert verify(storage) == []
