import gzip
import io
import json
import subprocess
import tarfile

import pytest

from hubstore.corpus import Media, read_webdataset
from hubstore.errors import CorpusError
from hubstore.media.decode import media_bytes
from tests.corpus.conftest import audio_bytes, contents, image_bytes, python


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            content = json.dumps(data) if isinstance(data, dict) else data
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


MEMBERS = [
    ("train/0001.jpg", image_bytes(1)),
    ("train/0001.txt", "a dog\n"),
    ("train/0001.cls", "7"),
    ("train/0002.json", {"caption": "a cat", "concept": "CAT", "uid": 5}),
    ("train/0002.FLAC", audio_bytes(2)),
    ("train/0003.png", image_bytes(3)),
    ("train/0003.txt", "ein Vogel"),
    ("train/0003.json", {"language": "de"}),
]


def brief(items):
    return [(item["id"], item["concept"], item["language"], item["modality"], item["text"]) for item in items]


@pytest.mark.parametrize(
    ("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar.xz", "w:xz")]
)
def test_members_of_one_name_are_a_sample(tmp_path, name, mode):
    corpus = read_webdataset(shard(tmp_path / name, MEMBERS, mode), language_tag="en")
    items = contents(corpus)
    assert brief(items) == [
        ("train/0001", "train/0001", "zxx", "image", ""),
        ("train/0001/en", "train/0001", "en", "text", "a dog"),
        ("train/0002", "CAT", "zxx", "audio", ""),
        ("train/0003", "train/0003", "zxx", "image", ""),
        ("train/0003/en", "train/0003", "en", "text", "ein Vogel"),
    ]
    assert [item["data"] for item in items if item["modality"] != "text"] == [
        image_bytes(1),
        audio_bytes(2),
        image_bytes(3),
    ]
    assert contents(corpus) == items
    assert corpus.name == name


def test_the_name_of_a_medium_finds_it_again(tmp_path):
    items = contents(read_webdataset(shard(tmp_path / "x.tar", MEMBERS), language_tag="en"))
    assert items[2]["media"] == f"{tmp_path}/x.tar!train/0002.FLAC"
    assert media_bytes(Media(items[2]["media"])) == audio_bytes(2)


def test_fields_of_json_are_columns(tmp_path):
    path = shard(tmp_path / "x.tar", MEMBERS[3:5])
    items = contents(read_webdataset(path, text="caption", language_tag="en", id="uid"))
    assert brief(items) == [("5", "CAT", "zxx", "audio", ""), ("CAT/en", "CAT", "en", "text", "a cat")]
    path = shard(tmp_path / "y.tar", MEMBERS[5:])
    assert brief(contents(read_webdataset(path)))[1] == ("train/0003/de", "train/0003", "de", "text", "ein Vogel")


def test_texts_in_several_languages_and_images_of_other_kinds_are_columns(tmp_path):
    members = [
        ("a.seg.png", image_bytes(0)),
        ("a.png", image_bytes(1)),
        ("a.webp", image_bytes(2)),
        ("a.en.txt", "one"),
        ("a.fr.txt", "un"),
    ]
    path = shard(tmp_path / "x.tar", members)
    text = {"en": "en.txt", "fr": "fr.txt"}
    items = contents(read_webdataset(path, text=text))
    assert [item["text"] for item in items] == ["", "one", "un"]
    assert items[0]["data"] == image_bytes(1)
    for column, number in (("seg.png", 0), ("webp", 2)):
        assert contents(read_webdataset(path, text=text, image=column))[0]["data"] == image_bytes(number)


def test_an_image_and_an_audio_clip_of_a_sample_share_its_concept(tmp_path):
    path = shard(tmp_path / "x.tar", [("a.wav", audio_bytes(0)), ("a.jpg", image_bytes(0))])
    assert brief(contents(read_webdataset(path))) == [
        ("a/image", "a", "zxx", "image", ""),
        ("a/audio", "a", "zxx", "audio", ""),
    ]


def test_samples_of_several_archives_bear_the_name_of_theirs(tmp_path):
    paths = [shard(tmp_path / f"{number}.tar.gz", [("a.jpg", image_bytes(number))], "w:gz") for number in (0, 1)]
    corpus = read_webdataset(paths)
    assert [(item["id"], item["concept"]) for item in contents(corpus)] == [("0/a", "0/a"), ("1/a", "1/a")]
    assert corpus.name == "0.tar.gz and 1 more"
    assert len(contents(read_webdataset(paths, limit=1))) == 1


