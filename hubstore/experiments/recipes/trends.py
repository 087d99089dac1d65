"""What states are read as, or lie near, on their way through the layers: languages, digits and number words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.corpus import Corpus, Item, open_corpus, read_sample
from hubstore.errors import AnalysisError
from hubstore.experiments.claims import by_language, judge
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials.arithmetic import number_word, sums
from hubstore.experiments.recipes.lens import lens_result, with_norm
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row, make_table
from hubstore.experiments.significance import Floats, Ints, interval_rows, mean_rows, with_clusters
from hubstore.lens import LanguageMass, TokenLanguages, Variant, count_token_languages, language_mass
from hubstore.plots.experiment import Plot
from hubstore.plots.stacked import HUB, trends_png
from hubstore.store import StoreReader

READ, COUNTED = "read.jsonl", "counted.jsonl"
AREAS: dict[Variant, str] = {"raw": "areas.png", "normed": "areas-normed.png"}
COLUMNS = {"x": pa.string(), "language": pa.string()}
ENGLISH, OWN, THIRD = "English", "the input's language", "the greatest third language"
OVER_LAST, OVER_PRIOR, OVER_THIRD = "English - at the last layer", "English - prior", "English - third language"
MORE_ENGLISH = (OVER_LAST, OVER_PRIOR, OVER_THIRD)
EACH = "p(language)"
UNCOUNTED = "tokens that were never counted"
"""A quantity: the mass that the lens gives them. It is no language's, and languages are compared among the rest."""
NOT_COUNTED = "not counted"
"""The same beside languages."""

FIRST, SECOND, TOWARD = "first component", "second component", "digits (-1) to words (+1)"
MOVED = "toward words, from the last layer"
ENDS = "toward digits, in the last layer"


@experiment(
    "language-trends",
    title="Text of 14 languages: the languages that the lens reads, layer by layer",
    claim="Intermediate layers read inputs in other languages as the dominant one, English, more than the last layer.",
    data="NTREX, 150 lines in 14 languages that ship, or read.jsonl; its other 150 to count on, or counted.jsonl, "
    "and the lists of wordfreq",
    files=(READ, COUNTED),
    packages=("wordfreq",),
    head=True,
)
def language_trends(context: ExperimentContext) -> Result:
    """In which language do intermediate layers read inputs of other languages (Wu et al., 2025, section 4.1)?

    p(language given layer) is the mean over tokens of softmax(h Uᵀ) @ p(language given token). The counts that give
    p(language given token) are of lines that are not read, every second one of the sample, so that nothing is counted
    on what it is measured on; and of the frequent words of those languages that wordfreq has lists of. Counts are
    smoothed, since what was seen once is often chance.

    Most of a large vocabulary is in no such text or list. The paper has such tokens of all languages alike, which draws
    every language toward its prior. Here languages are compared among the tokens that were counted, and what the lens
    gives to others is a quantity of its own.

    Shown: at one intermediate block, inputs in other languages than English read as English

    - more than at the last layer, which says what the model is about to write;
    - more than a lens would that knew nothing of the input and found all tokens equally probable: a vocabulary may have
      more tokens of English than of others;
    - more than as any third language, neither English nor the input's: a lens that has left the input's language for
      just any token is not reading English.

    All three are of the same states, whole lines are resampled, translations together, and the best of all blocks is
    picked with a correction for having picked it. A note says of each input language by itself whether all three hold,
    with false discoveries over languages in mind. Where states are shuffled, tokens have one another's languages: which
    states are read of a language changes no mean.
    """
    read, counted = trend_sources(context)
    tokens = context.once(
        "languages of tokens", lambda: count_token_languages(counted, context.lens, with_words=True, smoothed=True)
    )
    if context.is_shuffled:
        tokens = shuffled_languages(tokens, context.seed)
    store = context.store("trends", read, poolings=("tokens",))
    folder = context.folder("language-trends")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    judged: list[str] = []
    for variant, name in AREAS.items():
        found = language_mass(
            store,
            context.lens,
            tokens,
            layers=context.layers,
            variant=variant,
            progress=lambda done, total: context.progress("reading languages", done, total),
        )
        inputs = _Inputs.of(store, found, tokens)
        compared = [row for layer in context.layers for row in _compare(context, layer, inputs)]
        spoken = [row for layer in context.layers for row in _by_language(context, layer, inputs)]
        every = [row for layer in context.layers for row in _each(context, layer, inputs)]
        if context.control is None:
            (folder / name).write_bytes(trends_png(make_table(every, COLUMNS)))
        judged += by_language(
            context,
            spoken,
            {name: [f"{quantity}, {name}" for quantity in MORE_ENGLISH] for name in inputs.others},
            variant,
        )
        named = [*compared, *every, *spoken]
        rows += named if variant == "raw" else [{**row, "quantity": with_norm(row["quantity"])} for row in named]
    sizes = sorted(tokens.provenance["tokens"].values())
    plots = (
        Plot("inputs in other languages than English", "p(language | layer)", (ENGLISH, OWN, THIRD)),
        Plot("how much more English", "difference of probabilities", MORE_ENGLISH),
        Plot("what no language can be told of", "probability", (UNCOUNTED,)),
    )
    listed = tokens.provenance["word_lists"]
    unlisted = [language for language in tokens.languages if language not in listed]
    share = float((tokens.known.sum(1) > 0).double().mean())
    notes = (
        f"{share:.1%} of the vocabulary was counted in some language; wordfreq has words of all of them"
        f"{' but ' + ', '.join(unlisted) if unlisted else ''}",
        f"p(language given token) from {sizes[0]:,} to {sizes[-1]:,} tokens of each of {len(sizes)} languages, in "
        f"texts that are not read; prior of English {inputs.prior:.3g}",
        f"{' and '.join(AREAS.values())} have every input language with the languages that it reads as",
        *judged,
    )
    return lens_result(context, rows, MORE_ENGLISH, plots, notes, COLUMNS)


