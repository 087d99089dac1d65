"""Is a sentence nearer its logical form than others, and than that form with the two names swapped?

Sentences and forms of COGS, by their last token (Wu et al., 2025): (a) 10,000 pairs, matched minus
baseline; (b) the 2,233 forms with exactly two names, minus the same form with the names swapped: the same words with
another meaning; (c) the same with the conjuncts of the swapped form shuffled, as the paper has it, and, which compares
like with like, with those of both forms shuffled alike. Shown: (a) and (b) are above zero at one intermediate block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hubstore.corpus import Corpus, Item
from hubstore.experiments.cogs import names, shuffled, swapped
from hubstore.experiments.data import Meaning, meanings
from hubstore.experiments.lab import Lab
from hubstore.experiments.matching import DIFFERENCE, PLOTS, matching
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import mean_rows, peak
from hubstore.kernels import paired_cosine

PAIRS = 10_000
SENTENCES, FORMS = "en", "x-cogs"
SWAPPED, SHUFFLED, BOTH = "x-cogs-swapped", "x-cogs-shuffled", "x-cogs-both"
SWAP = "form - names swapped"
PAPER_SHUFFLE = "form - swapped and shuffled"
FAIR_SHUFFLE = "shuffled - swapped and shuffled"
CONTRASTS = {SWAP: (FORMS, SWAPPED), PAPER_SHUFFLE: (FORMS, BOTH), FAIR_SHUFFLE: (SHUFFLED, BOTH)}
SWAPS = Plot("against other names' places", "difference of cosines", tuple(CONTRASTS))


def run(lab: Lab) -> Outcome:
    """Cosines of sentences with their logical forms, with other forms, and with changed ones."""
    everything = meanings()
    pairs = lab.sample(everything[:PAIRS])
    two_names = lab.sample([one for one in everything if len(names(one.form)) == 2])
    rows, notes = matching(lab, lab.store("cogs", corpus(pairs)), SENTENCES, FORMS)
    rows += contrasts(lab, two_names)
    best = peak(rows, (DIFFERENCE, SWAP), lab.intermediate)
    note = f"{len(pairs):,} pairs; {len(two_names):,} forms with exactly two names"
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), (*PLOTS, SWAPS), (note, *notes))


def contrasts(lab: Lab, two_names: Sequence[Meaning]) -> list[Row]:
    """How much nearer sentences are to the first of two forms than to the second."""
    store = lab.store("cogs-swapped", swapped_corpus(two_names, lab.seed))
    places = {name: store.positions([f"{name}:{n}" for n in range(len(two_names))]) for name in store.partitions}
    rows: list[Row] = []
    for number, layer in enumerate(lab.layers, 1):
        hidden = store.hidden(layer)
        sentences = hidden.take(places[SENTENCES])
        cosines = {
            name: paired_cosine(sentences, hidden.take(there)).cosines.numpy()
            for name, there in places.items()
            if name != SENTENCES
        }
        values = {name: cosines[more] - cosines[less] for name, (more, less) in CONTRASTS.items()}
        rows += mean_rows(layer, values, lab.resampling)
        lab.progress("comparing forms", number, len(lab.layers))
    return rows


def corpus(chosen: Sequence[Meaning]) -> Corpus:
    """Sentences and their logical forms, matched by concept."""
    items = [
        Item(f"{language}:{number}", text, language, str(number))
        for number, one in enumerate(chosen)
        for language, text in ((SENTENCES, one.sentence), (FORMS, one.form))
    ]
    return Corpus.from_items(items, "cogs")


def swapped_corpus(chosen: Sequence[Meaning], seed: int) -> Corpus:
    """Sentences, their forms, and those with names swapped, conjuncts shuffled, and both; each form of one order."""
    items = []
    for number, one in enumerate(chosen):
        other = swapped(one.form)
        texts = {
            SENTENCES: one.sentence,
            FORMS: one.form,
            SWAPPED: other,
            SHUFFLED: shuffled(one.form, np.random.default_rng([seed, number])),
            BOTH: shuffled(other, np.random.default_rng([seed, number])),
        }
        items += [Item(f"{language}:{number}", text, language, str(number)) for language, text in texts.items()]
    return Corpus.from_items(items, "cogs, names swapped")
