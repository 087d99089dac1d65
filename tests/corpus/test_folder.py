import csv
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.corpus import open_corpus, read_media_folder
from hubstore.errors import CorpusError
from tests.corpus.conftest import audio_bytes, contents, image_bytes


@pytest.fixture
def folder(tmp_path):
    """Drawings and photographs of a dog and a cat, an audio clip of each, and files that are no media."""
    folder = tmp_path / "animals"
    for number, path in enumerate(("drawn/cat.png", "drawn/dog.PNG", "seen/cat.jpg", "seen/dog.jpg", "bird.webp")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(image_bytes(number))
    (folder / "heard").mkdir()
    (folder / "heard" / "cat.ogg").write_bytes(audio_bytes(0))
    (folder / "LICENSE.txt").write_text("free")
    (folder / ".git").mkdir()
    for hidden in (".git/x.png", "drawn/._cat.png", ".DS_Store.png"):
        (folder / hidden).write_bytes(b"x")
    return folder


FILES = ["bird.webp", "drawn/cat.png", "drawn/dog.PNG", "heard/cat.ogg", "seen/cat.jpg", "seen/dog.jpg"]


def metadata(folder, rows, name="metadata.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_files_are_items_by_their_suffix_in_order_of_their_paths(folder):
    corpus = read_media_folder(folder)
    items = contents(corpus)
    assert [item["id"] for item in items] == FILES
    assert [item["concept"] for item in items] == ["bird", "cat", "dog", "cat", "cat", "dog"]
    assert [item["modality"] for item in items] == ["image", "image", "image", "audio", "image", "image"]
    assert {(item["language"], item["text"], item["data"]) for item in items} == {("zxx", "", None)}
    assert [item["media"] for item in items] == [str(folder / path) for path in FILES]
    assert corpus.name == "animals"
    assert contents(corpus) == items


@pytest.mark.parametrize(
    ("concept_from", "concepts"),
    [("folder", ["bird", "drawn", "drawn", "heard", "seen", "seen"]), ("path", FILES)],
)
def test_the_concept_may_be_that_of_the_folder_or_the_path(folder, concept_from, concepts):
    assert [item["concept"] for item in contents(read_media_folder(folder, concept_from=concept_from))] == concepts


def test_only_images_or_only_audio_clips_may_be_read(folder):
    assert [item["id"] for item in contents(read_media_folder(folder, modality="audio"))] == ["heard/cat.ogg"]
    assert len(contents(read_media_folder(folder, modality="image"))) == 5


def test_the_first_files_may_be_read(folder):
    assert [item["id"] for item in contents(read_media_folder(folder, limit=2))] == FILES[:2]


def test_a_relative_folder_gives_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for path in (".", "../animals", "../animals/"):
        assert [item["media"] for item in contents(read_media_folder(path))] == [str(folder / file) for file in FILES]
        assert read_media_folder(path).name == "animals"


def test_captions_are_items_of_the_concept_of_their_file(folder):
    rows = [
        {"file_name": "seen/dog.jpg", "text": "a dog"},
        {"file_name": "./seen/cat.jpg", "text": ""},
        {"file_name": "seen/dog.jpg", "text": "another caption"},
        {"file_name": "heard/cat.ogg", "text": "meow"},
    ]
    metadata(folder, rows)
    items = contents(read_media_folder(folder, language_tag="en"))
    assert [(item["id"], item["concept"], item["language"], item["text"]) for item in items] == [
        ("seen/dog.jpg", "dog", "zxx", ""),
        ("dog/en", "dog", "en", "a dog"),
        ("seen/cat.jpg", "cat", "zxx", ""),
        ("dog/en/3", "dog", "en", "another caption"),
        ("heard/cat.ogg", "cat", "zxx", ""),
        ("cat/en", "cat", "en", "meow"),
        ("bird.webp", "bird", "zxx", ""),
        ("drawn/cat.png", "cat", "zxx", ""),
        ("drawn/dog.PNG", "dog", "zxx", ""),
    ]


def test_columns_of_languages_lists_and_concepts_are_read(folder):
    rows = [
        {"file_name": "seen/dog.jpg", "sense": "DOG", "english": ["dog", "hound"], "spanish": "perro", "id": 9},
        {"file_name": "seen/cat.jpg", "sense": None, "english": ["cat"], "spanish": None, "id": 10},
    ]
    metadata(folder, rows)
    corpus = read_media_folder(folder, text={"en": "english", "es": "spanish"}, concept="sense", limit=2)
    assert [(item["id"], item["concept"], item["text"]) for item in contents(corpus)] == [
        ("seen/dog.jpg", "DOG", ""),
        ("DOG/en", "DOG", "dog"),
        ("DOG/en/1", "DOG", "hound"),
        ("DOG/es", "DOG", "perro"),
        ("seen/cat.jpg", "cat", ""),
        ("cat/en", "cat", "cat"),
    ]


def test_speech_is_in_the_language_that_is_given(folder):
    spoken = read_media_folder(folder, modality="audio", language_tag="sw", speech=True)
    assert [item["language"] for item in contents(spoken)] == ["sw"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "elsewhere"])
def test_the_table_may_be_of_any_format_and_anywhere(folder, kind, tmp_path):
    rows = [{"file": "seen/dog.jpg", "text": "a dog", "language": "en"}]
    where, given = folder / f"metadata.{kind}", {}
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), where)
    elif kind in ("csv", "tsv"):
        with where.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        where = metadata(
            folder if kind == "jsonl" else tmp_path, rows, f"{'metadata' if kind == 'jsonl' else 'x'}.jsonl"
        )
        given = {} if kind == "jsonl" else {"metadata": where}
    items = contents(read_media_folder(folder, image="file", **given))
    assert [item["id"] for item in items[:3]] == ["seen/dog.jpg", "dog/en", "bird.webp"]
    assert len(items) == 7


