"""Does an English direction from "Bad" to "Good" change the sentiment of Spanish and Chinese text (Wu et al., 2025)?

The first words of texts, after a sentence that says in their language that what follows is in it, are continued by 32
tokens drawn at temperature 1 from the most probable ones that have a probability of 0.3 together, the paper's settings
but for its frequency penalty. A multiple c of the state of "Good" minus that of "Bad" is added at the input of block
17 of 32, counted from 0, in a model of another depth at a layer as deep: activation addition (Turner et al., 2023,
arXiv 2308.10248) from position 0 on. Before the word the two states are the same, so that it is added at the word's
own position alone, and in the prompt alone. c is 2 and 5, the two that the paper's code names, in both directions. An
item is a text with a seed, of which each text has several; the draws are the same under every condition.

Sentiment is the mean score of a lexicon's words in the continuation, and 0 where there is none. Beside it are the
continuation's perplexity under the unsteered model, as a mean of log-probabilities; and its relevance, its cosine with
the prompt under an embedding model, where one is given. The controls are random directions of the same length, another
for each item. English texts, without a sentence before them, say whether the direction does in English what its words
mean.

Shown: at one c, in Spanish and in Chinese, continuations toward Good are of better sentiment than those toward Bad,
and by more than with random directions; all four corrected for having picked c. Texts are resampled whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files

import numpy as np

from hubstore.corpus import read_sample
from hubstore.errors import AnalysisError, CorpusError, SteeringError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.steered import (
    COLUMNS,
    UNSTEERED,
    Condition,
    Continued,
    as_deep_as,
    clearest,
    conditions,
    continue_prompts,
    examples,
    headline,
    random_directions,
)
from hubstore.experiments.verdict import Floats, Ints, mean_rows
from hubstore.forward import tokenize
from hubstore.models import Model, load_model
from hubstore.steer import Continuation, Decoding, Direction, Lexicon, difference_of_texts, perplexity, relevance


@dataclass(frozen=True)
class Language:
    """A language of the texts.

    Args:
        tag: BCP 47.
        before: what the prompt begins with, so that the model goes on in the language.
        opening: how many words of a text, or characters where none are spaced, the prompt ends with.
        is_spaced: whether there are spaces between words.
    """

    tag: str
    before: str
    opening: int
    is_spaced: bool = True

    def prompt(self, text: str) -> str:
        """The first words of a text, after `before`."""
        parts = text.split() if self.is_spaced else list(text)
        return self.before + (" " if self.is_spaced else "").join(parts[: self.opening])


@dataclass(frozen=True)
class Draw:
    """A text to continue with a seed.

    Args:
        language: of the text.
        line: of the text, among those of its language.
        prompt: the text's first words.
        seed: of the tokens drawn.
    """

    language: Language
    line: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Embedder:
    """An embedding model.

    Args:
        model: which.
        template: what it wants around a text.
    """

    model: Model
    template: str


LANGUAGES = (
    Language("es", "Todo el texto siguiente está en español. ", 8),
    Language("zh-Hans", "接下来的文字全部是中文的。", 12, is_spaced=False),
    Language("en", "", 8),
)
CLAIMED = LANGUAGES[:2]
"""Those that the claim is about; English is there to compare with."""

WORDS = ("Good", "Bad")
LAYER = 17
COEFFICIENTS = (2.0, 5.0)
SIGNED = tuple(sorted((*COEFFICIENTS, *(-c for c in COEFFICIENTS))))
SEEDS = 2
"""Continuations of a text under a condition."""

DECODING = Decoding(max_new_tokens=32, temperature=1.0, top_p=0.3)
OWN, RANDOM = "Good - Bad", "random directions"
SENTIMENT, PERPLEXITY, RELEVANCE = "sentiment", "log-perplexity", "relevance"
GAIN, LEAD = "toward Good - toward Bad", "that - random directions"
EMBEDDER = "embedder.txt"
TEMPLATE = "query: {text}"
"""What the embedding models of the paper want around a text."""

RELEVANCE_LEFT_OUT = (
    f"relevance is left out: it needs an embedding model, whose folder or hub id is the first line of {EMBEDDER}, and "
    f"what it wants around a text, {TEMPLATE!r} where there is none, the second"
)


def run(lab: Lab) -> Outcome:
    """Sentiment, perplexity and relevance of continuations, over strengths and languages."""
    layer, embedder = as_deep_as(LAYER, lab.language_model), read_embedder(lab)
    draws = [draw for language in LANGUAGES for draw in draws_of(lab, language)]
    continued = _continued(lab, draws, layer)
    rows: list[Row] = []
    notes = [RELEVANCE_LEFT_OUT if embedder is None else f"relevance under {embedder.model.identity['id']}"]
    for language in LANGUAGES:
        chosen = [i for i, draw in enumerate(draws) if draw.language == language]
        here = {condition: [found[i] for i in chosen] for condition, found in continued.items()}
        own = {condition: found for condition, found in here.items() if condition[0] != RANDOM}
        lines, lexicon = np.array([draws[i].line for i in chosen]), read_lexicon(lab, language)
        scores = {condition: sentiments(lexicon, found) for condition, found in here.items()}
        rows += _sentiments(lab, layer, language, scores, lines)
        rows += _measures(lab, layer, language, own, lines, embedder)
        notes += [_known_words(language, lexicon, here), *examples(own, f"{language.tag}, ")]
    best = clearest(rows, [of(language, name) for language in CLAIMED for name in (GAIN, LEAD)])
    table = make_table(rows, COLUMNS)
    return Outcome(best.shown, headline(best), best.n, table, _plots(embedder is not None), tuple(notes))


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


def draws_of(lab: Lab, language: Language) -> list[Draw]:
    """Every text of a language with every seed, or the language's part of the lab's limit of them.

    Raises:
        CorpusError: the user's file is no UTF-8.
        AnalysisError: there are fewer than two texts, which vary in nothing.
    """
    every = [
        Draw(language, line, language.prompt(text), lab.seed + seed)
        for line, text in enumerate(_texts(lab, language))
        for seed in range(SEEDS)
    ]
    part = None if lab.limit is None else max(lab.limit // len(LANGUAGES), 2)
    drawn = replace(lab, limit=part).sample(every)
    if len({draw.line for draw in drawn}) < 2:
        raise AnalysisError(f"an experiment compares texts; in {language.tag} give two or more, or a greater limit")
    return drawn


def read_lexicon(lab: Lab, language: Language) -> Lexicon:
    """The user's sentiment.<language>.tsv, or the lexicon that ships."""
    given = lab.file(f"sentiment.{language.tag}.tsv")
    if given is not None:
        return Lexicon.read(given)
    with as_file(files("hubstore.experiments.data") / "sentiment" / f"{language.tag}.tsv") as path:
        return Lexicon.read(path)


