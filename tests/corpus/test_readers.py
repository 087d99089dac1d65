"""One reader a format: what it must not change or swallow, and that a later start gives the same items."""

import csv
import json
import random
import re
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.corpus import Corpus, open_corpus, read_csv, read_dataset, read_jsonl, read_parallel, read_parquet
from hubstore.corpus.columns import Columns
from hubstore.corpus.corpus import Refuse, Skipped
from hubstore.corpus.readers import Dialect, open_table
from hubstore.corpus.readers.parquet import ParquetTable
from hubstore.corpus.rows import items_of
from hubstore.errors import CorpusError, CorpusWarning
from tests.corpus.conftest import contents
from tests.corpus.test_tables import delimited, jsonl, parquet

STRAY = """id\ttext
1\t"It is late," she said.
2\tsecond
3\tsays "so"
4\t"left open
5\tfifth
6\ta "quoted" word
7\tlast
"""


def texts(corpus):
    return [(item["id"], item["text"]) for item in contents(corpus)]


# -- quotation marks


def test_stray_quotation_marks_are_named_and_join_no_rows(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text(STRAY)
    with pytest.raises(CorpusError, match=r"x\.tsv, row 1: .* line 2, and text follows .* with quotes=False"):
        contents(read_csv(path, language_tag="en"))
    corpus = read_csv(path, language_tag="en", on_error="skip")
    assert texts(corpus) == [
        ("2", "second"),
        ("3", 'says "so"'),
        ("5", "fifth"),
        ("6", 'a "quoted" word'),
        ("7", "last"),
    ]
    assert [message.split(":")[0] for message in corpus.skipped.messages] == ["x.tsv, row 1", "x.tsv, row 4"]
    assert corpus.skipped.rows == 7
    plain = texts(read_csv(path, quotes=False, language_tag="en"))
    assert [name for name, _ in plain] == list("1234567")
    assert plain[3] == ("4", '"left open')


@pytest.mark.parametrize("rest", ["", "\n3\tb", "\n3\tb\n4\tc\n5\td"])
def test_a_mark_that_is_never_closed_takes_no_other_row_with_it(tmp_path, rest):
    path = tmp_path / "x.tsv"
    path.write_text(f'id\ttext\n1\ta\n2\t"left open{rest}\n')
    with pytest.raises(CorpusError, match=r"x\.tsv, row 2: a quotation mark opens a field in line 3 that no other"):
        contents(read_csv(path, language_tag="en"))
    corpus = read_csv(path, language_tag="en", on_error="skip")
    assert [name for name, _ in texts(corpus)] == ["1", *(row[0] for row in rest.split("\n")[1:])]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_two_stray_marks_that_look_like_one_field_join_no_rows(tmp_path, delimiter):
    lines = ["id,text", "1,a", '2,"Stop', "3,b", '4,he said "go"', '5,c"', "6,d"]
    lines.remove('4,he said "go"')
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines).replace(",", delimiter) + "\n")
    with pytest.raises(
        CorpusError, match=r"row 2: a quotation mark opens a field in line 3 that ends in line 5.*with quotes=True"
    ):
        contents(read_csv(path, delimiter=delimiter, language_tag="en"))
    corpus = read_csv(path, delimiter=delimiter, language_tag="en", on_error="skip")
    assert [name for name, _ in texts(corpus)] == ["1", "3", "5", "6"]
    joined = texts(read_csv(path, delimiter=delimiter, quotes=True, language_tag="en"))
    assert joined[1] == ("2", f"Stop\n3{delimiter}b\n5{delimiter}c")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text", ['a ""word""', "two\nlines", "Hello, world\nand, more", "\n", 'it said "a,b"\n\n"c"', "x" * 300_000]
)
def test_proper_quotes_hold_anything(tmp_path, text, end):
    path = tmp_path / "x.csv"
    rows = [{"id": name, "text": f"{name}{text}", "language": "en"} for name in "abc"]
    delimited(path, rows, lineterminator=end)
    assert texts(read_csv(path)) == [(row["id"], row["text"]) for row in rows]