def test_several_tables_ask_for_a_choice(folder):
    metadata(folder, [{"file_name": "bird.webp"}])
    (folder / "metadata.csv").write_text("file_name\nbird.webp\n")
    with pytest.raises(CorpusError, match=r"has metadata\.jsonl and metadata\.csv; say which to read"):
        read_media_folder(folder)
    assert contents(read_media_folder(folder, metadata=folder / "metadata.csv"))[0]["id"] == "bird.webp"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("seen/cow.jpg", r"is 'seen/cow\.jpg', and there is no file /.*animals/seen/cow\.jpg"),
        ("LICENSE.txt", r"is 'LICENSE\.txt', by its suffix neither an image nor audio"),
        (None, "is null"),
        (5, "is 5, a int and not a string"),
        ("\udcff.png", "surrogate"),
    ],
)
def test_a_row_that_names_no_file_is_named_by_its_place(folder, value, problem):
    metadata(folder, [{"file_name": "bird.webp"}, {"file_name": value}])
    with pytest.raises(CorpusError, match=rf"^metadata\.jsonl, line 2, column 'file_name': {problem}|^.*{problem}"):
        contents(read_media_folder(folder))
    corpus = read_media_folder(folder, on_error="skip")
    assert len(contents(corpus)) == 6
    assert corpus.skipped.count == 1
    assert corpus.skipped.messages[0].startswith("metadata.jsonl, line 2, column 'file_name': ")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"text": "caption"}, r"no column 'caption'; the columns are file_name, text; .*with text="),
        ({"concept": "sense", "language_tag": "en"}, r"no column 'sense'; .*with concept="),
        ({"image": "image"}, r"no column 'image'; .*with image="),
        ({}, r"no column 'language'; .*language_tag"),
    ],
)
def test_columns_that_the_table_lacks_are_named(folder, options, problem):
    metadata(folder, [{"file_name": "bird.webp", "text": "a bird"}])
    with pytest.raises(CorpusError, match=problem):
        contents(read_media_folder(folder, **options))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"text": "caption", "language_tag": "en"}, r"animals: has no table with the columns 'caption'; give it with"),
        ({"concept": "sense"}, "has no table with the columns 'sense'"),
        ({"id": "key"}, "the ids of files are their paths"),
        ({"image": "a", "audio": "b"}, "one column names images and audio alike"),
        ({"modality": "text"}, "modality is 'text'; give image or audio"),
        ({"concept_from": "stem"}, "concept_from is 'stem'; give name, folder, path"),
        ({"metadata": "nowhere.csv"}, r"nowhere\.csv: there is no such file"),
        ({"on_error": "x"}, "on_error is 'x'"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, problem):
    with pytest.raises(CorpusError, match=problem):
        read_media_folder(folder, **options)


def test_a_folder_without_media_is_refused(folder):
    with pytest.raises(CorpusError, match=r"nowhere: there is no such folder"):
        read_media_folder(folder / "nowhere")
    with pytest.raises(CorpusError, match=r"drawn: holds no file that ends with \.wav, .*; check the path"):
        read_media_folder(folder / "drawn", modality="audio")


