"""A store from a stranger, who signs every record too: names, numbers, links and sizes are refused in one line."""

from __future__ import annotations

import io
import json
import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hubstore
from hubstore.decoding import decode_json, decode_object
from hubstore.errors import CorruptStoreError, HubstoreError, StoreError
from hubstore.extraction.plan import load_plan
from hubstore.index import IndexDescription
from hubstore.storage import LocalStorage
from hubstore.store.attributes import read_attributes
from hubstore.store.commit import Commit
from hubstore.store.layout import PLAN, Layout, encode_json
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.result import decode_result
from hubstore.store.tables import decode_table
from tests.command_line import typed
from tests.memory_store import MemoryStorage
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
    "media": lambda root: root["model"].update(media="x"),
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
            hubstore.open(store).items  # noqa: B018
    replace_file(store, "items/0.parquet", parquet(wide))
    with pytest.raises(CorruptStoreError, match="memory"):
        hubstore.open(store).items  # noqa: B018
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
        hubstore.open(store).items  # noqa: B018


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


def decoders(original):
    """By name, a decoder, and a good input of it."""
    root = (original / "zarr.json").read_bytes()
    layout = Layout.from_json(read_attributes(LocalStorage(original)))

    def in_place(key, read):
        def decode(data):
            storage = MemoryStorage()
            storage.files[key] = data
            read(storage)

        return decode

    plan = {
        "plan": {
            "generation": 0, "corpus_offset": 0, "last": True, "items": 4, "skipped": 0, "fingerprint": "f",
            "partitions": [["text", "en", 4]], "single_concepts": 0, "no_concept": 0, "identity": {},
            "shards": [[0, 0, 4, 0, 9]],
        },
        "files": {"plan/items.arrow": 1, "plan/order.npy": 2},
    }  # fmt: skip
    index = (original / "indexes/last/2/index.json").read_bytes()
    result = next((original / "analyses/similarity").iterdir()).read_bytes()
    items = (original / "items/0.parquet").read_bytes()
    commit = (original / "commits/0.json").read_bytes()
    return {
        "root": (in_place("zarr.json", read_attributes), root),
        "commit": (lambda data: Commit.decode(data, "a").check(layout, "a"), commit),
        "plan": (in_place(PLAN, load_plan), encode_json(plan)),
        "index": (IndexDescription.decode, index),
        "lens": (in_place("lens/lens.json", read_lens_record), (original / "lens/lens.json").read_bytes()),
        "result": (lambda data: decode_result(data, "a"), result),
        "items": (lambda data: decode_table(data, "a", "b", rows=8), items),
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def mutated(draw, good):
    """Bytes that are changed, cut or put in; or a record of which one value is another and that is signed again."""
    try:
        content = json.loads(good)
    except ValueError:
        content = None
    if content is None or draw.draw(st.booleans()):
        data = bytearray(good)
        for _ in range(draw.draw(st.integers(1, 4))):
            place = draw.draw(st.integers(0, len(data)))
            data[place : place + draw.draw(st.integers(0, 4))] = draw.draw(st.binary(max_size=4))
        return bytes(data)
    at = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = draw.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or draw.draw(st.integers(0, 3)) == 0:
            at[key] = draw.draw(VALUES)
            break
        at = at[key]
    return json.dumps(content).encode()


@pytest.mark.parametrize("name", ["root", "commit", "plan", "index", "lens", "result", "items"])
@pytest.mark.parametrize("examples", [60, pytest.param(15_000, marks=pytest.mark.slow)])
def test_no_input_of_a_decoder_raises_anything_else_than_one_clear_line(original, name, examples):
    decode, good = decoders(original)[name]
    if name != "plan":
        decode(good)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def attack(draw):
        said = ""
        try:
            decode(mutated(draw, good))
        except HubstoreError as error:
            said = str(error)
        assert said.isprintable()

    attack()


def test_decoding_is_bounded_in_depth_and_in_bytes(monkeypatch):
    with pytest.raises(ValueError, match="levels"):
        decode_object('{"a":' * 70 + "1" + "}" * 70)
    monkeypatch.setattr("hubstore.decoding.MOST_BYTES", 9)
    with pytest.raises(ValueError, match="are read at most"):
        decode_json(b'"0123456789"', str)
