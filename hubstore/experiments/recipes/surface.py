"""Are matched texts nearer one another for what they say, or for their form: an ending, a name, a number?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.characters import ngrams
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.recipes.cosines import CENTERED, DIFFERENCE, REMOVED, compare_groups
from hubstore.experiments.result import Row
from hubstore.experiments.significance import Floats, Ints, mean_rows, of_clusters
from hubstore.kernels.rows import unit_rows
from hubstore.store import StoreReader

ONE_ENDING = f"{DIFFERENCE}, all of one ending"
LIKE_ENDINGS = f"{DIFFERENCE} of like endings"
LIKE_LENGTHS = f"{DIFFERENCE} of like lengths"
NOTHING_SHARED = f"{DIFFERENCE}, no token shared"
SURFACE = (ONE_ENDING, LIKE_ENDINGS, LIKE_LENGTHS, NOTHING_SHARED)

LEAST = 3
"""Pairs below which nothing is compared."""

AS_LONG = 8
"""Pairs of like lengths that are compared with one another."""


def compare_form(context: ExperimentContext, store: StoreReader, x: str, y: str) -> tuple[list[Row], tuple[str, ...]]:
    """Matched minus baseline where form cannot make it.

    Among the pairs that end as most do on either side, so that all end alike; of pairs against those alone that end as
    they do, and of pairs against those alone that are about as long; and among the pairs that have no token in common.

    Args:
        context: for the layers and resamples.
        store: of both partitions, with an item for each concept.
        x: a partition.
        y: the other.

    Returns:
        Rows by layer, and notes: how many pairs each is over, and what characters alone find.
    """
    items = store.items
    places = [
        {
            concept: place
            for place in store.partition(name).positions()
            for concept in (items["concept"][place].as_py(),)
        }
        for name in (x, y)
    ]
    rows_x, rows_y = (np.array([of[one] for one in places[0] if one in places[1]], np.int64) for of in places)
    sides = [items["text"].take(pa.array(rows)).to_pylist() for rows in (rows_x, rows_y)]
    pairs = list(zip(*([text[-1:] for text in side] for side in sides), strict=True))
    usual = tuple(Counter(ends).most_common(1)[0][0] for ends in zip(*pairs, strict=True))
    subsets = {
        ONE_ENDING: np.array([n for n, ends in enumerate(pairs) if ends == usual], np.int64),
        NOTHING_SHARED: np.flatnonzero(~shares_tokens(context, *sides)),
    }
    strata = {
        LIKE_ENDINGS: [members for members in by_label(pairs) if len(members) > 1],
        LIKE_LENGTHS: of_like_lengths(items["tokens"].take(pa.array(rows)).to_numpy() for rows in (rows_x, rows_y)),
    }

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        states = [hidden.take(rows).to(torch.float64) for rows in (rows_x, rows_y)]
        found: list[Row] = []
        for name, members in subsets.items():
            if len(members) >= LEAST:
                group = torch.arange(len(members))
                rows = compare_groups(context, layer, states[0][members], states[1][members], group, group)
                renamed = {DIFFERENCE: name, CENTERED: f"{name}{REMOVED}"}
                kept = [{**row, "quantity": renamed[row["quantity"]]} for row in rows if row["quantity"] in renamed]
                found += of_clusters(kept, members)
        left, right = (unit_rows(side) for side in states)
        for name, kinds in strata.items():
            if kinds:
                nearer = within(left, right, kinds)
                found += mean_rows(layer, {name: nearer}, context.resampling, np.concatenate(kinds))
        return found

    grams = [ngrams(side) for side in sides]
    group = torch.arange(len(pairs))
    (alone,) = (r for r in compare_groups(context, "", grams[0], grams[1], group, group) if r["quantity"] == DIFFERENCE)
    notes = (
        f"of {len(pairs):,} pairs both texts end as most do in {len(subsets[ONE_ENDING]):,}, "
        f"{sum(map(len, strata[LIKE_ENDINGS])):,} end as another pair does, "
        f"{len(subsets[NOTHING_SHARED]):,} have no token in common",
        f"their characters alone, by threes: {DIFFERENCE} {alone['value']:.3g} [{alone['low']:.3g}, "
        f"{alone['high']:.3g}]",
    )
    return context.over_layers("comparing what is alike in form", compare), notes


def of_like_lengths(lengths: Iterable[Ints]) -> list[list[int]]:
    """The places of about AS_LONG pairs at a time, by how long both texts are together, of their tokens [n] each."""
    order = np.argsort(sum(lengths), kind="stable")
    kinds = np.array_split(order, max(1, len(order) // AS_LONG))
    return [kind.tolist() for kind in kinds if len(kind) > 1]


def by_label(labels: Sequence[object]) -> list[list[int]]:
    """The places of each label."""
    places: dict[object, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    return list(places.values())


def shares_tokens(context: ExperimentContext, x: Sequence[str], y: Sequence[str]) -> npt.NDArray[np.bool_]:
    """bool [n]: whether the two texts of each pair have a token of the model in common."""
    tokens = [context.model.tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in (x, y)]
    return np.array([bool(set(one) & set(other)) for one, other in zip(*tokens, strict=True)])


def within(x: Tensor, y: Tensor, strata: Sequence[Sequence[int]]) -> Floats:
    """Each pair's cosine above those of its own kind, with the mean of matched minus mismatched over all of them.

    Args:
        x: float64 [n, width], unit rows.
        y: float64 [n, width].
        strata: places of the pairs of each kind, two or more.

    Returns:
        float64 [members of all strata]: the first-order share of each pair, so that their spread is the estimate's.
    """
    shares = []
    for members in strata:
        own_x, own_y, others = x[members], y[members], len(members) - 1
        matched = (own_x * own_y).sum(1)
        # Sums over pairs are products with sums: of ten thousand pairs no matrix is made.
        rows, columns = ((one @ other.sum(0) - matched) / others for one, other in ((own_y, own_x), (own_x, own_y)))
        shares.append(matched - rows - columns + rows.mean())
    return torch.cat(shares).numpy()
