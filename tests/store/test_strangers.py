"""A store from a stranger, who signs every record too: names, numbers, links and sizes are refused in one line."""

from __future__ import annotations

import io
import json
import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hubstore
from hubstore.decoding import decode_json, decode_object
from hubstore.errors import CorruptStoreError, HubstoreError, StoreError, StoreFormatError
from hubstore.extraction.checks import batching_of, checks_of
from hubstore.serve import create_app
from hubstore.storage import LocalStorage
from hubstore.store.commit import Commit
from hubstore.store.layout import encode_json
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.result import decode_result, encode_result
from tests.command_line import typed
from tests.serve.test_bounds import ask
from tests.store import everything
from tests.store.everything import change_json, change_root, replace_file

HUGE = 10**18
DEEP = b'{"a":' * 50_000


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return everything.make(tmp_path_factory.mktemp("strangers") / "s.hub")


@pytest.fixture
def store(original, tmp_path):
    return everything.copy(original, tmp_path / "s.hub")


def generation(root):
    return root["corpora"][0]["generations"][0]


ROOTS = {
    "a layer outside": lambda root: root.update(layers=["../../../victim"]),
    "a layer that is a path": lambda root: root.update(layers=["0/1"]),
    "a layer with a line break": lambda root: root.update(layers=["0\n"]),
    "a layer that is a number": lambda root: root.update(layers=[0]),
    "a layer twice": lambda root: root.update(layers=["0", "0"]),
    "many layers": lambda root: root.update(layers=[str(i) for i in range(100_000)]),
    "no layer": lambda root: root.update(layers=[]),
    "another pooling": lambda root: root.update(poolings=["../x"]),
    "another dtype": lambda root: root.update(dtype="float8"),
    "width": lambda root: root.update(width=HUGE),
    "width 0": lambda root: root.update(width=0),
    "a width that is true": lambda root: root.update(width=True),
    "a fraction": lambda root: root.update(width=31.5),
    "chunks of 0": lambda root: root.update(chunk_rows=0),
    "chunks that do not divide": lambda root: root.update(chunk_rows=7),
    "shards": lambda root: root.update(shard_rows=HUGE),
    "another compressor": lambda root: root.update(compressor="zip"),
    "shards of a generation": lambda root: generation(root).update(shards=[0, HUGE]),
    "shards that its items do not fill": lambda root: generation(root).update(shards=[0, 1 << 20]),
    "shards the other way": lambda root: generation(root).update(shards=[5, 0]),
    "a generation without a number": lambda root: generation(root).pop("generation"),
    "partitions": lambda root: generation(root).update(partitions=3),
    "corpora": lambda root: root.update(corpora={}),
    "a model": lambda root: root.update(model=[]),
    "a self-check": lambda root: root.update(self_check=7),
    "a self-check without its numbers": lambda root: root["self_check"].pop("deviation"),
    "media": lambda root: root["model"].update(media="x"),
    "media without weights": lambda root: root["model"].update(media={"image": {}}),
    "a setting of another type": lambda root: root["settings"].update(layers=5),
    "batches of another kind": lambda root: generation(root).update(batching={"text": {"kind": "evil"}}),
    "what a corpus was asked for with": lambda root: root["corpora"][0]["identity"].update(settings=[]),
    "nested": lambda root: root.update(settings=json.loads('{"a":' * 90 + "1" + "}" * 90)),
}

