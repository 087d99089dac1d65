import bz2
import csv
import gzip
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.corpus import read_csv, read_jsonl, read_parquet, same_source
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def delimited(path, rows, **dialect):
    dialect.setdefault("delimiter", "\t" if path.suffix == ".tsv" else ",")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **dialect)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


FORMATS = {
    "jsonl": (read_jsonl, lambda folder, rows: jsonl(folder / "x.jsonl", rows)),
    "csv": (read_csv, lambda folder, rows: delimited(folder / "x.csv", rows)),
    "tsv": (read_csv, lambda folder, rows: delimited(folder / "x.tsv", rows)),
    "parquet": (read_parquet, lambda folder, rows: parquet(folder / "x.parquet", rows)),
}


@pytest.fixture(params=FORMATS)
def table(request, tmp_path):
    """A function that writes rows in one of the formats and opens the file with the format's reader."""
    read, write = FORMATS[request.param]
    return lambda rows, **options: read(write(tmp_path, rows), **options)


def test_a_long_table_gives_its_items_again_and_again(table, rows):
    corpus = table(rows)
    assert contents(corpus) == rows
    assert contents(corpus) == rows


def test_columns_may_have_other_names_and_one_language_no_column(table, rows):
    english = [row for row in rows if row["language"] == "en"]
    named = [{"key": row["id"], "body": row["text"], "sense": row["concept"]} for row in english]
    assert contents(table(named, text="body", id="key", concept="sense", language_tag="en")) == english


def test_a_wide_table_gives_a_concept_for_each_row_and_an_item_for_each_language(table, wide_rows):
    flat = [row["translation"] for row in wide_rows]
    items = contents(table(flat, text={"en": "en", "zh": "zh-Hans"}))
    assert [(item["id"], item["concept"], item["language"]) for item in items[:3]] == [
        ("1/en", "1", "en"),
        ("1/zh", "1", "zh"),
        ("2/en", "2", "en"),
    ]
    assert [item["text"] for item in items] == [text for row in flat for text in row.values()]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_dotted_path_reaches_nested_columns(form, tmp_path, wide_rows):
    read, write = FORMATS[form]
    path = write(tmp_path, wide_rows)
    items = contents(read(path, text={"en": "translation.en", "zh-Hans": "translation.zh-Hans"}))
    assert [item["text"] for item in items] == [text for row in wide_rows for text in row["translation"].values()]
    items = contents(read(path, text="translation.en", language_tag="en"))
    assert [item["text"] for item in items] == [row["translation"]["en"] for row in wide_rows]


def test_in_a_wide_table_the_concept_or_else_the_id_names_the_row(table):
    rows = [{"id": 7, "group": "g", "a": "one", "b": "un"}, {"id": 8, "group": "g", "a": "1", "b": "1"}]
    text = {"en": "a", "fr": "b"}
    assert [item["id"] for item in contents(table(rows, text=text))] == ["7/en", "7/fr", "8/en", "8/fr"]
    items = contents(table(rows, text=text, concept="group"))
    assert [item["id"] for item in items] == ["g/en", "g/fr", "g/en/2", "g/fr/2"]
    assert {item["concept"] for item in items} == {"g"}


def test_ids_made_of_concepts_are_unique_and_stable(table):
    rows = [{"concept": f"c{i % 3}", "language": "en" if i % 2 else "fr", "text": f"t{i}"} for i in range(30)]
    ids = [item["id"] for item in contents(table(rows))]
    assert ids[:6] == ["c0/fr", "c1/en", "c2/fr", "c0/en", "c1/fr", "c2/en"]
    assert ids[6] == "c0/fr/7"
    assert len(set(ids)) == len(ids)
    assert [item["id"] for item in contents(table(rows[:20]))] == ids[:20]


def test_ids_without_concepts_are_row_numbers(table, rows):
    texts = [{"text": row["text"], "language": row["language"]} for row in rows]
    items = contents(table(texts))
    assert [item["id"] for item in items] == [str(number) for number in range(1, len(rows) + 1)]
    assert {item["concept"] for item in items} == {None}
    assert contents(table(rows, id=None, concept=None))[4]["id"] == "5"