def test_a_carriage_return_in_a_bare_field_is_refused_and_none_ends_a_row(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"id\ttext\n1\ta\rb\n2\tc\n")
    with pytest.raises(CorpusError, match=r"x\.tsv, row 1: a carriage return stands in a field of line 2"):
        contents(read_csv(path, language_tag="en"))
    assert texts(read_csv(path, quotes=False, language_tag="en")) == [("1", "a\rb"), ("2", "c")]


def test_a_field_with_a_nul_is_read_as_it_stands(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,text\n1,a\x00b\n2,c\n")
    assert texts(read_csv(path, language_tag="en")) == [("1", "a\x00b"), ("2", "c")]


# -- delimiters


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ";"), ("x.csv", "\t"), ("x.csv", "|"), ("x.tsv", ",")])
def test_another_delimiter_than_the_suffix_says_is_recognized_and_named(tmp_path, name, delimiter):
    path = tmp_path / name
    path.write_text(f"id{delimiter}text\n1{delimiter}Guten Tag\n")
    with pytest.raises(CorpusError, match=rf"{name}: the header is one column, .* with delimiter="):
        contents(open_corpus(path, language_tag="de"))
    assert texts(open_corpus(path, delimiter=delimiter, language_tag="de")) == [("1", "Guten Tag")]


def test_a_tab_may_be_written_as_on_a_command_line_and_a_delimiter_is_one_character(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id\ttext\n1\ta\n")
    for written in ("\t", "\\t", "tab"):
        assert texts(read_csv(path, delimiter=written, language_tag="en")) == [("1", "a")]
    for bad in ("", ";;", '"', "\n"):
        with pytest.raises(CorpusError, match=r"the delimiter is .* give one character"):
            read_csv(path, delimiter=bad)


def test_delimiters_and_quotes_are_refused_where_there_are_none(tmp_path, rows):
    with pytest.raises(CorpusError, match="leave delimiter= and quotes= out"):
        open_corpus(jsonl(tmp_path / "x.jsonl", rows), delimiter=";")
    with pytest.raises(CorpusError, match="is a sample, which has no quotes="):
        open_corpus("sample:ntrex", quotes=False)


# -- values and schemas


def test_every_value_of_delimited_rows_is_a_string_in_a_folder_too(tmp_path):
    values = ["001", "1e5", "NA", "null", "True", "1984", "2020-01-01", "-0.0", "nan", "1_000"]
    path = delimited(tmp_path / "x.csv", [{"id": value, "text": value} for value in values])
    for where in (path, tmp_path):
        assert texts(open_corpus(where, language_tag="en")) == [(value, value) for value in values]


@pytest.mark.parametrize("write", [jsonl, delimited, parquet])
@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "csv", "tsv", "tab", "parquet", "pq"])
def test_a_folder_reads_as_its_file(tmp_path, rows, write, suffix):
    if (write is jsonl) != (suffix in ("jsonl", "ndjson")) or (write is parquet) != (suffix in ("parquet", "pq")):
        return
    write(tmp_path / f"x.{suffix}", rows, **({"delimiter": "\t"} if suffix == "tab" else {}))
    assert contents(open_corpus(tmp_path)) == contents(open_corpus(tmp_path / f"x.{suffix}")) == rows


def test_tables_of_a_folder_may_differ_in_columns_order_and_format(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    (tmp_path / "b.csv").write_text("more,text,id\nz,y,2\n")
    (tmp_path / "c.jsonl").write_text('{"text": "w", "id": "3", "concept": "c"}\n')
    pq.write_table(pa.table({"id": ["4"], "text": ["v"], "concept": pa.nulls(1)}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"id": pa.nulls(0), "text": pa.nulls(0)}), tmp_path / "e.parquet")
    pq.write_table(pa.table({}), tmp_path / "f.parquet")
    pq.write_table(pa.table({"id": [5], "text": ["u"], "more": [{"a": 1}]}), tmp_path / "g.parquet")
    assert texts(open_corpus(tmp_path, language_tag="en")) == [
        ("1", "x"),
        ("2", "y"),
        ("3", "w"),
        ("4", "v"),
        ("5", "u"),
    ]


def test_a_table_of_a_folder_without_a_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    (tmp_path / "b.csv").write_text("id,body\n2,y\n")
    with pytest.raises(CorpusError, match=r"^b\.csv, row 1: there is no column 'text'; the columns are id, body"):
        contents(open_corpus(tmp_path, language_tag="en"))


