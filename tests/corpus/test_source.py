"""What says that two corpora are the same."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hubstore.corpus import open_corpus, read_parallel, same_source
from tests.corpus.conftest import image_bytes
from tests.corpus.test_webdataset import shard

ROWS = [{"id": str(i), "text": f"text {i}", "language": "en"} for i in range(9)]


def _jsonl(folder):
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "x.jsonl"


def _parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "x.parquet", compression="none")
    return folder / "x.parquet"


def _saved(folder):
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def _tables(folder):
    for name in ("a", "b"):
        (folder / "tables" / name).mkdir(parents=True)
        _jsonl(folder / "tables" / name)
    return folder / "tables"


def _tar(folder):
    return shard(folder / "x.tar", [("a.txt", b"text 1"), ("b.txt", b"text 2")])


def _lines(folder):
    (folder / "en.txt").write_text("text 1\ntext 2\n")
    return folder / "en.txt"


CORPORA = {"jsonl": _jsonl, "parquet": _parquet, "saved": _saved, "tables": _tables, "tar": _tar, "lines": _lines}


def source_of(path):
    corpus = read_parallel({"en": path}) if path.name == "en.txt" else open_corpus(path)
    return json.loads(json.dumps(corpus.source))


def files_of(path):
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("form", CORPORA)
def test_a_corpus_copied_anew_is_the_same_and_one_of_other_content_and_equal_size_is_not(tmp_path, form):
    path = CORPORA[form](tmp_path)
    before = source_of(path)
    for file in files_of(path):
        os.utime(file, (1, 1))
    assert source_of(path) == before
    assert same_source(source_of(path), before)
    for file in files_of(path):
        data = file.read_bytes()
        if b"text 1" in data:
            file.write_bytes(data.replace(b"text 1", b"TEXT 1"))
            os.utime(file, (1, 1))
    assert not same_source(source_of(path), before)


@pytest.mark.parametrize("size", [100, 1 << 16, 1 << 20])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_folder_whose_image_was_replaced_by_one_of_its_size_is_another(tmp_path, size, place):
    content = image_bytes(0).ljust(size, b"\0")
    (tmp_path / "0.png").write_bytes(content)
    before = source_of(tmp_path)
    at = round(place * (size - 1))
    (tmp_path / "0.png").write_bytes(content[:at] + b"?" + content[at + 1 :])
    assert not same_source(source_of(tmp_path), before)


def test_a_folder_of_images_is_known_by_names_and_sizes(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(image_bytes(number))
    before = source_of(tmp_path)
    os.utime(tmp_path / "0.png", (1, 1))
    assert same_source(source_of(tmp_path), before)
    (tmp_path / "0.png").write_bytes(image_bytes(0) + b"x")
    assert not same_source(source_of(tmp_path), before)


def _record(file, **options):
    options = {"columns": {"text": "text"}, "limit": None} | options
    return {"kind": "jsonl", "files": [{"name": "x.jsonl", "size": 10} | file], **options}


@pytest.mark.parametrize("file", [{"mtime_ns": 1}, {"mtime_ns": 2}, {"xxh3": "a"}])
def test_a_record_of_an_older_store_is_of_the_same_corpus_where_nothing_contradicts(file):
    old = _record({"mtime_ns": 1})
    assert same_source(old, _record(file))
    assert same_source(_record(file), old)
    assert same_source(old, _record(file, delimiter=None))
    for other in (
        _record(file | {"size": 11}),
        _record(file | {"name": "y.jsonl"}),
        _record(file, limit=3),
        _record(file, delimiter=";"),
        _record(file) | {"files": []},
    ):
        assert not same_source(old, other)


def test_an_older_record_of_a_folder_of_images_is_known_by_the_number_of_its_files():
    old = {"kind": "folder", "files": {"count": 2, "sha256": "of names, sizes and times"}}
    assert same_source(old, {"kind": "folder", "files": {"count": 2, "names_and_sizes": "x"}})
    assert not same_source(old, {"kind": "folder", "files": {"count": 3, "names_and_sizes": "x"}})


def test_versions_of_an_object_are_told_apart():
    assert same_source(_record({"etag": "1"}), _record({"etag": "1"}))
    assert not same_source(_record({"etag": "1"}), _record({"etag": "2"}))
    assert not same_source(_record({"modified_ns": 1}), _record({"modified_ns": 2}))
