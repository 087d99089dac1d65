"""Do English words steer the sentiment of text in other languages (Wu et al., 2025)?"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hubstore.errors import SteeringError
from hubstore.experiments.context import RANDOM_WEIGHTS, ExperimentContext
from hubstore.experiments.materials import sentiment
from hubstore.experiments.materials.sentiment import LANGUAGES, Embedder, Language, read_embedder, sentiments
from hubstore.experiments.recipes.steering import (
    ACROSS,
    PERPLEXITY,
    RANDOM,
    UNSTEERED,
    Condition,
    Continued,
    as_deep_as,
    as_long_as,
    condition,
    conditions,
    continue_prompts,
    examples,
    known_rows,
    random_directions,
    steering_result,
    strength_rows,
)
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.significance import Floats, Ints
from hubstore.forward import tokenize
from hubstore.models import Model
from hubstore.plots.experiment import Plot
from hubstore.steer import Decoding, Direction, difference_of_texts, perplexity, relevance

WORDS = ("Good", "Bad")
WORDS_LAYER = 17
COEFFICIENTS = (2.0, 5.0)
SIGNED = tuple(sorted((*COEFFICIENTS, *(-c for c in COEFFICIENTS))))
SAMPLED = Decoding(max_new_tokens=32, temperature=1.0, top_p=0.3)
OWN = "Good - Bad"
LOCAL = "the language's own words"
LOCAL_WORDS = {"es": ("Bueno", "Malo"), "zh-Hans": ("好", "坏"), "en": WORDS}
RELEVANCE, SCRIPT = "relevance", "letters of the language's script"
SCRIPTS = {"es": "LATIN", "zh-Hans": "CJK", "en": "LATIN"}
"""What the Unicode names of a language's letters begin with."""
GAIN, LEAD = "toward Good - toward Bad", "that - random directions"
LOCAL_GAIN = "the same by the language's own words"
RELEVANCE_LEFT_OUT = (
    "relevance is left out: it needs an embedding model, whose folder or hub id is the first line of "
    f"{sentiment.EMBEDDER}, and what it wants around a text, {sentiment.TEMPLATE!r} where there is none, the second"
)


@experiment(
    "multilingual-steering",
    title="Spanish and Chinese text with the state moved from 'Bad' to 'Good': sentiment of what follows",
    claim="English words steer other languages: moved toward 'Good', Spanish and Chinese text goes on more positively.",
    data="NTREX, 300 texts in each language that ship, or es.txt, zh-Hans.txt and en.txt; lexicons that ship, or "
    "sentiment.es.tsv and so on; an embedding model, where embedder.txt names one",
    shipped=sentiment.SHIPPED,
    files=sentiment.FILES,
    head=True,
    controls=(RANDOM_WEIGHTS,),
)
def multilingual_steering(context: ExperimentContext) -> Result:
    """Does an English direction from "Bad" to "Good" change the sentiment of Spanish and Chinese text?

    The first words of texts, after a sentence that says in their language that what follows is in it, are continued by
    32 tokens drawn at temperature 1 from the most probable ones that have a probability of 0.3 together, the paper's
    settings but for its frequency penalty. A multiple c of the state of "Good" minus that of "Bad" is added at the
    input of block 17 of 32, counted from 0, in a model of another depth at a layer as deep: activation addition (Turner
    et al., 2023, arXiv 2308.10248) from position 0 on. Before the word the two states are the same, so that it is added
    at the word's own position alone, and in the prompt alone. c is 2 and 5, the two that the paper's code names, in
    both directions. An item is a text with a seed, of which each text has several; the draws are the same under every
    condition.

    Sentiment is the mean score of a lexicon's words in the continuation, and 0 where there is none. Beside it are the
    continuation's perplexity under the unsteered model, as a mean of log-probabilities; and its relevance, its cosine
    with the prompt under an embedding model, where one is given. The controls are random directions of the same length,
    another for each item. As the paper does, the words of the language itself, "Bueno" and "Malo", "好" and "坏", are
    put in the place of the English ones, as long. How many letters of a continuation are of the
    language's script says whether the model still writes it. English texts, without a sentence before them, say whether
    the direction does in English what its words mean.

    Shown: at one c, in Spanish and in Chinese, continuations toward Good are of better sentiment than those toward Bad,
    and by more than with random directions; all four corrected for having picked c. Texts are resampled whole.
    """
    layer, embedder = as_deep_as(WORDS_LAYER, context.language_model), read_embedder(context)
    draws = [draw for language in LANGUAGES for draw in sentiment.draws_of(context, language)]
    direction, place = activation_addition(context.language_model, layer)
    directions = {
        OWN: direction.vector,
        RANDOM: random_directions(direction.vector, len(draws), context.seed),
        LOCAL: local_directions(context, layer, direction.vector, [draw.language.tag for draw in draws]),
    }
    continued = continue_prompts(
        context,
        [draw.prompt for draw in draws],
        layer,
        directions,
        [UNSTEERED, *conditions(directions, SIGNED)],
        SAMPLED,
        [place],
        [draw.seed for draw in draws],
    )
    rows: list[Row] = []
    notes = [RELEVANCE_LEFT_OUT if embedder is None else f"relevance under {embedder.model.identity['id']}"]
    for language in LANGUAGES:
        chosen = [i for i, draw in enumerate(draws) if draw.language == language]
        per_strength = {one: [found[i] for i in chosen] for one, found in continued.items()}
        lines, lexicon = np.array([draws[i].line for i in chosen]), sentiment.read_lexicon(context, language.tag)
        scores = {one: sentiments(lexicon, found) for one, found in per_strength.items()}
        rows += sentiment_rows(context, str(layer), language, scores, lines)
        rows += fluency_rows(context, str(layer), language, per_strength, lines, embedder)
        texts = [one.text for found in per_strength.values() for one in found]
        known = sum(bool(lexicon.found(text)) for text in texts)
        notes.append(f"{language.tag}: {known:,} of {len(texts):,} continuations have words of the lexicon")
        notes += examples(per_strength, [OWN], f"{language.tag}, ")
    tags = ", ".join(language.tag for language in LANGUAGES)
    panels = {GAIN: "what the direction gains", LEAD: "what it gains beyond random directions"}
    panels[LOCAL_GAIN] = "what the language's own words gain"
    measures = (PERPLEXITY, SCRIPT, *([] if embedder is None else [RELEVANCE]))
    panels |= {name: f"{name}, {tags}" for name in measures}
    units = {PERPLEXITY: "nats a token", RELEVANCE: "cosine with the prompt", SCRIPT: "share of letters"}
    plots = [
        Plot(f"sentiment, {one.tag}", "mean score", tuple(of(one, name) for name in directions), *ACROSS)
        for one in LANGUAGES
    ]
    plots += [
        Plot(title, units.get(name, "difference of scores"), tuple(of(one, name) for one in LANGUAGES), *ACROSS)
        for name, title in panels.items()
    ]
    # English is there to compare with.
    claimed = [of(language, name) for language in LANGUAGES if language.tag != "en" for name in (GAIN, LEAD)]
    return steering_result(rows, claimed, plots, notes)