def test_a_column_that_a_parquet_file_has_twice_is_named(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"^[^:]*x\.parquet: has the column 'text' twice"):
        contents(read_parquet(tmp_path / "x.parquet", language_tag="en"))


def test_json_that_is_nested_too_deeply_is_an_error_of_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    deep = "[" * 100_000 + "]" * 100_000
    path.write_text(
        f'{{"id": "1", "text": "a"}}\n{{"id": "2", "text": "b", "meta": {deep}}}\n{{"id": "3", "text": "c"}}\n'
    )
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 2: the JSON is nested in more than 200 levels"):
        contents(read_jsonl(path, language_tag="en"))
    corpus = read_jsonl(path, language_tag="en", on_error="skip")
    assert texts(corpus) == [("1", "a"), ("3", "c")]
    assert (corpus.skipped.rows, corpus.skipped.count) == (3, 1)


@pytest.mark.parametrize("levels", [300, 960, 990, 3000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"]}": ', "}")])
def test_a_row_that_is_nested_deeply_is_left_out_however_deeply_and_wherever(tmp_path, levels, opening, closing):
    deep = opening * levels + "0" + closing * levels
    rows = ['{"id": "1", "text": "a"}', f'{{"id": "2", "text": {deep}, "m": {deep}}}', '{"id": "3", "text": "c"}']
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    (tmp_path / "x.json").write_text("[" + ",\n".join(rows) + "]")
    for name in ("x.jsonl", "x.json"):
        corpus = open_corpus(tmp_path / name, language_tag="en", on_error="skip")
        assert texts(corpus) == [("1", "a"), ("3", "c")]
        assert corpus.skipped.count == 1


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("where", ["x.json", "."])
def test_a_json_file_that_is_one_array_is_read_element_by_element(tmp_path, rows, indent, where):
    rows = [row | {"text": row["text"] + "\n]," * 600} for row in rows]
    (tmp_path / "x.json").write_text("\n " + json.dumps(rows, indent=indent), encoding="utf-8")
    assert contents(open_corpus(tmp_path / where)) == rows


def test_what_is_wrong_in_a_json_array_is_named_by_its_element(tmp_path):
    path = tmp_path / "x.json"
    for text, problem in (
        ('[{"text": "a"}, 5, {"text": "b"}]', "element 2: holds a JSON int, and no object"),
        ('[{"text": "a"},\n{"text": ', "element 2: not valid JSON: .* check that the file is whole"),
        ('[{"text": "a"}\n', "element 2: not valid JSON"),
        (
            '[{"text": "a"}, {"text": ' + "[" * 100_000 + "]" * 100_000 + "}]",
            "element 2: the JSON is nested in more than 200 levels",
        ),
    ):
        path.write_text(text)
        with pytest.raises(CorpusError, match=rf"^x\.json, {problem}"):
            contents(open_corpus(path, language_tag="en"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.tsv.gz", "x.parquet", "x.tar", "x.txt"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CorpusError, match=rf"{name}: is a pointer of Git LFS, .* `git lfs pull`"):
        contents(read_parallel({"en": path}) if name == "x.txt" else open_corpus(path, language_tag="en"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.tsv", "plain.csv", "x.txt"])
def test_a_line_that_is_not_utf8_is_left_out_alone(tmp_path, name):
    path = tmp_path / name
    lines = [b"id,text", b"1,one", b'2,"caf\xe9"', b"3,three", b'4,"four', b"and \xff", b'half"', b"5,five"]
    if name == "x.jsonl":
        lines = [b'{"id": "1", "text": "one"}', b'{"id": "2", "text": "caf\xe9"}', b'{"id": "3", "text": "three"}']
    path.write_bytes(b"\n".join(lines).replace(b",", b"\t" if name == "x.tsv" else b",") + b"\n")
    options = {"quotes": False} if name == "plain.csv" else {}

    def read(on_error):
        if name == "x.txt":
            return read_parallel({"en": path}, on_error=on_error)
        return open_corpus(path, language_tag="en", on_error=on_error, **options)

    with pytest.raises(CorpusError, match=rf"{name}, line \d: byte \d+ of the line, 0xe9, is not UTF-8"):
        contents(read("stop"))
    corpus = read("skip")
    names = [item["id"] for item in contents(corpus)]
    expected = {"x.jsonl": ["1", "3"], "x.txt": [f"en:{n}" for n in (1, 2, 4, 5, 7, 8)], "plain.csv": list("1345")}
    assert names == expected.get(name, list("135"))
    assert sum("is not UTF-8" in message for message in corpus.skipped.messages) == (1 if name == "x.jsonl" else 2)


# -- several files, splits


def test_several_files_of_any_format_are_one_corpus(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "b.csv").write_text("text\ny\nz\n")
    corpus = open_corpus([tmp_path / "a.jsonl", tmp_path / "b.csv"], language_tag="en")
    assert texts(corpus) == [("1", "x"), ("2", "y"), ("3", "z")]
    assert corpus.name == "a.jsonl and 1 more"
    assert corpus.skipped.rows == 3
    with pytest.raises(CorpusError, match=r"c\.txt: there is no such file"):
        open_corpus([tmp_path / "a.jsonl", tmp_path / "c.txt"])
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"x\.tar: .* give tables or tar archives, not both"):
        open_corpus([tmp_path / "a.jsonl", tmp_path / "x.tar"])


def test_a_split_is_a_word_in_the_names_of_files_or_folders(tmp_path):
    for name in ("train.csv", "sets/test/a.csv", "sets/test/b.csv", "data-00000-of-00001.dev.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text\n{name}\n")
    read = {
        split: texts(open_corpus(tmp_path, split=split, language_tag="en")) for split in ("train", "validation", "test")
    }
    assert {split: [text for _, text in items] for split, items in read.items()} == {
        "train": ["train.csv"],
        "validation": ["data-00000-of-00001.dev.csv"],
        "test": ["sets/test/a.csv", "sets/test/b.csv"],
    }
    with pytest.raises(CorpusError, match=r"several splits; choose one of validation, train, test$"):
        open_corpus(tmp_path, language_tag="en")
    (tmp_path / "extra.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(CorpusError, match=r"several splits; .*; extra\.jsonl is in none of them"):
        open_corpus(tmp_path, language_tag="en")


def test_configurations_of_a_readme_are_chosen(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files: en.csv\n- config_name: de\n  data_files: de.csv\n---\n"
    )
    for tag in ("en", "de"):
        (tmp_path / f"{tag}.csv").write_text(f"id,text\n007,{tag}\n")
    with pytest.raises(CorpusError, match="has several configurations; choose one of en, de"):
        open_corpus(tmp_path, language_tag="en")
    with pytest.raises(CorpusError, match="has no configuration 'fr'; choose one of en, de"):
        open_corpus(tmp_path, config="fr", language_tag="en")
    assert texts(open_corpus(tmp_path, config="de", language_tag="de")) == [("007", "de")]


# -- a later start


def _mixed(folder):
    """JSON Lines some of which have ids, some first, some inside other values, and some made of concepts."""
    draw = random.Random(0)
    lines = []
    for number in range(200):
        row = {"text": f"t{number}", "language": draw.choice(["en", "fr"])}
        if draw.random() < 0.3:
            row["concept"] = f"c{draw.randrange(4)}"
        if draw.random() < 0.5:
            row = {"id": f"i{number}"} | row if draw.random() < 0.5 else row | {"id": f"i{number}"}
        elif draw.random() < 0.5:
            row["meta"] = {"id": "no"}
        lines.append(json.dumps(row, separators=(",", ":") if number % 2 else None) + "\n" * draw.choice([1, 1, 2]))
    path = folder / "mixed.jsonl"
    path.write_text("".join(lines))
    return path


def _long(number):
    return {"id": f"i{number}", "text": f"t{number}", "language": "en"}


def _wide(number):
    return {"en": f"e{number}", "fr": f"f{number}"}


WIDE = {"text": {"en": "en", "fr": "fr"}}
SEEKS = {
    "mixed": lambda folder: read_jsonl(_mixed(folder)),
    "jsonl": lambda folder: read_jsonl(
        [jsonl(folder / f"{part}.jsonl", [_long(part * 100 + n) for n in range(50 + part)]) for part in range(3)]
    ),
    "limited": lambda folder: read_jsonl(jsonl(folder / "x.jsonl", [_long(n) for n in range(90)]), limit=60),
    "made ids": lambda folder: read_jsonl(
        jsonl(folder / "x.jsonl", [_long(n) | {"concept": f"c{n % 3}"} for n in range(90)]), id=None
    ),
    "row numbers": lambda folder: read_jsonl(
        jsonl(folder / "x.jsonl", [_long(n) for n in range(90)]), id=None, concept=None
    ),
    "wide": lambda folder: read_jsonl(jsonl(folder / "x.jsonl", [_wide(n) for n in range(70)]), **WIDE),
    "wide, named": lambda folder: read_csv(
        delimited(folder / "x.csv", [_wide(n) | {"id": n % 9} for n in range(70)]), **WIDE
    ),
    "csv": lambda folder: read_csv(
        delimited(folder / "x.csv", [_long(n) | {"text": f"{n}\n{n}"} for n in range(90)], quoting=csv.QUOTE_ALL)
    ),
    "plain tsv": lambda folder: read_csv(delimited(folder / "x.tsv", [_long(n) for n in range(90)]), quotes=False),
    "wide parquet": lambda folder: read_parquet(
        [parquet(folder / f"{part}.parquet", [_wide(n) for n in range(40)]) for part in range(2)], **WIDE
    ),
    "parquet": lambda folder: read_parquet(parquet(folder / "x.parquet", [_long(n) for n in range(90)])),
    "parquet, made ids": lambda folder: read_parquet(
        parquet(folder / "x.parquet", [{"text": "t", "language": "en", "concept": f"c{n % 5}"} for n in range(90)])
    ),
    "lines": lambda folder: read_parallel({tag: _lines(folder, tag) for tag in ("en", "fr", "de")}),
}


def _lines(folder, tag):
    path = folder / f"{tag}.txt"
    path.write_text("".join(f"{tag} {number}\n" for number in range(40)))
    return path


@pytest.mark.parametrize("form", SEEKS)
def test_a_stream_that_seeks_gives_what_one_read_from_the_start_gives(tmp_path, form):
    corpus = SEEKS[form](tmp_path)
    assert corpus.seek is not None
    slow = Corpus(corpus.name, corpus.source, corpus.read)
    whole = list(slow.items())
    rows = slow.skipped.rows
    for start in {0, 1, 2, 7, 14, 50, 51, len(whole) - 1, len(whole)}:
        fast = [batch.to_pylist() for batch in corpus.batches(16, start)]
        assert fast == [batch.to_pylist() for batch in slow.batches(16, start)]
        assert sum(map(len, fast)) == max(len(whole) - start, 0)
        assert corpus.skipped.rows == rows


def test_lines_that_are_passed_over_are_not_parsed(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [_long(n) for n in range(9)])
    corpus = read_jsonl(path, id=None, concept=None)
    path.write_bytes(b"no JSON\n" * 6 + b'{"text": "seventh", "language": "en"}\n')
    assert [row for batch in corpus.batches(start=6) for row in batch["text"].to_pylist()] == ["seventh"]


def test_row_groups_that_are_passed_over_are_not_read(tmp_path):
    path = parquet(tmp_path / "x.parquet", [_long(n) for n in range(30)])
    corpus = read_parquet(path)
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 20] = bytes(20)
    path.write_bytes(data)
    assert [row for batch in corpus.batches(start=7) for row in batch["id"].to_pylist()] == [
        f"i{n}" for n in range(7, 30)
    ]
    with pytest.raises(CorpusError, match="cannot be read as parquet"):
        list(corpus.batches(start=6))


ODD = [
    {"id": 1, "text": "a", "language": "en"},
    {"id": " ", "text": "a", "language": "en"},
    {"id": "b", "text": "", "language": "en"},
    {"id": "c", "text": "a", "language": "e n"},
    {"id": "d", "text": "a", "language": "en", "concept": " "},
    {"id": "e", "text": "a", "language": "en", "concept": 7.0},
    {"id": "f", "text": "a", "language": "zh-Hans", "concept": "c"},
    {"id": "g", "text": "\ud83d", "language": "en"},
    {"id": "\ud83d", "text": "a", "language": "en"},
    {"text": "a", "language": "en", "concept": "c"},
    {"id": None, "text": "a", "language": "en"},
    {"id": "h", "text": 5, "language": "en"},
    {"id": "i", "text": "a", "language": "EN", "concept": "\ud83d"},
    {"id": "j", "text": "a"},
    {"id": "k", "text": ["a"], "language": "en", "concept": []},
    {"id": "l", "text": "ü", "language": "en", "concept": "ü"},
]


@pytest.mark.parametrize("options", [{}, {"language_tag": "en"}, {"concept": None}, {"id": None}, {"concept": "a.b"}])
def test_the_quick_way_from_a_row_to_an_item_agrees_with_the_long_one(tmp_path, options):
    path = jsonl(tmp_path / "x.jsonl", [{"id": "0", "text": "a", "language": "en", "a": {"b": "c"}}])
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in ODD)

    def outcome(quickly):
        refuse = Refuse(Skipped(), skip_errors=True)
        columns = Columns(**options)
        rows = open_table(path, None, columns, refuse, Dialect()).rows()
        return list(items_of(rows, columns, refuse, quickly=quickly)), refuse.skipped

    assert outcome(True) == outcome(False)
    assert len(outcome(True)[0]) > 3


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.tsv", 'id\ttext\tlanguage\n1\t"hello\ten\n2\tworld\ten\n\n3\tfoo"\ten\n', 3),  # a blank line between
        ("b.tsv", 'id\ttext\n1\t"hello\n2\t world\n3\tfoo"\n', 3),  # a text that begins with a space
        ("c.csv", 'text\n"hello\nworld\nfoo"\nbar\n', 3),  # one column
        ("d.csv", 'id,text\n1,"one\nno row\n2,two\n3,three"\n', 4),  # a short row between
    ],
)
def test_rows_between_two_stray_quotation_marks_are_never_one(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=f"line {line} would be a row by itself"):
        list(open_corpus(tmp_path / name, language_tag="en").items())


def test_a_text_of_two_lines_in_the_first_column_is_one_row(tmp_path):
    (tmp_path / "a.csv").write_text('text,id,language\n"hello\nworld",1,en\n')
    assert [item.text for item in open_corpus(tmp_path / "a.csv").items()] == ["hello\nworld"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"id":"1","text":"a"}]\n[{"id":"2","text":"b"}]',
        '[{"id":"1","text":"a"}{"id":"2","text":"b"}]',
        '[{"id":"1","text":"a"},]',
        '[{"id":"1","text":"a"}] x',
    ],
)
def test_nothing_of_an_array_is_passed_over(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=r"a\.json, element 2: "):
        list(open_corpus(tmp_path / "a.json", language_tag="en").items())


