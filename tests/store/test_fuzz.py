"""No input makes a decoder raise anything else than one clear line, or take much memory."""

from __future__ import annotations

import copy
import json
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hubstore
from hubstore.corpus.item import ITEM_SCHEMA
from hubstore.errors import HubstoreError
from hubstore.extraction.plan import ORDER, SPOOL, PlannedItems, load_plan
from hubstore.index import IndexDescription
from hubstore.serve import create_app
from hubstore.storage import LocalStorage, crc32c
from hubstore.store.attributes import read_attributes
from hubstore.store.commit import Commit
from hubstore.store.layout import PLAN, Layout, content_digest, encode_json
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.log import _encoded, decode_log
from hubstore.store.reader import decode_items
from hubstore.store.result import decode_result, encode_result, result_record
from tests.command_line import typed
from tests.memory_store import MemoryStorage
from tests.serve.test_bounds import ask
from tests.store import everything
from tests.tiny_models import tiny_language_model

INPUTS = 100_000
"""That each decoder is given where its test is run with `slow`."""

MOST_GROWN = 512 << 10
"""KiB that the process may grow by over all inputs of a decoder."""

VALUES = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**18, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "0", "final", "a\0b", "a\nb", "\ud800", "\u202e"),
    *("9" * 5000, "0" * 64, [], [[]], {}, {"": None}, [0, 1], [1, 0], ["text", "en", 1], {"a": {"a": {"a": []}}}),
    *([0] * 1000, ["0"] * 1000, json.loads("[" * 80 + "]" * 80), {"size": 1, "crc32c": "00000000"}),
)


