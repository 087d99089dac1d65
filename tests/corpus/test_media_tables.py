import csv
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, Features, Image, Value

from hubstore.corpus import Media, open_corpus, read_csv, read_dataset, read_jsonl, read_parquet
from hubstore.corpus.corpus import Refuse, Skipped
from hubstore.errors import CorpusError
from hubstore.media.decode import open_audio, open_image
from tests.corpus.conftest import audio_bytes, contents, image_bytes


@pytest.fixture
def folder(tmp_path):
    """Two images and two audio clips, of a dog and of a cat."""
    for number, name in enumerate(("dog", "cat")):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(number))
        (tmp_path / f"{name}.wav").write_bytes(audio_bytes(number))
    return tmp_path


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def delimited(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def table(request, folder):
    """A function that writes rows in one of the formats and opens the file with the format's reader."""
    read, write = {"jsonl": (read_jsonl, jsonl), "csv": (read_csv, delimited), "parquet": (read_parquet, parquet)}[
        request.param
    ]
    return lambda rows, **options: read(write(folder / f"x.{request.param}", rows), **options)


def brief(items):
    return [(item["id"], item["concept"], item["language"], item["modality"]) for item in items]


def test_paths_make_items_of_images_without_texts_languages_or_ids(table, folder):
    items = contents(table([{"image": "dog.png"}, {"image": str(folder / "cat.png")}], image="image"))
    assert items == [
        {
            "id": path,
            "concept": path,
            "language": "zxx",
            "modality": "image",
            "text": "",
            "media": str(folder / name),
            "data": None,
        }
        for path, name in (("dog.png", "dog.png"), (str(folder / "cat.png"), "cat.png"))
    ]


def test_captions_are_items_of_the_concept_of_their_image(table):
    rows = [
        {"id": "7", "image": "dog.png", "text": "a dog", "language": "en"},
        {"id": "8", "image": "cat.png", "text": "un chat", "language": "fr"},
    ]
    items = contents(table(rows, image="image"))
    assert brief(items) == [
        ("7", "dog.png", "zxx", "image"),
        ("dog.png/en", "dog.png", "en", "text"),
        ("8", "cat.png", "zxx", "image"),
        ("cat.png/fr", "cat.png", "fr", "text"),
    ]
    assert [item["text"] for item in items] == ["", "a dog", "", "un chat"]


def test_a_column_for_each_language_and_one_of_concepts(table):
    rows = [
        {"sense": "DOG", "image": "dog.png", "english": "dog", "spanish": "perro"},
        {"sense": "CAT", "image": "cat.png", "english": "cat", "spanish": None},
    ]
    items = contents(table(rows, image="image", concept="sense", text={"en": "english", "es": "spanish"}))
    assert brief(items) == [
        ("dog.png", "DOG", "zxx", "image"),
        ("DOG/en", "DOG", "en", "text"),
        ("DOG/es", "DOG", "es", "text"),
        ("cat.png", "CAT", "zxx", "image"),
        ("CAT/en", "CAT", "en", "text"),
    ]


def test_a_file_that_several_rows_name_is_one_item_with_several_captions(table, folder):
    paths = ["dog.png", "cat.png", "./dog.png", str(folder / "dog.png"), "dog.png"]
    rows = [{"image": path, "text": f"caption {number}", "sense": path[-7:]} for number, path in enumerate(paths)]
    items = contents(table(rows, image="image", language_tag="en", concept="sense"))
    assert [item["id"] for item in items if item["modality"] == "image"] == ["dog.png", "cat.png"]
    assert [item["text"] for item in items if item["concept"] == "dog.png"] == [
        "",
        *(f"caption {n}" for n in (0, 2, 3, 4)),
    ]
    assert len({item["id"] for item in items}) == len(items)


def test_an_image_and_an_audio_clip_in_one_row_share_a_concept(table):
    rows = [{"id": "1", "image": "dog.png", "audio": "dog.wav"}, {"id": "2", "image": None, "audio": "cat.wav"}]
    items = contents(table(rows, image="image", audio="audio"))
    assert brief(items) == [
        ("dog.png", "dog.png", "zxx", "image"),
        ("dog.wav", "dog.png", "zxx", "audio"),
        ("2", "cat.wav", "zxx", "audio"),
    ]


def test_speech_is_in_the_language_of_its_row_and_other_audio_clips_in_none(table):
    rows = [{"audio": "dog.wav", "text": "hola", "language": "es"}]
    assert [item["language"] for item in contents(table(rows, audio="audio"))] == ["zxx", "es"]
    assert [item["language"] for item in contents(table(rows, audio="audio", speech=True))] == ["es", "es"]
    bare = [{"audio": "dog.wav"}]
    assert [item["language"] for item in contents(table(bare, audio="audio", speech=True, language_tag="sw"))] == ["sw"]
    with pytest.raises(CorpusError, match="no column 'language'"):
        contents(table(bare, audio="audio", speech=True))
    with pytest.raises(CorpusError, match="speech is in one language, but text names several"):
        table(rows, audio="audio", speech=True, text={"es": "text"})


def test_rows_may_have_texts_only_where_others_have_images(table):
    rows = [
        {"id": "p", "concept": "DOG", "image": "dog.png", "text": None, "language": None},
        {"id": "t", "concept": "DOG", "image": None, "text": "dog", "language": "en"},
        {"id": "u", "concept": None, "image": None, "text": "else", "language": "en"},
    ]
    assert brief(contents(table(rows, image="image"))) == [
        ("p", "DOG", "zxx", "image"),
        ("t", "DOG", "en", "text"),
        ("u", None, "en", "text"),
    ]


def test_a_row_with_nothing_is_refused(table):
    rows = [{"image": "dog.png", "text": "a"}, {"image": None, "text": " "}]
    with pytest.raises(CorpusError, match=r" 2: has no image, audio or text; the media are sought in 'image'"):
        contents(table(rows, image="image", language_tag="en"))
    corpus = table(rows, image="image", language_tag="en", on_error="skip")
    assert len(contents(corpus)) == 2
    assert corpus.skipped.count == 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("bird.png", "is 'bird.png', and there is no file /"),
        ("ftp://x.y/z.png", "ftp:// is no place that hubstore knows"),
    ],
)
def test_a_path_that_is_no_file_is_named_with_its_place_and_its_captions_stay(table, value, problem):
    rows = [{"image": "dog.png", "text": "a"}, {"image": value, "text": "b"}]
    options = {"image": "image", "language_tag": "en"}
    with pytest.raises(CorpusError, match=rf"^x\..*, (line|row) 2, column 'image': .*{problem}"):
        contents(table(rows, **options))
    corpus = table(rows, **options, on_error="skip")
    assert [item["text"] for item in contents(corpus)] == ["", "a", "b"]
    assert corpus.skipped.count == 1


