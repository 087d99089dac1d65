"""The words of one token that say what an image or a clip shows, and those of another that they are compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hubstore.errors import AnalysisError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials.media import Photograph, is_noun, nouns
from hubstore.experiments.shuffled import clashes, others
from hubstore.experiments.significance import Ints

WORD = re.compile(r"[a-z]+")


def spellings(context: ExperimentContext, color: str) -> list[int]:
    """A color's name, with or without a space and a capital, where that is one token."""
    written = [f"{space}{name}" for space in (" ", "") for name in (color, color.capitalize())]
    return [token for one in written if (token := context.lens.token_or_none(one)) is not None]


def caption_nouns(context: ExperimentContext, images: Sequence[Photograph]) -> tuple[list[list[int]], Ints]:
    """The nouns of one token in each caption that has any, and the number of its image."""
    known = nouns(context)
    words = [(number, WORD.findall(text.lower())) for number, one in enumerate(images) for text in one.captions]
    tokens = one_token_words(context, sorted({w for _, of_caption in words for w in of_caption if is_noun(w, known)}))
    found = [(number, sorted({tokens[w] for w in of_caption if w in tokens})) for number, of_caption in words]
    captions = [(number, of_caption) for number, of_caption in found if of_caption]
    return [of_caption for _, of_caption in captions], np.array([number for number, _ in captions], np.int64)


def other_categories(categories: Sequence[str], images: Sequence[Photograph], seed: int) -> list[str]:
    """For each category in an image one of another image, which the image does not have; as often as in the images.

    Raises:
        AnalysisError: there is none.
    """
    shown, seen = [frozenset(image.masks) for image in images], [frozenset([one]) for one in categories]
    drawn = others(shown, np.random.default_rng(seed), seen)
    lost = clashes(shown, drawn, seen)
    if lost:
        raise AnalysisError(
            f"image {images[lost[0]].id}: no category is left that it does not have; give images of others too"
        )
    return [categories[place] for place in drawn]


def label_tokens(context: ExperimentContext, labels: Sequence[str]) -> dict[str, list[int]]:
    """Labels with those of their words that are one token; labels without such a word are left out."""
    tokens = one_token_words(context, [word for label in labels for word in label.split()])
    found = {label: [tokens[word] for word in label.split() if word in tokens] for label in dict.fromkeys(labels)}
    return {label: of_label for label, of_label in found.items() if of_label}


def one_token_words(context: ExperimentContext, words: Sequence[str]) -> dict[str, int]:
    """Those of the words that are one token after a space, with it."""
    found = {word: context.lens.token_or_none(f" {word}") for word in dict.fromkeys(words)}
    return {word: token for word, token in found.items() if token is not None}


def require_several(number: int, what: str, of: str) -> None:
    """AnalysisError where there are fewer than two of something to compare."""
    if number < 2:
        raise AnalysisError(f"{number} {what} of {of} can be compared; give more, or a model whose tokens are words")
