import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Translation

from hubstore.corpus import read_dataset
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents, python, without_media
from tests.corpus.hub_server import COMMIT, serve


def test_a_dataset_saved_to_disk_gives_its_items_again_and_again(tmp_path, rows):
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=3)
    corpus = read_dataset(tmp_path / "saved")
    assert corpus.name == "saved"
    assert contents(corpus) == rows
    assert contents(corpus) == rows
    assert contents(read_dataset(tmp_path / "saved", limit=7)) == rows[:7]


def test_the_translation_feature_is_read_as_a_wide_table(tmp_path, wide_rows):
    features = Features({"translation": Translation(["en", "zh-Hans"])})
    Dataset.from_list(wide_rows, features=features).save_to_disk(tmp_path / "saved")
    text = {"en": "translation.en", "zh-Hans": "translation.zh-Hans"}
    items = contents(read_dataset(tmp_path / "saved", text=text))
    assert [item["text"] for item in items] == [text for row in wide_rows for text in row["translation"].values()]
    assert items[1]["id"] == "1/zh-Hans"


def test_a_split_is_chosen_or_asked_for(tmp_path, rows):
    splits = {"train": Dataset.from_list(rows[:30]), "test": Dataset.from_list(rows[30:])}
    DatasetDict(splits).save_to_disk(tmp_path / "both")
    assert contents(read_dataset(tmp_path / "both", split="test")) == rows[30:]
    with pytest.raises(CorpusError, match="has several splits; choose one of train, test"):
        read_dataset(tmp_path / "both")
    with pytest.raises(CorpusError, match="has no split 'dev'; choose one of train, test"):
        read_dataset(tmp_path / "both", split="dev")
    DatasetDict({"dev": splits["test"]}).save_to_disk(tmp_path / "one")
    assert contents(read_dataset(tmp_path / "one")) == rows[30:]
    splits["train"].save_to_disk(tmp_path / "none")
    with pytest.raises(CorpusError, match="has no splits"):
        read_dataset(tmp_path / "none", split="train")


@pytest.fixture
def folder(tmp_path, rows):
    """A folder as hubs have it: Parquet files by split, and one configuration."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for number, (split, part) in enumerate((("train", rows[:30]), ("train", rows[30:50]), ("test", rows[50:]))):
        pq.write_table(pa.Table.from_pylist(part), folder / "data" / f"{split}-0000{number}.parquet")
    return folder


def test_a_folder_of_data_files_is_streamed(folder, rows):
    corpus = read_dataset(folder, split="train")
    assert contents(corpus) == rows[:50]
    assert contents(corpus) == rows[:50]
    assert contents(read_dataset(folder, split="test")) == rows[50:]
    with pytest.raises(CorpusError, match="has several splits; choose one of "):
        read_dataset(folder)


def test_errors_name_the_row_and_the_columns(tmp_path, rows):
    rows[33]["text"] = None
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"^saved, row 34, column 'text': is null"):
        contents(read_dataset(tmp_path / "saved"))
    with pytest.raises(CorpusError, match=r"no column 'body'; the columns are .*; name another with text="):
        contents(read_dataset(tmp_path / "saved", text="body", id=None))


def test_what_is_no_dataset_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty: cannot be opened as a dataset: "):
        read_dataset(tmp_path / "empty")
    with pytest.raises(CorpusError, match=r"has no configuration 'fr', as its README.md names none"):
        read_dataset(folder, config="fr", split="train")


def test_a_saved_dataset_has_no_config(tmp_path, rows):
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match="no config and no revision"):
        read_dataset(tmp_path / "saved", config="en")


def test_the_source_follows_split_and_content(tmp_path, folder, rows):
    source = read_dataset(folder, split="test").source
    assert json.loads(json.dumps(source)) == source == read_dataset(folder, split="test").source
    assert source != read_dataset(folder, split="train").source
    pq.write_table(pa.Table.from_pylist(rows[:5]), folder / "data" / "test-00002.parquet")
    assert source != read_dataset(folder, split="test").source


def parquet_bytes(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_a_dataset_on_a_hub_is_streamed_by_id_and_its_commit_recorded(tmp_path, rows):
    files = {"data/train-00000.parquet": parquet_bytes(rows[:50]), "data/test-00000.parquet": parquet_bytes(rows[50:])}
    script = """
        import json
        from hubstore.corpus import open_corpus
        corpus = open_corpus("owner/pairs", split="test")
        passes = [[row for batch in corpus.batches() for row in batch.to_pylist()] for _ in range(2)]
        try:
            open_corpus("owner/pairs")
        except ValueError as error:
            print(json.dumps([corpus.name, dict(corpus.source), passes, str(error)]))
    """
    with serve("owner/pairs", files) as address:
        # A process of its own, as the address of the hub is read when the library is imported.
        done = python(script, HF_ENDPOINT=address, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
    name, source, passes, error = json.loads(done.stdout)
    assert [[without_media(row) for row in items] for items in passes] == [rows[50:], rows[50:]]
    assert name == "owner/pairs"
    assert (source["id"], source["revision"], source["split"]) == ("owner/pairs", COMMIT, "test")
    assert error == "owner/pairs: has several splits; choose one of train, test"
    assert done.stderr == ""


def test_tables_of_a_hub_are_read_as_files_are(tmp_path):
    files = {
        "data/train.csv": b"id,text\n001,1984\n002,NA\n",
        "data/test.csv": b"id,text\n003,1e5\n",
        "data/dev.csv": b'id,text\n4,"it is" late\n',
    }
    script = """
        import json
        from hubstore.corpus import open_corpus
        items = []
        for split, options in (("train", {}), ("test", {}), ("validation", {"quotes": False})):
            corpus = open_corpus("owner/pairs", split=split, language_tag="en", **options)
            items.append([(item.id, item.text) for item in corpus.items()])
        late = open_corpus("owner/pairs", split="train", language_tag="en").batches(start=1)
        items.append([batch["id"].to_pylist() for batch in late])
        print(json.dumps(items))
    """
    with serve("owner/pairs", files) as address:
        done = python(script, HF_ENDPOINT=address, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
    assert json.loads(done.stdout) == [
        [["001", "1984"], ["002", "NA"]],
        [["003", "1e5"]],
        [["4", '"it is" late']],
        [["002"]],
    ]


def test_an_id_that_cannot_be_reached_is_named(tmp_path):
    script = """
        from hubstore.corpus import read_dataset
        try:
            read_dataset("owner/pairs")
        except ValueError as error:
            print(type(error).__name__, error)
    """
    done = python(script, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.stdout.startswith("CorpusError owner/pairs: cannot be opened as a dataset: ")
    assert done.stdout.endswith("for a dataset on the hub the connection\n")
    assert done.stderr == ""