@experiment(
    "arithmetic-pca",
    title="Sums in the plane of digits and number words",
    claim="Sums end on the digits' side, and pass nearer number words on their way through the layers.",
    data="846 sums below 100, made here",
    head=True,
)
def arithmetic_pca(context: ExperimentContext) -> Result:
    """On their way through the layers, do sums pass nearer the number words than where they end?

    The plane is that of the two principal components of the 20 unembeddings of the digits "0" to "9" and the words
    " zero" to " nine". The state of a sum's operator, the last token of "8=5+", is standardized over the layers in each
    dimension, as in the paper, and projected on it. The axis measured runs in the plane from the digits' mean (-1) to
    the words' (+1).

    Standardizing over the layers puts each sum's mean over its layers at one place whatever the model does; what can be
    claimed is movement. Shown: sums end on the digits' side, and are more on the words' side at an intermediate block.
    Where states are shuffled, ten of the twenty anchors are drawn to be the digits: which sum a state is of changes no
    mean.
    """
    questions = [one.question for one in context.sample(sums())]
    store = context.store("sums", Corpus.from_items([Item(q, q, "x-arith") for q in questions], "sums"))
    layers = ("0", *context.layers)
    positions = store.positions(questions)
    plane = number_plane(context)
    states = np.stack([_floats(store.hidden(layer).take(positions)) for layer in layers])
    places = plane.place(standardized(states))
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
        rows += mean_rows(layer, values, context.resampling)
    plots = (
        Plot("in the plane of digits and number words", "coordinate", (FIRST, SECOND)),
        Plot("from digits to words", "position", (TOWARD, MOVED)),
    )
    return judge(context, rows, (MOVED, ENDS), plots)


