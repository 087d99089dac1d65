"""An export leaves whole files or what was there before, on a full disk, after a kill, and of two at once."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from hubstore.bench.states import hub_states
from hubstore.errors import StoreError
from hubstore.store.export import FORMATS, export
from tests.index.stores import write_store
from tests.limits import files_of_at_most


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("export") / "x.hub", hub_states(900, 32)[None].repeat(2, 1, 1))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_on_a_full_disk_an_export_is_one_error_and_leaves_the_files_that_were_there(store, tmp_path, format):
    export(store, tmp_path, format=format)
    before = digests(tmp_path)
    with (
        files_of_at_most(40_000),
        pytest.raises(StoreError, match=rf"layer-0\.{format} could not be written \(.*[Ff]ile too large.*\); \w+"),
    ):
        export(store, tmp_path, format=format, overwrite=True)
    assert digests(tmp_path) == before
    with files_of_at_most(1000), pytest.raises(StoreError, match=r"items\.parquet could not be written"):
        export(store, tmp_path, format=format, overwrite=True)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_export_leaves_no_torn_file_under_its_name(store, tmp_path, monkeypatch, format):
    """What a kill leaves is what is there just before each file gets its name."""
    seen = []

    def at_rename(partial, target):
        seen.append(sorted(path.name for path in tmp_path.glob("[!.]*")))
        os.rename(partial, target)

    monkeypatch.setattr(Path, "replace", at_rename)
    export(store, tmp_path, format=format)
    layers = [f"layer-{layer}.{format}" for layer in (0, 1)]
    assert seen == [[], ["items.parquet"], ["items.parquet", layers[0]]]


def test_two_exports_to_one_folder_at_once_both_succeed(store, tmp_path):
    expected = tmp_path / "expected"
    export(store, expected)
    errors = []

    def run() -> None:
        try:
            export(store, tmp_path / "out", overwrite=True)
        except BaseException as error:  # whatever it is, the test is to say so
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert digests(tmp_path / "out") == digests(expected)


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_exported_files_are_for_whom_the_umask_says_whatever_wrote_them(store, tmp_path, mask):
    before = os.umask(mask)
    try:
        for format in FORMATS:
            export(store, tmp_path, format=format, overwrite=True)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == dict.fromkeys(
        ["items.parquet", *(f"layer-{layer}.{format}" for layer in (0, 1) for format in FORMATS)], oct(0o666 & ~mask)
    )
