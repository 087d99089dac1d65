import bz2
import gzip
import json
import lzma
import os

import pytest

from hubstore.corpus import read_parallel, read_sample
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents


def write(path, *lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


@pytest.fixture
def aligned(tmp_path):
    rows = contents(read_sample("ntrex", languages=["en", "ja"], limit=30))
    texts = {tag: [row["text"] for row in rows if row["language"] == tag] for tag in ("en", "ja")}
    return {tag: write(tmp_path / f"news.{tag}", *lines) for tag, lines in texts.items()}


def test_a_line_is_a_concept_and_its_languages_are_neighbors(aligned):
    rows = contents(read_parallel(aligned))
    assert rows == contents(read_sample("ntrex", languages=["en", "ja"], limit=30))
    assert [(row["id"], row["concept"]) for row in rows[:3]] == [("en:1", "1"), ("ja:1", "1"), ("en:2", "2")]


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e", "a\rb"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    odd = f"one{separator}half"
    files = {
        "en": write(tmp_path / "en.txt", "first", odd, "third"),
        "fr": write(tmp_path / "fr.txt", "premier", "un et demi", "troisième", end="\r\n"),
    }
    rows = contents(read_parallel(files))
    assert {row["id"]: row["text"] for row in rows} == {
        "en:1": "first",
        "fr:1": "premier",
        "en:2": odd,
        "fr:2": "un et demi",
        "en:3": "third",
        "fr:3": "troisième",
    }


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_a_compressed_file_reads_as_the_plain_one(aligned, tmp_path, suffix, module):
    packed = tmp_path / f"news.ja{suffix}"
    packed.write_bytes(module.compress(aligned["ja"].read_bytes()))
    assert contents(read_parallel(aligned | {"ja": packed})) == contents(read_parallel(aligned))


def test_a_byte_order_mark_and_a_missing_last_line_end_change_nothing(aligned):
    whole = contents(read_parallel(aligned))
    aligned["en"].write_bytes(b"\xef\xbb\xbf" + aligned["en"].read_bytes().removesuffix(b"\n"))
    assert contents(read_parallel(aligned)) == whole


def test_files_of_unequal_length_are_named_with_their_counts(tmp_path):
    files = {"en": write(tmp_path / "a.txt", *"abcde"), "fr": write(tmp_path / "b.txt", *"abc")}
    with pytest.raises(CorpusError, match=r"a\.txt \(en\) has 5, .*b\.txt \(fr\) has 3; align them"):
        contents(read_parallel(files))
    assert len(contents(read_parallel(files, limit=3))) == 6


def test_an_empty_line_stops_with_its_file_and_line(tmp_path):
    files = {"en": write(tmp_path / "a.txt", "x", "y"), "fr": write(tmp_path / "b.txt", "x", " ")}
    with pytest.raises(CorpusError, match=r"b\.txt \(fr\), line 2: holds white space only; .*on_error='skip'"):
        contents(read_parallel(files))


def test_skipped_lines_are_counted_listed_and_leave_their_neighbors(tmp_path):
    files = {"en": write(tmp_path / "a.txt", "x", "y", "z"), "fr": write(tmp_path / "b.txt", "x", "", "z")}
    corpus = read_parallel(files, on_error="skip")
    for _ in range(2):  # the count is of one pass
        assert [row["id"] for row in contents(corpus)] == ["en:1", "fr:1", "en:2", "en:3", "fr:3"]
        assert corpus.skipped.count == 1
        assert corpus.skipped.messages == ["b.txt (fr), line 2: is empty"]


def test_the_list_of_the_skipped_is_bounded(tmp_path):
    corpus = read_parallel({"en": write(tmp_path / "a.txt", *[""] * 1000, "x")}, on_error="skip")
    assert len(contents(corpus)) == 1
    assert corpus.skipped.count == 1000
    assert len(corpus.skipped.messages) == corpus.skipped.KEPT == 100


def test_a_corpus_of_which_all_is_skipped_says_why(tmp_path):
    corpus = read_parallel({"en": write(tmp_path / "a.txt", "", "")}, on_error="skip")
    with pytest.raises(CorpusError, match=r"no item is left, 2 were skipped; the first: a\.txt \(en\), line 1"):
        contents(corpus)


def test_bytes_that_are_not_utf8_are_named_by_file_line_and_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("fine\ncafé au lait\n".encode() + "café\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"a\.txt, line 3: byte 4 of the line, 0xe9, is not UTF-8"):
        contents(read_parallel({"fr": path}))


def test_damaged_compression_is_named(aligned, tmp_path):
    packed = tmp_path / "news.gz"
    packed.write_bytes(gzip.compress(aligned["en"].read_bytes() * 100)[:-500])
    with pytest.raises(CorpusError, match=r"news\.gz, after line \d+: cannot be read: "):
        contents(read_parallel({"en": packed}))
    packed.write_bytes(b"plain text\n")
    with pytest.raises(CorpusError, match=r"news\.gz, after line 0: cannot be read: Not a gzipped file"):
        contents(read_parallel({"en": packed}))


def test_files_and_languages_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(CorpusError, match=r"missing\.txt: there is no such file"):
        read_parallel({"en": tmp_path / "missing.txt"})
    with pytest.raises(CorpusError, match="is a folder"):
        read_parallel({"en": tmp_path})
    with pytest.raises(CorpusError, match="'english', which is not a BCP 47 language tag"):
        read_parallel({"english": tmp_path / "a.txt"})
    with pytest.raises(CorpusError, match="no file was given"):
        read_parallel({})
    with pytest.raises(CorpusError, match="limit is 0"):
        read_parallel({"en": write(tmp_path / "a.txt", "x")}, limit=0)
    with pytest.raises(CorpusError, match="on_error is 'ignore'"):
        read_parallel({"en": write(tmp_path / "a.txt", "x")}, on_error="ignore")


def test_the_source_follows_the_files_their_languages_and_the_limit(aligned):
    source = read_parallel(aligned).source
    assert json.loads(json.dumps(source)) == source == read_parallel(aligned).source
    assert source != read_parallel(aligned, limit=5).source
    assert source != read_parallel({"en": aligned["en"]}).source
    os.utime(aligned["ja"], ns=(0, 0))
    assert source == read_parallel(aligned).source
    aligned["ja"].write_bytes(aligned["ja"].read_bytes()[:-4] + b"end\n")
    assert source != read_parallel(aligned).source
