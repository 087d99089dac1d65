"""Concepts with a word in several languages, and prompts in which one is to be translated after five others."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hubstore.arrow import read_parquet
from hubstore.corpus.readers.lines import read_lines
from hubstore.errors import CorpusError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import shipped_bytes

CONCEPTS = "emoji/concepts.parquet"
WORDS = "words.tsv"
CONCEPT = "concept"

SOURCES = ("de", "nl", "pt", "sv")
"""Languages that the source's word is in; the first is the one that is taken alone."""
SOURCE_INTO, TARGET_FROM = "it", "fr"
TARGETS = ("es", "zh", "ja")
"""Languages that the target's word is to be translated into; none is English, which the middle is thought to be in."""

SPOKEN = {
    "de": "Deutsch",
    "nl": "Nederlands",
    "pt": "Português",
    "sv": "Svenska",
    "it": "Italiano",
    "fr": "Français",
    "es": "Español",
    "zh": "中文",
    "ja": "日本語",
}
"""What the languages call themselves."""

Words = Mapping[str, str]
"""A concept's word by language."""


@dataclass(frozen=True)
class Translation:
    """From one language into another, with examples.

    Args:
        of: a language.
        into: another.
        shown: concepts that are translated first.
    """

    of: str
    into: str
    shown: Sequence[Words]

    def beginning(self, words: Words) -> str:
        """The prompt up to the end of the word that is to be translated: 'Français: "chat'."""
        return "".join(f'{self._asked(one)}{one[self.into]}"\n' for one in self.shown) + self._opened(words)

    def prompt(self, words: Words) -> str:
        """The prompt up to where the translation begins: 'Français: "chat" - English: "'."""
        return self.beginning(words) + self._closed

    def _asked(self, words: Words) -> str:
        return self._opened(words) + self._closed

    def _opened(self, words: Words) -> str:
        return f'{SPOKEN[self.of]}: "{words[self.of]}'

    @property
    def _closed(self) -> str:
        return f'" - {SPOKEN[self.into]}: "'


def concepts(context: ExperimentContext) -> dict[str, Words]:
    """Concepts with their words: the user's words.tsv, whose columns are languages, or the 200 that ship.

    What is not one word of letters is left out.

    Raises:
        CorpusError: the user's file has no column for a language that is needed.
    """
    path, every = context.file(WORDS), (*SOURCES, SOURCE_INTO, TARGET_FROM, *TARGETS)
    if path is None:
        known = {row[CONCEPT]: row["names"] for row in read_parquet(shipped_bytes(CONCEPTS)).to_pylist()}
    else:
        rows = csv.DictReader(read_lines(path), delimiter="\t")
        missing = [name for name in every if name not in (rows.fieldnames or ())]
        if missing:
            raise CorpusError(f"{path} has no column {', '.join(missing)}; its first line names {', '.join(every)}")
        known = {str(number): row for number, row in enumerate(rows, 1)}
    return {
        concept: {language: words[language] for language in every if (words.get(language) or "").isalpha()}
        for concept, words in known.items()
    }