def test_numeric_ids_and_concepts_become_strings_and_an_empty_concept_none(table):
    rows = [
        {"id": 10, "concept": 3, "language": "en", "text": "a"},
        {"id": 11, "concept": None, "language": "en", "text": "b"},
    ]
    assert [(item["id"], item["concept"]) for item in contents(table(rows))] == [("10", "3"), ("11", None)]


@pytest.mark.parametrize("text", ["NA", "None", "null", "NaN", "2020-01-01", "007", "1e5", "true", " padded ", '"'])
def test_a_text_that_looks_like_another_type_is_kept_as_it_stands(table, text):
    rows = [{"id": str(number), "language": "en", "text": text} for number in range(3)]
    assert {item["text"] for item in contents(table(rows))} == {text}


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\n", "\r\n", "\t", ","])
def test_a_separator_inside_a_text_separates_nothing(table, separator):
    rows = [{"id": name, "language": "en", "text": f"a{separator}b"} for name in "xyz"]
    items = contents(table(rows))
    assert [item["id"] for item in items] == list("xyz")
    assert {item["text"] for item in items} == {f"a{separator}b"}


def test_limit_reads_the_first_rows(table, rows):
    assert contents(table(rows, limit=9)) == rows[:9]
    assert contents(table(rows, limit=10_000)) == rows


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("text", "", "is empty"),
        ("text", " \u2003", "holds white space only"),
        ("language", "Englisch", "is 'Englisch', which is not a BCP 47 language tag"),
        ("language", "en_US", "write en-US"),
        ("id", "", "is empty"),
    ],
)
def test_a_bad_value_is_named_by_file_row_and_column(table, rows, column, value, problem):
    rows = rows[:8]
    rows[4][column] = value
    with pytest.raises(CorpusError) as error:
        contents(table(rows))
    assert f" 5, column '{column}': " in str(error.value)
    assert str(error.value).startswith("x.")
    assert problem in str(error.value)
    assert "on_error='skip'" in str(error.value)


@pytest.mark.parametrize("column", ["text", "language", "id"])
def test_null_is_named_by_row_and_column(column, tmp_path, rows):
    rows[2][column] = None
    for form, place in (("jsonl", r"x\.jsonl, line 3"), ("parquet", r"x\.parquet, row 3")):
        read, write = FORMATS[form]
        with pytest.raises(CorpusError, match=f"^{place}, column '{column}': is null"):
            contents(read(write(tmp_path, rows)))


def test_a_number_for_a_text_is_refused_where_the_format_tells_them_apart(tmp_path):
    rows = [{"language": "en", "text": 5}]
    for form in ("jsonl", "parquet"):
        read, write = FORMATS[form]
        with pytest.raises(CorpusError, match=r" 1, column 'text': is 5, a int and not a string"):
            contents(read(write(tmp_path, rows)))


def test_skipped_rows_are_counted_and_the_others_keep_their_ids(table, rows):
    texts = [{"language": "en", "text": row["text"]} for row in rows[:6]]
    texts[1]["text"] = " "
    texts[4]["language"] = "?"
    corpus = table(texts, on_error="skip")
    assert [item["id"] for item in contents(corpus)] == ["1", "3", "4", "6"]
    assert corpus.skipped.count == 2
    assert [message.split(": ")[1][:8] for message in corpus.skipped.messages] == ["holds wh", "is '?', "]


def test_a_missing_cell_of_a_wide_table_can_be_skipped_alone(table):
    rows = [{"a": "one", "b": "un"}, {"a": "two", "b": ""}, {"a": "three", "b": "trois"}]
    corpus = table(rows, text={"en": "a", "fr": "b"}, on_error="skip")
    assert [item["id"] for item in contents(corpus)] == ["1/en", "1/fr", "2/en", "3/en", "3/fr"]
    assert corpus.skipped.count == 1


