"""Stores that keep columns of their corpus beside the items, and stores that keep none."""

from __future__ import annotations

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hubstore
from hubstore.corpus import open_corpus, read_memory
from hubstore.errors import CorruptStoreError, StoreError
from hubstore.extraction import Callbacks, Settings, append, extract
from hubstore.extraction import settings as extraction_settings
from hubstore.extraction.plan import SPOOL
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader
from hubstore.store.attributes import write_root
from hubstore.store.columns import ITEM_SCHEMA, time_range
from hubstore.store.reader import read_items
from hubstore.store.tables import decode_table
from hubstore.store.writer import encode_items
from tests.extraction.test_crash import content
from tests.tiny_models import tiny_model

SETTINGS = Settings(poolings=("mean",), layers=("0",), batch_tokens=256)
COUNT = 20


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(extraction_settings, "SHARD_ROWS", 4)
    monkeypatch.setattr(extraction_settings, "CHUNK_ROWS", 2)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows = [row(i) for i in range(COUNT)]
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "b.jsonl").write_text(
        "".join(json.dumps({**row(i), "id": f"b{i}", "year": i / 2}) + "\n" for i in range(3))
    )
    return folder


def row(i):
    source = {} if i % 5 == 0 else {"source": ("wiki", "news")[i % 2]}
    return {"id": f"a{i}", "text": f"Item {i}", "language": ("en", "de")[i % 2], "year": 2000 + i, **source}


def a(table, keep="year,source"):
    return open_corpus(table / "a.jsonl", keep_columns=keep)


def kept(store):
    return {one["id"]: (one["year"], one["source"]) for one in store.items.to_pylist()}