def trend_sources(context: ExperimentContext) -> tuple[Corpus, Corpus]:
    """What is read, and what tokens are counted on: the user's texts with their languages, or halves of the sample."""
    items = list(read_sample("ntrex").items())
    lines = list(dict.fromkeys(item.concept for item in items))
    drawn = set(context.sample(lines[::2]))  # every second line, in all languages
    others = set(lines[1::2])
    read, counted = context.file(READ), context.file(COUNTED)
    return (
        Corpus.from_items([item for item in items if item.concept in drawn], "trends")
        if read is None
        else open_corpus(read, limit=context.limit),
        Corpus.from_items([item for item in items if item.concept in others], "counted")
        if counted is None
        else open_corpus(counted),
    )


def shuffled_languages(tokens: TokenLanguages, seed: int) -> TokenLanguages:
    """The same with each counted token in the place of another."""
    weights = tokens.weights.clone()
    counted = np.flatnonzero(tokens.known.sum(1).numpy() > 0)
    weights[counted] = weights[np.random.default_rng(seed).permutation(counted)]
    return replace(tokens, weights=weights)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The items that were read.

    Args:
        found: what was read of them.
        languages: of the tokens.
        partition: [items], the names of their partitions.
        own: int64 [items], the place of each item's language among them; -1 where tokens were not counted in it.
        concept: int64 [items], the same for translations of one another.
        hub: the place of English.
        prior: of English.
    """

    found: LanguageMass
    languages: tuple[str, ...]
    partition: npt.NDArray[np.str_]
    own: Ints
    concept: Ints
    hub: int
    prior: float

    @classmethod
    def of(cls, store: StoreReader, found: LanguageMass, tokens: TokenLanguages) -> _Inputs:
        items = store.items.take(pa.array(found.positions))
        spoken = items["language"].to_pylist()
        hub = tokens.column(HUB)
        if len(tokens.languages) < 3:
            raise AnalysisError(
                f"tokens were counted in {' and '.join(tokens.languages)}; count them in a third language too, to tell "
                "reading English from reading anything but the input's language"
            )
        if all(language == HUB for language in spoken):
            raise AnalysisError(f"all texts are in {HUB!r}; the experiment reads texts in other languages: give some")
        known = tokens.known.sum(0)
        concepts = pc.coalesce(items["concept"], items["id"]).to_pylist()
        return cls(
            found,
            tokens.languages,
            np.array(spoken),
            np.array([tokens.languages.index(one) if one in tokens.languages else -1 for one in spoken]),
            np.unique(concepts, return_inverse=True)[1],
            hub,
            float(known[hub] / known.sum()),
        )

    @property
    def others(self) -> list[str]:
        """The languages of the inputs, but for English."""
        return [name for name in dict.fromkeys(self.partition.tolist()) if name != HUB]

    def among_counted(self, layer: str) -> Floats:
        """float64 [items, languages]: the sums over an item's tokens as if the lens said counted tokens alone."""
        counted = self.found.counted[layer]
        mass = counted.sum(1, keepdims=True)
        even = np.full_like(counted, 1 / counted.shape[1])
        shares = np.divide(counted, mass, out=even, where=mass > 0)
        return np.asarray(shares * self.found.tokens[:, None])

    def means(
        self,
        context: ExperimentContext,
        layer: str,
        quantities: list[str],
        totals: Floats,
        chosen: npt.NDArray[np.bool_],
    ) -> list[Row]:
        """Rows of m means over some items' tokens, from totals over each item's [items, m]."""
        concepts, group = np.unique(self.concept[chosen], return_inverse=True)
        by_concept = np.stack([np.bincount(group, column) for column in totals[chosen].T], axis=1).astype(np.float64)
        tokens = np.bincount(group, self.found.tokens[chosen])[:, None]
        shared = np.broadcast_to(tokens, by_concept.shape).astype(np.float64)
        bounds = context.resampling.of_ratios(by_concept, shared)
        rows = interval_rows(layer, quantities, by_concept.sum(0) / tokens.sum(), bounds, int(chosen.sum()))
        return with_clusters(rows, by_concept / tokens.mean(), concepts)


