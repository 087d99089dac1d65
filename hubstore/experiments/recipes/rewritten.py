"""What stays of a match when the text is another one: the same sentence with another name or number, or in ASCII."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item
from hubstore.errors import MissingDependencyError
from hubstore.experiments.context import ExperimentContext, package_version
from hubstore.experiments.recipes.cosines import CENTERED, DIFFERENCE, REMOVED, compare_groups
from hubstore.experiments.recipes.surface import LEAST
from hubstore.experiments.result import Row
from hubstore.experiments.significance import mean_rows, of_clusters
from hubstore.kernels import paired_cosine
from hubstore.store import StoreReader

NEARER = "matched - the same with another name or number"
ROMANIZED = f"{DIFFERENCE}, romanized"
REWRITTEN = (NEARER, ROMANIZED)

NUMBER = re.compile(r"\d+")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")
"""A word with a capital that begins no sentence: of English and its like, a name."""


def compare_rewritten(
    context: ExperimentContext, store: StoreReader, x: Sequence[Item], y: Sequence[Item]
) -> tuple[list[Row], tuple[str, ...]]:
    """Whether texts are nearer their matches than the same with another name or number; and what romanized ones find.

    A sentence with another name says something else in almost the same words: what is nearer to it only by its topic,
    its length or its form is as near to either. Romanized texts have one script: what sets languages apart only by
    their script is gone.

    Args:
        context: for the layers and resamples.
        store: of both sides.
        x: texts, one for each concept.
        y: their matches in the same order, in English or in another language that writes names with capitals.

    Returns:
        Rows by layer, with each side's mean removed too, and notes.
    """
    rows, notes = _nearer(context, store, x, y)
    romanized, more = _romanized(context, x, y)
    return [*rows, *romanized], (*notes, *more)


def near_duplicates(texts: Sequence[str], seed: int) -> list[str | None]:
    """Each text with one number, or else one name, in the place of another's; None where it has neither.

    Numbers have as many digits; names are drawn from those of the other texts.
    """
    rng = np.random.default_rng(seed)
    names = sorted({name for text in texts for name in NAME.findall(text)})
    changed: list[str | None] = []
    for text in texts:
        found = list(NUMBER.finditer(text)) or list(NAME.finditer(text))
        if not found:
            changed.append(None)
            continue
        one = found[rng.integers(len(found))]
        if one[0].isdecimal():
            digits = len(one[0])
            drawn = [str(number) for number in rng.integers(10 ** (digits - 1), 10**digits, 8)] if digits < 19 else []
        else:
            drawn = [names[place] for place in rng.permutation(len(names))[:64]]
        other = next((word for word in drawn if word not in text), None)
        changed.append(None if other is None else text[: one.start()] + other + text[one.end() :])
    return changed


def _nearer(
    context: ExperimentContext, store: StoreReader, x: Sequence[Item], y: Sequence[Item]
) -> tuple[list[Row], tuple[str, ...]]:
    changed = near_duplicates([item.text for item in y], context.seed)
    members = np.array([place for place, text in enumerate(changed) if text is not None], np.int64)
    note = f"{len(members):,} of {len(y):,} {y[0].language} texts have a name or a number to put another for"
    if len(members) < LEAST:
        return [], (note,)
    items = [replace(y[place], id=f"{y[place].id}, changed", text=changed[place]) for place in members]
    others = context.store("near-duplicates", Corpus.from_items(items, "near duplicates"))
    at = [store.positions([side[place].id for place in range(len(side))]) for side in (x, y)]
    at_others = others.positions([item.id for item in items])

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        left, right = (hidden.take(rows).to(torch.float64) for rows in at)
        other = others.hidden(layer).take(at_others).to(torch.float64)
        values = {
            name: _led(left[members] - mean_x, right[members] - mean_y, other - mean_y)
            for name, mean_x, mean_y in (
                (NEARER, left.new_zeros(1), left.new_zeros(1)),
                (f"{NEARER}{REMOVED}", left.mean(0), right.mean(0)),
            )
        }
        return of_clusters(mean_rows(layer, values, context.resampling), members)

    return context.over_layers("comparing near duplicates", compare), (note,)


def _led(x: Tensor, y: Tensor, other: Tensor) -> np.ndarray:
    """float64 [n]: how much nearer rows are to y than to others."""
    return (paired_cosine(x, y).cosines - paired_cosine(x, other).cosines).to(torch.float64).numpy()


def _romanized(context: ExperimentContext, x: Sequence[Item], y: Sequence[Item]) -> tuple[list[Row], tuple[str, ...]]:
    if all(item.text.isascii() for item in (*x, *y)):
        return [], ()
    try:
        version = package_version("anyascii")
    except MissingDependencyError as error:
        return [], (f"romanized texts are left out: {error}",)
    from anyascii import anyascii

    items = [replace(item, text=anyascii(item.text)) for item in (*x, *y)]
    store = context.store("romanized", Corpus.from_items(items, f"romanized by anyascii {version}"))
    at = [store.positions([item.id for item in side]) for side in (x, y)]
    group = torch.arange(len(x))
    named = {DIFFERENCE: ROMANIZED, CENTERED: f"{ROMANIZED}{REMOVED}"}

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        left, right = (hidden.take(rows).to(torch.float64) for rows in at)
        rows = compare_groups(context, layer, left, right, group, group)
        return [{**row, "quantity": named[row["quantity"]]} for row in rows if row["quantity"] in named]

    note = f"romanized, the first text is {items[0].text[:60]!r}"
    return context.over_layers("comparing romanized texts", compare), (note,)
