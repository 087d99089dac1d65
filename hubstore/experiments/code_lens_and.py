"""At a comma between the elements of a Python list, does the lens read "and" (Wu et al., 2025)?

The commas of list literals in MBPP's programs and tests that are a token of their own. Shown: " and" is more probable
than " or" and than " not" at one intermediate block.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import torch

from hubstore.corpus import Corpus, Item
from hubstore.experiments.data import programs
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.programs import Source, token_that_is
from hubstore.experiments.sites import Site, item_numbers, kept_tokens, read_lens, read_outcome
from hubstore.experiments.verdict import Floats, mean_rows

WORDS = ("and", "or", "not")
NEXT = "next token"
HEADLINES = ("and - or", "and - not")
PLOTS = (
    Plot("what a list's comma reads as", "log-probability", (*WORDS, NEXT)),
    Plot("how much more probable", "difference of log-probabilities", HEADLINES),
)


def run(lab: Lab) -> Outcome:
    """Log-probabilities of three English words and of the token that comes, at the commas of lists."""
    texts = {f"mbpp:{one.task}": "\n".join((one.code, *one.tests)) for one in lab.sample(programs())}
    corpus = Corpus.from_items([Item(name, text, "x-python") for name, text in texts.items()], "mbpp with tests")
    store = lab.store("mbpp-tests", corpus, poolings=("tokens",))
    sites, commas = [], 0
    for name, encoded in kept_tokens(lab, store, texts).items():
        source = Source(texts[name])
        for comma in list_commas(source):
            commas += 1
            place = token_that_is(source, encoded, comma, ",")
            if place is not None and place + 1 < len(encoded.ids):
                sites.append(Site(name, place, encoded.ids[place + 1], "and", ()))
    words = [lab.lens.token(f" {word}") for word in WORDS]
    targets = torch.tensor([[*words, site.surface] for site in sites])
    numbers = item_numbers(store, sites)

    def find(layer: str, found: Floats) -> list[Row]:
        values = dict(zip((*WORDS, NEXT), found.T, strict=True))
        values |= {f"and - {word}": values["and"] - values[word] for word in WORDS[1:]}
        return mean_rows(layer, values, lab.resampling, numbers)

    notes = (
        f"{len(sites):,} commas in {len(np.unique(numbers)):,} of {len(texts):,} programs",
        f"{commas - len(sites):,} of {commas:,} commas are not a token of their own, and are left out",
    )
    return read_outcome(lab, read_lens(lab, store, sites, targets, find), HEADLINES, PLOTS, notes)


def list_commas(source: Source) -> Iterator[int]:
    """The characters that are commas between the elements of list literals."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.List):
            continue
        for element in node.elts[:-1]:
            place = source.after(element, " \n\t)")
            if source.text[place : place + 1] == ",":  # a comment may stand in between
                yield place
