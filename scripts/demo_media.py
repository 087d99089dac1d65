"""What `scripts/demo --multimodal` shows: for an image and a recording, the nearest names in ten languages, by layer.

    scripts/demo_media.py PICTURE_MODEL SOUND_MODEL STORE

extracts drawings, recordings and their names in eleven languages into STORE, unless it is there, and prints.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import hubstore
from hubstore.corpus import Corpus, Item, Media

DATA = Path(__file__).parents[1] / "hubstore/experiments/materials"
LANGUAGES = ("es", "fr", "de", "pt", "ru", "zh", "ja", "ko", "hi", "sw")
"""None of them was ever trained with an image or audio clip."""

CARRIER = "\nIn English this is called"
LAYERS = ("4", "8", "12", "14", "16", "18")
SHOWN = ("picture/house", "sound/helicopter 3")
"""Two of those that it names well; how well it does on all is printed below them."""

CLIPS = 4  # of each class


def items() -> Iterator[Item]:
    """Drawings of a vendor that was not trained on, recordings, and what they are called."""
    drawings = pq.read_table(DATA / "emoji/concepts.parquet").to_pylist()
    for drawing in drawings:
        concept, names = drawing["concept"], drawing["names"]
        yield Item(
            f"picture/{names['en']}",
            names["en"],
            "zxx",
            concept,
            "image",
            Media(f"{names['en']}.png", drawing["image"]),
        )
        for language in ("en", *LANGUAGES):
            if names.get(language):
                yield Item(f"{language}/{concept}", names[language], language, concept)
    with (DATA / "esc10/names.tsv").open(encoding="utf-8") as file:
        called = {row["label"]: row for row in csv.DictReader(file, delimiter="\t")}
    drawn = {drawing["concept"] for drawing in drawings}
    taken: Counter[str] = Counter()
    for clip in pq.read_table(DATA / "esc10/sounds.parquet").to_pylist():
        label = clip["label"]
        taken[label] += 1
        if taken[label] <= CLIPS:
            name = f"{label} {taken[label]}"
            yield Item(f"sound/{name}", label, "zxx", label, "audio", Media(f"{name}.ogg", clip["audio"]))
    for label in taken:
        if label not in drawn:  # else its names are there already
            for language in ("en", *LANGUAGES):
                yield Item(f"{language}/{label}", called[label][language], language, label)


def show(store: hubstore.Store, item: str, console: Console) -> None:
    """A row for each language, a column for each layer."""
    position = int(store.positions([item])[0])
    concept = store.items["concept"][position].as_py()
    table = Table(title=f"{item}: the nearest name, layer by layer (right ones are bold)", title_justify="left")
    for column in ("language", *(f"layer {layer}" for layer in LAYERS)):
        table.add_column(column)
    for language in LANGUAGES:
        right = {
            row["text"]
            for row in store.items.take(store.partition(language).positions()).to_pylist()
            if row["concept"] == concept
        }
        nearest = store.search(ids=[item], k=1, layers=LAYERS, languages=[language], modalities=["text"], centered=True)
        found = nearest["text"].to_pylist()
        table.add_row(language, *(f"[bold green]{name}[/]" if name in right else name for name in found))
    console.print(table)


def main() -> None:
    images, recordings, path = sys.argv[1:4]
    store = hubstore.extract(
        Corpus.from_items(items(), "drawings, recordings and names"),
        images,
        path,
        extra_models=[recordings],
        poolings=("last",),
        dtype="float32",
        template=f"{{text}}{CARRIER}",
        media_template=f"{{media}}{CARRIER}",
        previews=True,
    )
    console = Console()
    console.print(f"{path}: {len(store):,} items; {', '.join(store.partitions)}")
    for item in SHOWN:
        show(store, item, console)
    pairs = [(f"{modality}/zxx", language) for modality in ("image", "audio") for language in ("en", *LANGUAGES)]
    found = store.analyze(["retrieval"], pairs=pairs, layers=["16"], bootstrap=0)["retrieval"].to_pylist()
    table = Table(title="All of them at layer 16, means removed", title_justify="left")
    for column in ("from", "to", "n", "recall@1", "chance", "recall@10", "chance"):
        table.add_column(column)
    for x, y in pairs:
        about = {row["metric"]: row for row in found if (row["x"], row["y"]) == (x, y) and row["variant"] == "centered"}
        n = about["recall@1"]["n"]
        cells = [(about[f"recall@{k}"]["value"], min(k / n, 1)) for k in (1, 10)]
        table.add_row(x, y, str(n), *(f"{figure:.2f}" for pair in cells for figure in pair))
    console.print(table)


if __name__ == "__main__":
    main()
