"""A claim about intermediate layers: at the best of them, in the middle of the model, and by more than controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.result import Reading, Result, Row, make_table
from hubstore.experiments.significance import BestLayer, Floats, best_layer, mean_rows, stacked_clusters
from hubstore.plots.experiment import Plot
from hubstore.stats.verdicts import FEWEST_CLUSTERS, TOO_FEW, YES, false_discovery, sign_flip_test

FOLDS = 5
FALSE_SHARE = 0.05
"""Of languages in which a claim is said to hold, the share in which it may be false."""
LAST = "final"
MIDDLE = "the middle (layers"
"""How the note begins that says whether the claim is one of the middle."""
FROM_FIRST, FROM_LAST = "middle - first layer", "middle - last layer"
CHOSEN = "at the layer that other items choose"


def judge(
    context: ExperimentContext,
    rows: Sequence[Row],
    headlines: Sequence[str],
    plots: Sequence[Plot],
    notes: Sequence[str] = (),
    columns: Mapping[str, pa.DataType] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
) -> Result:
    """The result of a claim that is shown where all headlines are above zero at one intermediate layer.

    Args:
        context: whose layers they are.
        rows: of the table.
        headlines: quantities.
        plots: of the table.
        notes: of the result.
        columns: further ones of the table.
        others: headlines of other readings of the same states, by what they are called: they are judged in notes.
    """
    named = {"": headlines, **(others or {})}
    best = [best_layer(rows, several, context.intermediate, context.seed) for several in named.values()]
    readings = [reading(name, one, context.model.depth) for name, one in zip(named, best, strict=True)]
    further: list[Row] = []
    lines: list[str] = []
    for name, several in named.items():
        for found, words in (middle(context, rows, several), cross_validated(context, rows, several)):
            further += found
            lines += [f"{name}, {one}" if name else one for one in words]
    return Result.of(readings, best[0].n, make_table([*rows, *further], columns), plots, (*lines, *notes))


def reading(name: str, best: BestLayer, depth: int | None = None) -> Reading:
    """What one way to read the states says."""
    return Reading(name, best.verdict, best.words(depth), best.rows, best.greatest)


def middle_layers(context: ExperimentContext) -> tuple[str, ...]:
    """The central half of the model's depth, whatever is found there; never the first layer."""
    depth = context.model.depth
    return tuple(name for name in context.intermediate[1:] if depth <= 4 * int(name) <= 3 * depth)


