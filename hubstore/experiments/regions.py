"""Tokens of pictures and sounds that a lens reads together: all of a medium's, or those of a part of it.

What is kept of a region is the mean over its tokens, so that neither the logits nor what was looked up is ever held
for more than a few thousand tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.api import Store
from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Row
from hubstore.experiments.sites import rows_by_layer
from hubstore.experiments.verdict import Floats
from hubstore.kernels import LensSweep
from hubstore.lens import Variant
from hubstore.lens.rows import text_rows

Ints = npt.NDArray[np.int64]
Measure = Callable[[LensSweep, Tensor], Tensor]
STATES = 4096
"""Tokens read at a time."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Which tokens are read, and what is looked up there.

    Args:
        rows: int64 [tokens], of the store, region after region.
        region: int64 [tokens], which region each is of, ascending from 0.
        targets: int64 [regions, t], tokens of the vocabulary.
    """

    rows: Ints
    region: Ints
    targets: Tensor

    @property
    def sizes(self) -> Ints:
        """int64 [regions], the tokens of each."""
        return np.bincount(self.region, minlength=len(self.targets))


def media_store(lab: Lab, name: str, modality: str, items: Sequence[Item]) -> Store:
    """The states of every token of pictures or sounds; ModelError where the model does not read them."""
    lab.model.require_modality(modality)
    corpus = Corpus.from_items(items, name)
    return lab.store(name, corpus, poolings=("tokens",), media_template=lab.media_template)


def media_tokens(lab: Lab, store: Store, ids: Sequence[str]) -> list[Ints]:
    """The rows of each medium's own tokens, without those of the prompt around it."""
    rows, owner = text_rows(store, lab.lens, store.positions(list(ids)), "tokens")
    return np.split(rows, np.flatnonzero(np.diff(owner)) + 1)


def make_regions(rows: Sequence[Ints], targets: Sequence[list[int]]) -> Regions:
    """Regions of the given rows and targets; where some have fewer targets, their first is repeated."""
    width = max(map(len, targets))
    padded = [[*tokens, *tokens[:1] * (width - len(tokens))] for tokens in targets]
    region = np.repeat(np.arange(len(rows)), [len(of_region) for of_region in rows])
    return Regions(np.concatenate(rows), region, torch.tensor(padded))


def read_regions(
    lab: Lab, store: Store, regions: Regions, measure: Measure, find: Callable[[str, Floats], list[Row]], k: int = 0
) -> list[Row]:
    """What `find` finds in the regions' means at each layer, raw and normed; see `rows_by_layer`.

    Args:
        lab: whose lens it is.
        store: of tokens.
        regions: what is read.
        measure: of what the lens says of some tokens and their targets [n, t], what is averaged: [n, m].
        find: of a layer and the means, float64 [regions, m], the rows of the table.
        k: most probable tokens that the measure needs.
    """

    def read(layer: str, variants: Sequence[Variant]) -> list[Floats]:
        hidden = store.hidden(layer, "tokens")
        sums: dict[Variant, Tensor] = {}
        for start in range(0, len(regions.rows), STATES):
            states = hidden.take(regions.rows[start : start + STATES])
            region = torch.from_numpy(regions.region[start : start + STATES])
            targets = regions.targets[region]
            for variant in variants:
                swept = lab.lens.sweep(states, variant=variant, targets=targets, k=k, ranks=False)
                values = measure(swept, targets.to(swept.target_log_probabilities.device)).cpu().to(torch.float64)
                total = sums.setdefault(variant, values.new_zeros(len(regions.targets), values.shape[1]))
                total.index_add_(0, region, values)
        return [sums[variant].numpy() / regions.sizes[:, None] for variant in variants]

    return rows_by_layer(lab, read, find)


def log_probabilities(swept: LensSweep, targets: Tensor) -> Tensor:
    """Of the targets, [n, t]."""
    return swept.target_log_probabilities


def one_token_words(lab: Lab, words: Sequence[str]) -> dict[str, int]:
    """Those of the words that are one token after a space, with it."""
    found = {word: lab.lens.token_or_none(f" {word}") for word in dict.fromkeys(words)}
    return {word: token for word, token in found.items() if token is not None}


def require_several(number: int, what: str, of: str) -> None:
    """AnalysisError where there are fewer than two of something to compare."""
    if number < 2:
        raise AnalysisError(f"{number} {what} of {of} can be compared; give more, or a model whose tokens are words")
