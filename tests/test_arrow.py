"""Parquet is read in one way, and no list of a table counts its elements with int32."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hubstore
from hubstore.arrow import equal_lists, read_parquet, rows_as_lists
from hubstore.corpus import Corpus, Item
from hubstore.errors import QueryError
from hubstore.extraction import Settings, extract
from hubstore.lens import READING_SCHEMA
from hubstore.serve.resources.items import states
from hubstore.serve.snapshot import Snapshot
from tests.report.stores import write_store
from tests.tiny_models import tiny_model

ROOT = Path(hubstore.__file__).parent
READ_AHEAD = {"read_table", "read_feather", "ParquetDataset", "ListArray"}
"""What reads ahead in threads that a process's end meets, and lists with int32 offsets."""


def test_no_module_reads_parquet_ahead_or_makes_lists_with_int32_offsets():
    found = {
        f"{path.relative_to(ROOT)}: {node.attr}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in READ_AHEAD
    }
    assert found == set()


def test_a_script_that_reads_items_ends_well(tmp_path):
    store = write_store(tmp_path / "s.hub")
    script = f"import torch, hubstore; print(len(hubstore.open({str(store.path)!r}).items))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", f"{len(store)}\n")


def test_parquet_is_read_from_bytes_and_files_whole_or_by_columns(tmp_path):
    table = pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({b"k": b"v"})
    pq.write_table(table, tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", (tmp_path / "t.parquet").read_bytes()):
        assert read_parquet(source).equals(table, check_metadata=True)
        assert read_parquet(source, ["b"]).column_names == ["b"]
    with pytest.raises((pa.ArrowException, OSError)):
        read_parquet(b"no Parquet")


def test_vectors_are_lists_of_one_size_here_and_from_a_server(tmp_path):
    store = hubstore.open(write_store(tmp_path / "s.hub").path)
    ids = store.items["id"].to_pylist()[:3]
    layers = store.layers[:2]
    kind = pa.list_(pa.float32(), store.width)
    here = store.vectors(ids, layers=layers)
    sent = states(Snapshot(store.path, "s"), ids, layers, store.poolings[0])
    assert here.schema.field("vector").type == sent.schema.field("vector").type == kind
    expected = np.concatenate([store.hidden(layer).take(store.positions(ids)).float().numpy() for layer in layers])
    for table in (here, sent):
        assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), expected)


def test_vectors_of_no_items_are_no_rows_under_tokens_too(tmp_path):
    items = [Item(str(i), f"text {i}", "en") for i in range(3)]
    settings = Settings(poolings=("mean", "tokens"), layers=("0", "1"))
    extract(Corpus.from_items(items), tiny_model("gpt2"), tmp_path / "t.hub", settings)
    store = hubstore.open(tmp_path / "t.hub")
    for pooling in store.poolings:
        assert store.vectors([], pooling=pooling).num_rows == 0
        assert store.vectors([], pooling=pooling).schema == store.vectors(["1"], pooling=pooling).schema
        with pytest.raises(QueryError, match="no layer is named"):
            store.vectors(["1"], layers=[], pooling=pooling)


def test_lists_hold_the_rows_that_they_are_made_of():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert rows_as_lists(rows[::2]).to_pylist() == rows[::2].tolist()
    assert rows_as_lists(rows[:0]).to_pylist() == []
    assert equal_lists(rows.ravel(), 4).to_pylist() == rows.tolist()
    assert equal_lists(rows[:0].ravel(), 0).to_pylist() == []
    assert equal_lists(rows[:0].ravel(), 2).to_pylist() == [[], []]


def test_no_list_that_a_lens_gives_has_int32_offsets():
    assert not [field for field in READING_SCHEMA if pa.types.is_list(field.type)]
