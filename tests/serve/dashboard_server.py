"""What the dashboard's tests look at: small real stores, and a real server over them in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hubstore
from hubstore.corpus import Corpus, Item, Media, read_sample
from hubstore.experiments.result import Result, make_table, write_result
from hubstore.plots.experiment import Plot
from tests.extraction.test_media import png
from tests.tiny_media import random_image

LANGUAGES = ("en", "ar", "sw", "zh-Hans")
SENTENCES = 10
HOSTILE = {
    "script": "<script>window.attacked = 1</script> after it",
    "image": '<img src="x" onerror="window.attacked = 1"> "quoted" & \'quoted\'',
    "formula": "$\\alpha$ <b>bold</b> %{y} {{x}} javascript:window.attacked=1",
    "order": "left \u202eright-to-left override\u202c \u2066isolated\u2069 \u0000nothing\u2028line",
    "long": "word " * 200_000,
}
"""Texts that try to become something else, by their concept; the item of each is called like it, with an "x:"."""


def words_store(model: Path, path: Path) -> Path:
    """Ten sentences in four languages and the hostile texts, with their tokens and a lens."""
    corpus = read_sample("ntrex", languages=LANGUAGES, limit=SENTENCES)
    hostile = [Item(f"x:{name}", text, "en", name) for name, text in HOSTILE.items()]
    items = Corpus.from_items([*corpus.items(), *hostile])
    settings = {"poolings": ("mean", "tokens"), "dtype": "float32", "max_tokens": 48}
    hubstore.extract(items, str(model), path, device="cpu", with_lens=True, **settings)
    return path


def image_store(model: Path, path: Path) -> Path:
    """Texts in two languages and images of the same concepts, with thumbnails."""
    items = [
        Item(f"{tag}:{i}", f"{words} {i}", tag, f"c{i}")
        for tag, words in (("en", "Day"), ("es", "Día"))
        for i in range(8)
    ]
    for i in range(8):
        medium = Media(f"{i}.png", png(random_image(i, 160, 128)))
        items.append(Item(f"image:{i}", f"label {i}", "zxx", f"c{i}", "image", medium))
    settings = {"poolings": ("mean",), "dtype": "float32", "previews": True}
    hubstore.extract(Corpus.from_items(items), str(model), path, device="cpu", **settings)
    return path


def experiment_folder(folder: Path) -> Path:
    """One experiment, as `hubstore experiment --out` keeps it."""
    rows = [
        {"layer": str(layer), "quantity": name, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 10}
        for layer in range(4)
        for name, value in (("matched", 0.5 + layer / 10), ("baseline", 0.4))
    ]
    outcome = Result(
        "yes",
        "matched - baseline 0.4 [0.3, 0.5] at layer 3",
        10,
        make_table(rows),
        (Plot("Cosine by layer", "cosine", ("matched", "baseline")),),
        ("<b>a note</b>",),
    )
    described = {
        "name": "tiny",
        "title": "Translations are alike",
        "claim": "They are nearer than others.",
        "stores": {},
    }
    write_result(folder / "tiny", outcome, {**described, "made_from": {"model": {"id": "tiny"}}}, png(random_image(0)))
    return folder


@contextmanager
def serving(stores: Sequence[Path], *options: str, token: str | None = None) -> Iterator[str]:
    """The URL of `hubstore serve` over the stores, while it runs."""
    command = [sys.executable, "-m", "hubstore", "serve", *map(str, stores), "--port", "0", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("HUBSTORE_TOKEN", None)
    if token is not None:
        environment["HUBSTORE_TOKEN"] = token
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r"http://\S+:\d+", said.replace("\n", "")):
                    yield found[0]
                    break
            else:
                raise AssertionError(f"the server did not start: {said}")
        finally:
            process.terminate()
            process.communicate(timeout=20)
