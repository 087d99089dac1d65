"""Is a concept's state of no language? Put into another prompt, is it said in that prompt's language?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.claims import by_language, judge
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials.translations import (
    CONCEPTS,
    SOURCE_INTO,
    SOURCES,
    TARGET_FROM,
    TARGETS,
    WORDS,
    Translation,
    Words,
    concepts,
)
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.shuffled import clashes, others
from hubstore.experiments.significance import Floats, Ints, mean_rows, with_differences
from hubstore.plots.experiment import Plot
from hubstore.steer import next_log_probabilities, patch, place_after

SHOTS = 5
SAID = "the source's concept in the target's language"
TAKEN = "the source's concept in the source's language"
KEPT = "the target's own concept"
TURNED = "the target's own concept in the source's language"
OTHER = "the same by another concept's state"
HEADLINES = (f"{SAID} - {OTHER}", f"{SAID} - {TAKEN}")
ONE, SEVERAL, AT_WORD = "", "averaged over languages", "put in at the word, from the layer on"
"""The readings: the prompt's last token from one language, its mean over several, and the mean at the word's end."""
QUANTITIES = (SAID, TAKEN, KEPT, TURNED, OTHER)
EXAMPLES = 2


@dataclass(frozen=True)
class Trial:
    """A concept whose state is put in where another one is to be translated.

    Args:
        source: place of the one among the concepts.
        target: place of the other.
        control: place of a third, whose state is put in to compare with.
        prompt: of the target.
        place: of the token that ends the target's word, in the prompt.
        tokens: four, that begin the source's word in the target's language and in the source's, and so the target's.
    """

    source: int
    target: int
    control: int
    prompt: str
    place: int
    tokens: tuple[int, ...]


@experiment(
    "concept-patching",
    title="A concept's state put into another prompt: said in which language?",
    claim="In intermediate layers a concept's state is of no language: put into another prompt, it is said in that "
    "prompt's language (Dumas et al., 2024).",
    data="200 concepts with words in 9 languages that ship; or words.tsv, with a column for each",
    shipped=(CONCEPTS,),
    files=(WORDS,),
    head=True,
)
def concept_patching(context: ExperimentContext) -> Result:
    """Is a concept that is put into another prompt said in that prompt's language?

    Activation patching as by Dumas et al. (2024, arXiv 2411.08745). A source prompt has concept A translated from
    German into Italian, a target prompt concept B from French into Spanish, Chinese or Japanese, each after five
    examples. At one layer the state of the target's last token is replaced by that of the source's. Measured is how
    probable the first tokens are of A's word in the target's language, of B's word, which the target asks for, and of
    both in Italian, which the source asks for: B in Italian says that the language moves before the concept. Beside
    it the mean state over German, Dutch, Portuguese and Swedish sources; and that mean taken and put in at the end
    of the word itself, at the layer and all later ones.

    The control is another concept's state of the same languages. Concepts are left out whose words begin alike in the
    languages that are told apart, or that could be copied from the source's word. Where states are shuffled, sources
    have the states of others' prompts.

    Shown: at one intermediate block A in the target's language is more probable than with another concept's state, and
    than in the source's language. Concepts are resampled whole, over all three target languages.
    """
    shown, tested = drawn_concepts(context)
    layers = tuple(range(1, context.model.depth + 1))
    at_prompt, at_word = (source_states(context, shown, tested, layers, whole=whole) for whole in (True, False))
    put_in = {ONE: at_prompt[0], SEVERAL: at_prompt.mean(0), AT_WORD: at_word.mean(0)}
    by_target = {name: trials_of(context, Translation(TARGET_FROM, name, shown), tested) for name in TARGETS}
    by_target = {language: trials for language, trials in by_target.items() if trials}
    if not by_target:
        raise AnalysisError(
            f"{len(tested)} concepts: in no language have two of them words that can be told apart by their first "
            "tokens; give more, or a greater limit"
        )
    groups = {language: np.array([one.source for one in trials]) for language, trials in by_target.items()}
    found: dict[str, dict[str, Floats]] = {}
    notes = [f"{len(tested):,} concepts, {len(shown)} more as examples in every prompt"]
    for language, trials in by_target.items():
        found[language] = {}
        said: tuple[str, ...] = ()
        for reading, states in put_in.items():
            values, top = probabilities(context, trials, states, layers, at_word=reading == AT_WORD)
            found[language][reading] = values
            said = said or examples(context, tested, trials, top)
        notes += [unpatched(context, language, trials), *said]

    def compare(layer: str) -> list[Row]:
        place = context.layers.index(layer)
        rows: list[Row] = []
        for reading in put_in:
            at_layer = {language: found[language][reading][:, place] for language in found}
            every = np.concatenate(list(at_layer.values()))
            rows += trial_rows(context, layer, every, np.concatenate(list(groups.values())), reading)
            for language, values in at_layer.items():
                rows += trial_rows(context, layer, values, groups[language], reading, language)
        return rows

    rows = context.over_layers("comparing what is said", compare)
    notes += by_language(
        context, rows, {language: [called(name, ONE, language) for name in HEADLINES] for language in found}
    )
    others = {reading: [called(name, reading) for name in HEADLINES] for reading in put_in if reading}
    return judge(context, rows, HEADLINES, plots_of(put_in), notes, others=others)


def plots_of(readings: Iterable[str]) -> list[Plot]:
    """What comes next in each reading, and how much more probable the claim has it."""
    every = list(readings)
    plots = [
        Plot(called("what comes next", reading), "probability", tuple(called(name, reading) for name in QUANTITIES))
        for reading in every
    ]
    leads = tuple(called(name, reading) for reading in every for name in HEADLINES)
    return [*plots, Plot("how much more probable", "difference of probabilities", leads)]


def drawn_concepts(context: ExperimentContext) -> tuple[list[Words], list[Words]]:
    """The concepts that every prompt shows, and those that are tested, drawn by the seed.

    Raises:
        AnalysisError: there are too few with a word in every language that is needed.
    """
    needed = {*SOURCES, SOURCE_INTO, TARGET_FROM}
    known = [words for words in concepts(context).values() if needed <= words.keys()]
    complete = [place for place, words in enumerate(known) if words.keys() >= needed | {*TARGETS}]
    if len(complete) < SHOTS or len(known) < SHOTS + 2:
        raise AnalysisError(
            f"{len(known)} concepts have one word in each of {', '.join(sorted(needed))}, {len(complete)} of them also "
            f"in {', '.join(TARGETS)}; give {SHOTS + 2} or more"
        )
    drawn = set(np.random.default_rng(context.seed).choice(complete, SHOTS, replace=False).tolist())
    shown = [known[place] for place in sorted(drawn)]
    return shown, context.sample([words for place, words in enumerate(known) if place not in drawn])


def source_states(
    context: ExperimentContext, shown: Sequence[Words], tested: Sequence[Words], layers: Sequence[int], *, whole: bool
) -> Tensor:
    """The last tokens' states of source prompts, or of prompts up to the word: [languages, concepts, layers, width]."""
    items = []
    for language in SOURCES:
        into = Translation(language, SOURCE_INTO, shown)
        for number, words in enumerate(tested):
            text = into.prompt(words) if whole else into.beginning(words)
            items.append(Item(f"{language}:{number}", text, language, str(number)))
    name = "patching-prompts" if whole else "patching-words"
    store = context.store(name, Corpus.from_items(items, name.replace("-", " ")))
    positions = store.positions([item.id for item in items])
    by_layer = [store.hidden(str(layer)).take(positions).to(torch.float32) for layer in layers]
    return torch.stack(by_layer, 1).view(len(SOURCES), len(tested), len(layers), -1)