@pytest.mark.parametrize(
    ("options", "option", "column"),
    [
        ({"text": "sentence"}, "text", "sentence"),
        ({"id": "key"}, "id", "key"),
        ({"concept": "sense"}, "concept", "sense"),
        ({"language": "lang"}, "language", "lang"),
        ({"image": "image"}, "image", "image"),
        ({"audio": "audio"}, "audio", "audio"),
        ({"text": {"en": "english"}}, "text", "english"),
    ],
)
def test_a_column_that_is_not_there_is_answered_with_those_that_are(table, rows, options, option, column):
    with pytest.raises(CorpusError) as error:
        contents(table(rows, **options))
    assert f"there is no column '{column}'; the columns are id, concept, language, modality, text;" in str(error.value)
    assert f"name another with {option}=" in str(error.value)


def test_a_path_into_a_column_that_is_not_nested_is_refused(table, rows):
    with pytest.raises(CorpusError, match=r"there is no column 'text\.en'; the columns are id, .*text; name another"):
        contents(table(rows, text="text.en"))


def test_a_missing_language_column_offers_the_tag(table):
    with pytest.raises(CorpusError, match=r"no column 'language'; the columns are text; .*language_tag"):
        contents(table([{"text": "hello"}]))


def test_options_that_contradict_each_other_are_refused(table, rows):
    with pytest.raises(CorpusError, match="not both"):
        table(rows, language="language", language_tag="en")
    with pytest.raises(CorpusError, match="text names the languages already"):
        table(rows, text={"en": "text"}, language_tag="en")
    with pytest.raises(CorpusError, match="'english', which is not a BCP 47"):
        table(rows, text={"english": "text"})
    with pytest.raises(CorpusError, match="empty mapping"):
        table(rows, text={})
    with pytest.raises(CorpusError, match="limit is -1"):
        table(rows, limit=-1)


def test_several_files_are_read_one_after_the_other(tmp_path, rows):
    halves = [jsonl(tmp_path / "1.jsonl", rows[:30]), jsonl(tmp_path / "2.jsonl", rows[30:])]
    corpus = read_jsonl(halves)
    assert contents(corpus) == rows
    assert corpus.name == "1.jsonl and 1 more"
    texts = [jsonl(path, [{"language": "en", "text": "x"}] * 2) for path in halves]
    assert [item["id"] for item in contents(read_jsonl(texts))] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_compressed_tables_read_as_plain_ones(tmp_path, rows, suffix, module):
    for read, path in (
        (read_jsonl, jsonl(tmp_path / "x.jsonl", rows)),
        (read_csv, delimited(tmp_path / "x.tsv", rows)),
    ):
        packed = tmp_path / (path.name + suffix)
        packed.write_bytes(module.compress(path.read_bytes()))
        assert contents(read(packed)) == rows


@pytest.mark.parametrize("folder", ["[a]*?", ".hidden", "__pycache__", "with space", "日本"])
def test_any_path_is_a_path_and_no_pattern(tmp_path, rows, folder):
    (tmp_path / folder).mkdir()
    for read, write in FORMATS.values():
        assert contents(read(write(tmp_path / folder, rows))) == rows


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_compressed_table_that_is_cut_off_is_refused_whatever_may_be_skipped(tmp_path, rows, on_error):
    for read, path in (
        (read_jsonl, jsonl(tmp_path / "x.jsonl", rows)),
        (read_csv, delimited(tmp_path / "x.tsv", rows)),
    ):
        packed = tmp_path / (path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
        for options in ({}, {"quotes": False}) if read is read_csv else ({},):
            with pytest.raises(
                CorpusError, match=r"\.gz, after line \d+: cannot be read: .*check that the file is whole"
            ):
                contents(read(packed, on_error=on_error, **options))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, rows):
    for read, path in (
        (read_jsonl, jsonl(tmp_path / "x.jsonl", rows)),
        (read_csv, delimited(tmp_path / "x.csv", rows)),
    ):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert contents(read(path)) == rows


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path, rows):
    for read, path in (
        (read_jsonl, jsonl(tmp_path / "x.jsonl", rows)),
        (read_csv, delimited(tmp_path / "x.csv", rows)),
    ):
        lines = path.read_bytes().split(b"\n")
        lines[11] = b"caf\xe9"
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(CorpusError, match=rf"{path.name}, line 12: byte 4 of the line, 0xe9, is not UTF-8"):
            contents(read(path))