def _compare(context: ExperimentContext, layer: str, inputs: _Inputs) -> Iterator[Row]:
    """How English, the inputs' own and third languages are read at a layer, of inputs in other languages."""
    totals, last, tokens = inputs.among_counted(layer), inputs.among_counted("final"), inputs.found.tokens
    other = inputs.own != inputs.hub
    english = totals[:, inputs.hub]
    third = _third(inputs, totals)
    neither = other & (inputs.own != third)
    quantities = {
        ENGLISH: (english, other),
        OWN: (totals[np.arange(len(totals)), inputs.own], other & (inputs.own >= 0)),
        THIRD: (totals[:, third], neither),
        OVER_LAST: (english - last[:, inputs.hub], other),
        OVER_PRIOR: (english - inputs.prior * tokens, other),
        OVER_THIRD: (english - totals[:, third], neither),
        UNCOUNTED: (tokens - inputs.found.counted[layer].sum(1), other),
    }
    for quantity, (values, chosen) in quantities.items():
        if chosen.any():
            yield from inputs.means(context, layer, [quantity], values[:, None], chosen)


def _by_language(context: ExperimentContext, layer: str, inputs: _Inputs) -> Iterator[Row]:
    """MORE_ENGLISH of the inputs of each language by itself, with the third language that these read as most."""
    totals, last, tokens = inputs.among_counted(layer), inputs.among_counted("final"), inputs.found.tokens
    english = totals[:, inputs.hub]
    for name in inputs.others:
        chosen = inputs.partition == name
        of_language = totals[chosen].sum(0)
        of_language[[inputs.hub, *inputs.own[chosen][inputs.own[chosen] >= 0]]] = -1
        differences = (
            english - last[:, inputs.hub],
            english - inputs.prior * tokens,
            english - totals[:, int(of_language.argmax())],
        )
        quantities = [f"{quantity}, {name}" for quantity in MORE_ENGLISH]
        yield from inputs.means(context, layer, quantities, np.column_stack(differences), chosen)


def _third(inputs: _Inputs, totals: Floats) -> int:
    """The place of the language, not English, that inputs in others than it and English read as most."""
    means = np.full(len(inputs.languages), -1.0)
    for place in range(len(means)):
        chosen = (inputs.own != place) & (inputs.own != inputs.hub)
        if place != inputs.hub and chosen.any():
            means[place] = totals[chosen, place].sum() / inputs.found.tokens[chosen].sum()
    return int(means.argmax())


def _each(context: ExperimentContext, layer: str, inputs: _Inputs) -> Iterator[Row]:
    """p(language given layer) of every input language, and what is of none."""
    counted = inputs.found.counted[layer]
    totals = np.column_stack([counted, inputs.found.tokens - counted.sum(1)])
    quantities = [EACH] * totals.shape[1]
    for name in dict.fromkeys(inputs.partition.tolist()):
        rows = inputs.means(context, layer, quantities, totals, inputs.partition == name)
        for row, language in zip(rows, (*inputs.languages, NOT_COUNTED), strict=True):
            yield {**row, "x": name, "language": language}


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


def number_plane(context: ExperimentContext) -> Plane:
    """The plane of the model's digits and number words."""
    unembedding, token = context.lens.head.unembedding, context.lens.token
    digits = [token(str(number)) for number in range(10)]
    words = [token(f" {number_word(number)}") for number in range(10)]
    if context.is_shuffled:
        drawn = np.random.default_rng(context.seed).permutation([*digits, *words]).tolist()
        digits, words = drawn[:10], drawn[10:]
    return Plane.of_anchors(*(_floats(unembedding[torch.tensor(tokens)]) for tokens in (digits, words)))


def standardized(states: Floats) -> Floats:
    """States [layers, n, width] with mean 0 and variance 1 over the layers; a dimension that never changes is 0."""
    moved = states - states.mean(0)
    spread = states.std(0)
    return np.asarray(moved / np.where(spread > 0, spread, 1.0))


def _floats(states: torch.Tensor) -> Floats:
    return states.cpu().to(torch.float64).numpy()