def trials_of(context: ExperimentContext, into: Translation, tested: Sequence[Words]) -> list[Trial]:
    """Every concept that can be told apart, with another to be translated and a third to compare with."""
    pieces = context.lens.vocabulary.pieces
    first = [{language: pieces(word)[0] for language, word in words.items()} for words in tested]
    usable = [
        place
        for place, tokens in enumerate(first)
        if into.into in tokens and tokens[into.into] not in {tokens[language] for language in (*SOURCES, SOURCE_INTO)}
    ]
    own = [frozenset([first[place][into.into], first[place][SOURCE_INTO]]) for place in usable]
    rng = np.random.default_rng(context.seed)
    targets, controls = (others(own, rng) for _ in range(2))
    lost = {place for drawn in (targets, controls) for place in clashes(own, drawn)}
    lost |= set(np.flatnonzero(np.asarray(targets) == np.asarray(controls)).tolist())  # a third is neither
    trials = []
    for number, (place, target, control) in enumerate(zip(usable, targets, controls, strict=True)):
        words = tested[usable[target]]
        prompt = into.prompt(words)
        at = place_after(context.language_model, into.beginning(words), prompt)
        if at is not None and number not in lost:
            both = (first[place], first[usable[target]])
            tokens = tuple(of[language] for of in both for language in (into.into, SOURCE_INTO))
            trials.append(Trial(place, usable[target], usable[control], prompt, at, tokens))
    return trials