def test_a_language_that_is_a_list_is_named_and_may_be_left_out(tmp_path):
    rows = '{"id":"1","text":"a","language":["en"]}\n{"id":"2","text":"b","language":"en"}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    with pytest.raises(CorpusError, match="line 1, column 'language'"):
        list(open_corpus(tmp_path / "a.jsonl").items())
    assert [item.id for item in open_corpus(tmp_path / "a.jsonl", on_error="skip").items()] == ["2"]


def array(elements, sep=b",\n"):
    return b"[" + sep.join(elements) + b"]"


@pytest.mark.parametrize("sep", [b",", b",\n"])
def test_an_element_of_an_array_that_is_not_utf8_is_left_out_alone(tmp_path, sep):
    path = tmp_path / "x.json"
    path.write_bytes(
        array([b'{"text":"a"}', b'{"text":"caf\xe9"}', b'{"text":"\xc3\xa9 \\udc00x"}', b'{"text":"b"}'], sep)
    )
    corpus = open_corpus(path, language_tag="en", on_error="skip")
    assert [item.text for item in corpus.items()] == ["a", "b"]
    assert "element 2: holds the byte 0xe9, which is not UTF-8" in corpus.skipped.messages[0]
    assert corpus.skipped.rows == 4


def test_an_array_on_one_line_is_read_a_block_at_a_time(tmp_path):
    path = tmp_path / "x.json"
    rows = [f'{{"text":"{"é" * size}{number}"}}'.encode() for number, size in enumerate([3, 200_000, 1] * 20)]
    path.write_bytes(b"\xef\xbb\xbf " + array(rows, b", "))
    tracemalloc.start()
    texts = [len(item.text) for item in open_corpus(path, language_tag="en").read(Refuse(Skipped()))]
    assert len(texts) == 60
    assert tracemalloc.get_traced_memory()[1] < 4e6 < path.stat().st_size
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("row", ['{"text":"a","text":"b"}', '{"text":"a: b","about":{"c":1,"c":2}}'])
def test_a_key_that_an_object_has_twice_is_an_error_of_its_row(tmp_path, name, row):
    rows = ['{"text":"see: http://a"}', row, '{"text":"c"}']
    (tmp_path / name).write_text(f"[{','.join(rows)}]" if name == "x.json" else "\n".join(rows))
    corpus = open_corpus(tmp_path / name, language_tag="en", on_error="skip")
    assert [item.text for item in corpus.items()] == ["see: http://a", "c"]
    assert re.search(r"x\.jsonl?, (line|element) 2: has the key '(text|c)' twice; ", corpus.skipped.messages[0])