def test_captions_need_a_language(table):
    with pytest.raises(CorpusError, match=r"no column 'language'; .*language_tag"):
        contents(table([{"image": "dog.png", "text": "a dog"}], image="image"))


def test_a_table_without_text_is_answered_with_the_columns_of_media(table):
    with pytest.raises(CorpusError, match=r"no column 'text'; .*or name that of images or audio with image="):
        contents(table([{"image": "dog.png"}]))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_list_is_several_captions(form, folder):
    rows = [
        {"id": 1, "image": "dog.png", "captions": ["one", "two", "three"]},
        {"id": 2, "image": "cat.png", "captions": []},
    ]
    read, write = {"jsonl": (read_jsonl, jsonl), "parquet": (read_parquet, parquet)}[form]
    items = contents(read(write(folder / f"x.{form}", rows), image="image", text="captions", language_tag="en"))
    assert [(item["id"], item["text"]) for item in items] == [
        ("1", ""),
        ("dog.png/en", "one"),
        ("dog.png/en/1", "two"),
        ("dog.png/en/1/2", "three"),
        ("2", ""),
    ]
    assert {item["concept"] for item in items[:4]} == {"dog.png"}


def test_a_value_that_is_neither_path_nor_bytes_is_refused(folder):
    for value in (7, ["dog.png"], True):
        path = jsonl(folder / "x.jsonl", [{"image": value}])
        with pytest.raises(CorpusError, match=r"line 1, column 'image': is a .*, and neither a path nor bytes"):
            contents(read_jsonl(path, image="image"))


