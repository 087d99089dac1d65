"""Corpora and media of object stores and web servers."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from hubstore.corpus import Media, open_corpus, read_webdataset
from hubstore.corpus import remote as corpora
from hubstore.corpus.remote import LINKS, download, remote_bytes, source_url, url_of
from hubstore.errors import CorpusError
from hubstore.media.decode import media_bytes
from hubstore.storage.cache import user_cache
from hubstore.storage.location import Url
from hubstore.storage.objects import RemoteStorage
from tests.corpus.conftest import contents, image_bytes
from tests.corpus.test_webdataset import shard

ARCHIVE = Url("s3", "lab/a.tar")


class Below:
    """Lists what is below a folder of a bucket."""

    def __init__(self, bucket, folder):
        self._bucket, self._folder = bucket, folder

    def list(self, prefix):
        return [key.removeprefix(f"{self._folder}/") for key in self._bucket.list(self._folder)]


@pytest.fixture
def lab(own_cache, monkeypatch):
    """A bucket in memory, and a cache of the test's own."""
    storage = RemoteStorage(Url("s3", "lab"), MemoryStore())
    monkeypatch.setattr(corpora, "_storage", lambda url: Below(storage, url.path) if url.path else storage)
    return storage


@pytest.fixture(autouse=True)
def connected_anew():
    """Servers of one test are not those of the next, whatever their ports."""
    yield
    corpora._storage.cache_clear()


def cached_bytes():
    return sum(path.stat().st_size for path in user_cache().folder.rglob("*") if path.is_file())


def test_threads_that_fetch_one_object_all_have_it(lab):
    lab.write("a.tar", bytes(1000))

    def fetch(_):
        path = download(ARCHIVE)
        assert path.read_bytes() == bytes(1000)
        return source_url(path)

    with ThreadPoolExecutor(6) as pool:
        assert {*pool.map(fetch, range(300))} == {ARCHIVE}
    assert not [path for path in (user_cache().folder / LINKS).rglob(".*") if path.name != ".origin"]


def test_a_newer_object_does_not_change_the_file_of_a_corpus_that_is_open(lab):
    lab.write("a.tar", b"x" * 1000)
    before = download(ARCHIVE)
    lab.write("a.tar", b"y" * 1000)
    after = download(ARCHIVE)
    assert before.read_bytes() == b"x" * 1000
    assert after.read_bytes() == b"y" * 1000


def test_a_sweep_leaves_the_file_of_a_corpus_whole(lab):
    lab.write("a.tar", b"x" * 1000)
    path = download(ARCHIVE)
    for file in user_cache().folder.iterdir():
        if file.is_file():
            file.unlink()
    assert path.read_bytes() == b"x" * 1000
    assert download(ARCHIVE) == path


def test_a_disk_without_links_to_files_has_others(lab, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *given: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    lab.write("a.tar", b"x" * 1000)
    assert download(ARCHIVE).read_bytes() == b"x" * 1000


def test_a_cache_that_cannot_be_written_to_is_named(lab):
    lab.write("a.tar", b"x")
    download(ARCHIVE)
    folder = user_cache().folder
    (folder / LINKS).rename(folder / "other")
    (folder / LINKS).write_text("no folder")
    with pytest.raises(CorpusError, match=r"s3://lab/a\.tar: cannot be named in the cache .* set HUBSTORE_CACHE"):
        download(ARCHIVE)


def test_a_folder_of_archives_is_fetched_one_by_one_as_it_is_read(lab, tmp_path, monkeypatch):
    members = [(f"{number}.png", image_bytes(number)) for number in range(4)]
    archive = shard(tmp_path / "x.tar", members).read_bytes()
    for number in range(20):
        lab.write(f"tars/{number:02}.tar", archive)
    monkeypatch.setenv("HUBSTORE_CACHE_BYTES", str(5 * len(archive)))
    user_cache.cache_clear()
    lab._cache = user_cache()
    corpus = open_corpus("s3://lab/tars")
    assert cached_bytes() == 0
    found = [(item["id"], item["data"], item["media"]) for item in contents(corpus)]
    assert found[5] == ("01/1", image_bytes(1), "s3://lab/tars/01.tar!1.png")
    assert len(found) == 80
    assert 0 < cached_bytes() <= user_cache().most
    assert media_bytes(Media(found[0][2])) == image_bytes(0)
    files = corpus.source["files"]
    assert [file["name"] for file in files] == [f"{number:02}.tar" for number in range(20)]
    assert files == open_corpus("s3://lab/tars").source["files"]
    lab.write("tars/07.tar", archive[:-512])
    assert files != open_corpus("s3://lab/tars").source["files"]
    with pytest.raises(CorpusError, match=r"s3://lab/tars/07\.tar: changed after the corpus was opened; run the same"):
        contents(corpus)


def test_what_is_wrong_in_an_archive_of_a_bucket_is_named_by_its_url(lab):
    lab.write("a.tar", b"no archive")
    with pytest.raises(CorpusError, match=r"^s3://lab/a\.tar: cannot be read as a tar archive, after sample 0"):
        contents(read_webdataset(ARCHIVE))
    with pytest.raises(CorpusError, match=r"^s3://lab/a\.tar!x\.png: cannot be read"):
        media_bytes(Media("s3://lab/a.tar!x.png"))
    with pytest.raises(CorpusError, match=r"^s3://lab/none\.tar: there is no such object; check the URL"):
        read_webdataset("s3://lab/none.tar")


def test_a_url_of_a_web_server_is_quoted_once(web):
    web.files = {"/a%20b/%C3%A4%231.png": b"image"}
    for url in ("/a%20b/%C3%A4%231.png", "/a b/ä#1.png", "/a%20b/ä%231.png"):
        assert remote_bytes(url_of(web.url + url)) == b"image"
        assert download(url_of(web.url + url)).read_bytes() == b"image"


def test_a_medium_beside_a_table_of_a_web_server_is_found(web):
    row = json.dumps({"id": "p", "image": "100% sure.png"})
    web.files = {"/a%20b/t.jsonl": row.encode(), "/a%20b/100%25%20sure.png": image_bytes(1)}
    (item,) = contents(open_corpus(f"{web.url}/a%20b/t.jsonl", image="image"))
    assert item["media"] == f"{web.url}/a%20b/100%25%20sure.png"
    assert media_bytes(Media(item["media"])) == image_bytes(1)


def test_what_no_reader_takes_is_not_fetched(lab):
    lab.write("a.xyz", bytes(1000))
    with pytest.raises(CorpusError, match=r"^s3://lab/a\.xyz: no reader is known for \.xyz"):
        open_corpus("s3://lab/a.xyz")
    assert cached_bytes() == 0
