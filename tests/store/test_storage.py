"""A folder as a store's place: what a full disk and killed writers leave."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from hubstore.errors import StoreError
from hubstore.storage import LocalStorage
from hubstore.storage.local import ABANDONED_S


def test_a_file_that_does_not_fit_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    storage, made = LocalStorage(tmp_path / "x.hub"), tmp_path / "made"
    made.write_bytes(b"index")

    def full(source, target):
        target.write_bytes(b"in")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(
        StoreError, match=r"x.hub/indexes/i could not be written \(No space left on device\); free space"
    ):
        storage.put_file("indexes/i", made)
    monkeypatch.undo()
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []
    storage.put_file("indexes/i", made)
    assert storage.read("indexes/i") == b"index"


def test_a_writer_sweeps_what_killed_ones_left_and_nothing_that_is_under_way(tmp_path):
    storage = LocalStorage(tmp_path)
    abandoned = [f"{folder}/mean/1/.i.0123.partial" for folder in ("hidden", "indexes", "analyses")]
    young = "indexes/mean/2/.i.4567.partial"
    for key in (*abandoned, young):
        path = tmp_path / key
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        if key != young:
            os.utime(path, (0, path.stat().st_mtime - ABANDONED_S - 1))
    with storage.lock():
        assert [key for key in (*abandoned, young) if (tmp_path / key).exists()] == [young]


def test_a_place_where_no_folder_can_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file" / "x.hub")
    with pytest.raises(StoreError, match=r"file/x\.hub cannot be made a store \(Not a directory\); choose a folder"):
        storage.lock().__enter__()
