"""Do the tokens of a picture read as the nouns of its caption (Wu et al., 2025)?

Read at every token of the picture: the probability of each noun of a caption that is one token after a space, the mean
over the tokens and nouns, against the nouns of the caption of another picture that shares the fewest nouns with all
captions of this one; among several such one is drawn by the seed. Nouns are words that WordNet counts as nouns more
often than as anything else. Shown: the own caption's nouns are more probable at an intermediate block.

Pictures are resampled with all their captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from hubstore.corpus import Item
from hubstore.experiments.described import Photograph, is_noun, nouns, photographs
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.regions import (
    Ints,
    make_regions,
    media_store,
    media_tokens,
    one_token_words,
    read_regions,
    require_several,
)
from hubstore.experiments.sites import read_outcome
from hubstore.experiments.verdict import Floats, mean_rows
from hubstore.kernels import LensSweep

WORD = re.compile(r"[a-z]+")
OWN, OTHER = "own caption", "another's caption"
HEADLINE = f"{OWN} - {OTHER}"
LOG_OWN, LOG_OTHER = f"{OWN}, log", f"{OTHER}, log"
PLOTS = (
    Plot("nouns of captions at a picture's tokens", "probability", (OWN, OTHER)),
    Plot("how much more probable", "difference of probabilities", (HEADLINE,)),
    Plot("the same in logarithms", "log-probability", (LOG_OWN, LOG_OTHER)),
)


def run(lab: Lab) -> Outcome:
    """Probabilities of captions' nouns at the tokens of pictures."""
    lab.model.require_modality("image")
    pictures = lab.sample(photographs(lab))
    captions, picture = caption_nouns(lab, pictures)
    several = np.unique(picture)
    require_several(len(several), "pictures", f"{len(pictures)} with nouns of one token in their captions")
    items = [Item(f"image:{one.id}", "", "zxx", one.id, "image", one.image) for one in pictures]
    store = media_store(lab, "pictures", "image", items)
    rows = media_tokens(lab, store, [item.id for item in items])
    sides = (captions, [captions[number] for number in least_overlapping(captions, picture, lab.seed)])
    place = np.searchsorted(several, picture)
    # A noun is looked up once at a picture's tokens, whichever captions it is in.
    looked_up = [
        sorted({token for caption in np.flatnonzero(place == at) for side in sides for token in side[caption]})
        for at in range(len(several))
    ]
    columns = [
        [[looked_up[at].index(t) for t in tokens] for tokens, at in zip(side, place, strict=True)] for side in sides
    ]
    regions = make_regions([rows[number] for number in several], looked_up)

    def find(layer: str, found: Floats) -> list[Row]:
        probabilities, logs = np.split(found, 2, axis=1)
        means = {
            name: np.array([kind[at, own].mean() for at, own in zip(place, of_side, strict=True)])
            for kind, names in ((probabilities, (OWN, OTHER)), (logs, (LOG_OWN, LOG_OTHER)))
            for name, of_side in zip(names, columns, strict=True)
        }
        return mean_rows(layer, {**means, HEADLINE: means[OWN] - means[OTHER]}, lab.resampling, picture)

    note = (
        f"{len(captions):,} captions of {len(several):,} pictures with nouns of one token, of "
        f"{sum(len(one.captions) for one in pictures):,} captions; {len(regions.rows):,} tokens of pictures"
    )
    return read_outcome(lab, read_regions(lab, store, regions, both, find), (HEADLINE,), PLOTS, (note,))


def caption_nouns(lab: Lab, pictures: Sequence[Photograph]) -> tuple[list[list[int]], Ints]:
    """The nouns of one token in each caption that has any, and the number of its picture."""
    known = nouns(lab)
    words = [(number, WORD.findall(text.lower())) for number, one in enumerate(pictures) for text in one.captions]
    tokens = one_token_words(lab, sorted({w for _, of_caption in words for w in of_caption if is_noun(w, known)}))
    found = [(number, sorted({tokens[w] for w in of_caption if w in tokens})) for number, of_caption in words]
    kept = [(number, of_caption) for number, of_caption in found if of_caption]
    return [of_caption for _, of_caption in kept], np.array([number for number, _ in kept], np.int64)


def both(swept: LensSweep, targets: torch.Tensor) -> torch.Tensor:
    """Probabilities and their logarithms, [n, 2 t]."""
    logs = swept.target_log_probabilities
    return torch.cat([logs.exp(), logs], 1)


def least_overlapping(captions: Sequence[Sequence[int]], picture: Ints, seed: int) -> list[int]:
    """For each caption that of another picture whose nouns are least among those of all captions of its own.

    Args:
        captions: the nouns of each.
        picture: int64 [captions], which picture each is of; two or more.
        seed: to draw one of several.
    """
    rng = np.random.default_rng(seed)
    sets = [set(nouns_of) for nouns_of in captions]
    chosen = []
    for number in range(len(captions)):
        of_picture = set().union(*(sets[n] for n in np.flatnonzero(picture == picture[number])))
        others = np.flatnonzero(picture != picture[number])
        shared = np.array([len(sets[n] & of_picture) for n in others])
        chosen.append(int(rng.choice(others[shared == shared.min()])))
    return chosen
