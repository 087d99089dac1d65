"""Texts whose first words are continued, and what the continuations are judged by: lexicons, an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files

import numpy as np

from hubstore.corpus import read_sample
from hubstore.corpus.readers.lines import read_lines
from hubstore.errors import AnalysisError, CorpusError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.significance import Floats
from hubstore.models import Model, load_model
from hubstore.steer import Continuation, Lexicon

SEEDS = 2
"""Continuations of a text under a condition."""

EMBEDDER = "embedder.txt"
TEMPLATE = "query: {text}"
"""What the embedding models of the paper want around a text."""


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


LANGUAGES = (
    Language("es", "Todo el texto siguiente está en español. ", 8),
    Language("zh-Hans", "接下来的文字全部是中文的。", 12, is_spaced=False),
    Language("en", "", 8),
)
SHIPPED = tuple(f"sentiment/{language.tag}.tsv" for language in LANGUAGES)
FILES = (
    *(f"{language.tag}.txt" for language in LANGUAGES),
    *(f"sentiment.{language.tag}.tsv" for language in LANGUAGES),
    EMBEDDER,
)


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
    """An embedding model, and the template that it wants around a text."""

    model: Model
    template: str


def draws_of(context: ExperimentContext, language: Language) -> list[Draw]:
    """Every text of a language with every seed, or the language's part of the limit of them.

    Raises:
        CorpusError: the user's file is no UTF-8.
        AnalysisError: there are fewer than two texts, which vary in nothing.
    """
    every = [
        Draw(language, line, language.prompt(text), context.seed + seed)
        for line, text in enumerate(_texts(context, language.tag))
        for seed in range(SEEDS)
    ]
    part = None if context.limit is None else max(context.limit // len(LANGUAGES), 2)
    drawn = replace(context, limit=part).sample(every)
    if len({draw.line for draw in drawn}) < 2:
        raise AnalysisError(f"an experiment compares texts; in {language.tag} give two or more, or a greater limit")
    return drawn


def _texts(context: ExperimentContext, tag: str) -> list[str]:
    path = context.file(f"{tag}.txt")
    if path is None:
        return [item.text for item in read_sample("ntrex", languages=[tag]).items()]
    return [line for line in read_lines(path) if line.strip()]


def read_lexicon(context: ExperimentContext, tag: str) -> Lexicon:
    """The user's sentiment.<language>.tsv, or the lexicon that ships."""
    path = context.file(f"sentiment.{tag}.tsv")
    if path is not None:
        return Lexicon.read(path)
    with as_file(files("hubstore.experiments.materials") / "sentiment" / f"{tag}.tsv") as shipped:
        return Lexicon.read(shipped)


def sentiments(lexicon: Lexicon, found: Sequence[Continuation]) -> Floats:
    """float64 [n], 0 where a continuation has none of the lexicon's words."""
    return np.nan_to_num(np.array(lexicon([one.text for one in found]), np.float64), nan=0.0)


def read_embedder(context: ExperimentContext) -> Embedder | None:
    """The embedding model that the user's file names; None where there is no such file.

    Raises:
        CorpusError: the file names none.
        ModelError: there is no such model.
    """
    path = context.file(EMBEDDER)
    if path is None:
        return None
    name, *template = [line.strip() for line in read_lines(path) if line.strip()] or [""]
    if not name:
        raise CorpusError(f"{path} is empty; its first line names an embedding model")
    return Embedder(load_model(name, device=context.device), template[0] if template else TEMPLATE)