def test_the_item_tables_keep_the_columns_that_are_named(tmp_path, table):
    extract(a(table), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    store = hubstore.open(tmp_path / "x.hub")
    assert dict(store.columns) == {"year": pa.int64(), "source": pa.string()}
    assert store.items.schema.names == [*ITEM_SCHEMA.names, "year", "source"]
    assert kept(store) == {f"a{i}": (2000 + i, row(i).get("source")) for i in range(COUNT)}
    assert store.verify() == []
    [path, *_] = store.export(tmp_path / "out", states=False)
    assert pq.read_table(path)["year"].to_pylist() == store.items["year"].to_pylist()
    # What reads format 1.0 asks for the columns that it knows, and finds them in the file beside the others.
    assert read_items(store.storage, store.commits[0]).schema.names == ITEM_SCHEMA.names
    assert pq.read_schema(tmp_path / "x.hub" / "items" / "0.parquet").names == store.items.schema.names


def test_a_run_that_keeps_no_columns_writes_none(tmp_path, table):
    extract(a(table, None), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    root = json.loads((tmp_path / "x.hub" / "zarr.json").read_text())["attributes"]["hubstore"]
    assert "columns" not in root
    assert pq.read_schema(tmp_path / "x.hub" / "items" / "0.parquet").names == ITEM_SCHEMA.names


def test_interrupted_anywhere_the_columns_end_as_in_one_run(tmp_path, table):
    class StopError(Exception):
        pass

    extract(a(table), tiny_model("gpt2"), tmp_path / "whole.hub", SETTINGS, generation_items=8)
    for shards in range(5):

        def stop(done, shards=shards):
            if done.shards > shards % 2:
                raise StopError

        try:
            extract(
                a(table),
                tiny_model("gpt2"),
                tmp_path / "x.hub",
                SETTINGS,
                generation_items=8,
                watch=Callbacks(progress=stop),
            )
        except StopError:
            continue
    extract(a(table), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS, generation_items=8)
    assert content(tmp_path / "x.hub") == content(tmp_path / "whole.hub")


def test_another_value_of_a_kept_column_is_another_fingerprint(tmp_path, table):
    changed = tmp_path / "a.jsonl"
    changed.write_text((table / "a.jsonl").read_text().replace('"year": 2003', '"year": 2004'))
    prints = set()
    for number, corpus in enumerate((a(table), open_corpus(changed, keep_columns="year,source"), a(table, None))):
        extract(corpus, tiny_model("gpt2"), tmp_path / f"{number}.hub", SETTINGS)
        entry = StoreReader(tmp_path / f"{number}.hub").attributes["corpora"][0]
        prints.add(entry["generations"][0]["fingerprint"])
    assert len(prints) == 3


def test_what_is_appended_keeps_the_stores_columns_or_says_that_it_has_none(tmp_path, table):
    model, path, more = tiny_model("gpt2"), tmp_path / "x.hub", table / "b.jsonl"
    extract(a(table), model, path, SETTINGS)
    before = content(path)
    for keep, said in (
        (None, r"keeps the columns year, source beside its items; say which .*keep_columns='year,source'"),
        ("year", r"'year' is float64, and .* keeps it as int64.*keep_columns='year:int64'"),
        ("text_length:int64", "there is no column 'text_length'"),
    ):
        with pytest.raises(ValueError, match=said):
            append(open_corpus(more, keep_columns=keep), model, path)
    assert content(path) == before
    append(open_corpus(more, keep_columns="source"), model, path)
    store = StoreReader(path)
    assert {name: kept(store)[name] for name in ("b0", "b1", "a1")} == {
        "b0": (None, None),
        "b1": (None, "news"),
        "a1": (2001, "news"),
    }
    text = tmp_path / "c.jsonl"
    text.write_text('{"id": "c", "text": "c", "language": "en"}\n')
    append(open_corpus(text, keep_columns="none"), model, path)
    assert kept(StoreReader(path))["c"] == (None, None)


def test_a_store_that_keeps_no_columns_stays_so(tmp_path, table):
    model, path = tiny_model("gpt2"), tmp_path / "x.hub"
    extract(a(table, None), model, path, SETTINGS)
    with pytest.raises(StoreError, match="was begun without a column 'source'; it keeps none"):
        append(open_corpus(table / "b.jsonl", keep_columns="source"), model, path)
    append(open_corpus(table / "b.jsonl"), model, path)
    assert StoreReader(path).columns == {}


def test_a_root_that_names_columns_which_cannot_be_is_refused(tmp_path, table):
    extract(a(table), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    root = tmp_path / "x.hub" / "zarr.json"
    good = root.read_text()
    for wrong in ('["text", "int64"]', '["a", "int64"], ["a", "int64"]', '["a", "list<int64>"]', '["a", 5]'):
        described = json.loads(good)
        del described["attributes"]["hubstore"]["digest"]
        described["attributes"]["hubstore"]["columns"] = json.loads(f"[{wrong}]")
        root.write_text(json.dumps(described))
        with pytest.raises(CorruptStoreError, match="is not as it was written"):
            StoreReader(tmp_path / "x.hub")
    described["attributes"]["hubstore"]["columns"] = [["year", "string"], ["source", "string"]]
    root.write_text(json.dumps(described))
    with pytest.raises(CorruptStoreError, match="'year' is of int64, and not of string"):
        StoreReader(tmp_path / "x.hub").items  # noqa: B018


def test_times_in_seconds_are_read_as_they_were_kept(tmp_path):
    times = [datetime.datetime(2020, 1, 1, 1, 2, 3), None, datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)]
    rows = {"id": list("abcd"), "text": list("abcd"), "language": ["en"] * 4, "at": pa.array(times, pa.timestamp("s"))}
    extract(read_memory(pa.table(rows), keep_columns="at"), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    store = hubstore.open(tmp_path / "x.hub")
    assert store.columns["at"] == store.items["at"].type == pa.timestamp("s")
    assert store.items["at"].to_pylist() == times
    assert store.verify() == []


def test_verify_reads_item_tables_as_the_root_says_their_columns_are(tmp_path, table):
    extract(a(table, "year"), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    change_columns(tmp_path / "x.hub", [["year", "string"]])
    found = [one for one in hubstore.open(tmp_path / "x.hub").verify() if one.key.startswith("items/")]
    assert len(found) == COUNT / 4
    assert all("'year' is of int64, and not of string" in one.what for one in found)


def test_a_root_with_a_time_zone_that_nobody_knows_is_refused(tmp_path, table):
    extract(a(table, "year"), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    change_columns(tmp_path / "x.hub", [["year", "timestamp[us, tz=Foo/Bar]"]])
    with pytest.raises(CorruptStoreError, match=r"tz=Foo/Bar\]' has a time zone that is not known"):
        StoreReader(tmp_path / "x.hub")


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.date32()])
def test_an_item_table_with_times_that_python_has_not_is_refused(kind):
    schema = pa.schema([pa.field("at", kind)])
    for value, good in ((time_range(kind)[-1], True), (10 * time_range(kind).stop, False)):
        stored = pa.array([value, None], pa.int32() if kind == pa.date32() else pa.int64())
        data = encode_items(pa.table({"at": stored.cast(kind)}))
        if good:
            assert decode_table(data, "x", "y", schema=schema).to_pylist()[0]["at"].year == 9999
        else:
            with pytest.raises(CorruptStoreError, match="'at' has a time outside of the years 1 to 9999"):
                decode_table(data, "x", "y", schema=schema)


def change_columns(path, columns):
    """What a root says of its columns, as its writer might have written it."""
    attributes = dict(StoreReader(path).attributes)
    attributes.pop("digest", None)
    write_root(LocalStorage(path), {**attributes, "columns": columns})


def test_a_plan_whose_items_have_other_columns_is_refused(tmp_path, table):
    class StopError(Exception):
        pass

    def stop(plan):
        raise StopError

    with pytest.raises(StopError):
        extract(a(table), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS, watch=Callbacks(planned=stop))
    from hubstore.extraction.plan import load_plan
    from hubstore.storage import crc32c
    from hubstore.store.layout import PLAN
    from hubstore.store.records import sealed

    storage = LocalStorage(tmp_path / "x.hub")
    said = json.loads(storage.read(PLAN))
    assert said["plan"]["columns"] == [["year", "int64"], ["source", "string"]]
    assert [list(pair) for pair in load_plan(storage).columns] == said["plan"]["columns"]
    assert said["files"][SPOOL] == crc32c(storage.map(SPOOL).data)
    said["plan"]["columns"] = [["year", "string"]]
    del said["digest"]
    storage.write(PLAN, sealed(said))
    with pytest.raises(CorruptStoreError, match="it has other columns than its items"):
        load_plan(storage)