COMMITS = {
    "items": lambda commit: commit.update(items=HUGE),
    "more items than rows": lambda commit: commit.update(items=1 << 20, runs=[["text", "en", 1 << 20]]),
    "fewer runs": lambda commit: commit.update(runs=commit["runs"][:1]),
    "tokens": lambda commit: commit.update(tokens=1 << 39),
    "negative": lambda commit: commit.update(tokens=-1),
    "a language that is a path": lambda commit: commit["runs"][0].__setitem__(1, "../x"),
    "another modality": lambda commit: commit["runs"][0].__setitem__(0, "video"),
    "a file outside": lambda commit: commit["files"].update({"../../etc/passwd": {"size": 1, "crc32c": "0" * 8}}),
    "another file": lambda commit: commit["files"].update({"notes.txt": {"size": 1, "crc32c": "0" * 8}}),
    "a file too few": lambda commit: commit["files"].pop("hidden/last/0/c/0/0"),
    "a size": lambda commit: commit["files"]["hidden/last/0/c/0/0"].update(size=HUGE),
    "a checksum": lambda commit: commit["files"]["hidden/last/0/c/0/0"].update(crc32c="-1"),
    "files": lambda commit: commit.update(files=[]),
    "a shard number": lambda commit: commit.update(shard=3),
    "a field": lambda commit: commit.update(extra=1),
}

INDEXES = {
    "rows": lambda index: index.update(rows=HUGE),
    "other rows": lambda index: index.update(rows=3),
    "kind": lambda index: index.update(kind="evil"),
    "layer": lambda index: index.update(layer="0"),
    "width": lambda index: index.update(width=7),
    "parameters": lambda index: index.update(parameters={"efSearch": -5}),
    "commits": lambda index: index.update(commits=[1]),
    "file": lambda index: index.update(file={"size": "x", "crc32c": "zz"}),
}

LENSES = {
    "vocabulary": lambda lens: lens.update(vocabulary=HUGE),
    "another vocabulary": lambda lens: lens.update(vocabulary=8),
    "width": lambda lens: lens.update(width=1 << 20),
    "norm": lambda lens: lens.update(norm={"kind": "evil", "eps": 1}),
    "eps": lambda lens: lens["norm"].update(eps=-1),
    "softcap": lambda lens: lens.update(softcap="x"),
    "a file outside": lambda lens: lens["files"].update({"../x": {"size": 1, "crc32c": "0" * 8}}),
    "a file too few": lambda lens: lens["files"].pop("lens/tokenizer.json"),
}


CRAFTED = {
    "zarr.json": ROOTS,
    "commits/0.json": COMMITS,
    "indexes/last/2/index.json": INDEXES,
    "lens/lens.json": LENSES,
}

REQUESTS = [
    ("", {}),
    ("/items", {"limit": 3}),
    ("/neighbors", {"id": "en:1", "layer": "2", "k": 3}),
    ("/lens", {"id": "en:1", "layer": "2"}),
]


def refused(*arguments):
    """One line on stderr and exit status 1."""
    status, out, err = typed(*arguments)
    assert status == 1, out
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if line.strip()]) <= 1
    return err


@pytest.mark.parametrize("name", ROOTS)
def test_a_crafted_root_is_one_line(store, name):
    change_root(store, ROOTS[name])
    for use in (hubstore.open, everything.extract):
        with pytest.raises(HubstoreError, match=r"zarr\.json is not as it was written") as refusal:
            use(store)
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 1500


UNKNOWN = {
    "a setting": lambda root: root["settings"].update(x=1),
    "a self-check of": lambda root: root["self_check"].update(x=1),
    "batches of": lambda root: generation(root)["batching"]["text"].update(x=1),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_a_newer_version_may_have_added_is_one_line_that_names_it(store, what):
    change_root(store, UNKNOWN[what])
    attributes = hubstore.open(store).attributes
    uses = {"a self-check of": lambda: checks_of(attributes), "batches of": lambda: batching_of(attributes, 0)}
    with pytest.raises(StoreFormatError, match=f"{what} 'x', which this hubstore does not know"):
        uses.get(what, lambda: everything.append(store))()


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, changes in CRAFTED.items() for name in changes])
def test_a_server_of_a_crafted_store_answers_and_logs_one_line(store, key, name, caplog):
    change = CRAFTED[key][name]
    if key == "zarr.json":
        change_root(store, change)
    else:
        change_json(store / key, change)
    app = create_app([store], hosts=("localhost",))
    said = [ask(app, f"/api/v1/stores/s{path}", **query) for path, query in REQUESTS]
    failed = [json.loads(body)["error"] for status, body in said if status == 500]
    assert [error["kind"] for error in failed] == ["InternalError"] * len(caplog.records)
    assert failed, "what is damaged is not answered from"
    for record in caplog.records:
        assert record.exc_info is None, "a fault of the store, and no traceback"
        assert key in record.message
        assert "\n" not in record.message


