"""Do pictures and sounds find the names of what they show, in English and in other languages, layer by layer?

An experiment of our own: pictures, sounds and names of the same concepts, each modality and language a partition of one
store, and for every two partitions how often an item's nearest neighbours in the other hold the item of its concept
(recall@1 and recall@10; `retrieval` of `hubstore.analysis`), raw and with each partition's mean removed. States are
those of the last token. Of several items of a concept in one partition the first counts. Chance is k in n for n
concepts.

Headline: recall of names by pictures, and by sounds, above chance, with the means removed, since modalities stand
apart: recall@10 where they share a hundred concepts with the names, else recall@1. In other languages than English it
is the mean over them, and its bounds are the means of theirs, as wide as if all languages erred alike.
Shown: both are above zero at one intermediate block, for every modality that there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hubstore.analysis import retrieval
from hubstore.api import Store
from hubstore.arrow import read_parquet
from hubstore.corpus import Corpus, Item, Media, open_corpus, read_media_folder
from hubstore.errors import AnalysisError, ModelError
from hubstore.experiments.data import shipped_bytes
from hubstore.experiments.described import sounds
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import Peak, peak
from hubstore.plots.panels import Curve, Grid, Panel, Section, View
from hubstore.plots.static import png, require_matplotlib

ENGLISH, NOTHING_SAID = "en", "zxx"
MODALITIES = ("image", "audio")
CONCEPTS = "emoji/concepts.parquet"
MEDIA_COLUMN = "media"
TABLES = tuple(f"cross-modal.{suffix}" for suffix in ("jsonl", "csv", "tsv", "parquet"))
FOLDERS = tuple(f"cross-modal/metadata.{suffix}" for suffix in ("jsonl", "csv", "tsv", "parquet"))
KS = (1, 10)
WIDE = 100
"""Concepts from which on ten neighbours are few."""

COLUMNS = {"x": pa.string(), "y": pa.string(), "variant": pa.string(), "chance": pa.float64()}
PAIRS, LANGUAGES = "pairs.png", "languages.png"
RAW, CENTRED = "raw", "centred"


def run(lab: Lab) -> Outcome:
    """Recall between all partitions of modalities and languages."""
    items, notes = readable(lab, list(source(lab)))
    store = lab.store("cross-modal", Corpus.from_items(items, "cross-modal"), media_template=lab.media_template)
    every = recalls(lab, store)
    asking = [name for name in store.partitions if store.partition(name).modality in MODALITIES]
    summaries = {name: summary(lab, every, store, name) for name in asking}
    rows = [*(row for several in summaries.values() for row in several), *every]
    peaks = {name: peak(rows, headlines(name), lab.intermediate) for name in asking}
    draw(lab, store, every, peaks)
    first = next(iter(peaks.values()))
    return Outcome(
        all(found.shown for found in peaks.values()),
        "; ".join(found.words(lab) for found in peaks.values()),
        first.n,
        make_table(rows, COLUMNS),
        tuple(plot for name in asking for plot in plots(name)),
        (
            *notes,
            *repeated(items),
            f"{PAIRS} has every two partitions at the best layer, {LANGUAGES} every language by layer",
        ),
    )


def source(lab: Lab) -> Iterator[Item]:
    """The user's items, or drawings of 200 concepts and sounds of ten of them, with names in 20 languages.

    The user's are a table cross-modal.jsonl, .csv, .tsv or .parquet with columns concept, language, text and media, the
    path of a picture or a sound, or a folder cross-modal/ of pictures and sounds with a table metadata.jsonl (or .csv
    and so on) of their names: see `hubstore.corpus.read_media_folder`.
    """
    tables, folders = ([path for name in names if (path := lab.file(name))] for names in (TABLES, FOLDERS))
    if tables:
        yield from open_corpus(tables[0], image=MEDIA_COLUMN, audio=MEDIA_COLUMN).items()
        return
    if folders:
        yield from read_media_folder(folders[0].parent).items()
        return
    for row in read_parquet(shipped_bytes(CONCEPTS)).to_pylist():
        concept = row["concept"]
        media = Media(f"{CONCEPTS}!{row['emoji']}", row["image"])
        yield Item(f"image:{concept}", "", NOTHING_SAID, concept, "image", media)
        yield from (Item(f"{language}:{concept}", name, language, concept) for language, name in row["names"].items())
    yield from (Item(f"audio:{one.id}", "", NOTHING_SAID, one.label, "audio", one.audio) for one in sounds(lab))


def readable(lab: Lab, items: Sequence[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """The items of `limit` concepts that the model reads, and notes on those left out.

    Raises:
        ModelError: it reads none of the pictures and sounds.
        AnalysisError: there are none.
    """
    concepts = set(lab.sample(list(dict.fromkeys(item.concept for item in items if item.concept is not None))))
    drawn = [item for item in items if item.concept in concepts]
    there = {item.modality for item in drawn}
    if there <= {"text"}:
        raise AnalysisError(f"{len(drawn)} items with a concept, and none is a picture or a sound; give some")
    lab.model.require_modality("text")
    kept = [item for item in drawn if item.modality in lab.model.modalities]
    left_out = sorted(there - set(lab.model.modalities))
    if {item.modality for item in kept} == {"text"}:
        raise ModelError(
            f"{lab.model.identity['id']} reads {' and '.join(lab.model.modalities)} items, and there are "
            f"{' and '.join(left_out)} items to compare; use a model that reads them"
        )
    note = f"{len(kept):,} items of {len(concepts):,} concepts"
    return kept, (note, *(f"{name} items are left out: the model reads none" for name in left_out))


def repeated(items: Sequence[Item]) -> tuple[str, ...]:
    """A note on items that do not count, since an earlier one of their partition has their concept."""
    kept = {(item.modality, item.language, item.concept) for item in items}
    return (f"{len(items) - len(kept):,} items repeat a concept of their partition and do not count",) * (
        len(kept) < len(items)
    )


def recalls(lab: Lab, store: Store) -> list[Row]:
    """Recall between every two partitions that share concepts, both ways: x asks, y answers."""
    table = retrieval(
        store,
        layers=lab.layers,
        seed=lab.seed,
        bootstrap=lab.bootstrap,
        device=lab.device,
        progress=lambda done, total: lab.progress("retrieving", done, total),
    )
    metrics = {f"recall@{k}": k for k in KS}
    return [
        {**row, "quantity": row["metric"], "chance": min(1.0, metrics[row["metric"]] / row["n"])}
        for row in table.to_pylist()
        if row["metric"] in metrics and row["variant"] in (RAW, CENTRED)
    ]


def summary(lab: Lab, every: Sequence[Row], store: Store, asking: str) -> list[Row]:
    """How far above chance a partition of media finds English names, and those in other languages.

    Raises:
        AnalysisError: there are no names in English, or in no other language, of two concepts or more.
    """
    spoken = {name for name in store.partitions if store.partition(name).modality == "text"}
    found = [row for row in every if row["x"] == asking and row["y"] in spoken and row["variant"] == CENTRED]
    rows: list[Row] = []
    english, other = ([row for row in found if (row["y"] == ENGLISH) == same] for same in (True, False))
    if not english or not other:
        raise AnalysisError(
            f"{asking} shares concepts with {', '.join(sorted({row['y'] for row in found})) or 'no names'}; give names "
            f"in {ENGLISH!r} and in another language, of two concepts or more"
        )
    metric = f"recall@{KS[-1] if english[0]['n'] >= WIDE else KS[0]}"
    for layer in lab.layers:
        for name, headline, answers in zip(curves(asking), headlines(asking), (english, other), strict=True):
            here = [row for row in answers if row["layer"] == layer and row["metric"] == metric]
            chance = float(np.mean([row["chance"] for row in here]))
            means = {key: float(np.mean([row[key] for row in here])) for key in ("value", "low", "high")}
            common = {"layer": layer, "x": asking, "variant": CENTRED, "chance": chance, "n": min(r["n"] for r in here)}
            rows.append({**common, "quantity": name, **means})
            rows.append({**common, "quantity": headline, **{key: value - chance for key, value in means.items()}})
            if answers is english:
                rows.append({**common, "quantity": f"{asking}: chance", "value": chance})
    return rows


def curves(asking: str) -> tuple[str, str]:
    """What recall of English names and of those in other languages is called."""
    return f"{asking} to {ENGLISH}", f"{asking} to other languages"


def headlines(asking: str) -> tuple[str, str]:
    """What these are called above chance."""
    english, other = curves(asking)
    return f"{english} - chance", f"{other} - chance"


def plots(asking: str) -> tuple[Plot, Plot]:
    """Panels of a partition of media."""
    return (
        Plot(f"{asking}: names found", "recall, means removed", (*curves(asking), f"{asking}: chance")),
        Plot(f"{asking}: above chance", "recall - chance", headlines(asking)),
    )


def draw(lab: Lab, store: Store, every: Sequence[Row], peaks: dict[str, Peak]) -> None:
    """Every two partitions at the best layer, and every language by layer, beside the result."""
    require_matplotlib()
    folder = lab.out / "cross-modal"
    folder.mkdir(parents=True, exist_ok=True)
    layer = str(next(iter(peaks.values())).rows[0]["layer"])
    names = tuple(store.partitions)
    (folder / PAIRS).write_bytes(png(_section("pairs", [_grid(every, names, layer, f"recall@{k}") for k in KS])))
    spoken = [name for name in names if name not in peaks]
    panels = [_panel(lab, every, asking, language) for asking in peaks for language in spoken]
    (folder / LANGUAGES).write_bytes(png(_section("languages", [panel for panel in panels if panel.curves])))


def _grid(every: Sequence[Row], names: tuple[str, ...], layer: str, metric: str) -> Grid:
    values = np.full((len(names), len(names)), np.nan)
    for row in every:
        if (row["layer"], row["metric"], row["variant"]) == (layer, metric, CENTRED):
            values[names.index(row["x"]), names.index(row["y"])] = row["value"]
    most = float(np.nanmax(values)) or 1.0
    title = f"{metric} at layer {layer}, means removed"
    return Grid(title, names, names, "asking", "answering", values, metric, (0.0, most))


def _panel(lab: Lab, every: Sequence[Row], asking: str, language: str) -> Panel:
    found = [row for row in every if (row["x"], row["y"]) == (asking, language)]
    metric = f"recall@{KS[-1] if found and found[0]['n'] >= WIDE else KS[0]}"
    lines = {
        variant: [row for row in found if (row["variant"], row["metric"]) == (variant, metric)]
        for variant in (RAW, CENTRED)
    }
    drawn = [
        Curve(
            "means removed" if variant == CENTRED else variant,
            variant,
            np.array([row["value"] for row in several]),
            low=np.array([row["low"] for row in several]),
            high=np.array([row["high"] for row in several]),
        )
        for variant, several in lines.items()
        if several
    ]
    chance = [Curve("chance", "chance", np.array([row["chance"] for row in lines[RAW]]))] if drawn else []
    return Panel(f"{asking} to {language}", metric, lab.layers, (*drawn, *chance))


def _section(key: str, shown: Sequence[Panel | Grid]) -> Section:
    """What is drawn as it is: nothing is chosen."""
    choice: Any = ()
    views = tuple(View(f"{key}-{number}", (), {choice: one}, choice) for number, one in enumerate(shown))
    return Section(key, "", "", "", (), views)
