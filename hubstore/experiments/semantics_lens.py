"""Before a name in a sentence, does the lens read the role that the name has (Wu et al., 2025)?

Sentences of COGS whose names are replaced by other names, drawn by the seed, so that none is in COGS, which a model may
have seen. Read at the token before a name that is one token and does not begin the sentence: the log-probability of
each role's word, such as " agent", or of its first token where it is several. The confusion matrix is their mean by the
role that the name has; from each of its columns the column's mean is taken, since some words are more probable
everywhere.

Headline: the mean of the diagonal minus the mean of all other cells, in which the columns' means cancel. Shown: it is
above zero at an intermediate block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.cogs import NAME, names, renamed, roles
from hubstore.experiments.data import Meaning, meanings
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.sites import Site, kept_tokens, read_lens, read_outcome
from hubstore.experiments.verdict import Floats
from hubstore.lens import Encoded

HEADLINE = "own role - other roles"


def run(lab: Lab) -> Outcome:
    """Log-probabilities of role words before names, by the role of the name."""
    chosen = with_other_names([one for one in meanings() if names(one.form)], lab.seed)
    drawn = dict(lab.sample([(f"cogs:{number}", one) for number, one in enumerate(chosen)]))
    corpus = Corpus.from_items([Item(key, one.sentence, "en") for key, one in drawn.items()], "cogs, other names")
    store = lab.store("cogs-names", corpus, poolings=("tokens",))
    sites, later = [], 0
    for key, encoded in kept_tokens(lab, store, {key: one.sentence for key, one in drawn.items()}).items():
        places = [found.start() for found in NAME.finditer(drawn[key].sentence) if found.start() > 0]
        later += len(places)
        sites += list(role_sites(key, drawn[key], encoded))
    known = sorted({site.meaning for site in sites})
    if len(known) < 2:
        raise AnalysisError(f"{len(sites)} names with {len(known)} roles; give a greater limit")
    own = np.array([known.index(site.meaning) for site in sites])
    targets = torch.tensor([[lab.lens.vocabulary.pieces(f" {role}")[0] for role in known]] * len(sites))

    def find(layer: str, found: Floats) -> list[Row]:
        return confusion(lab, layer, found, own, known)

    plots = (
        Plot("roles read before a name", "difference of log-probabilities", (HEADLINE,)),
        *(
            Plot(f"before a name that is {role}", "log-probability minus column mean", tuple(_cells(role, known)))
            for role in known
        ),
    )
    counts = ", ".join(f"{role} {int((own == number).sum()):,}" for number, role in enumerate(known))
    notes = (
        f"{len(sites):,} names in {len(drawn):,} sentences: {counts}",
        f"{later - len(sites):,} of {later:,} names after the first word are not one token, and are left out",
    )
    return read_outcome(lab, read_lens(lab, store, sites, targets, find), (HEADLINE,), plots, notes)


def with_other_names(chosen: Sequence[Meaning], seed: int) -> list[Meaning]:
    """Each sentence and form with its names replaced by others, such that no sentence is one of the given."""
    everyone = sorted({name for one in chosen for name in names(one.form)})
    given = {one.sentence for one in chosen}
    rng = np.random.default_rng(seed)
    return [_renamed(one, everyone, given, rng) for one in chosen]


def _renamed(one: Meaning, everyone: Sequence[str], given: set[str], rng: np.random.Generator) -> Meaning:
    own = names(one.form)
    others = [name for name in everyone if name not in own]
    while True:
        new = dict(zip(own, rng.choice(others, len(own), replace=False).tolist(), strict=True))
        sentence = renamed(one.sentence, new)
        if sentence not in given:
            return Meaning(sentence, renamed(one.form, new))


def role_sites(key: str, one: Meaning, encoded: Encoded) -> Iterator[Site]:
    """The tokens before names that are one token and do not begin the sentence; what is meant is the role."""
    of_names = roles(one.form)
    for found in NAME.finditer(one.sentence):
        place = encoded.covering(found.end() - 1)
        if found.start() == 0 or place is None or found[0] not in of_names:
            continue
        start, stop = encoded.offsets[place]
        if start <= found.start() and stop == found.end():
            yield Site(key, place - 1, encoded.ids[place], of_names[found[0]], ())


def confusion(lab: Lab, layer: str, found: Floats, own: npt.NDArray[np.int64], known: Sequence[str]) -> list[Row]:
    """The confusion matrix less its columns' means, and the headline.

    Args:
        lab: for the resamples.
        layer: its name.
        found: log-probabilities [n, roles] of every role's word.
        own: [n] the role of each name.
        known: roles.
    """
    n, total = len(found), len(known)
    means = np.stack([found[own == role].mean(0) for role in range(total)])
    diagonal = np.eye(total, dtype=bool)
    weights = np.where(diagonal, 1 / total, -1 / (total * (total - 1)))
    cells = means - means.mean(0)
    # A name acts on a cell through the mean over the names of its role.
    shares = np.zeros((n, total, total))
    shares[np.arange(n), own] = (found - means[own]) * (n / np.bincount(own)[own])[:, None]
    headline = float((weights * means).sum())
    values = np.array([headline, *cells.ravel()])
    columns = np.stack([(shares * weights).sum((1, 2)), *(shares - shares.mean(1, keepdims=True)).reshape(n, -1).T], 1)
    low, high = lab.resampling.of_estimates(values, columns)
    quantities = [HEADLINE, *(name for role in known for name in _cells(role, known))]
    counts = [n, *(int((own == role).sum()) for role in range(total) for _ in known)]
    return [
        {"layer": layer, "quantity": name, "value": value, "low": below, "high": above, "n": count}
        for name, value, below, above, count in zip(
            quantities, values.tolist(), low.tolist(), high.tolist(), counts, strict=True
        )
    ]


def _cells(role: str, known: Sequence[str]) -> list[str]:
    return [f"{word!r} before {role}" for word in known]
