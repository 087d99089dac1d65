"""COGS: sentences and their logical forms, whose names are exchanged or replaced and whose conjuncts are shuffled."""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hubstore.experiments.materials import shipped_bytes

SHIPPED = "cogs/cogs.tsv.xz"
ROLE_OF_NAME = re.compile(r"\. (?P<role>\w+) \( x _ \d+ , (?P<name>[A-Z]\w*) \)")
NAME = re.compile(r"\b[A-Z]\w*[a-z]\b")
CONJUNCTION, DEFINITES = " AND ", " ; "


class Meaning(NamedTuple):
    """An English sentence of COGS and its logical form."""

    sentence: str
    form: str


def meanings() -> list[Meaning]:
    """The 24,012 training sentences of COGS (Kim and Linzen, 2020), in its order; its single words are left out."""
    lines = lzma.decompress(shipped_bytes(SHIPPED)).decode().splitlines()
    return [Meaning(*line.split("\t")) for line in lines]


def roles(form: str) -> dict[str, str]:
    """Names in a logical form with their role there, in order of appearance: {"Emma": "agent"}."""
    return {found["name"]: found["role"] for found in reversed(list(ROLE_OF_NAME.finditer(form)))}


def names(form: str) -> list[str]:
    """Names in a logical form, in order of appearance."""
    return list(dict.fromkeys(NAME.findall(form)))


def renamed(text: str, new: Mapping[str, str]) -> str:
    """A text in which every name is replaced at once, so that two may change places."""
    return NAME.sub(lambda found: new.get(found[0], found[0]), text)


def swapped(form: str) -> str:
    """A logical form whose two names have changed places."""
    first, second = names(form)
    return renamed(form, {first: second, second: first})


def shuffled(form: str, rng: np.random.Generator) -> str:
    """A logical form that means the same with its conjuncts in another order; what precedes ";" stays first."""
    head, separator, conjuncts = form.rpartition(DEFINITES)
    parts = conjuncts.split(CONJUNCTION)
    return head + separator + CONJUNCTION.join(parts[place] for place in rng.permutation(len(parts)))


def with_other_names(chosen: Sequence[Meaning], seed: int) -> list[Meaning]:
    """Each sentence and form with its names replaced by others, such that no sentence is one of the given."""
    everyone = sorted({name for one in chosen for name in names(one.form)})
    known = {one.sentence for one in chosen}
    rng = np.random.default_rng(seed)
    return [_with_other_names(one, everyone, known, rng) for one in chosen]


def _with_other_names(one: Meaning, everyone: Sequence[str], known: set[str], rng: np.random.Generator) -> Meaning:
    own = names(one.form)
    others = [name for name in everyone if name not in own]
    while True:
        new = dict(zip(own, rng.choice(others, len(own), replace=False).tolist(), strict=True))
        sentence = renamed(one.sentence, new)
        if sentence not in known:
            return Meaning(sentence, renamed(one.form, new))
