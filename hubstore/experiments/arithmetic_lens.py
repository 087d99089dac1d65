"""Before the digit in 8=5+3, is the number's English word more probable (Wu et al., 2025)?

The state of the operator, the last token of "8=5+", is read for " three" and for "3". Shown: the word is more
probable than the digit, and than the word of another number, at one intermediate block.
"""

from __future__ import annotations

from hubstore.corpus import Corpus, Item
from hubstore.experiments.arithmetic import expressions, number_word
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome
from hubstore.experiments.sites import Site, Terms, compare_sites

TERMS = Terms("digit", "word", "another number's word")


def run(lab: Lab) -> Outcome:
    """Log-probabilities of the digit that completes an expression and of its English word."""
    chosen = lab.sample(expressions())
    items = [Item(one.question, one.question, "x-arith") for one in chosen]
    store = lab.store("arithmetic-questions", Corpus.from_items(items, "arithmetic questions"))
    sites = [
        Site(
            one.question,
            -1,
            lab.lens.token(str(one.right)),
            number_word(one.right),
            (lab.lens.token(f" {number_word(one.right)}"),),
        )
        for one in chosen
    ]
    return compare_sites(lab, store, sites, TERMS, "what completes 8=5+")
