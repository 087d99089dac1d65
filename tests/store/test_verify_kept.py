"""What a store keeps beside its shards is verified too: indexes and results of analyses."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import hubstore
from hubstore import analysis
from hubstore.cli import app
from hubstore.errors import CorruptStoreError
from hubstore.index import IndexDescription
from hubstore.store.layout import encode_json
from hubstore.store.result import decode_result, encode_result
from tests.report.stores import write_store

INDEX = ("indexes/mean/1/index.json", "indexes/mean/1/index.faiss")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = hubstore.open(write_store(tmp_path_factory.mktemp("kept") / "s.hub").path)
    store.index(layers=[1], kind="hnsw")
    store.analyze(["similarity"], bootstrap=10, layers=[1], device="cpu")
    return store


def flipped_bytes(data: bytes, step: int):
    for place in [*range(0, len(data), step), len(data) - 1]:
        changed = bytearray(data)
        changed[place] ^= 4
        yield place, bytes(changed)


def test_a_flipped_byte_of_an_index_or_of_a_kept_analysis_is_found(store):
    assert store.verify() == []
    (table,) = store.storage.list("analyses")
    for key, step in ((INDEX[0], 29), (INDEX[1], 5003), (table, 97)):
        written = store.storage.read(key)
        for place, changed in flipped_bytes(written, step):
            (store.path / key).write_bytes(changed)
            found = store.verify()
            assert [problem.key for problem in found if problem.wrong] == [key], (key, place)
        (store.path / key).write_bytes(written)
    assert store.verify() == []


def test_every_byte_of_a_result_is_vouched_for():
    table = pa.table({"x": [1.0, 2.0]}).replace_schema_metadata({b"hubstore": b"{}"})
    data = encode_result(table)
    read, sealed = decode_result(data, "a")
    assert sealed
    assert read.equals(table, check_metadata=True)
    assert pq.read_table(pa.BufferReader(data))["x"].to_pylist() == [1.0, 2.0], "any reader of Parquet reads it"
    for place, changed in flipped_bytes(data, 1):
        with pytest.raises(CorruptStoreError):
            decode_result(changed, f"{place}")
    for end in range(0, len(data), 50):
        with pytest.raises(CorruptStoreError):
            decode_result(data[:end], "cut")


def test_a_changed_result_is_not_served_but_made_again(store):
    (key,) = store.storage.list("analyses")
    written = store.storage.read(key)
    changed = bytearray(written)
    changed[len(changed) // 3] ^= 1
    (store.path / key).write_bytes(changed)
    again = store.analyze(["similarity"], bootstrap=10, layers=[1], device="cpu")["similarity"]
    assert store.storage.read(key) == written
    assert again.equals(decode_result(written, key)[0], check_metadata=True)


def test_what_an_older_version_kept_without_a_checksum_is_said_to_be_unverifiable(tmp_path):
    store = hubstore.open(write_store(tmp_path / "old.hub").path)
    store.index(layers=[1], kind="hnsw")
    store.analyze(["similarity"], bootstrap=10, layers=[1], device="cpu")
    (key,) = store.storage.list("analyses")
    table, _ = decode_result(store.storage.read(key), key)
    pq.write_table(table, store.path / key)
    content = json.loads(store.storage.read(INDEX[0]))
    del content["digest"]
    (store.path / INDEX[0]).write_bytes(encode_json(content))
    found = store.verify()
    assert [(problem.key, problem.wrong) for problem in found] == [(INDEX[0], False), (key, False)]
    assert all("cannot be verified" in problem.what for problem in found)
    assert IndexDescription.decode(store.storage.read(INDEX[0])).kind == "hnsw"
    assert store.search(ids=["en:1"], layers=[1], k=1).num_rows == 1
    kept = store.analyze(["similarity"], bootstrap=10, layers=[1], device="cpu")["similarity"]
    assert kept.equals(table, check_metadata=True), "it is read all the same"
    assert analysis.metadata(kept)["analysis"] == "similarity"
    said = CliRunner().invoke(app, ["verify", str(store.path)])
    assert said.exit_code == 0
    assert "cannot be verified" in said.output
    (store.path / INDEX[1]).write_bytes(b"other")
    said = CliRunner().invoke(app, ["verify", str(store.path), "--json"])
    assert said.exit_code == 1
    assert [one["file"] for one in json.loads(said.stdout)["problems"]] == [INDEX[1]]