def test_a_name_that_is_not_unicode_is_named_and_the_others_are_read(folder):
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(image_bytes(0))
    with pytest.raises(CorpusError, match="surrogate"):
        contents(read_media_folder(folder))
    corpus = read_media_folder(folder, on_error="skip")
    assert [item["id"] for item in contents(corpus)] == FILES
    assert corpus.skipped.count == 1


def test_any_name_is_a_name(folder):
    for name in ("a!b.png", "[x]*.png", "日本.png", " spaced .png", "new\nline.png", "a.b.png"):
        (folder / "drawn" / name).write_bytes(image_bytes(0))
    items = contents(read_media_folder(folder / "drawn"))
    assert {"a!b", "[x]*", "日本", " spaced ", "new\nline", "a.b"} < {item["concept"] for item in items}


def test_the_source_is_small_and_follows_the_files(folder):
    source = read_media_folder(folder).source
    assert json.loads(json.dumps(source)) == source == read_media_folder(folder).source
    assert source["files"]["count"] == 6
    assert source != read_media_folder(folder, concept_from="folder").source
    moved = folder.rename(folder.parent / "moved")
    assert read_media_folder(moved).source == source
    os.utime(moved / "bird.webp", ns=(1, 1))
    assert read_media_folder(moved).source == source
    (moved / "bird.webp").write_bytes(image_bytes(9) + b"x")
    touched = read_media_folder(moved).source
    assert touched != source
    (moved / "bird.webp").rename(moved / "bee.webp")
    renamed = read_media_folder(moved).source
    assert renamed != touched
    metadata(moved, [{"file_name": "bee.webp"}])
    assert read_media_folder(moved).source != renamed


def test_links_to_files_and_folders_are_followed_but_none_back_to_where_it_is(folder, tmp_path):
    (folder / "seen" / "link.jpg").symlink_to(folder / "seen" / "dog.jpg")
    (folder / "seen" / "round").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "fox.png").write_bytes(image_bytes(7))
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "seen")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    items = [item["id"] for item in contents(read_media_folder(folder))]
    assert len(items) == len(set(items)) == len(FILES) + 1 + 1 + 3
    assert {"more/fox.png", "more/back/dog.jpg", "seen/link.jpg"} < set(items)


@pytest.mark.parametrize("name", ["gone.png", "gone"])
def test_a_link_to_nothing_is_named_and_can_be_left_out(folder, name):
    (folder / "seen" / name).symlink_to("/no/such/place")
    (folder / "seen" / "itself.txt").symlink_to("itself.txt")
    (folder / "seen" / "notes.txt").symlink_to("/no/such/notes")
    with pytest.raises(CorpusError, match=rf"seen/{name}: is a link to /no/such/place, where nothing is"):
        contents(read_media_folder(folder))
    corpus = read_media_folder(folder, on_error="skip")
    assert [item["id"] for item in contents(corpus)] == FILES
    assert (corpus.skipped.rows, corpus.skipped.count) == (len(FILES) + 1, 1)


def test_tables_and_archives_behind_links_are_read_and_broken_ones_named(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.csv").write_text("id,text\n1,a\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "more").symlink_to(tmp_path / "elsewhere")
    assert [item["id"] for item in contents(open_corpus(tmp_path / "tables", language_tag="en"))] == ["1"]
    (tmp_path / "tables" / "b.csv").symlink_to("/no/such/b.csv")
    with pytest.raises(CorpusError, match=r"b\.csv: is a link to /no/such/b\.csv, where nothing is"):
        open_corpus(tmp_path / "tables", language_tag="en")
    with pytest.raises(CorpusError, match=r"b\.csv: is a link to /no/such/b\.csv, where nothing is"):
        open_corpus(tmp_path / "tables" / "b.csv")


@pytest.mark.parametrize("named", ["../private/x.png", "drawn/../../private/x.png", "{}/private/x.png"])
def test_a_table_of_a_folder_names_no_file_outside_of_it(folder, tmp_path, named):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "x.png").write_bytes(image_bytes(9))
    rows = [{"file_name": name, "text": "x"} for name in (named.format(tmp_path), str(folder / "bird.webp"))]
    metadata(folder, rows)
    with pytest.raises(CorpusError, match=r"line 1, column 'file_name': is '.*', outside the folder"):
        contents(read_media_folder(folder, text="text", language_tag="en"))
    corpus = read_media_folder(folder, text="text", language_tag="en", on_error="skip")
    media = [item["media"] for item in contents(corpus) if "media" in item]
    assert sorted(media) == sorted(str(folder / name) for name in FILES)
    assert corpus.skipped.count == 1