@pytest.mark.parametrize("name", COMMITS)
def test_a_crafted_commit_is_one_line_and_named_by_verify(store, name):
    change_json(store / "commits/0.json", COMMITS[name])
    with pytest.raises(CorruptStoreError, match=r"commits/0\.json") as refusal:
        hubstore.open(store)
    assert "\n" not in str(refusal.value)
    found = hubstore.store.verify(LocalStorage(store))
    assert "commits/0.json" in [problem.key for problem in found if problem.wrong]


@pytest.mark.parametrize("name", INDEXES)
def test_a_crafted_index_record_is_one_line(store, name):
    change_json(store / "indexes/last/2/index.json", INDEXES[name])
    opened = hubstore.open(store)
    with pytest.raises(CorruptStoreError, match=r"index\.json .*hubstore index .*--rebuild"):
        opened.search(ids=["en:1"], layers=["2"], k=1)


@pytest.mark.parametrize("name", LENSES)
def test_a_crafted_lens_is_one_line(store, name):
    change_json(store / "lens/lens.json", LENSES[name])
    opened = hubstore.open(store)
    with pytest.raises(CorruptStoreError, match=r"lens\.json is not as it was written"):
        opened.lens(ids=["en:1"])
    assert "lens/lens.json" in [problem.key for problem in opened.verify()]


@pytest.mark.parametrize("data", [b"", b"{", DEEP, b"[" * 100_000, b"null", b'{"a": NaN}', b'"\xff"', b"9" * 9999])
def test_what_is_no_json_object_is_one_line_in_every_place(store, data):
    for key in ("indexes/last/2/index.json", "lens/lens.json", "commits/0.json", "zarr.json"):
        (store / key).write_bytes(data)
    for command in (("info",), ("verify",), ("query", "--id", "en:1"), ("analyze", "similarity"), ("index",)):
        assert "zarr.json" in refused(command[0], store, *command[1:])
    with pytest.raises(CorruptStoreError):
        read_lens_record(LocalStorage(store))


def test_a_kept_table_of_other_columns_is_left_out_and_computed_again(store):
    (key,) = LocalStorage(store).list("analyses/similarity")
    table, _ = decode_result((store / key).read_bytes(), key)
    asked = {"analysis": "similarity", "layer": "2"}
    for other in (table.drop(["x"]), table.set_column(1, "layer", pa.array([1] * len(table))), table.select([])):
        (store / key).write_bytes(encode_result(other))
        status, body = ask(create_app([store], hosts=("localhost",)), "/api/v1/stores/s/curves", **asked)
        assert status == 200, body
        again = hubstore.open(store).analyze(["similarity"], bootstrap=10, layers=["2"], device="cpu")["similarity"]
        assert again.equals(table)


def parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def test_a_table_of_other_rows_or_columns_than_were_committed_is_one_line(store):
    items = pq.read_table(store / "items/0.parquet")
    many = pa.table({name: pa.repeat(items[name][0], 8_000_000) for name in ("id", "language", "modality", "text")})
    wide = items.set_column(items.column_names.index("text"), "text", [pa.repeat("x" * (20 << 20), len(items))])
    others = items.set_column(0, "id", [list(range(len(items)))])
    counted = items.set_column(items.column_names.index("tokens"), "tokens", pa.array([1] * len(items), pa.int32()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for table, what in ((many, "8000000 rows"), (others, "int64"), (items.drop(["id"]), "'id'"), (counted, "tokens")):
        data = parquet(table)
        assert len(data) < 2 << 20
        replace_file(store, "items/0.parquet", data)
        with pytest.raises(CorruptStoreError, match=what):
            hubstore.open(store).items.to_arrow()
    replace_file(store, "items/0.parquet", parquet(wide))
    with pytest.raises(CorruptStoreError, match="memory"):
        hubstore.open(store).items.to_arrow()
    with pytest.raises(CorruptStoreError, match="memory"):
        decode_result(parquet(many), "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "in KiB"


def test_links_that_lead_out_of_a_store_are_not_followed(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"mine")
    (outside / ".index.json.abandoned.partial").write_bytes(b"mine")
    storage = LocalStorage(store)
    (store / "previews").symlink_to(outside)
    (store / "items/9.parquet").symlink_to(outside / "victim")
    (store / "hidden/inner").symlink_to(store / "items")
    for use in (storage.read, storage.stat, storage.map, storage.local, storage.open, storage.record):
        for key in ("previews/victim", "items/9.parquet"):
            with pytest.raises(StoreError, match="leads out of the store"):
                use(key)
    assert storage.read("hidden/inner/0.parquet") == storage.read("items/0.parquet"), "a link within may be read"
    for write in (lambda key: storage.write(key, b"x"), lambda key: storage.put_if_absent(key, b"x"), storage.delete):
        for key in ("previews/victim", "hidden/inner/0.parquet"):
            with pytest.raises(StoreError, match="no file is written through"):
                write(key)
    with storage.lock():  # which sweeps
        pass
    assert (outside / "victim").read_bytes() == b"mine"
    assert len(list(outside.iterdir())) == 2
    storage.write("items/9.parquet", b"x")
    assert (outside / "victim").read_bytes() == b"mine", "the link itself is replaced"
    (tmp_path / "linked.hub").symlink_to(store)
    assert len(hubstore.open(tmp_path / "linked.hub")) == len(hubstore.open(store)), "the store itself may be one"


def test_a_pipe_in_a_store_is_a_missing_file(store):
    (store / "items/0.parquet").unlink()
    os.mkfifo(store / "items/0.parquet")
    with pytest.raises(CorruptStoreError, match="is missing"):
        hubstore.open(store).items.to_arrow()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b", "a/."])
def test_a_key_that_names_nothing_below_the_root_is_refused(tmp_path, key):
    storage = LocalStorage(tmp_path / "x.hub")
    for use in (storage.read, storage.stat, storage.delete, lambda key: storage.write(key, b"")):
        with pytest.raises(StoreError, match="names no file of a store"):
            use(key)


def test_an_index_is_not_written_where_a_layer_of_a_stranger_leads(store):
    change_root(store, lambda root: root.update(layers=["../../../victim"]))
    before = sorted(store.parent.iterdir())
    assert "zarr.json" in refused("index", store)
    assert sorted(store.parent.iterdir()) == before


def test_a_commit_digest_is_that_of_its_encoding_whatever_it_holds(original):
    for file in (original / "commits").iterdir():
        content = json.loads(file.read_bytes())
        commit = Commit.decode(file.read_bytes(), "a")
        assert commit.encode() == file.read_bytes() == encode_json(content)


@given(st.dictionaries(st.text(), st.text() | st.integers(0, 1 << 40) | st.lists(st.text())))
def test_the_fast_encoding_of_commits_is_the_documented_one(content):
    import msgspec

    fast = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"
    assert fast == encode_json(content)


def test_decoding_is_bounded_in_depth_and_in_bytes(monkeypatch):
    with pytest.raises(ValueError, match="levels"):
        decode_object('{"a":' * 70 + "1" + "}" * 70)
    monkeypatch.setattr("hubstore.decoding.MOST_BYTES", 9)
    with pytest.raises(ValueError, match="are read at most"):
        decode_json(b'"0123456789"', str)
