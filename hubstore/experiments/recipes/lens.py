"""What does the logit lens read at a position of a text: what comes next there, or what says the same in English?

A model that thinks in English would hold the English equivalent more probable than the token that comes. So would one
that holds any English word more probable than any token of the text: hence the control, the equivalent of another
position. Positions of one text resemble one another, so whole texts are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.claims import judge
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.result import Result, Row
from hubstore.experiments.shuffled import clashes, other_places, others
from hubstore.experiments.significance import Floats, Ints, mean_rows, with_differences
from hubstore.lens import Encoded, Variant
from hubstore.plots.experiment import Plot
from hubstore.store import StoreReader

NORMED = "with the final norm before the lens"
"""How the note begins that says what the other reading shows."""


@dataclass(frozen=True)
class ProbePosition:
    """A state to read and what to look up there.

    Args:
        item: id of the text.
        place: of the token whose state is read, among the text's.
        surface: the token that comes, or that stands for what comes.
        meaning: what the equivalent is of: positions of one meaning share it.
        equivalents: tokens that say it in English; the most probable counts.
        before: the token whose state is read, where that alone may say what comes.
    """

    item: str
    place: int
    surface: int
    meaning: str
    equivalents: tuple[int, ...] = ()
    before: int | None = None


class Terms(NamedTuple):
    """What surface, equivalent and the control are called in an experiment."""

    surface: str
    equivalent: str
    control: str

    @property
    def headlines(self) -> tuple[str, str]:
        """The two differences that must be above zero."""
        return f"{self.equivalent} - {self.surface}", f"{self.equivalent} - {self.control}"


@dataclass(frozen=True, eq=False)
class Probes:
    """The positions of some texts that are read.

    Args:
        store: of the texts, with a row for each token, or for the last token alone.
        positions: n of them.
        left_out: further positions, which are not fit to be read.
        same_kind: whether all positions are of one kind, so that exchanging their states would change nothing.
    """

    store: StoreReader
    positions: Sequence[ProbePosition]
    left_out: int = 0
    same_kind: bool = False

    @property
    def considered(self) -> int:
        """All positions, those left out too."""
        return len(self.positions) + self.left_out

    @cached_property
    def texts(self) -> Ints:
        """int64 [n], which text each position is in."""
        return self.store.positions([one.item for one in self.positions])

    @cached_property
    def rows(self) -> Ints:
        """int64 [n], the store's row of each position's state."""
        if self.store.poolings[0] != "tokens":
            return self.texts
        places = np.array([one.place for one in self.positions], np.int64)
        return np.asarray(self.store.token_ranges()[self.texts, 0] + places)

    def other_rows(self, seed: int) -> Ints:
        """int64 [n], the row of another position, in another text; of any token of the texts where all are alike."""
        if not self.same_kind:
            return self.rows[other_places(self.texts, seed)]
        every = np.concatenate([np.arange(*one) for one in self.store.token_ranges()[np.unique(self.texts)]])
        return np.random.default_rng(seed).choice(np.setdiff1d(every, self.rows), len(self.rows))


def probe(
    context: ExperimentContext,
    store_name: str,
    corpus_name: str,
    texts: Sequence[Item],
    find: Callable[[Item, Encoded], Iterator[ProbePosition | None]],
) -> Probes:
    """The positions that `find` finds in texts, whose tokens are all extracted.

    Args:
        context: whose model it is.
        store_name: of the store.
        corpus_name: of the corpus.
        texts: the items.
        find: of a text and its tokens, as far as the model takes them; None for a position that is not fit.

    Raises:
        AnalysisError: no position is fit.
    """
    store = context.store(store_name, Corpus.from_items(texts, corpus_name), poolings=("tokens",))
    counts = store.items["tokens"].take(store.positions([item.id for item in texts])).to_pylist()
    encoded = context.lens.vocabulary.encode_all([item.text for item in texts])
    found = [
        position
        for item, tokens, count in zip(texts, encoded, counts, strict=True)
        for position in find(item, Encoded(tokens.ids[:count], tokens.offsets[:count]))
    ]
    positions = [position for position in found if position is not None]
    if not positions:
        raise AnalysisError(
            f"{corpus_name}: none of {len(found):,} positions in {len(texts):,} texts is of whole tokens of the model; "
            "give more texts, or a model whose tokens are words"
        )
    return Probes(store, positions, len(found) - len(positions))


def compare_equivalents(
    context: ExperimentContext, probes: Probes, terms: Terms, title: str, notes: Sequence[str] = ()
) -> Result:
    """Log-probabilities of surface, equivalent and control by layer; shown where the equivalent leads both.

    Raises:
        AnalysisError: there are fewer than two meanings.
    """
    controls = other_equivalents(probes.positions, context.seed)
    width = max(len(tokens) for tokens in (*controls, *(one.equivalents for one in probes.positions)))
    targets = [
        [one.surface, *padded(one.equivalents, width), *padded(control, width)]
        for one, control in zip(probes.positions, controls, strict=True)
    ]

    def find(layer: str, found: Floats) -> list[Row]:
        sides = (found[:, 0], found[:, 1 : 1 + width].max(1), found[:, 1 + width :].max(1))
        values = with_differences(dict(zip(terms, sides, strict=True)), terms.headlines)
        return mean_rows(layer, values, context.resampling, probes.texts)

    plots = (
        Plot(title, "log-probability", tuple(terms)),
        Plot("how much more probable", "difference of log-probabilities", terms.headlines),
    )
    n, texts, different = len(probes.positions), len(np.unique(probes.texts)), {p.meaning for p in probes.positions}
    note = f"{n:,} positions in {texts:,} texts, {len(different):,} meanings"
    rows = read_positions(context, probes, torch.tensor(targets), find)
    return lens_result(context, rows, terms.headlines, plots, (note, *notes))


def other_equivalents(positions: Sequence[ProbePosition], seed: int) -> list[tuple[int, ...]]:
    """For each position the equivalents of another one, which share none with its own.

    What says a meaning comes in the control as often as in the positions: a control that draws among meanings has rare
    words where the positions have frequent ones, and a lens that knows no more than which are frequent leads it.

    Raises:
        AnalysisError: a position has no such other.
    """
    tokens = [frozenset(one.equivalents) for one in positions]
    drawn = others(tokens, np.random.default_rng(seed))
    lost = clashes(tokens, drawn)
    if lost:
        meanings = len({one.meaning for one in positions})
        raise AnalysisError(
            f"{meanings} meanings among {len(positions)} positions: {positions[lost[0]].meaning!r} has no other to "
            "compare with; give more texts, or a greater limit"
        )
    return [positions[place].equivalents for place in drawn]


def other_labels(labels: Sequence[str], seed: int) -> list[str]:
    """For each label that of another clip, which shares no word with it; AnalysisError where there is none."""
    words = [frozenset(label.split()) for label in labels]
    drawn = others(words, np.random.default_rng(seed))
    lost = clashes(words, drawn)
    if lost:
        raise AnalysisError(f"no clip is left that shares no word with {labels[lost[0]]!r}; give clips of other labels")
    return [labels[place] for place in drawn]


def least_overlapping(captions: Sequence[Sequence[int]], image: Ints, seed: int) -> list[int]:
    """For each caption that of another image whose nouns are least among those of all captions of its own.

    Args:
        captions: the nouns of each.
        image: int64 [captions], which image each is of; two or more.
        seed: to draw one of several.
    """
    rng = np.random.default_rng(seed)
    sets = [set(nouns_of) for nouns_of in captions]
    chosen = []
    for number in range(len(captions)):
        of_image = set().union(*(sets[n] for n in np.flatnonzero(image == image[number])))
        others = np.flatnonzero(image != image[number])
        shared = np.array([len(sets[n] & of_image) for n in others])
        chosen.append(int(rng.choice(others[shared == shared.min()])))
    return chosen


def padded(tokens: Sequence[int], width: int) -> list[int]:
    """As many tokens as `width`; repeating the first changes no maximum."""
    return [*tokens, *[tokens[0]] * (width - len(tokens))]


def read_positions(
    context: ExperimentContext,
    probes: Probes,
    targets: torch.Tensor,
    find: Callable[[str, Floats], list[Row]],
    base: str | None = None,
) -> list[Row]:
    """What `find` finds at each layer of the paper's curves, with the lens of the paper and with the final norm.

    Args:
        context: whose lens it is.
        probes: n positions.
        targets: int64 [n, t], tokens to look up.
        find: of a layer and its log-probabilities, float64 [n, t], the rows of the table.
        base: see `read_layers`.
    """
    rows = probes.other_rows(context.seed) if context.is_shuffled else probes.rows

    def read(layer: str, variants: Sequence[Variant]) -> list[Floats]:
        hidden = probes.store.hidden(layer, probes.store.poolings[0]).take(rows)
        swept = [context.lens.sweep(hidden, variant=one, targets=targets, ranks=False) for one in variants]
        return [one.target_log_probabilities.cpu().to(torch.float64).numpy() for one in swept]

    return read_layers(context, read, find, base)


def read_layers(
    context: ExperimentContext,
    read: Callable[[str, Sequence[Variant]], Sequence[Floats]],
    find: Callable[[str, Floats], list[Row]],
    base: str | None = None,
) -> list[Row]:
    """What `find` finds in what is read at each layer of the paper's curves, as the paper reads it and normed.

    Args:
        context: whose layers they are.
        read: of a layer and some variants of the lens, what each reads; "final" is read once.
        find: of a layer and what was read there, the rows of the table.
        base: a layer to compare with; what is read there, [n, t], then stands beside every layer's, [n, 2 t].

    Returns:
        The paper's, which multiplies states with the unembedding as they are, under their quantities; those with the
        final norm first, without which states that have grown say one token with certainty, under `normed` ones.
    """
    bases: Sequence[Floats] = () if base is None else read(base, ("raw", "normed"))

    def both(layer: str) -> list[Row]:
        variants: tuple[Variant, ...] = ("raw",) if layer == "final" else ("raw", "normed")
        values = read(layer, variants)
        values = [values[0], values[-1]]
        if bases:
            values = [np.concatenate(sides, 1) for sides in zip(values, bases, strict=True)]
        raw, normed = (find(layer, one) for one in values)
        return [*raw, *({**row, "quantity": with_norm(row["quantity"])} for row in normed)]

    return context.over_layers("reading the lens", both)


def with_norm(quantity: str) -> str:
    """The name of a quantity read with the final norm."""
    return f"{quantity}, normed"


def lens_result(
    context: ExperimentContext,
    rows: Sequence[Row],
    headlines: Sequence[str],
    plots: Sequence[Plot],
    notes: Sequence[str],
    columns: Mapping[str, pa.DataType] | None = None,
) -> Result:
    """The result of a lens: judged as the paper reads it, and in a note with the final norm."""
    every = (
        *plots,
        *(Plot(f"{p.title}, normed", p.y_label, tuple(map(with_norm, p.quantities)), p.x, p.x_label) for p in plots),
    )
    return judge(context, rows, headlines, every, notes, columns, {NORMED: [*map(with_norm, headlines)]})
