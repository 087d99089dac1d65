"""A small store that has everything a store can have, and what damages one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hubstore
from hubstore.corpus import Corpus, Item
from hubstore.lens import keep_lens
from hubstore.storage import FileRecord
from hubstore.store.layout import content_digest, encode_json
from tests.tiny_models import tiny_language_model

WORDS = {
    "en": ("one house", "two dogs", "three cats sleep", "a sea"),
    "es": ("una casa", "dos perros", "tres gatos duermen", "un mar"),
}


def corpus(name: str) -> Corpus:
    """Texts in two languages; of one language, where they are appended."""
    languages = {"first": ("en", "es"), "second": ("fr",)}[name]
    rows = [
        Item(f"{language}:{i}", text, language, str(i))
        for language in languages
        for i, text in enumerate(WORDS.get(language, WORDS["es"]))
    ]
    return Corpus.from_items(rows, name)


def extract(path: Path) -> None:
    """The extraction that the store begins with, or goes on with."""
    model = tiny_language_model("llama")
    settings = {"poolings": ("last", "tokens"), "layers": ("0", "2"), "batch_tokens": 256}
    hubstore.extract(corpus("first"), model, path, **settings)


def append(path: Path) -> None:
    """What was appended to it."""
    hubstore.append(corpus("second"), path, model=tiny_language_model("llama"))


def make(path: Path) -> Path:
    """Two corpora, two poolings, a lens, two indexes, a kept analysis and a kept map."""
    extract(path)
    append(path)
    store = hubstore.open(path)
    keep_lens(store, tiny_language_model("llama"))
    store.index(layers=["2"], pooling="last", kind="hnsw")
    store.index(layers=["0"], pooling="last", kind="exact")
    store.analyze(["similarity"], bootstrap=10, layers=["2"], device="cpu")
    store.projection(layers=["2"])
    return path


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record as a stranger would, who signs it too."""
    content = json.loads(path.read_bytes())
    change(content)
    times = {"times": content.pop("times")} if "times" in content else {}
    if path.name == "zarr.json" and "hubstore" in content.get("attributes", {}):
        inner = content["attributes"]["hubstore"]
        inner.pop("digest", None)
        inner["digest"] = content_digest(inner)
    elif "digest" in content:
        del content["digest"]
        content["digest"] = content_digest(content)
    path.write_bytes(encode_json({**content, **times}))


def change_root(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the root's attributes, and sign them."""
    change_json(store / "zarr.json", lambda content: change(content["attributes"]["hubstore"]))


def replace_file(store: Path, key: str, data: bytes) -> None:
    """Put other bytes in the place of a file of shard 0, and sign them."""
    (store / key).write_bytes(data)
    record = FileRecord.of(data).to_json()
    change_json(store / "commits/0.json", lambda content: content["files"].update({key: record}))


def copy(store: Path, to: Path) -> Path:
    """A fresh copy of a store."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store, to)
    return to