def test_a_bad_json_line_is_named_blank_lines_counted(tmp_path, rows):
    path = jsonl(tmp_path / "x.jsonl", rows[:3])
    path.write_text(path.read_text() + '\n  \n{"id": "a", "text": "b"\n')
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 6: not valid JSON: Expecting ',' .* at character 24"):
        contents(read_jsonl(path))
    corpus = read_jsonl(path, on_error="skip")
    assert contents(corpus) == rows[:3]
    assert corpus.skipped.count == 1


def test_json_that_is_no_object_or_one_array_is_explained(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "language": "en"}\n["b"]\n')
    with pytest.raises(CorpusError, match="line 2: holds a JSON list, and no object"):
        contents(read_jsonl(path))
    path.write_text('[\n  {"text": "a", "language": "en"}\n]\n')
    with pytest.raises(
        CorpusError, match=r"line 1: not valid JSON: .* one JSON array: name it .json, or write an object on each line"
    ):
        contents(read_jsonl(path))


def test_a_surrogate_half_in_json_is_refused_with_its_place(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "ab\\ud83d", "language": "en"}\n')
    with pytest.raises(CorpusError, match=r"line 1, column 'text': has half of a surrogate pair at character 3"):
        contents(read_jsonl(path))


def test_a_column_missing_from_a_later_json_line_is_named(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a", "language": "en"}, {"txt": "b", "language": "en"}])
    with pytest.raises(CorpusError, match=r"line 2: there is no column 'text'; the columns are txt, language"):
        contents(read_jsonl(path))


def test_json_lines_of_differing_types_and_keys_are_read_each_for_itself(tmp_path):
    rows = [
        {"id": 1, "text": "2020-01-01", "language": "en", "extra": {"a": [1]}},
        {"id": "b", "text": "x", "language": "en", "extra": "other", "concept": 5},
        {"id": 3.0, "text": "y", "language": "en"},
    ]
    items = contents(read_jsonl(jsonl(tmp_path / "x.jsonl", rows)))
    assert [(item["id"], item["concept"]) for item in items] == [("1", None), ("b", "5"), ("3", None)]


def test_rows_of_more_fields_than_the_header_are_refused_not_shifted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,language,text\na,en,one,two\nb,en,three,four\n")
    with pytest.raises(CorpusError, match=r"x\.csv, row 1: 4 fields, but the header has 3; quote fields"):
        contents(read_csv(path))
    path.write_text("id,language,text\na,en,one\nb,en,three,four\nc,en,five\n")
    with pytest.raises(CorpusError, match=r"x\.csv, row 2: 4 fields, but the header has 3; quote fields"):
        contents(read_csv(path))
    corpus = read_csv(path, on_error="skip")
    assert [item["id"] for item in contents(corpus)] == ["a", "c"]
    assert (corpus.skipped.rows, corpus.skipped.count) == (3, 1)


def test_rows_of_fewer_fields_than_the_header_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,language,text\na,en,one\n\nb,en\n")
    for quotes in (None, False):
        with pytest.raises(CorpusError, match=r"x\.csv, row 2: 2 fields, but the header has 3; "):
            contents(read_csv(path, quotes=quotes))


def test_quotation_marks_can_be_plain_characters(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('language\ttext\nen\tsaid "he"\nen\t"Stop\n')
    with pytest.raises(
        CorpusError, match=r"x\.tsv, row 2: a quotation mark opens a field in line 3 .* with quotes=False"
    ):
        contents(read_csv(path))
    assert [item["text"] for item in contents(read_csv(path, quotes=False))] == ['said "he"', '"Stop']


def test_another_delimiter_can_be_given(tmp_path, rows):
    assert contents(read_csv(delimited(tmp_path / "x.txt", rows, delimiter=";"), delimiter=";")) == rows


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,language,text\na,en,b\n")
    with pytest.raises(CorpusError, match="has the column 'text' twice"):
        contents(read_csv(path))


def test_columns_without_a_name_do_no_harm(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",language,text,\n0,en,a,\nx,en,b,1\n")
    assert [item["text"] for item in contents(read_csv(path))] == ["a", "b"]


def test_empty_tables_are_refused(tmp_path):
    empty = tmp_path / "x.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(CorpusError, match=r"x\.jsonl: the corpus is empty"):
        contents(read_jsonl(empty))
    empty = tmp_path / "x.csv"
    empty.write_text("")
    with pytest.raises(CorpusError, match=r"x\.csv: the file is empty"):
        contents(read_csv(empty))
    empty.write_text("text,language\n")
    with pytest.raises(CorpusError, match=r"x\.csv: the corpus is empty"):
        contents(read_csv(empty))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"x\.parquet: the corpus is empty"):
        contents(read_parquet(tmp_path / "x.parquet"))


def test_a_file_of_another_format_is_refused(tmp_path, rows):
    path = jsonl(tmp_path / "x.parquet", rows)
    with pytest.raises(CorpusError, match=r"x\.parquet: cannot be read as parquet, after row 0: "):
        contents(read_parquet(path))


def test_parquet_reads_only_the_columns_it_needs(tmp_path, rows):
    path = parquet(tmp_path / "x.parquet", [row | {"pixels": os.urandom(100)} for row in rows])
    data = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):  # a reader of the pixels would fail
        chunk = metadata.row_group(group).column(5)
        assert chunk.path_in_schema == "pixels"
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    with pytest.raises(OSError, match="Couldn't deserialize thrift"):
        pq.read_table(path, columns=["pixels"])
    assert contents(read_parquet(path)) == rows


