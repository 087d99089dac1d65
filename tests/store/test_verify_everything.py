"""Everything in a store is verified, and what verifying says mends it."""

from __future__ import annotations

import json
import random
import re
import shlex

import pytest

import hubstore
from hubstore.storage import LocalStorage
from hubstore.store import verify
from hubstore.store.layout import encode_json
from tests.command_line import typed
from tests.store import everything


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return everything.make(tmp_path_factory.mktemp("everything") / "s.hub")


@pytest.fixture
def store(original, tmp_path):
    return everything.copy(original, tmp_path / "s.hub")


def problems(path, *, wrong=True):
    return [problem for problem in verify(LocalStorage(path)) if problem.wrong or not wrong]


def flip(path, place, bit=2):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def found_in(path):
    """Whether verifying finds something wrong, or the store cannot be opened, with a clear error."""
    try:
        return bool(problems(path))
    except hubstore.HubstoreError as error:
        return "\n" not in str(error)


def is_free(key, data, place):
    """Whether a byte is of the times of a commit, which are of no digest."""
    return key.startswith("commits/") and place > data.index(b'"times"')


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flips", [2, pytest.param(400, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_store_is_found(original, tmp_path, flips):
    path, draw = everything.copy(original, tmp_path / "s.hub"), random.Random(0)
    assert problems(path, wrong=False) == []
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        key, data = file.relative_to(path).as_posix(), file.read_bytes()
        missed = []
        for place in {len(data) - 1, *(draw.randrange(len(data)) for _ in range(flips))}:
            flip(file, place, bit := draw.randrange(8))
            if not found_in(path) and not is_free(key, data, place):
                missed.append((place, bit))
            file.write_bytes(data)
        assert not missed, key


def test_a_missing_file_of_any_kind_is_found(original, tmp_path):
    path = everything.copy(original, tmp_path / "s.hub")
    whole = ("lens/lens.json", "indexes/last/2/index.json", "indexes/last/0/index.json")  # there is none without
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        key, data = file.relative_to(path).as_posix(), file.read_bytes()
        if key.startswith("analyses/") or key in whole:
            continue
        file.unlink()
        assert found_in(path), key
        file.write_bytes(data)


def test_a_commit_that_is_gone_is_a_problem_and_info_says_that_the_store_is_unfinished(store):
    (store / "commits/1.json").unlink()
    (found,) = problems(store, wrong=False)
    assert (found.key, found.wrong) == ("commits/1.json", True)
    assert "run the same `hubstore append` again" in found.what
    status, out, _ = typed("verify", store, "--json")
    assert status == 1
    assert [one["file"] for one in json.loads(out)["problems"]] == ["commits/1.json"]
    status, out, _ = typed("info", store, "--json")
    assert not json.loads(out)["complete"]


def test_files_of_no_record_are_named_and_are_not_wrong(store):
    strays = ["lens/table.parquet", "notes.txt", "hidden/last/7/c/0/0", "commits/readme", "analyses/similarity/a.txt"]
    for key in strays:
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(b"x")
    (store / "commits/readme").unlink()
    found = problems(store, wrong=False)
    assert sorted(problem.key for problem in found) == sorted(set(strays) - {"commits/readme"})
    assert all(problem.stray and not problem.wrong for problem in found)
    status, out, _ = typed("verify", store)
    assert status == 0
    assert "notes.txt: belongs to no record of the store" in out


def test_a_root_of_an_older_version_has_no_digest_and_is_said_to_be_unverifiable(store):
    content = json.loads((store / "zarr.json").read_bytes())
    del content["attributes"]["hubstore"]["digest"]
    (store / "zarr.json").write_bytes(encode_json(content))
    (found,) = problems(store, wrong=False)
    assert (found.key, found.wrong) == ("zarr.json", False)
    assert "cannot be verified" in found.what


def delete(path):
    path.unlink()


DAMAGES = {
    "states": ("hidden/last/2/c/0/0", lambda path: flip(path, 20)),
    "states of tokens": ("hidden/tokens/0/c/1/0", lambda path: path.write_bytes(b"")),
    "items": ("items/1.parquet", delete),
    "a commit": ("commits/0.json", lambda path: flip(path, 90)),
    "a commit that is gone": ("commits/1.json", delete),
    "an array": ("hidden/tokens/2/zarr.json", lambda path: flip(path, 60)),
    "the only good array": ("hidden/last/0/zarr.json", delete),
    "a group": ("hidden/last/zarr.json", delete),
    "the lens": ("lens/unembedding/c/0/0", lambda path: flip(path, 9)),
    "the lens's record": ("lens/lens.json", lambda path: path.write_bytes(b"{")),
    "the lens's metadata": ("lens/norm_weight/zarr.json", lambda path: flip(path, 9)),
    "an index": ("indexes/last/2/index.faiss", lambda path: flip(path, 99)),
    "an index's record": ("indexes/last/2/index.json", lambda path: flip(path, 99)),
    "an exact index's record": ("indexes/last/0/index.json", lambda path: path.write_bytes(b"[" * 9999)),
    "a result": (None, lambda path: flip(path, 99)),
}


def carry_out(store, original, problem):
    """Do what a message says, to the letter."""
    what = problem.what
    removed = re.search(r"\bremove ([\w/.]+)(?=[ ,;]|$)", what)
    if removed:
        (store / (problem.key if removed[1] == "it" else removed[1])).unlink(missing_ok=True)
    commands = re.findall(r"`(hubstore [^`]*)`", what)
    for command in commands:
        if command == "hubstore extract":
            everything.extract(store)
        elif command == "hubstore append":
            everything.append(store)
        elif "--keep" in command:
            hubstore.open(store).keep_lens(everything.tiny_language_model("llama"))
        else:
            status, _, said = typed(*shlex.split(command)[1:])
            assert status == 0, said
    assert removed or commands, what


@pytest.mark.parametrize("name", DAMAGES)
def test_what_verify_says_mends_what_it_finds(original, store, name):
    key, damage = DAMAGES[name]
    path = store / key if key else next((store / "analyses/similarity").iterdir())
    written = path.read_bytes()
    damage(path)
    found = problems(store)
    assert found, "the damage is found"
    for problem in found:
        carry_out(store, original, problem)
    assert problems(store, wrong=False) == []
    if not key:
        hubstore.open(store).analyze(["similarity"], bootstrap=10, layers=["2"], device="cpu")
    if not key.startswith(("commits/", "indexes/")) if key else True:
        assert path.read_bytes() == written
    assert hubstore.open(store).digest == hubstore.open(original).digest