@dataclass(frozen=True)
class Target:
    """A decoder.

    Args:
        decode: takes the bytes of a file.
        good: such a file.
        change: makes another file of it, as a stranger would who signs it.
    """

    decode: Callable[[bytes], object]
    good: bytes
    change: Callable[[random.Random, bytes], bytes]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return everything.make(tmp_path_factory.mktemp("fuzz") / "s.hub")


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes that are other ones, cut out or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, way = rng.randrange(len(changed) + 1), rng.random()
        if way < 0.5 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        else:
            changed[place : place + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
    return bytes(changed) if rng.random() < 0.95 else bytes(changed[: rng.randrange(len(changed) + 1)])


def change_value(rng: random.Random, content: Any) -> None:
    """One value anywhere in it is another, is gone, is there twice or under another name."""
    at = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys or rng.random() < 0.03:
            new = copy.deepcopy(rng.choice(VALUES))
            _ = at.update({rng.choice(("", "x", "items", "a b")): new}) if isinstance(at, dict) else at.append(new)
            return
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and rng.random() < 0.85:
            at = at[key]
            continue
        way = rng.random()
        if way < 0.8:
            at[key] = copy.deepcopy(rng.choice(VALUES))
        elif way < 0.9 or not isinstance(at, dict):
            del at[key]
        else:
            at[str(rng.choice(VALUES))] = at.pop(key)
        return


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """A record with a digest of all else in it, where that can be made."""
    times = {"times": content.pop("times")} if "times" in content else {}
    content.pop("digest", None)
    try:
        return {**content, "digest": content_digest(content), **times}
    except ValueError:
        return {**content, **times}


def change_record(rng: random.Random, data: bytes) -> bytes:
    """A record of which values are others, and which is signed again."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change_value(rng, content)
    return json.dumps(signed(content)).encode()


def change_root(rng: random.Random, data: bytes) -> bytes:
    """The root group, of whose attributes values are others."""
    if rng.random() < 0.1:
        return change_record(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change_value(rng, content["attributes"]["hubstore"])
    content["attributes"]["hubstore"] = signed(content["attributes"]["hubstore"])
    return json.dumps(content).encode()


def change_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table of which a column is of another type or name, is gone, is there twice or is null; or of other rows."""
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    way = rng.randrange(6)
    if way == 0:
        kinds = (pa.int64(), pa.float32(), pa.binary(), pa.bool_(), pa.list_(pa.int8()), pa.large_string(), pa.null())
        return table.set_column(place, name, pa.nulls(len(table), rng.choice(kinds)))
    if way == 1:
        return table.remove_column(place)
    if way == 2:
        return table.set_column(place, rng.choice(("", "id", "x", "\0")), column)
    if way == 3:
        return table.append_column(name, column)
    if way == 4:
        return table.slice(rng.randint(0, len(table)))
    return table.set_column(place, name, pa.nulls(len(table), column.type))


def change_items(rng: random.Random, data: bytes) -> bytes:
    """An item table's file."""
    if rng.random() < 0.9:
        return change_bytes(rng, data)
    sink = pa.BufferOutputStream()
    pq.write_table(change_table(rng, pq.read_table(pa.BufferReader(data))), sink)
    return sink.getvalue().to_pybytes()


def change_result(rng: random.Random, data: bytes) -> bytes:
    """A kept table's file, sealed again."""
    if rng.random() < 0.9:
        return change_bytes(rng, data)
    table, _ = decode_result(data, "good")
    if rng.random() < 0.5:
        return encode_result(change_table(rng, table))
    record = json.loads(table.schema.metadata[b"hubstore"])
    change_value(rng, record)
    return encode_result(table.replace_schema_metadata({b"hubstore": json.dumps(record).encode()}))


def in_place(key: str, read: Callable[[Any], object], **files: bytes) -> Callable[[bytes], object]:
    """A decoder of what a storage has under a key, which holds nothing else but `files`."""

    def decode(data: bytes) -> object:
        storage = MemoryStorage()
        storage.files = {**files, key: data}
        return read(storage)

    return decode


def read_result(data: bytes) -> object:
    table, _ = decode_result(data, "a")
    return result_record(table.schema.metadata or {}, "a")


def planned() -> tuple[bytes, bytes]:
    """The files of a plan of four items."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ITEM_SCHEMA) as writer:
        writer.write_batch(next(everything.corpus("second").batches()))
    return sink.getvalue().to_pybytes(), np.arange(4).tobytes()


def targets(original: Path) -> dict[str, Target]:
    """By name."""
    layout = Layout.from_json(read_attributes(LocalStorage(original)))
    commit = Commit.decode((original / "commits/0.json").read_bytes(), "a")
    spooled, order = planned()
    plan = {
        "plan": {
            "generation": 0, "corpus_offset": 0, "last": True, "items": 4, "skipped": 0, "fingerprint": "f",
            "partitions": [["text", "en", 4]], "single_concepts": 0, "no_concept": 0, "identity": {},
            "shards": [[0, 0, 4, 0, 9]],
        },
        "files": {SPOOL: crc32c(spooled), ORDER: crc32c(order)},
    }  # fmt: skip
    keys = {
        "root": "zarr.json",
        "commit": "commits/0.json",
        "index": "indexes/last/2/index.json",
        "lens": "lens/lens.json",
        "items": "items/0.parquet",
        "result": LocalStorage(original).list("analyses/similarity")[0],
    }
    good = {name: (original / key).read_bytes() for name, key in keys.items()}

    files = {SPOOL: spooled, ORDER: order}

    def read_plan(storage: Any) -> pa.Table:
        load_plan(storage)
        return PlannedItems(storage).read(0, 4)

    def decode_spool(data: bytes) -> object:
        again = signed({**plan, "files": {SPOOL: crc32c(data), ORDER: crc32c(order)}})
        return in_place(PLAN, read_plan, **{**files, SPOOL: data})(encode_json(again))

    def read_log(data: bytes) -> object:
        return [(dict(one.files), one.runs, one.digest, one.times) for one in decode_log(data, layout, "a")]

    found = {
        "log": Target(read_log, _encoded([commit], layout, {}), change_record),
        "root": Target(in_place("zarr.json", read_attributes), good["root"], change_root),
        "commit": Target(lambda data: Commit.decode(data, "a").check(layout, "a"), good["commit"], change_record),
        "plan": Target(
            in_place(PLAN, load_plan, **{SPOOL: spooled, ORDER: order}), encode_json(signed(plan)), change_record
        ),
        "spool": Target(decode_spool, spooled, change_bytes),
        "index": Target(IndexDescription.decode, good["index"], change_record),
        "lens": Target(in_place("lens/lens.json", read_lens_record), good["lens"], change_record),
        "items": Target(lambda data: decode_items(data, commit, "a", "b"), good["items"], change_items),
        "result": Target(read_result, good["result"], change_result),
    }
    for target in found.values():
        target.decode(target.good)
    return found


def attack(target: Target, rng: random.Random) -> bool:
    """Whether one changed file is refused; anything but a clear line, or an answer, is raised."""
    try:
        target.decode(target.change(rng, target.good))
    except HubstoreError as error:
        if not str(error).isprintable():
            raise
        return True
    return False


NAMES = ("root", "commit", "log", "plan", "spool", "index", "lens", "result", "items")


@pytest.mark.parametrize("name", NAMES)
def test_no_input_that_is_searched_for_raises_anything_else_than_one_clear_line(original, name):
    target = targets(original)[name]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.randoms(use_true_random=False))
    def search(rng):
        attack(target, rng)

    search()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("inputs", [150, pytest.param(INPUTS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_no_input_of_a_decoder_raises_anything_else_than_one_clear_line_or_takes_much_memory(original, name, inputs):
    target, before = targets(original)[name], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failed, refused = {}, 0
    for seed in range(inputs):
        try:
            refused += attack(target, random.Random(f"{name} {seed}"))
        except Exception as error:
            failed[seed] = repr(error)
    assert not failed
    assert refused > inputs / 2, "most changes are seen"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWN, "in KiB"


def commands(path: Path) -> dict[str, Callable[[], object]]:
    """What is done with a store, by name; each raises, or returns a server's status and answer."""
    model = tiny_language_model("llama")
    asked = [("", {}), ("/items", {"limit": 3}), ("/neighbors", {"id": "en:1", "layer": "2", "k": 3}),
             ("/curves", {"analysis": "similarity", "layer": "2"}), ("/analyses", {})]  # fmt: skip

    def serve() -> None:
        app = create_app([path], hosts=("localhost",))
        for place, query in asked:
            status, body = ask(app, f"/api/v1/stores/s{place}", **query)
            assert status < 500 or json.loads(body)["error"]["kind"] == "InternalError"

    return {
        "info": lambda: typed("info", path),
        "info --json": lambda: typed("info", path, "--json"),
        "verify": lambda: typed("verify", path),
        "query": lambda: hubstore.open(path).search(ids=["en:1"], layers=["2"], k=3),
        "lens": lambda: hubstore.open(path).lens(ids=["en:1"], model=model),
        "analyze": lambda: hubstore.open(path).analyze(["similarity"], bootstrap=10, layers=["2"], device="cpu"),
        "extract": lambda: everything.extract(path),
        "append": lambda: everything.append(path),
        "serve": serve,
    }


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inputs", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_no_record_that_is_read_makes_a_use_of_its_store_fail_in_more_than_one_line(original, tmp_path, caplog, inputs):
    path, failed = tmp_path / "s.hub", {}
    records = ["zarr.json"] * 4 + ["commits/0.json", "indexes/last/2/index.json", "lens/lens.json"]
    changes = {"zarr.json": change_root}
    for seed in range(inputs):
        rng = random.Random(f"uses {seed}")
        key = rng.choice([*records, *LocalStorage(original).list("analyses")])
        change = change_result if key.startswith("analyses/") else changes.get(key, change_record)
        changed = change(rng, (original / key).read_bytes())
        for name, use in commands(path).items():
            everything.copy(original, path)
            (path / key).write_bytes(changed)
            try:
                answer = use()
            except HubstoreError:
                continue
            except Exception as error:
                failed[seed, key, name] = repr(error)
                continue
            if answer and isinstance(answer, tuple) and "nobody expected" in answer[2]:
                failed[seed, key, name] = answer[2]
        traced = [record.message for record in caplog.records if record.exc_info]
        if traced:
            failed[seed, key, "log"] = traced
        caplog.clear()
    assert not failed