@pytest.mark.parametrize("quotes", [None, False])
def test_lines_that_end_as_on_old_macs_are_named_with_their_remedy(tmp_path, quotes):
    (tmp_path / "x.csv").write_bytes(b"id,text,language\r1,a,en\r2,b,en\r")
    with pytest.raises(CorpusError, match="carriage return alone, as on old Macs; convert them: tr "):
        contents(open_corpus(tmp_path / "x.csv", quotes=quotes))


class _Remote:
    """A file of another machine, as Parquet is read from one."""

    def __init__(self, path):
        self.path, self.name, self.opened = path, path.name, []

    def open(self, mode="rb"):
        self.opened.append(self.path.open(mode))
        return self.opened[-1]


def test_parquet_of_another_machine_is_closed_when_it_was_read_or_left(tmp_path, rows):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    for leave in (False, True):
        file = _Remote(path)
        table = ParquetTable(file, Columns())
        table.seek(1)
        read = table.rows()
        next(read)
        if leave:
            read.close()
        else:
            list(read)
        assert len(file.opened) == 2
        assert all(opened.closed for opened in file.opened)


def test_data_beside_tables_that_no_reader_takes_is_named(tmp_path):
    for name in ("README.md", "LICENSE", "data/train.jsonl", "old/test.xlsx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"id":"1","text":"a"}')
    with pytest.raises(CorpusError, match=r"holds old/test\.xlsx beside its tables, which no reader of tables takes;"):
        read_dataset(tmp_path, language_tag="en")
    assert texts(read_dataset(tmp_path, split="train", language_tag="en")) == [("1", "a")]
    for name in ("b.jsonl.zst", "c.tar", "d.arrow"):
        (tmp_path / "data" / name).touch()
    with pytest.raises(CorpusError, match=r"holds data/b\.jsonl\.zst, data/c\.tar, data/d\.arrow beside"):
        read_dataset(tmp_path, split="train", language_tag="en")


@pytest.mark.parametrize("link", ["more", "more.jsonl", "more.parquet.gz", "more.xlsx"])
def test_a_link_to_nothing_beside_tables_is_named(tmp_path, link):
    (tmp_path / "a.jsonl").write_text('{"id":"1","text":"a"}')
    (tmp_path / link).symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match=rf"{link}: is a link to .*gone, where nothing is; mend the link"):
        open_corpus(tmp_path, language_tag="en")


def test_files_of_another_kind_than_is_read_are_warned_of(tmp_path, recwarn):
    (tmp_path / "a.jsonl").write_text('{"id":"1","text":"a"}')
    (tmp_path / "README.md").touch()
    open_corpus(tmp_path, language_tag="en")
    assert not recwarn
    (tmp_path / "x.dat").touch()
    with pytest.warns(CorpusWarning, match=r"only its tables are read, and not x\.dat; "):
        open_corpus(tmp_path, language_tag="en")
    (tmp_path / "1.png").touch()
    (tmp_path / "2.png").touch()
    with pytest.warns(CorpusWarning, match=r"only its images and audio are read, and not a\.jsonl; "):
        open_corpus(tmp_path)
    for name in ("1.tar", "2.tar", "3.tar"):
        (tmp_path / name).touch()
    with pytest.warns(CorpusWarning, match=r"only its tar archives are read, and not a\.jsonl; "):
        open_corpus(tmp_path)