def middle(
    context: ExperimentContext, rows: Sequence[Row], headlines: Sequence[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """How far the mean over the middle layers is above the first layer, and above the last, of the same items.

    A hub is in the middle: what is as great after the first block was there before anything was thought, and what is as
    great at the last layer needs no middle. Nothing is picked, and all must be above zero for a "yes".

    Returns:
        Rows of the differences, and their verdict in words; nothing where the model is too shallow, or where there is
        no value at one of the layers.
    """
    layers = middle_layers(context)
    cells = {(row["layer"], row["quantity"]): row for row in rows}
    compared = (*layers, *context.intermediate[:1], LAST)
    if not layers or not all((layer, name) in cells for layer in compared for name in headlines):
        return [], ()
    stacked = stacked_clusters([[cells[layer, name] for name in headlines] for layer in compared])
    mean, first, last = stacked[:, :-2].mean(1), stacked[:, -2], stacked[:, -1]
    differences = np.concatenate([mean - first, mean - last], 1)  # [clusters, 2 headlines]
    known = differences[np.isfinite(differences).all(1)]
    if not len(known):
        return [], ()
    names = [f"{name}, {which}" for which in (FROM_FIRST, FROM_LAST) for name in headlines]
    place = f"{layers[0]} to {layers[-1]}"
    found = mean_rows(place, dict(zip(names, known.T, strict=True)), context.resampling)
    verdict = sign_flip_test(known[:, None], seed=context.seed).verdict
    return found, (f"{MIDDLE} {place}) above the first layer and the last: {verdict}; {in_words(found)}",)


def cross_validated(
    context: ExperimentContext, rows: Sequence[Row], headlines: Sequence[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """The headlines at the layer that is best for other items, so that having picked it makes nothing larger.

    Returns:
        Rows, and them in words; nothing where there are too few clusters to divide.
    """
    layers = context.intermediate
    cells = {(row["layer"], row["quantity"]): row for row in rows}
    among = [layer for layer in layers if all((layer, name) in cells for name in headlines)]
    stacked = stacked_clusters([[cells[layer, name] for name in headlines] for layer in among])
    stacked = stacked[np.isfinite(stacked).all((1, 2))]
    if len(stacked) < FEWEST_CLUSTERS:
        return [], ()
    fold = np.random.default_rng([context.seed, len(stacked)]).permutation(len(stacked)) % FOLDS
    held = np.empty((len(stacked), len(headlines)))
    picked: Counter[str] = Counter()
    for number in range(FOLDS):
        best = int(_clearness(stacked[fold != number]).min(1).argmax())
        held[fold == number] = stacked[fold == number, best]
        picked[among[best]] += 1
    names = [f"{name}, {CHOSEN}" for name in headlines]
    at = ", ".join(f"{layer} ({count})" for layer, count in sorted(picked.items(), key=lambda one: int(one[0])))
    found = mean_rows("held out", dict(zip(names, held.T, strict=True)), context.resampling)
    return found, (f"held-out items in {FOLDS} folds, layers {at}: {in_words(found)}",)


def by_language(
    context: ExperimentContext, rows: Sequence[Row], headlines: Mapping[str, Sequence[str]], what: str = ""
) -> tuple[str, ...]:
    """In which languages a claim holds by the experiment's own rule, with false discoveries in mind.

    Each language is tested over all intermediate layers. Of so many tests some say yes by chance: of those that do, as
    many count as have an expected share of false ones of FALSE_SHARE at most (Benjamini and Hochberg, 1995).

    Args:
        context: whose layers they are.
        rows: of the table.
        headlines: by language, quantities that must all be above zero at one layer.
        what: the claim, in words.

    Returns:
        A note; none where no language has a value.
    """
    known = {row["quantity"] for row in rows}
    tests = {
        language: best_layer(rows, several, context.intermediate, context.seed)
        for language, several in headlines.items()
        if known.issuperset(several)
    }
    if not tests:
        return ()
    p = {name: float(one.test.p_by_layer[one.place]) for name, one in tests.items() if one.verdict != TOO_FEW}
    q = dict(zip(p, false_discovery(list(p.values())).tolist(), strict=True))
    held = [name for name in q if tests[name].verdict == YES and q[name] <= FALSE_SHARE]
    yes = [f"{name} (layer {tests[name].rows[0]['layer']})" for name in held]
    parts = [f"yes in {len(yes)} of {len(q)}{': ' if yes else ''}{', '.join(yes)}"] if q else []
    no = [f"{name} (q {q[name]:.2g})" for name in q if name not in held]
    few = [name for name in tests if name not in q]
    parts += [f"{words}: {', '.join(names)}" for words, names in (("no", no), (TOO_FEW, few)) if names]
    return (f"by language{f', {what}' if what else ''}, with false discoveries in mind: {'; '.join(parts)}",)


def _clearness(values: Floats) -> Floats:
    """How many standard errors means of [clusters, layers, headlines] are above zero: [layers, headlines]."""
    errors = values.std(0) / len(values) ** 0.5
    means = values.mean(0)
    return np.asarray(np.where(errors > 0, means / np.where(errors > 0, errors, 1), np.sign(means) * len(values)))


def in_words(rows: Sequence[Row]) -> str:
    """Values with their intervals."""
    return "; ".join(f"{r['quantity']} {r['value']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in rows)
