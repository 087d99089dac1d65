import gzip
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hubstore.corpus import open_corpus
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents, image_bytes


def test_the_suffix_or_folder_chooses_the_reader(tmp_path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.ndjson").write_text(lines)
    (tmp_path / "a.JSONL.gz").write_bytes(gzip.compress(lines.encode()))
    Dataset.from_list(rows).to_csv(tmp_path / "a.csv", index=False)
    Dataset.from_list(rows).to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in ("a.jsonl", "a.ndjson", "a.JSONL.gz", "a.csv", "a.tsv", "a.parquet", "saved"):
        assert contents(open_corpus(tmp_path / name)) == rows
        assert contents(open_corpus(str(tmp_path / name), limit=3)) == rows[:3]


def test_columns_and_names_reach_the_reader(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "hello"}\n{"body": " "}\n')
    corpus = open_corpus(tmp_path / "a.jsonl", text="body", language_tag="en", on_error="skip", name="mine")
    assert corpus.name == "mine"
    assert [item["text"] for item in contents(corpus)] == ["hello"]


def test_a_sample_has_a_prefix():
    assert len(contents(open_corpus("sample:ntrex", limit=2))) == 28
    with pytest.raises(CorpusError, match="no sample 'x'"):
        open_corpus("sample:x")
    with pytest.raises(CorpusError, match="sample:ntrex is a sample, which has no split= or text="):
        open_corpus("sample:ntrex", split="train", text="body")


def test_a_path_that_is_not_there_is_no_dataset_id(tmp_path):
    for path in (tmp_path / "a.jsonl", "a.jsonl", "data/a.csv.gz", "./a", "a", "a/b/c", "data/a.txt"):
        with pytest.raises(CorpusError, match="there is no such file"):
            open_corpus(path)


def test_a_file_no_reader_is_known_for_is_answered_with_a_remedy(tmp_path):
    for name, remedy in (("a.docx", "ends with .jsonl, "), ("a", "without a suffix")):
        (tmp_path / name).write_text("x")
        with pytest.raises(CorpusError, match="no reader is known") as error:
            open_corpus(tmp_path / name)
        assert remedy in str(error.value)


def test_options_of_datasets_are_refused_for_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl is a file, which has no split=; leave the option out"):
        open_corpus(tmp_path / "a.jsonl", split="train")


def test_a_folder_is_read_as_what_most_of_its_files_are(tmp_path, rows):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        (images / f"{number}.png").write_bytes(image_bytes(number))
    (images / "annotations.json").write_text("{}")
    (images / "metadata.csv").write_text("file_name,text\n0.png,zero\n")
    corpus = open_corpus(images, language_tag="en", name="mine")
    assert [item["id"] for item in contents(corpus)] == ["0.png", "0/en", "1.png"]
    assert corpus.name == "mine"

    archives = tmp_path / "archives"
    archives.mkdir()
    for number in range(2):
        with tarfile.open(archives / f"{number}.tar", "w") as tar:
            tar.add(images / "0.png", "a.png")
    assert [item["id"] for item in contents(open_corpus(archives))] == ["0/a", "1/a"]
    assert [item["id"] for item in contents(open_corpus(archives / "1.tar"))] == ["a"]

    dataset = tmp_path / "dataset"
    (dataset / "assets").mkdir(parents=True)
    (dataset / "assets" / "logo.png").write_bytes(image_bytes(0))
    pq.write_table(pa.Table.from_pylist(rows), dataset / "train.parquet")
    assert contents(open_corpus(dataset)) == rows


def test_options_say_what_a_folder_is(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes(0))
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text('{"file_name": "a.png", "text": "a", "language": "en"}\n')
    items = contents(open_corpus(tmp_path, metadata=tmp_path / "one.jsonl"))
    assert [item["modality"] for item in items] == ["image", "text"]
    assert [item["id"] for item in contents(open_corpus(tmp_path, modality="image"))] == ["a.png"]
    assert contents(open_corpus(tmp_path, concept_from="folder"))[0]["concept"] == "a"
    assert {item["modality"] for item in contents(open_corpus(tmp_path, split="train"))} == {"text"}


def test_options_of_folders_are_refused_elsewhere(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text('{"text": "hello"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl is a file, which has no modality=; leave the option out"):
        open_corpus(tmp_path / "a.jsonl", modality="image")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match="saved is a dataset, which has no concept_from="):
        open_corpus(tmp_path / "saved", concept_from="name")


def test_a_single_image_is_answered_with_a_remedy(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes(0))
    with pytest.raises(CorpusError, match=r"no reader is known for \.png; give its folder, or a table with its path"):
        open_corpus(tmp_path / "a.png")
