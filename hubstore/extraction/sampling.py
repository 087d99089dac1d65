"""The items that the self-check runs: of every length there is, the longest, and those about every border."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hubstore.extraction.plan import Plan, PlannedItems
from hubstore.models import Borders
from hubstore.reading.layout import Integers

TokenIds = Sequence[int]

READ = 256
"""Texts that are tokenized for the sample, from all over the plan."""

SPREAD = 16
SPREAD_TOKENS = 4096
"""Items of the sample spread over the lengths, and their tokens at most, in all; two are in any case."""

LONGEST = 16
LONGEST_BYTES = 4 << 20
"""Texts of most bytes that are tokenized to find the longest, and their bytes at most, in all; one is in any case."""

FILES = 4096
"""Files of media whose sizes are looked up, evenly spread over those of which no bytes travel with their items."""

BORDER_TOKENS = 1 << 16
"""Of items cut about borders, in all; those about the lowest border are taken in any case."""


def sampled_rows(items: PlannedItems, plan: Plan, modality: str, most: int) -> Iterator[Mapping[str, Any]]:
    """Items of one modality, from all over the plan; `most` or a few more."""
    every = sum(count for other, _, count in plan.partitions if other == modality)
    for start, count in _ranges(plan, modality):
        for i in range(start, start + count, max(every // most, 1)):
            yield items.read(i, i + 1, media=True).to_pylist()[0]


def longest_texts(items: PlannedItems, plan: Plan) -> list[str]:
    """The texts of most bytes: a few of all, and one of every partition, in whose scripts a token has other bytes."""
    ranges = _ranges(plan, "text")
    sizes = items.bytes_of("text")
    own = np.concatenate([np.arange(start, start + count) for start, count in ranges])
    of_all = own[np.argsort(-sizes[own], kind="stable")[:LONGEST]]
    of_each = [start + int(sizes[start : start + count].argmax()) for start, count in ranges]
    chosen = sorted({*map(int, of_all), *of_each}, key=lambda i: (-sizes[i], i))
    within = int(np.searchsorted(np.cumsum(sizes[chosen]), LONGEST_BYTES))
    return [items.read(i, i + 1)["text"][0].as_py() for i in chosen[: max(within, 1)]]


def largest_media(items: PlannedItems, plan: Plan, modality: str, most: int) -> Iterator[Mapping[str, Any]]:
    """The items of one modality of most bytes, mostly the longest audio; of local files some are looked at."""
    sizes = items.bytes_of("data").copy()
    own = np.concatenate([np.arange(start, start + count) for start, count in _ranges(plan, modality)])
    without = own[sizes[own] == 0]
    for i in without[:: max(len(without) // FILES, 1)].tolist():
        with contextlib.suppress(OSError, ValueError):  # it lies elsewhere, or is not there: whoever reads it says so
            sizes[i] = os.stat(items.read(i, i + 1)["media"][0].as_py()).st_size
    for i in own[np.argsort(-sizes[own], kind="stable")[:most]]:
        if sizes[i]:
            yield items.read(int(i), int(i) + 1, media=True).to_pylist()[0]


def choose_texts(spread: Sequence[TokenIds], longest: Sequence[TokenIds], borders: Borders) -> list[TokenIds]:
    """The sample among tokenized texts.

    Args:
        spread: of texts from all over.
        longest: of the longest ones.
        borders: where the model changes: the longest is cut at both sides of those that it crosses.
    """
    chosen = [spread[i] for i in choose_sample([len(ids) for ids in spread])]
    while len(chosen) > 2 and sum(map(len, chosen)) > SPREAD_TOKENS:
        chosen.remove(max(chosen, key=len))
    long = sorted([*longest, *spread], key=len, reverse=True)[:2]
    cut: list[TokenIds] = []
    for border in borders.lengths:
        if len(long[0]) > border and (not cut or sum(map(len, cut)) + 2 * border <= BORDER_TOKENS):
            cut += [long[0][:border], long[0][: border + 1]]
    return sorted({tuple(ids): ids for ids in itertools.chain(chosen, cut, long)}.values(), key=len)


def choose_sample(lengths: Sequence[int], count: int = SPREAD) -> list[int]:
    """Positions of `count` items spread evenly over the lengths, the shortest and the longest among them."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    count = min(count, len(order))
    if count == 1:
        return order[:1]
    return sorted({order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)})


def cut_to_same_length(token_ids: Sequence[TokenIds], size: int) -> list[TokenIds]:
    """The items, `size` at a time cut to the shortest of them, so that batches of one length have more than one."""
    ascending = sorted(token_ids, key=len)
    return [ids[: len(ascending[i - i % size])] for i, ids in enumerate(ascending)]


def fill_batch(members: Integers, lengths: Integers, tokens: int, *, packed: bool) -> Integers:
    """The members again and again, as many as fit into a batch: what an item does to others shows when it is full."""
    repeated = np.resize(members, max(tokens // int(lengths[members].min()), 1))
    ends = np.cumsum(lengths[repeated]) if packed else np.arange(1, len(repeated) + 1) * lengths[members].max()
    count = int(np.searchsorted(ends, tokens, side="right"))
    return np.resize(members, max(count, len(members)))


def _ranges(plan: Plan, modality: str) -> list[tuple[int, int]]:
    """Where the partitions of a modality begin in the plan's order, and how many items each has."""
    starts = itertools.accumulate((count for _, _, count in plan.partitions), initial=0)
    every = zip(starts, plan.partitions, strict=False)
    return [(start, count) for start, (other, _, count) in every if other == modality]
