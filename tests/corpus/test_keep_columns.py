"""Columns that items keep: which there are, their types, and one error for what has none."""

from __future__ import annotations

import datetime
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.corpus import ITEM_SCHEMA, Corpus, Item, open_corpus, read_memory, read_sample
from hubstore.corpus import kept as kept_module
from hubstore.errors import CorpusError, CorpusWarning

ROWS = [
    {"id": "1", "text": "One", "language": "en", "year": 2019, "score": 1, "source": "wiki", "good": True},
    {"id": "2", "text": "Two", "language": "de", "year": None, "score": 2.5, "source": "news", "good": None},
]
TYPES = {"year": pa.int64(), "score": pa.float64(), "source": pa.string(), "good": pa.bool_()}


def write(folder, name, rows=ROWS):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".csv"):
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines, ""]))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def values(corpus, name):
    return [value for batch in corpus.batches() for value in batch.column(name).to_pylist()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_every_table_gives_its_columns_with_their_types(tmp_path, name):
    corpus = open_corpus(write(tmp_path, name), keep_columns="all")
    assert corpus.columns == TYPES
    assert corpus.schema.names == [*ITEM_SCHEMA.names, *TYPES]
    for column in TYPES:
        assert values(corpus, column) == [row[column] for row in ROWS]
    assert [item.columns["year"] for item in corpus.items()] == [2019, None]
    assert values(open_corpus(write(tmp_path, name), keep_columns="source"), "source") == ["wiki", "news"]


def test_a_saved_dataset_a_tar_and_a_folder_give_their_columns(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert open_corpus(tmp_path / "saved", keep_columns="all").columns == TYPES
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for row in ROWS:
            for suffix, data in (("txt", row["text"].encode()), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{row['id']}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert values(open_corpus(tmp_path / "a.tar", keep_columns="year,source"), "source") == ["wiki", "news"]
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("cat.png", "dog.png"):
        (folder / name).write_bytes(b"an image, as far as reading goes")
    (folder / "metadata.csv").write_text("file_name,text,language,year\ncat.png,A cat,en,2020\n")
    found = open_corpus(folder, keep_columns="year")
    kept = {item.id: item.columns["year"] for item in found.items()}
    assert kept["cat.png"] == 2020 == kept["cat/en"]  # a caption has its row's columns
    assert kept["dog.png"] is None  # no row names it


def test_columns_of_delimited_values_are_typed_by_their_first_rows_and_keep_leading_zeros(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text,language,zip,n,empty\n1,a,en,007,,\n2,b,en,120,-5,\n")
    corpus = open_corpus(path, keep_columns=["zip", "n", "empty"])
    assert corpus.columns == {"zip": pa.string(), "n": pa.int64(), "empty": pa.string()}
    assert values(corpus, "zip") == ["007", "120"]
    assert values(corpus, "n") == [None, -5]


def test_timestamps_are_as_arrow_has_them_to_the_nanosecond(tmp_path):
    table = pa.table(
        {
            "id": ["1", "2"],
            "text": ["a", "b"],
            "language": ["en", "en"],
            "at": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "day": pa.array([datetime.date(2020, 1, 2), None]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = open_corpus(tmp_path / "a.parquet", keep_columns="all")
    batch = next(corpus.batches())
    assert batch.column("at") == table["at"].combine_chunks()
    assert batch.column("day") == table["day"].combine_chunks()
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "text": "a", "language": "en", "at": "2020-01-02T03:04:05Z"}\n')
    said = open_corpus(path, keep_columns="at:timestamp[s, tz=UTC]")
    assert values(said, "at") == [datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)]


def test_a_nested_column_is_named_by_its_path(tmp_path):
    rows = [{"id": "1", "text": "a", "language": "en", "meta": {"year": 3}}]
    for name in ("a.jsonl", "a.parquet"):
        assert values(open_corpus(write(tmp_path, name, rows), keep_columns="meta.year"), "meta.year") == [3]


@pytest.mark.parametrize("name", ["b.csv", "b.parquet"])
def test_a_column_that_is_not_there_is_an_error_that_names_file_and_column(tmp_path, name):
    first = write(tmp_path, "a" + name[1:])
    with pytest.raises(CorpusError, match=r"a\.\w+: there is no column 'yaer'; the columns are id, text, .*year"):
        open_corpus(first, keep_columns="yaer").columns  # noqa: B018
    without = [{key: value for key, value in row.items() if key != "year"} | {"id": row["id"] * 2} for row in ROWS]
    corpus = open_corpus([first, write(tmp_path, name, without)], keep_columns="year", on_error="skip")
    with pytest.raises(CorpusError, match=r"b\.\w+: there is no column 'year'"):
        list(corpus.batches())


def test_a_column_that_changes_its_type_between_files_is_an_error_that_names_file_and_column(tmp_path):
    other = [{**row, "id": row["id"] * 2, "year": "long ago"} for row in ROWS]
    for suffix, said in (
        ("parquet", "'year' is of string, and of int64 in a.parquet"),
        ("jsonl", "'year': is 'long a"),
    ):
        files = [write(tmp_path, f"a.{suffix}"), write(tmp_path, f"b.{suffix}", other)]
        with pytest.raises(CorpusError, match=rf"b\.{suffix}.*column {said}.*keep_columns='year:string'"):
            list(open_corpus(files, keep_columns="year").batches())
        assert values(open_corpus(files, keep_columns="year:string"), "year") == ["2019", None, "long ago", "long ago"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tokens", "'tokens' is a column that item tables have already"),
        ("year:int12", "'int12' is no type of a kept column"),
        ("year,year", "name each column once"),
        ("", "names no column"),
        ("many", "'many': holds a list, which is not kept"),
        ("never", "'never': has no value in the first 2 rows"),
        ("mixed", "'mixed': has values of several types"),
    ],
)
def test_what_cannot_be_kept_is_said_by_name(tmp_path, asked, said):
    rows = [{**row, "many": [1], "never": None, "mixed": value} for row, value in zip(ROWS, (1, "a"), strict=True)]
    with pytest.raises(CorpusError, match=said):
        open_corpus(write(tmp_path, "a.jsonl", rows), keep_columns=asked).columns  # noqa: B018


def test_the_values_of_one_item_are_bounded(tmp_path):
    rows = [{**row, "html": "x" * size} for row, size in zip(ROWS, (8000, 9000), strict=True)]
    with pytest.raises(CorpusError, match=r"line 2, column 'html': the kept columns of the row have 9,\d+ bytes"):
        list(open_corpus(write(tmp_path, "a.jsonl", rows), keep_columns="all").batches())


def test_a_value_of_another_type_is_left_out_with_its_row_where_rows_are_skipped(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "year": "n/a"}]
    corpus = open_corpus(write(tmp_path, "a.csv", rows), keep_columns="year:int64", on_error="skip")
    assert values(corpus, "year") == [2019]
    assert "row 2, column 'year': is 'n/a'" in corpus.skipped.messages[0]


def test_reading_from_a_later_item_gives_the_same_columns(tmp_path):
    rows = [{"id": str(i), "text": "a", "language": "en", "year": 2000 + i} for i in range(20)]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        corpus = open_corpus(write(tmp_path, name, rows), keep_columns="year")
        later = [value for batch in corpus.batches(3, start=13) for value in batch.column("year").to_pylist()]
        assert later == list(range(2013, 2020))


def test_items_in_memory_bring_columns_of_their_own():
    items = [Item("1", "a", "en", columns={"year": 1}), Item("2", "b", "en")]
    corpus = Corpus.from_items(items)
    assert corpus.columns == {"year": pa.int64()}
    assert values(corpus, "year") == [1, None]
    bare = Corpus.from_items([Item("1", "a", "en"), Item("2", "b", "en")])
    assert bare.source != corpus.source
    assert bare.source["sha256"] == _digest_before_there_were_columns()
    with pytest.raises(CorpusError, match="column 'year' has values of several types"):
        Corpus.from_items([*items, Item("3", "c", "en", columns={"year": "x"})]).columns  # noqa: B018


def _digest_before_there_were_columns():
    import hashlib

    lines = (json.dumps([name, text, "en", None, "text", None]) for name, text in (("1", "a"), ("2", "b")))
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_a_corpus_that_keeps_nothing_is_described_as_it_was(tmp_path):
    corpus = open_corpus(write(tmp_path, "a.jsonl"))
    assert "keep" not in corpus.source["columns"]
    assert "keep_columns" not in corpus.source["columns"]
    assert corpus.schema == ITEM_SCHEMA == read_sample("ntrex", limit=1).schema


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("timestamp[s]", datetime.datetime(2020, 1, 1)),
        ("timestamp[us]", datetime.datetime(2020, 1, 1)),
        ("timestamp[us, tz=UTC]", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
        ("date32", datetime.date(2020, 1, 1)),
    ],
)
def test_times_are_the_same_times_in_the_unit_that_is_said(unit, said, expected):
    table = pa.table({**_BARE, "at": pa.array([datetime.datetime(2020, 1, 1), None], pa.timestamp(unit))})
    assert values(read_memory(table, keep_columns=f"at:{said}"), "at") == [expected, None]
    (text, _) = values(read_memory(table, keep_columns="at:string"), "at")
    assert text.startswith("2020-01-01 00:00:00")
    with pytest.raises(
        CorpusError, match=rf"rows, column 'at': is of timestamp\[{unit}\], and cannot all be kept as bool"
    ):
        list(read_memory(table, keep_columns="at:bool").batches())


_BARE = {"id": ["1", "2"], "text": ["a", "b"], "language": ["en", "en"]}


def test_rows_in_memory_have_the_columns_of_all_of_them_and_not_of_the_first():
    rows = [dict(zip(_BARE, row, strict=True)) for row in zip(*_BARE.values(), strict=True)]
    corpus = read_memory([rows[0], {**rows[1], "concept": "c", "year": 3}], keep_columns="year")
    assert [(item.concept, item.columns["year"]) for item in corpus.items()] == [(None, None), ("c", 3)]


def test_items_in_memory_have_the_limits_of_every_corpus():
    many = Corpus.from_items([Item("1", "a", "en", columns={f"c{number}": 1 for number in range(300)})])
    with pytest.raises(CorpusError, match="items has 300 columns of its own, and 256 are the most"):
        many.schema  # noqa: B018
    long = [Item("1", "a", "en", columns={"html": "x" * 9000}), Item("2", "b", "en", columns={"html": "y"})]
    with pytest.raises(CorpusError, match=r"item 1, column 'html': the kept columns of the row have 9,000 bytes"):
        list(Corpus.from_items(long).batches())
    assert [item.id for item in read_memory(long, on_error="skip").items()] == ["2"]


def test_items_in_memory_are_limited_and_skipped_as_rows_are_and_take_no_names_of_columns():
    items = [Item("1", "a", "en"), Item("2", "", "en"), Item("3", "c", "en")]
    assert [item.id for item in read_memory(items, limit=1).items()] == ["1"]
    corpus = read_memory(items, on_error="skip")
    assert [item.id for item in corpus.items()] == ["1", "3"]
    assert corpus.skipped.count == 1
    with pytest.raises(CorpusError, match="are items already, not rows; leave out: language_tag"):
        read_memory(items, language_tag="de")


def test_numbers_that_no_column_can_hold_are_refused_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "text": "a", "language": "en", "n": ' + "9" * 400 + "}\n")
    with pytest.raises(CorpusError, match=r"line 1, column 'n': is 9+\.\.\., and the column is kept as float64"):
        list(open_corpus(path, keep_columns="n:float64").batches())
    items = [Item("1", "a", "en", columns={"n": 2**60}), Item("2", "b", "en", columns={"n": 0.5}), Item("3", "c", "en")]
    assert values(Corpus.from_items(items), "n") == [2.0**60, 0.5, None]
    assert values(Corpus.from_items([*items, Item("4", "d", "en", columns={})]), "n") == [2.0**60, 0.5, None, None]
    path.write_text('{"id": "1", "text": "a", "language": "en", "n": 99999999999999999}\n')
    with pytest.raises(CorpusError, match="column 'n': is 99999999999999999, and the column is kept as timestamp"):
        list(open_corpus(path, keep_columns="n:timestamp[s]").batches())


@pytest.mark.parametrize("nan", ["nan", "NaN"])
def test_a_nan_in_a_table_of_texts_is_a_number_that_is_none(tmp_path, nan):
    path = tmp_path / "a.csv"
    path.write_text(f"id,text,language,v\n1,a,en,1.5\n2,b,en,{nan}\n")
    corpus = open_corpus(path, keep_columns="v")
    assert corpus.columns == {"v": pa.float64()}
    assert str(values(corpus, "v")) == "[1.5, nan]"


def test_every_file_of_texts_is_checked_for_its_columns_whatever_its_folder(tmp_path):
    for folder, head in (("a", "id,text,language,year"), ("b", "id,text,language,yaer")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "y.csv").write_text(f"{head}\n{folder},t,en,2000\n")
    corpus = open_corpus([tmp_path / "a" / "y.csv", tmp_path / "b" / "y.csv"], keep_columns="year")
    with pytest.raises(CorpusError, match="there is no column 'year'"):
        list(corpus.batches())


@pytest.mark.parametrize("absent", [{}, {"year": None}])
def test_a_column_that_has_its_first_value_late_is_said_to_be_left_out(tmp_path, monkeypatch, absent):
    monkeypatch.setattr(kept_module, "SAMPLE_ROWS", 2)
    bare = {"text": "a", "language": "en"}
    rows = [{"id": str(i), **bare, **(absent if i < 3 else {"year": i})} for i in range(5)]
    name = write(tmp_path, "a.jsonl", rows)
    with pytest.warns(CorpusWarning, match="line 4, column 'year': the column has no value in the first rows"):
        list(open_corpus(name, keep_columns="all").batches())
    assert values(open_corpus(name, keep_columns="all,year:int64"), "year") == [None, None, None, 3, 4]