def read_embedder(lab: Lab) -> Embedder | None:
    """The embedding model that the user's file names; None where there is no such file.

    Raises:
        CorpusError: the file names none.
        ModelError: there is no such model.
    """
    given = lab.file(EMBEDDER)
    if given is None:
        return None
    name, *template = [line.strip() for line in given.read_text(encoding="utf-8").splitlines() if line.strip()] or [""]
    if not name:
        raise CorpusError(f"{given} is empty; its first line names an embedding model")
    return Embedder(load_model(name, device=lab.device), template[0] if template else TEMPLATE)


def sentiments(lexicon: Lexicon, found: Sequence[Continuation]) -> Floats:
    """float64 [n], 0 where a continuation has none of the lexicon's words."""
    return np.nan_to_num(np.array(lexicon([one.text for one in found]), np.float64), nan=0.0)


def of(language: Language, quantity: str) -> str:
    """The name of a quantity of a language."""
    return f"{quantity}, {language.tag}"


def _continued(lab: Lab, draws: Sequence[Draw], layer: int) -> Continued:
    """What follows every draw's prompt, unsteered and with both directions."""
    direction, place = activation_addition(lab.language_model, layer)
    directions = {OWN: direction.vector, RANDOM: random_directions(direction.vector, len(draws), lab.seed)}
    return continue_prompts(
        lab,
        [draw.prompt for draw in draws],
        layer,
        directions,
        [UNSTEERED, *conditions(directions, SIGNED)],
        DECODING,
        [place],
        [draw.seed for draw in draws],
    )