@pytest.mark.parametrize("form", ["binary", "large_binary", "struct"])
def test_bytes_in_parquet_are_items_and_their_place_their_name(form, tmp_path):
    data = [image_bytes(number) for number in range(3)]
    if form == "struct":
        column = pa.array([{"bytes": value, "path": "a.png"} for value in data])
    else:
        column = pa.array(data, getattr(pa, form)())
    pq.write_table(pa.table({"image": column, "text": ["a", None, "c"]}), tmp_path / "x.parquet")
    items = contents(read_parquet(tmp_path / "x.parquet", image="image", language_tag="en"))
    images = [item for item in items if item["modality"] == "image"]
    assert [item["data"] for item in images] == data
    assert [item["media"] for item in images] == [f"x.parquet!row {number}!image" for number in (1, 2, 3)]
    assert len(items) == 5
    assert open_image(Media(images[1]["media"], images[1]["data"])).size == (12, 8)


def test_empty_bytes_are_refused_with_their_place(tmp_path):
    pq.write_table(pa.table({"image": [image_bytes(0), b""]}), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"x\.parquet, row 2, column 'image': has no bytes"):
        contents(read_parquet(tmp_path / "x.parquet", image="image"))


def test_images_in_parquet_are_read_a_few_at_a_time(tmp_path):
    blob = np.random.default_rng(0).bytes(1 << 20)
    table = pa.table({"image": pa.array([blob[number:] for number in range(96)])})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=96, write_batch_size=1)
    corpus = read_parquet(tmp_path / "x.parquet", image="image")
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - arrow for _ in corpus.read(Refuse(Skipped())))
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 << 20
    assert python < 48 << 20


def test_image_and_audio_features_are_read_undecoded(folder):
    features = Features({"image": Image(), "audio": Audio(), "text": Value("string")})
    rows = {
        "image": [{"bytes": image_bytes(0), "path": None}, {"bytes": None, "path": str(folder / "cat.png")}, None],
        "audio": [{"bytes": audio_bytes(0), "path": "dog.wav"}, None, {"bytes": None, "path": str(folder / "cat.wav")}],
        "text": ["a", "b", "c"],
    }
    Dataset.from_dict(rows).cast(features).save_to_disk(folder / "saved")
    corpus = read_dataset(folder / "saved", image="image", audio="audio", language_tag="en")
    items = contents(corpus)
    assert [item["modality"] for item in items] == ["image", "audio", "text", "image", "text", "audio", "text"]
    first, audio = items[0], items[1]
    assert (first["data"], audio["data"]) == (image_bytes(0), audio_bytes(0))
    assert first["media"] == "saved!row 1!image"
    assert items[3]["data"] == image_bytes(1)  # saving took the file's bytes along
    assert open_audio(Media(audio["media"], audio["data"]), 8000).shape == (800,)


def test_features_in_a_folder_of_parquet_are_streamed_undecoded(tmp_path):
    features = Features({"image": Image(), "label": Value("string")})
    data = Dataset.from_dict({"image": [{"bytes": image_bytes(0), "path": None}], "label": ["dog"]}, features=features)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "train.parquet")
    items = contents(open_corpus(tmp_path, split="train", image="image", concept="label"))
    assert [(item["concept"], item["data"]) for item in items] == [("dog", image_bytes(0))]


def test_the_source_follows_the_columns_of_media(table):
    rows = [{"image": "dog.png", "audio": "dog.wav"}]
    sources = [table(rows, **options).source for options in ({"image": "image"}, {"audio": "audio"})]
    assert sources[0] != sources[1]
    assert json.loads(json.dumps(sources[0])) == sources[0]
