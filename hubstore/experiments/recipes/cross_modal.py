"""Do images and audio find the names of what they show, in English and in other languages, layer by layer?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from hubstore.analysis import found_by_concept, retrieval
from hubstore.analysis.states import VARIANTS
from hubstore.arrow import read_parquet
from hubstore.corpus import Corpus, Item, Media, open_corpus, read_media_folder
from hubstore.errors import AnalysisError, ModelError
from hubstore.experiments.claims import by_language
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import shipped_bytes
from hubstore.experiments.materials.media import NO_LANGUAGE, RECORDINGS, SHIPPED, recordings
from hubstore.experiments.materials.translations import CONCEPTS
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Reading, Result, Row, make_table
from hubstore.experiments.significance import BestLayer, best_layer, joint, with_clusters
from hubstore.plots.experiment import Plot
from hubstore.plots.panels import Curve, Grid, Panel
from hubstore.plots.static import panels_png, require_matplotlib
from hubstore.store import StoreReader

ENGLISH = "en"
MODALITIES = ("image", "audio")
MEDIA_COLUMN = "media"
SUFFIXES = ("jsonl", "csv", "tsv", "parquet")
TABLES = tuple(f"cross-modal.{suffix}" for suffix in SUFFIXES)
FOLDERS = tuple(f"cross-modal/metadata.{suffix}" for suffix in SUFFIXES)
METRICS = {"recall@1": 1, "recall@10": 10}
NARROW, WIDE = METRICS
MANY = 100
"""Concepts from which on ten neighbors are few."""

COLUMNS = {"x": pa.string(), "y": pa.string(), "variant": pa.string(), "chance": pa.float64()}
PAIRS, LANGUAGES = "pairs.png", "languages.png"
RAW, CENTERED = VARIANTS


@experiment(
    "cross-modal",
    title="Images, audio and names in 20 languages: how often one finds the other among all",
    claim="In intermediate layers images and audio find their names among others, in English and in other languages.",
    data="200 drawings and 80 audio clips with names in 20 languages that ship; or cross-modal.jsonl (concept, "
    "language, text, media), or a folder cross-modal with metadata.jsonl",
    shipped=(CONCEPTS, SHIPPED[RECORDINGS]),
    files=(RECORDINGS, *TABLES, *FOLDERS),
    modalities=MODALITIES,
)
def cross_modal(context: ExperimentContext) -> Result:
    """Do images and audio find the names of what they show, in English and in other languages?

    An experiment of our own: images, audio and names of the same concepts, each modality and language a partition of
    one store, and for every two partitions how often an item's nearest neighbors in the other hold the item of its
    concept (recall@1 and recall@10; `retrieval` of `hubstore.analysis`), raw and with each partition's mean removed.
    States are those of the last token. Of several items of a concept in one partition the first counts. Chance is k in
    n for n concepts.

    Headline: recall of names by images, and by audio, above chance, with the means removed, since modalities stand
    apart: recall@10 where they share a hundred concepts with the names, else recall@1. In other languages than English
    it is the mean over them, and its bounds are the means of their bounds, as wide as if all languages erred together.
    A note says in which languages names are found, with false discoveries over languages in mind.

    Shown: both are above zero at one intermediate block, for every modality that there is.
    """
    items, notes = readable(context, list(concept_items(context)))
    store = context.store("cross-modal", Corpus.from_items(items, "cross-modal"), media_template=context.media_template)
    every = recalls(context, store)
    queries = [name for name in store.partitions if store.partition(name).modality in MODALITIES]
    spoken = [name for name in store.partitions if name not in queries]
    rows = [row for name in queries for row in names_found(every, spoken, name, context.layers)] + every
    tested = [row for name in queries for row in with_queries(context, store, rows, every, spoken, name)]
    best = {name: best_layer(tested, headlines(name), context.intermediate, context.seed) for name in queries}
    draw(context, store, every, best)
    for name in queries:
        notes = (
            *notes,
            *by_language(context, tested, {one: [in_language(name, one)] for one in spoken}, f"{name} find names"),
        )
    plots = [
        plot
        for name in queries
        for plot in (
            Plot(f"{name}: names found", "recall, means removed", (*curves(name), f"{name}: chance")),
            Plot(f"{name}: above chance", "recall - chance", headlines(name)),
        )
    ]
    reading = Reading(
        "",
        joint([found.verdict for found in best.values()]),
        "; ".join(found.words(context.model.depth) for found in best.values()),
        tuple(row for found in best.values() for row in found.rows),
        tuple(row for found in best.values() for row in found.greatest),
    )
    return Result.of(
        [reading],
        next(iter(best.values())).n,
        make_table(rows, COLUMNS),
        plots,
        (*notes, f"{PAIRS} has every two partitions at the best layer, {LANGUAGES} every language by layer"),
    )


def concept_items(context: ExperimentContext) -> Iterator[Item]:
    """The user's items, or drawings of 200 concepts and audio of ten of them, with names in 20 languages.

    The user's are a table cross-modal.jsonl, .csv, .tsv or .parquet with columns concept, language, text and media, the
    path of an image or an audio file, or a folder cross-modal/ of images and audio with a table metadata.jsonl (or .csv
    and so on) of their names: see `hubstore.corpus.read_media_folder`.
    """
    tables, folders = ([path for name in names if (path := context.file(name))] for names in (TABLES, FOLDERS))
    if tables:
        yield from open_corpus(tables[0], image=MEDIA_COLUMN, audio=MEDIA_COLUMN).items()
        return
    if folders:
        yield from read_media_folder(folders[0].parent).items()
        return
    for row in read_parquet(shipped_bytes(CONCEPTS)).to_pylist():
        concept = row["concept"]
        drawing = Media(f"{CONCEPTS}!{row['emoji']}", row["image"])
        yield Item(f"image:{concept}", "", NO_LANGUAGE, concept, "image", drawing)
        yield from (Item(f"{language}:{concept}", name, language, concept) for language, name in row["names"].items())
    yield from (one.item for one in recordings(context))


def readable(context: ExperimentContext, items: Sequence[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """The items of `limit` concepts that the model reads, and notes on those that do not count.

    Raises:
        ModelError: it reads none of the images and audio.
        AnalysisError: there are none.
    """
    concepts = set(context.sample(list(dict.fromkeys(item.concept for item in items if item.concept is not None))))
    drawn = [item for item in items if item.concept in concepts]
    modalities = {item.modality for item in drawn}
    if modalities <= {"text"}:
        raise AnalysisError(f"{len(drawn)} items with a concept, and none is an image or audio; give some")
    context.model.require_modality("text")
    read = [item for item in drawn if item.modality in context.model.modalities]
    left_out = sorted(modalities - set(context.model.modalities))
    if {item.modality for item in read} == {"text"}:
        raise ModelError(
            f"{context.model.identity['id']} reads {' and '.join(context.model.modalities)} items, and there are "
            f"{' and '.join(left_out)} items to compare; use a model that reads them"
        )
    notes = [f"{len(read):,} items of {len(concepts):,} concepts"]
    notes += [f"{name} items are left out: the model reads none" for name in left_out]
    repeated = len(read) - len({(item.modality, item.language, item.concept) for item in read})
    if repeated:
        notes.append(f"{repeated:,} items repeat a concept of their partition and do not count")
    return read, tuple(notes)


def recalls(context: ExperimentContext, store: StoreReader) -> list[Row]:
    """Recall between every two partitions that share concepts, both ways: queries of x, answers of y."""
    table = retrieval(
        store,
        layers=context.layers,
        seed=context.seed,
        bootstrap=context.bootstrap,
        device=context.device,
        progress=lambda done, total: context.progress("retrieving", done, total),
    )
    return [
        {**row, "quantity": row["metric"], "chance": min(1.0, METRICS[row["metric"]] / row["n"])}
        for row in table.to_pylist()
        if row["metric"] in METRICS and row["variant"] in (RAW, CENTERED)
    ]


def names_found(every: Sequence[Row], spoken: Sequence[str], queries: str, layers: Sequence[str]) -> list[Row]:
    """How far above chance a partition of media finds English names, and those in other languages.

    Args:
        every: recalls.
        spoken: the partitions of names.
        queries: the partition of media.
        layers: those of the curves.

    Raises:
        AnalysisError: there are no names in English, or in no other language, of two concepts or more.
    """
    found = [row for row in every if row["x"] == queries and row["y"] in spoken and row["variant"] == CENTERED]
    english, other = ([row for row in found if (row["y"] == ENGLISH) == same] for same in (True, False))
    if not english or not other:
        raise AnalysisError(
            f"{queries} shares concepts with {', '.join(sorted({row['y'] for row in found})) or 'no names'}; give "
            f"names in {ENGLISH!r} and in another language, of two concepts or more"
        )
    metric = metric_for(english[0])
    rows: list[Row] = []
    for layer in layers:
        for name, headline, answers in zip(curves(queries), headlines(queries), (english, other), strict=True):
            layer_rows = [row for row in answers if row["layer"] == layer and row["metric"] == metric]
            chance = float(np.mean([row["chance"] for row in layer_rows]))
            means = {key: float(np.mean([row[key] for row in layer_rows])) for key in ("value", "low", "high")}
            n = min(row["n"] for row in layer_rows)
            common = {"layer": layer, "x": queries, "variant": CENTERED, "chance": chance, "n": n}
            rows.append({**common, "quantity": name, **means})
            rows.append({**common, "quantity": headline, **{key: value - chance for key, value in means.items()}})
            if answers is english:
                rows.append({**common, "quantity": f"{queries}: chance", "value": chance})
    return rows


def with_queries(
    context: ExperimentContext,
    store: StoreReader,
    rows: Sequence[Row],
    every: Sequence[Row],
    spoken: Sequence[str],
    queries: str,
) -> list[Row]:
    """The headlines of a partition of media, over languages and in each, with what each of its items adds to them.

    Args:
        context: for the layers.
        store: of media and names.
        rows: of `names_found`.
        every: recalls.
        spoken: the partitions of names.
        queries: the partition of media.
    """
    compared = {row["y"]: metric_for(row) for row in every if row["x"] == queries and row["y"] in spoken}
    metric = compared[ENGLISH]
    found = {
        name: found_by_concept(
            store, (queries, name), context.layers, metric=metric, variant=CENTERED, device=context.device
        )
        for name in compared
    }
    ids = np.unique(np.concatenate([positions for positions, _ in found.values()]))
    headline = {(row["layer"], row["quantity"]): row for row in rows if row["quantity"] in headlines(queries)}
    tested: list[Row] = []
    for layer in context.layers:
        for name, answers in zip(headlines(queries), ([ENGLISH], [y for y in compared if y != ENGLISH]), strict=True):
            # Weighed so that the mean over items is the mean over languages, which may share fewer concepts.
            added = np.zeros(len(ids))
            for positions, by_layer in (found[y] for y in answers):
                places = np.searchsorted(ids, positions)
                added[places] += by_layer[layer] * len(ids) / (len(positions) * len(answers))
            row = headline[layer, name]
            tested += with_clusters([row], (added - row["chance"])[:, None], ids)
        for name, (positions, by_layer) in found.items():
            if name == ENGLISH:
                continue  # whose row is a headline
            above = by_layer[layer] - min(1.0, METRICS[metric] / len(positions))
            row = {"layer": layer, "quantity": in_language(queries, name), "value": above.mean(), "n": len(above)}
            tested += with_clusters([row], above[:, None], positions)
    return tested


def metric_for(row: Row) -> str:
    """The recall that says most about as many concepts as a row is over."""
    return WIDE if row["n"] >= MANY else NARROW


def curves(queries: str) -> tuple[str, str]:
    """What recall of English names and of those in other languages is called."""
    return f"{queries} to {ENGLISH}", f"{queries} to other languages"


def headlines(queries: str) -> tuple[str, str]:
    """What these are called above chance."""
    english, other = curves(queries)
    return f"{english} - chance", f"{other} - chance"


def in_language(queries: str, language: str) -> str:
    """What recall of the names in one language is called above chance."""
    return f"{queries} to {language} - chance"


def draw(context: ExperimentContext, store: StoreReader, every: Sequence[Row], best: Mapping[str, BestLayer]) -> None:
    """Every two partitions at the best layer, and every language by layer, beside the result."""
    require_matplotlib()
    folder = context.folder("cross-modal")
    folder.mkdir(parents=True, exist_ok=True)
    layer = str(next(iter(best.values())).rows[0]["layer"])
    names = tuple(store.partitions)
    grids = [_grid(every, names, layer, metric) for metric in METRICS]
    panels = [_panel(context, every, queries, name) for queries in best for name in names if name not in best]
    for name, shown in ((PAIRS, grids), (LANGUAGES, [panel for panel in panels if panel.curves])):
        (folder / name).write_bytes(panels_png(shown))


def _grid(every: Sequence[Row], names: tuple[str, ...], layer: str, metric: str) -> Grid:
    values = np.full((len(names), len(names)), np.nan)
    for row in every:
        if (row["layer"], row["metric"], row["variant"]) == (layer, metric, CENTERED):
            values[names.index(row["x"]), names.index(row["y"])] = row["value"]
    title = f"{metric} at layer {layer}, means removed"
    return Grid(title, names, names, "queries", "answers", values, metric, (0.0, float(np.nanmax(values)) or 1.0))


def _panel(context: ExperimentContext, every: Sequence[Row], queries: str, language: str) -> Panel:
    found = [row for row in every if (row["x"], row["y"]) == (queries, language)]
    metric = metric_for(found[0]) if found else NARROW
    drawn = []
    for variant, name in ((RAW, RAW), (CENTERED, "means removed")):
        rows = [row for row in found if (row["variant"], row["metric"]) == (variant, metric)]
        values, low, high, chance = (np.array([row[key] for row in rows]) for key in ("value", "low", "high", "chance"))
        if rows:
            drawn.append(Curve(name, variant, values, low=low, high=high))
    if drawn:
        drawn.append(Curve("chance", "chance", chance))
    return Panel(f"{queries} to {language}", metric, context.layers, tuple(drawn))