def _texts(lab: Lab, language: Language) -> list[str]:
    given = lab.file(f"{language.tag}.txt")
    if given is None:
        batches = read_sample("ntrex", languages=[language.tag]).batches()
        return [str(text) for batch in batches for text in batch.column("text").to_pylist()]
    try:
        lines = given.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{given} is no UTF-8 text: {error}; convert it") from error
    return [line for line in lines if line.strip()]


def _sentiments(lab: Lab, layer: int, language: Language, scores: Mapping[Condition, Floats], lines: Ints) -> list[Row]:
    rows: list[Row] = []
    for strength in sorted((0.0, *SIGNED)):
        values = {of(language, name): scores[_condition(name, strength)] for name in (OWN, RANDOM)}
        rows += _rows(lab, layer, strength, values, lines)
    for c in COEFFICIENTS:
        gain, noise = (scores[name, c] - scores[name, -c] for name in (OWN, RANDOM))
        rows += _rows(lab, layer, c, {of(language, GAIN): gain, of(language, LEAD): gain - noise}, lines)
    return rows


def _measures(
    lab: Lab, layer: int, language: Language, continued: Continued, lines: Ints, embedder: Embedder | None
) -> list[Row]:
    """Perplexity, and relevance where there is an embedding model, of texts that are not empty."""
    rows: list[Row] = []
    for strength in sorted((0.0, *SIGNED)):
        found = continued[_condition(OWN, strength)]
        prompts, texts = [one.prompt for one in found], [one.text for one in found]
        values: dict[str, Floats] = {PERPLEXITY: np.log(perplexity(lab.language_model, prompts, texts))}
        if embedder is not None:
            values[RELEVANCE] = np.array(relevance(embedder.model, prompts, texts, embedder.template))
        for name, value in values.items():
            known = np.isfinite(value)
            if known.any():
                rows += _rows(lab, layer, strength, {of(language, name): value[known]}, lines[known])
    return rows


def _rows(lab: Lab, layer: int, strength: float, values: Mapping[str, Floats], lines: Ints) -> list[Row]:
    found = mean_rows(str(layer), values, lab.resampling, lines)
    return [{**row, "strength": strength} for row in found]


def _condition(name: str, strength: float) -> Condition:
    return (name, strength) if strength else UNSTEERED


def _known_words(language: Language, lexicon: Lexicon, continued: Continued) -> str:
    texts = [one.text for found in continued.values() for one in found]
    known = sum(bool(lexicon.found(text)) for text in texts)
    return f"{language.tag}: {known:,} of {len(texts):,} continuations have words of the lexicon"


def _plots(has_relevance: bool) -> tuple[Plot, ...]:
    across = {"x": "strength", "x_label": "strength"}
    tags = ", ".join(language.tag for language in LANGUAGES)
    by_language = [
        Plot(f"sentiment, {one.tag}", "mean score", (of(one, OWN), of(one, RANDOM)), **across) for one in LANGUAGES
    ]
    compared = {GAIN: "what the direction gains", LEAD: "what it gains beyond random directions"}
    measures = (PERPLEXITY, RELEVANCE) if has_relevance else (PERPLEXITY,)
    units = {PERPLEXITY: "nats a token", RELEVANCE: "cosine with the prompt"}
    return (
        *by_language,
        *(
            Plot(title, "difference of scores", tuple(of(one, name) for one in LANGUAGES), **across)
            for name, title in compared.items()
        ),
        *(
            Plot(f"{name}, {tags}", units[name], tuple(of(one, name) for one in LANGUAGES), **across)
            for name in measures
        ),
    )
