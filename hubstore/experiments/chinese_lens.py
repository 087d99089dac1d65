"""Before a Chinese word, is its English gloss more probable than the word that comes (Wu et al., 2025)?

Words are those of jieba that are exactly one token of the model and whose first gloss in CC-CEDICT, with a space
before it, is one token; where a word has several entries the most probable gloss counts. The state read is that of
the token before the word. Shown: the gloss is more probable than the word, and than the gloss of another word, at
one intermediate block.

The paper gives the model no special tokens; here it gets those that it was trained with, and their states are not read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from hubstore.corpus import Corpus, Item, read_sample
from hubstore.corpus.readers.lines import read_lines
from hubstore.experiments.dictionary import glosses
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome
from hubstore.experiments.sites import Site, Terms, compare_sites, kept_tokens
from hubstore.lens import Encoded

TERMS = Terms("Chinese word", "English gloss", "another word's gloss")
LANGUAGE = "zh-Hans"


def run(lab: Lab) -> Outcome:
    """Log-probabilities of the Chinese word that comes and of its English gloss."""
    texts = {f"{LANGUAGE}:{number}": text for number, text in lab.sample(list(_texts(lab)))}
    items = [Item(name, text, LANGUAGE, name.partition(":")[2]) for name, text in texts.items()]
    store = lab.store("chinese", Corpus.from_items(items, "chinese"), poolings=("tokens",))
    dictionary = _one_token_glosses(lab)
    sites, words = [], 0
    for name, encoded in kept_tokens(lab, store, texts).items():
        spans = list(_words(texts[name]))
        words += len(spans)
        sites += list(_sites(name, encoded, spans, dictionary))
    note = (
        f"{words - len(sites):,} of {words:,} words are not one token or have no gloss of one token, and are left out"
    )
    return compare_sites(lab, store, sites, TERMS, "what comes next in Chinese text", (note,))


def _texts(lab: Lab) -> Iterator[tuple[int, str]]:
    """Lines of the user's zh.txt, or of the sample that ships, by number."""
    given = lab.file("zh.txt")
    if given is not None:
        yield from ((number, line) for number, line in enumerate(read_lines(given), 1) if line.strip())
        return
    for batch in read_sample("ntrex", languages=[LANGUAGE]).batches():
        yield from ((int(row["concept"]), row["text"]) for row in batch.to_pylist())


def _words(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """jieba's words with their (start, stop) characters."""
    import jieba

    jieba.setLogLevel(logging.WARNING)
    start = 0
    for word in jieba.cut(text, cut_all=False):
        yield word, (start, start + len(word))
        start += len(word)


def _one_token_glosses(lab: Lab) -> Mapping[str, tuple[int, ...]]:
    """Words with the tokens of those of their glosses that are one."""
    kept = {}
    for word, several in glosses(lab).items():
        tokens = tuple(t for gloss in several if (t := lab.lens.token_or_none(f" {gloss}")) is not None)
        if tokens:
            kept[word] = tokens
    return kept


def _sites(
    name: str, encoded: Encoded, words: list[tuple[str, tuple[int, int]]], dictionary: Mapping[str, tuple[int, ...]]
) -> Iterator[Site]:
    """The words of a text that are one token and have a gloss, after another token of the text."""
    places = {offset: place for place, offset in enumerate(encoded.offsets) if offset != (0, 0)}
    for word, span in words:
        place = places.get(span)
        if place is None or word not in dictionary or place == min(places.values()):
            continue
        yield Site(name, place - 1, encoded.ids[place], word, dictionary[word])
