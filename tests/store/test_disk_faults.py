"""What a file system refuses is one error that names the file, the reason and the remedy; nothing is torn or mixed."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hubstore.errors import (
    ResourceError,
    StorageUnreachableError,
    StoreAccessError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
)
from hubstore.storage import FileRecord, LocalStorage, disk
from hubstore.system import starting_processes, temporary_folder


def refusing(number):
    def refuse(*given, **options):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def storage(tmp_path):
    made = LocalStorage(tmp_path / "x.hub")
    made.write("commits/0.json", b"{}")
    return made


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.EACCES, StoreAccessError, "see that this user may do that"),
        (errno.EIO, StorageUnreachableError, "see that the disk is there and works"),
        (errno.EMFILE, StorageUnreachableError, r"let a process open more files \(`ulimit -n`\)"),
    ],
)
def test_a_file_that_the_system_does_not_read_is_named_with_the_reason(storage, monkeypatch, number, kind, remedy):
    record = FileRecord.of(b"{}")
    for call, ask in (
        ("os.scandir", lambda: storage.list("commits")),
        ("pathlib.Path.stat", lambda: storage.stat("commits/0.json")),
        ("pathlib.Path.read_bytes", lambda: storage.read("commits/0.json")),
        ("numpy.memmap", lambda: storage.map_committed("commits/0.json", record)),
        ("pathlib.Path.open", lambda: storage.open("commits/0.json")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(call, refusing(number))
            with pytest.raises(kind, match=rf"x\.hub/commits.* \({os.strerror(number)}\); {remedy}"):
                ask()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EROFS])
@pytest.mark.parametrize("call", ["os.fsync", "os.link", "os.write", "pathlib.Path.mkdir", "pathlib.Path.open"])
def test_a_file_that_the_system_does_not_write_is_named_and_leaves_nothing(storage, monkeypatch, call, number):
    with monkeypatch.context() as patch:
        patch.setattr(call, refusing(number))
        with pytest.raises(StoreError, match=rf"x\.hub/commits/1\.json could not be written \({os.strerror(number)}\)"):
            storage.put_if_absent("commits/1.json", b"[]")
    assert [path.name for path in (storage.root / "commits").iterdir()] == ["0.json"]
    assert storage.put_if_absent("commits/1.json", b"[]")


def folder_fsync(number):
    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))

    return fsync


def test_a_folder_that_cannot_be_synced_is_an_error_unless_its_file_system_syncs_none(storage, monkeypatch):
    monkeypatch.setattr(os, "fsync", folder_fsync(errno.EIO))
    with pytest.raises(StoreError, match=r"x\.hub/items/0 could not be written \(Input/output error\)"):
        storage.write("items/0", b"")
    with pytest.raises(StoreError, match=r"x\.hub could not be written \(Input/output error\)"), storage.lock():
        pass
    monkeypatch.setattr(os, "fsync", folder_fsync(errno.EINVAL))
    with storage.lock():
        storage.write("items/0", b"1")
    assert storage.read("items/0") == b"1"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_before_the_work(storage, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(StoreError, match=r"x\.hub cannot be locked .* write the store on another disk"), storage.lock():
        pass


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
class TestWithoutHardLinks:
    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch, number):
        monkeypatch.setattr(os, "link", refusing(number))

    def test_one_of_many_writers_of_a_name_is_the_first(self, storage):
        with ThreadPoolExecutor(8) as pool:
            for key in ("commits/1.json", "commits/2.json"):
                start = threading.Barrier(8)

                def put(number, key=key, start=start):
                    start.wait()
                    return storage.put_if_absent(key, str(number).encode())

                found = list(pool.map(put, range(8)))
                assert sum(found) == 1
                assert storage.read(key) == str(found.index(True)).encode()
        assert not storage.put_if_absent("commits/0.json", b"[]")
        assert len(list((storage.root / "commits").iterdir())) == 3

    def test_a_claim_of_a_killed_writer_is_swept_away_by_the_next(self, storage, monkeypatch):
        (storage.root / "commits/.1.json.partial").touch()
        monkeypatch.setattr(disk, "_CLAIM_S", 0.1)
        with pytest.raises(StoreLockedError, match=r"commits/1\.json is being written by another process"):
            storage.put_if_absent("commits/1.json", b"[]")
        with storage.lock():
            assert storage.put_if_absent("commits/1.json", b"[]")


@pytest.mark.parametrize("in_a_worker", [False, True])
def test_a_store_that_was_swapped_for_another_gets_nothing_of_its_writer(storage, tmp_path, in_a_worker):
    shutil.copytree(storage.root, tmp_path / "other.hub")
    with storage.lock():
        writer = pickle.loads(pickle.dumps(storage)) if in_a_worker else storage
        writer.write("items/0", b"1")
        storage.root.rename(tmp_path / "away.hub")
        calls = [lambda: writer.write("items/1", b"1"), lambda: writer.put_if_absent("commits/1.json", b"[]")]
        for ask in (*calls, lambda: writer.delete("commits/0.json")):
            with pytest.raises(StoreError, match=r"x\.hub was moved or removed while it was written to; move it back"):
                ask()
        assert not storage.root.exists()
        (tmp_path / "other.hub").rename(storage.root)
        for ask in (*calls, lambda: writer.delete("commits/0.json")):
            with pytest.raises(StoreError, match="what is in its place now was left as it is"):
                ask()
    assert storage.list("") == ["commits/0.json"]
    storage.root.rename(tmp_path / "other.hub")
    (tmp_path / "away.hub").rename(storage.root)
    with storage.lock():
        storage.write("items/1", b"1")


def test_a_folder_of_empty_folders_is_as_good_as_empty(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "hidden").mkdir()
    storage.check_vacant(("zarr.json",))
    (tmp_path / "hidden" / "x").touch()
    with pytest.raises(StoreExistsError, match=r"it holds hidden"):
        storage.check_vacant(("zarr.json",))


def test_no_temporary_folder_and_no_processes_are_errors_that_say_what_is_needed(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(ResourceError, match=r"no folder for temporary files .* set TMPDIR"), temporary_folder("x-"):
        pass
    with (
        pytest.raises(ResourceError, match=r"\(Read-only file system\); see that /dev/shm .*, or read with none"),
        starting_processes("read with none"),
    ):
        refusing(errno.EROFS)()