def test_what_tar_itself_writes_is_read(tmp_path):
    (tmp_path / "in" / ("long" * 40)).mkdir(parents=True)
    (tmp_path / "in" / "._a.png").write_bytes(b"x")
    (tmp_path / "in" / ("long" * 40) / "日本.png").write_bytes(image_bytes(0))
    for form in ("gnu", "pax"):
        subprocess.run(["tar", f"--format={form}", "-cf", tmp_path / "x.tar", "-C", tmp_path / "in", "."], check=True)
        assert [item["id"] for item in contents(read_webdataset(tmp_path / "x.tar"))] == [f"{'long' * 40}/日本"]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("b.txt", b"caf\xe9", r"sample 2, column 'txt': .*x\.tar!b\.txt is not UTF-8"),
        ("b.json", b"{", r"sample 2, column 'json': .*x\.tar!b\.json: not valid JSON"),
        ("b.json", b"[]", r"sample 2, column 'json': .* holds a JSON list, and no object"),
        ("b.png", b"", r"sample 2, column 'image': has no bytes"),
    ],
)
def test_what_is_wrong_in_a_sample_is_named(tmp_path, name, data, problem):
    members = [("a.jpg", image_bytes(0)), (name, data), ("b.jpeg", image_bytes(1)), ("c.jpg", image_bytes(2))]
    path = shard(tmp_path / "x.tar", members)
    with pytest.raises(CorpusError, match=rf"^x\.tar, {problem}"):
        contents(read_webdataset(path))
    corpus = read_webdataset(path, on_error="skip")
    assert {"a", "c"} <= {item["id"] for item in contents(corpus)}
    assert corpus.skipped.count == 1


def test_an_archive_that_is_cut_off_or_none_is_named(tmp_path):
    path = shard(tmp_path / "x.tar", [(f"{number}.jpg", image_bytes(number)) for number in range(50)])
    whole = path.read_bytes()
    for cut in (512 + 100, 512 * 41 + 100):  # inside the first image, and the twenty-first
        path.write_bytes(whole[:cut])
        with pytest.raises(CorpusError, match=r"x\.tar: cannot be read as a tar archive, after sample \d+: "):
            contents(read_webdataset(path))
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(whole)[:5000])
    with pytest.raises(CorpusError, match=r"x\.tar\.gz: cannot be read as a tar archive"):
        contents(read_webdataset(packed))
    path.write_text("no archive")
    with pytest.raises(CorpusError, match=r"x\.tar: cannot be read as a tar archive, after sample 0"):
        contents(read_webdataset(path))


def test_an_archive_without_samples_is_refused(tmp_path):
    for members in ([], [("README.md", b"x"), (".hidden.png", b"x"), ("a.cls", b"7")]):
        with pytest.raises(CorpusError, match=r"x\.tar: the corpus is empty"):
            contents(read_webdataset(shard(tmp_path / "x.tar", members)))


def test_memory_does_not_grow_with_the_archive(tmp_path):
    members = [(f"{number:06}.png", bytes(10_000)) for number in range(100)]
    small = shard(tmp_path / "small.tar", members)
    large = shard(tmp_path / "large.tar", [(f"{again}-{name}", data) for again in range(80) for name, data in members])
    script = """
        import resource, sys
        from hubstore.corpus import read_webdataset
        for path in sys.argv[1:]:
            items = sum(batch.num_rows for batch in read_webdataset(path).batches(100))
            print(items, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    (few, before), (many, after) = (map(int, line.split()) for line in python(script, small, large).stdout.splitlines())
    assert (few, many) == (100, 8000)
    assert after - before < 16 << 10  # KiB; the archive has 80 MB


def test_the_source_follows_the_archives_and_the_columns(tmp_path):
    path = shard(tmp_path / "x.tar", MEMBERS)
    source = read_webdataset(path).source
    assert json.loads(json.dumps(source)) == source == read_webdataset(path).source
    assert source != read_webdataset(path, text="caption").source
    assert source != read_webdataset(shard(tmp_path / "x.tar", MEMBERS[:-1])).source


def sparse_member(name, size):
    """A member of zeros alone, of which an archive holds 512 bytes whatever its size."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (min(size, 8**11 - 1), 0)
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % sum(bytes(header[:148]) + b" " * 8 + bytes(header[156:]))
    return bytes(header)


def test_a_member_that_is_too_large_when_it_is_unpacked_is_left_out_without_unpacking_it(tmp_path):
    path = shard(tmp_path / "x.tar", MEMBERS[:2])
    whole = path.read_bytes()
    members = whole[: 512 + -(-len(MEMBERS[0][1]) // 512) * 512 + 1024]
    path.write_bytes(members + sparse_member("big.png", 1 << 42) + whole)
    corpus = read_webdataset(path, language_tag="en", on_error="skip")
    assert len(contents(corpus)) == 4
    assert "big.png has more than the 1 GiB that are read of a member" in corpus.skipped.messages[0]
