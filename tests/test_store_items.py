"""The items of an opened store are a table whose columns are read when they are asked for, and not before."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hubstore
from hubstore.errors import MissingDependencyError
from hubstore.store import StoreReader
from tests.report.stores import write_store


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("items") / "x.hub").path


@pytest.fixture
def counted(path, monkeypatch):
    """A store, and the columns that were read of it."""
    store, read = hubstore.open(path), []
    tables = StoreReader._tables
    monkeypatch.setattr(
        StoreReader, "_tables", lambda self, commits, names: read.extend(names) or tables(self, commits, names)
    )
    return store, read


def test_a_column_is_read_once_and_no_other_with_it(counted):
    store, read = counted
    assert len(store.items) == store.items.num_rows == len(store)
    assert "text" in store.items.column_names
    assert "72 items: id, concept" in repr(store.items)
    assert read == []
    languages = store.items["language"]
    assert store.items.column("language").equals(languages)
    assert store.items.select(["language", "id"])["id"][0].as_py() == "en:0"
    assert read == ["language", "id"]
    with pytest.raises(KeyError, match="no column 'nothing'; there are id, "):
        store.items["nothing"]


def test_it_is_what_the_reader_reads_and_does_what_an_arrow_table_does(path):
    store, plain = hubstore.open(path), StoreReader(path).items
    assert store.items == plain
    assert store.items.to_arrow().equals(plain)
    assert store.items.equals(hubstore.open(path).items)
    assert store.items.slice(3, 2).equals(plain.slice(3, 2))
    assert store.items[3:5].equals(plain[3:5])
    assert store.items.filter(pc.equal(store.items["language"], "he")).num_rows == 24
    assert store.items.shape == plain.shape
    assert pa.table(store.items).equals(plain)
    assert store.items[0].equals(plain["id"])


def test_pandas_and_polars_are_given_the_whole_table(path, monkeypatch):
    store = hubstore.open(path)
    frame = store.items.to_pandas()
    assert (len(frame), frame["language"].nunique()) == (72, 3)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingDependencyError, match="pip install polars"):
        store.items.to_polars()
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(from_arrow=lambda table: ("polars", table.num_rows)))
    assert store.items.to_polars() == ("polars", 72)
