"""Do the tokens of a sound read as the words of its label (Wu et al., 2025)?

Read at every token of the sound: the log-probability of each word of the label that is one token after a space, the
mean over the tokens and words, against another label, drawn by the seed among those that share no word with it. Shown:
the own label's words are more probable at an intermediate block.

Sounds of one label are alike: whole labels are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hubstore.corpus import Item
from hubstore.errors import AnalysisError
from hubstore.experiments.described import sounds
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.regions import (
    log_probabilities,
    make_regions,
    media_store,
    media_tokens,
    one_token_words,
    read_regions,
    require_several,
)
from hubstore.experiments.sites import read_outcome
from hubstore.experiments.verdict import Floats, mean_rows

OWN, OTHER = "own label", "another label"
HEADLINE = f"{OWN} - {OTHER}"
PLOTS = (
    Plot("words of labels at a sound's tokens", "log-probability", (OWN, OTHER)),
    Plot("how much more probable", "difference of log-probabilities", (HEADLINE,)),
)


def run(lab: Lab) -> Outcome:
    """Log-probabilities of labels' words at the tokens of sounds."""
    lab.model.require_modality("audio")
    drawn = lab.sample(sounds(lab))
    labels = label_tokens(lab, [one.label for one in drawn])
    require_several(len(labels), "labels", f"{len({one.label for one in drawn})}")
    chosen = [one for one in drawn if one.label in labels]
    items = [Item(f"audio:{one.id}", "", "zxx", one.label, "audio", one.audio) for one in chosen]
    store = media_store(lab, "sounds-tokens", "audio", items)
    own = [labels[one.label] for one in chosen]
    other = [labels[label] for label in other_labels([one.label for one in chosen], labels, lab.seed)]
    looked_up = [[*mine, *theirs] for mine, theirs in zip(own, other, strict=True)]
    regions = make_regions(media_tokens(lab, store, [item.id for item in items]), looked_up)
    groups = np.unique([one.label for one in chosen], return_inverse=True)[1]

    def find(layer: str, found: Floats) -> list[Row]:
        sides = [
            [row[: len(mine)].mean(), row[len(mine) : len(mine) + len(theirs)].mean()]
            for row, mine, theirs in zip(found, own, other, strict=True)
        ]
        values = dict(zip((OWN, OTHER), np.array(sides).T, strict=True))
        return mean_rows(layer, {**values, HEADLINE: values[OWN] - values[OTHER]}, lab.resampling, groups)

    note = (
        f"{len(chosen):,} sounds of {len(labels):,} labels, {len(regions.rows):,} tokens of sounds; "
        f"{len(drawn) - len(chosen):,} sounds are left out, whose labels have no word of one token"
    )
    return read_outcome(lab, read_regions(lab, store, regions, log_probabilities, find), (HEADLINE,), PLOTS, (note,))


def label_tokens(lab: Lab, labels: Sequence[str]) -> dict[str, list[int]]:
    """Labels with those of their words that are one token; labels without such a word are left out."""
    tokens = one_token_words(lab, [word for label in labels for word in label.split()])
    found = {label: [tokens[word] for word in label.split() if word in tokens] for label in dict.fromkeys(labels)}
    return {label: of_label for label, of_label in found.items() if of_label}


def other_labels(labels: Sequence[str], known: Mapping[str, Sequence[int]], seed: int) -> list[str]:
    """For each label another that shares no word with it; AnalysisError where there is none."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in labels:
        others = [one for one in sorted(known) if not set(one.split()) & set(label.split())]
        if not others:
            raise AnalysisError(f"every label shares a word with {label!r}; give sounds of other labels too")
        chosen.append(others[int(rng.integers(len(others)))])
    return chosen
