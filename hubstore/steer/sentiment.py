"""Sentiment of texts: by a lexicon, or by a classifier of the user's choice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers

from hubstore.errors import SteeringError
from hubstore.forward.members import batch_members
from hubstore.models.checkpoint import pretrained, pretrained_config, pretrained_model, require_weights
from hubstore.steer.directions import token_budget

UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana and Han."""

POLARITY = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}
"""What a classifier's labels count, where they have these names."""


@dataclass(frozen=True)
class Lexicon:
    """Words and their scores; a text's sentiment is the mean score of those found in it.

    Words are found from left to right, the longest first, which in scripts without spaces segments the text; where
    there are spaces only whole words count. Case is ignored.

    Args:
        scores: of each word, casefolded.
    """

    scores: Mapping[str, float]

    @classmethod
    def read(cls, path: str | Path) -> Lexicon:
        """A tab-separated file, a word and its score a line; empty lines and those after # are passed over.

        Raises:
            SteeringError: there is no such file, or a line is not a word and a number.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SteeringError(f"the lexicon {path} cannot be read as UTF-8 text: {error}") from error
        scores = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            word, _, score = line.partition("\t")
            try:
                scores[word.strip().casefold()] = float(score)
            except ValueError:
                raise SteeringError(f"{path}, line {number}: {line!r} is not a word, a tab and a number") from None
        return cls(scores)

    def __post_init__(self) -> None:
        if not self.scores or "" in self.scores:
            raise SteeringError("a lexicon has a word at least, and no empty one")

    @cached_property
    def _longest(self) -> dict[str, int]:
        """Characters of the longest word that begins with a character."""
        longest: dict[str, int] = {}
        for word in self.scores:
            longest[word[0]] = max(longest.get(word[0], 0), len(word))
        return longest

    def found(self, text: str) -> list[str]:
        """The lexicon's words in a text, in their order."""
        folded, words, start = text.casefold(), [], 0
        while start < len(folded):
            lengths = range(self._longest.get(folded[start], 0), 0, -1) if _is_boundary(folded, start) else ()
            word = next((w for n in lengths if (w := self._word(folded, start, n)) is not None), None)
            if word is not None:
                words.append(word)
            start += 1 if word is None else len(word)
        return words

    def _word(self, text: str, start: int, length: int) -> str | None:
        word = text[start : start + length]
        return word if len(word) == length and word in self.scores and _is_boundary(text, start + length) else None

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The sentiment of each text; NaN where none of its words is known."""
        scores = [[self.scores[word] for word in self.found(text)] for text in texts]
        return [sum(known) / len(known) if known else math.nan for known in scores]


def _is_boundary(text: str, place: int) -> bool:
    """Whether a word may begin or end before the character at `place`: not within a word of a script with spaces."""
    around = text[max(place - 1, 0) : place + 1]
    return not (0 < place < len(text) and around.isalnum()) or UNSPACED.search(around) is not None


class Classifier:
    """A sequence classifier of transformers; a text's sentiment is the expected score of its label.

    Args:
        name: a folder or hub id.
        scores: what each label counts. By default labels called positive, neutral and negative count 1, 0 and -1.
        device: where it runs.

    Raises:
        ModelError: there is no such classifier.
        SteeringError: a label that `scores` does not name; all labels are listed.
    """

    def __init__(self, name: str, scores: Mapping[str, float] | None = None, device: str = "cpu") -> None:
        pretrained_config(name)
        self._tokenizer = pretrained(transformers.AutoTokenizer, name)
        model, keys = pretrained_model(transformers.AutoModelForSequenceClassification, name)
        require_weights(name, model, keys, [model], pooled=True)
        self._model = model.eval().to(device)
        labels = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
        known = scores if scores is not None else POLARITY
        per_label = [known.get(label, known.get(label.casefold())) for label in labels]
        if None in per_label:
            raise SteeringError(f"the labels of {name} are {', '.join(labels)}; say with `scores` what each counts")
        self._scores = torch.tensor(per_label, dtype=torch.float32, device=device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The sentiment of each text."""
        ids = self._tokenizer(list(texts), truncation=True)["input_ids"] if texts else []
        found = torch.empty(len(texts))
        for members in batch_members(np.array([len(one) for one in ids], np.int32), token_budget(self._model.device)):
            batch = self._tokenizer.pad({"input_ids": [ids[i] for i in members]}, return_tensors="pt", verbose=False)
            probabilities = self._model(**batch.to(self._model.device)).logits.float().softmax(-1)
            found[torch.from_numpy(members)] = (probabilities @ self._scores).cpu()
        return [float(score) for score in found]
