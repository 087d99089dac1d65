"""On their way through the layers, do sums pass nearer the number words than where they end (Wu et al., 2025)?

The plane is that of the two principal components of the 20 unembeddings of the digits "0" to "9" and the words " zero"
to " nine". The state of a sum's operator, the last token of "8=5+", is standardised over the layers in each dimension,
as in the paper, and projected on it. The axis measured runs in the plane from the digits' mean (-1) to the words' (+1).

Standardising over the layers puts each sum's mean over its layers at one place whatever the model does; what can be
claimed is movement. Shown: sums end on the digits' side, and are more on the words' side at an intermediate block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hubstore.corpus import Corpus, Item
from hubstore.experiments.arithmetic import expressions, number_word
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import Floats, mean_rows, peak

FIRST, SECOND, TOWARD = "first component", "second component", "digits (-1) to words (+1)"
MOVED = "toward words, from the last layer"
ENDS = "toward digits, in the last layer"
PLOTS = (
    Plot("in the plane of digits and number words", "coordinate", (FIRST, SECOND)),
    Plot("from digits to words", "position", (TOWARD, MOVED)),
)


@dataclass(frozen=True)
class Plane:
    """The plane of the principal components of digits and number words.

    Args:
        origin: float64 [width], the mean of all 20.
        components: float64 [2, width], orthonormal.
        digits: float64 [2], the mean of the digits.
        words: float64 [2], the mean of the words.
    """

    origin: Floats
    components: Floats
    digits: Floats
    words: Floats

    @classmethod
    def of_anchors(cls, digits: Floats, words: Floats) -> Plane:
        """The plane of digits [10, width] and words [10, width]."""
        anchors = np.concatenate([digits, words])
        origin = anchors.mean(0)
        components = np.linalg.svd(anchors - origin, full_matrices=False)[2][:2]
        ends = ((one - origin) @ components.T for one in (digits, words))
        return cls(origin, components, *(end.mean(0) for end in ends))

    def place(self, states: Floats) -> Floats:
        """float64 [..., 2] of states [..., width]."""
        return np.asarray((states - self.origin) @ self.components.T)

    def toward_words(self, places: Floats) -> Floats:
        """[...] of places [..., 2]: -1 at the digits' mean, +1 at the words'."""
        axis = (self.words - self.digits) / 2
        return np.asarray((places - (self.words + self.digits) / 2) @ axis / (axis @ axis))


def run(lab: Lab) -> Outcome:
    """Where sums are, layer by layer, between digits and number words."""
    sums = lab.sample([one for one in expressions() if one.operator == "+"])
    corpus = Corpus.from_items([Item(one.question, one.question, "x-arith") for one in sums], "sums")
    store = lab.store("sums", corpus)
    layers = ("0", *lab.layers)
    positions = store.positions([one.question for one in sums])
    plane = anchors(lab)
    places = plane.place(standardised(np.stack([_states(store.hidden(layer).take(positions)) for layer in layers])))
    toward = plane.toward_words(places)  # [layers, sums]
    rows: list[Row] = []
    for layer, place, position in zip(layers, places, toward, strict=True):
        values = {
            FIRST: place[:, 0],
            SECOND: place[:, 1],
            TOWARD: position,
            MOVED: position - toward[-1],
            ENDS: -toward[-1],
        }
        rows += mean_rows(layer, values, lab.resampling)
    best = peak(rows, (MOVED, ENDS), lab.intermediate)
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), PLOTS)


def anchors(lab: Lab) -> Plane:
    """The plane of the model's digits and number words."""
    unembedding = lab.lens.head.unembedding
    digits = [lab.lens.token(str(number)) for number in range(10)]
    words = [lab.lens.token(f" {number_word(number)}") for number in range(10)]
    return Plane.of_anchors(*(_states(unembedding[torch.tensor(tokens)]) for tokens in (digits, words)))


def standardised(states: Floats) -> Floats:
    """States [layers, n, width] with mean 0 and variance 1 over the layers; a dimension that never changes is 0."""
    moved = states - states.mean(0)
    spread = states.std(0)
    return np.asarray(moved / np.where(spread > 0, spread, 1.0))


def _states(states: torch.Tensor) -> Floats:
    return states.cpu().to(torch.float64).numpy()