def test_damaged_parquet_is_named_with_the_last_good_row(tmp_path, rows):
    path = parquet(tmp_path / "x.parquet", rows)
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(3).column(0)
    start = chunk.dictionary_page_offset
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"x\.parquet: cannot be read as parquet, after row 0: "):
        contents(read_parquet(path))


def test_parquet_dictionary_and_large_strings_are_strings(tmp_path):
    columns = {
        "text": pa.array(["a", "b"], pa.large_string()),
        "language": pa.array(["en", "en"]).dictionary_encode(),
        "concept": pa.array([1.0, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    items = contents(read_parquet(tmp_path / "x.parquet"))
    assert [(item["text"], item["language"], item["concept"]) for item in items] == [
        ("a", "en", "1"),
        ("b", "en", None),
    ]


def test_the_source_follows_the_file_the_columns_and_the_limit(table, rows):
    source = table(rows).source
    assert json.loads(json.dumps(source)) == source
    assert source != table(rows, limit=3).source
    assert source != table(rows, concept=None).source
    assert source != table(rows[:-1]).source


def test_the_source_is_of_the_content_of_a_file_and_not_of_its_time_or_folder(tmp_path, rows):
    path = jsonl(tmp_path / "x.jsonl", rows)
    source = read_jsonl(path).source
    (tmp_path / "other").mkdir()
    moved = path.rename(tmp_path / "other" / "x.jsonl")
    os.utime(moved, ns=(1, 1))
    assert read_jsonl(moved).source == source
    moved.write_bytes(moved.read_bytes().replace(b"en", b"fr", 1))
    assert not same_source(read_jsonl(moved).source, source)


def test_a_corpus_is_opened_without_reading_its_files(tmp_path, rows, monkeypatch):
    path = jsonl(tmp_path / "x.jsonl", rows)
    monkeypatch.setattr(type(path), "open", lambda *_: pytest.fail("a file was opened"))
    assert read_jsonl(path).name == "x.jsonl"
