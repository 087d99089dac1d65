"""COGS: names in sentences and in their logical forms, exchanged, replaced and put in another order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

ROLE_OF_NAME = re.compile(r"\. (?P<role>\w+) \( x _ \d+ , (?P<name>[A-Z]\w*) \)")
NAME = re.compile(r"\b[A-Z]\w*[a-z]\b")
CONJUNCTION, DEFINITES = " AND ", " ; "


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