def probabilities(
    context: ExperimentContext, trials: Sequence[Trial], states: Tensor, layers: Sequence[int], *, at_word: bool
) -> tuple[Floats, Ints]:
    """Of QUANTITIES, float64 [trials, layers, 5], with states [concepts, layers, width]; and the tokens that come."""
    both = [*trials, *trials]
    sources = [*(one.source for one in trials), *(one.control for one in trials)]
    tokens = sorted({token for one in trials for token in one.tokens})
    found = patch(
        context.language_model,
        [one.prompt for one in both],
        states[sources],
        tokens,
        layers=layers,
        places=[one.place for one in both] if at_word else None,
        onward=at_word,
        progress=lambda done, total: context.progress("patching", done, total),
    )
    probable = found.log_probabilities.to(torch.float64).exp().numpy()
    n = len(trials)
    columns = np.array([[tokens.index(token) for token in one.tokens] for one in trials])
    own, control = (np.take_along_axis(part, columns[:, None], 2) for part in (probable[:n], probable[n:]))
    return np.concatenate([own, control[:, :, :1]], 2), found.top[:n, :, 0].numpy()


def called(name: str, reading: str, language: str = "") -> str:
    """A quantity of a reading, over all target languages or in one of them."""
    return ", ".join(part for part in (name, reading, language) if part)


def trial_rows(
    context: ExperimentContext, layer: str, values: Floats, groups: Ints, reading: str, language: str = ""
) -> list[Row]:
    """Means of QUANTITIES, of [trials, 5], and of their differences; concepts are resampled whole."""
    named = with_differences(dict(zip(QUANTITIES, values.T, strict=True)), HEADLINES)
    return mean_rows(layer, {called(n, reading, language): v for n, v in named.items()}, context.resampling, groups)


def unpatched(context: ExperimentContext, language: str, trials: Sequence[Trial]) -> str:
    """How well the model translates the targets' words as they are."""
    tokens = sorted({one.tokens[2] for one in trials})
    scores = next_log_probabilities(context.language_model, [one.prompt for one in trials], tokens).exp()
    own = scores[torch.arange(len(trials)), torch.tensor([tokens.index(one.tokens[2]) for one in trials])]
    return f"{language}: {len(trials)} concepts; unpatched, the target's word has probability {float(own.mean()):.3g}"


def examples(
    context: ExperimentContext, tested: Sequence[Words], trials: Sequence[Trial], top: Ints
) -> tuple[str, ...]:
    """Notes that show what comes next in the first trials, layer by layer."""
    notes = []
    for one, tokens in list(zip(trials, top, strict=True))[:EXAMPLES]:
        said = context.lens.vocabulary.texts(tokens.tolist())
        starts = [n for n, text in enumerate(said) if not n or text != said[n - 1]]
        runs = ", ".join(f"{context.layers[n]} {said[n]!r}" for n in starts)
        words = tested[one.source][SOURCES[0]], tested[one.target][TARGET_FROM]
        notes.append(f"{words[0]!r} put into {one.prompt.splitlines()[-1]!r}, from layer: {runs}")
    return tuple(notes)