def activation_addition(model: Model, layer: int) -> tuple[Direction, int]:
    """The difference of the two words' states, and the position that it is added at.

    Raises:
        SteeringError: the model's tokens of the two words differ by more than their last ones.
    """
    (to, away), _ = tokenize(model, WORDS, model.max_tokens)
    if to[:-1] != away[:-1]:
        raise SteeringError(
            f"{WORDS[0]!r} and {WORDS[1]!r} differ by more than a token in {model.identity['id']}: there is no "
            "difference of their states to add at one position"
        )
    return difference_of_texts(model, *WORDS, layer), len(to) - 1


def of(language: Language, quantity: str) -> str:
    """The name of a quantity of a language."""
    return f"{quantity}, {language.tag}"


def sentiment_rows(
    context: ExperimentContext, layer: str, language: Language, scores: Mapping[Condition, Floats], lines: Ints
) -> list[Row]:
    """Mean scores by strength, what they gain from Bad to Good, and how far that exceeds random directions."""

    def means(strength: float) -> dict[str, Floats]:
        return {of(language, name): scores[condition(name, strength)] for name in (OWN, RANDOM, LOCAL)}

    def gains(c: float) -> dict[str, Floats]:
        gain, noise, local = (scores[name, c] - scores[name, -c] for name in (OWN, RANDOM, LOCAL))
        return {of(language, GAIN): gain, of(language, LEAD): gain - noise, of(language, LOCAL_GAIN): local}

    rows = strength_rows(context, layer, sorted((0.0, *SIGNED)), means, lines)
    return rows + strength_rows(context, layer, COEFFICIENTS, gains, lines)


def local_directions(context: ExperimentContext, layer: int, like: Tensor, tags: Sequence[str]) -> Tensor:
    """For each item the difference of its language's own words, as long as the English one: float32 [items, width]."""
    found = {tag: difference_of_texts(context.language_model, *LOCAL_WORDS[tag], layer).vector for tag in set(tags)}
    return torch.stack([as_long_as(found[tag], like) for tag in tags])


def written_in(script: str, text: str) -> float:
    """The share of a text's letters whose names begin with a script's; NaN where there is none."""
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    return sum(name.startswith(script) for name in letters) / len(letters) if letters else float("nan")


def fluency_rows(
    context: ExperimentContext,
    layer: str,
    language: Language,
    continued: Continued,
    lines: Ints,
    embedder: Embedder | None,
) -> list[Row]:
    """Perplexity, script, and relevance where there is an embedding model, of texts that are not empty.

    Those of the direction itself have the bare names; those of the controls have theirs after it.
    """
    rows: list[Row] = []
    for strength in sorted((0.0, *SIGNED)):
        for direction in (OWN, RANDOM, LOCAL):
            found = continued[condition(direction, strength)]
            prompts, texts = [one.prompt for one in found], [one.text for one in found]
            values = {
                PERPLEXITY: np.log(perplexity(context.language_model, prompts, texts)),
                SCRIPT: np.array([written_in(SCRIPTS[language.tag], text) for text in texts]),
            }
            if embedder is not None and direction == OWN:
                values[RELEVANCE] = np.array(relevance(embedder.model, prompts, texts, embedder.template))
            for name, value in values.items():
                called = of(language, name if direction == OWN else f"{name}, {direction}")
                rows += known_rows(context, layer, called, value, strength, lines)
    return rows
