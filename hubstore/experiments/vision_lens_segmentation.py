"""Do the tokens of a picture read as what is seen there (Wu et al., 2025)?

Read at the tokens more than half of whose pixels a category's mask covers: the log-probability of the category's name,
where that is one token after a space, against that of another category, drawn by the seed among those that are not in
the picture. Tokens that nothing is seen at are not read. Shown: the category's own name is more probable at an
intermediate block.

Pictures are resampled with all their categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hubstore.corpus import Item
from hubstore.errors import AnalysisError
from hubstore.experiments.described import Photograph, photographs
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.patches import coverage
from hubstore.experiments.regions import (
    Ints,
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
from hubstore.media.decode import open_image

COVERED = 0.5
OWN, OTHER = "category there", "another category"
HEADLINE = f"{OWN} - {OTHER}"
PLOTS = (
    Plot("names of categories where they are seen", "log-probability", (OWN, OTHER)),
    Plot("how much more probable", "difference of log-probabilities", (HEADLINE,)),
)


def run(lab: Lab) -> Outcome:
    """Log-probabilities of categories' names at the tokens that they cover."""
    lab.model.require_modality("image")
    pictures = lab.sample([one for one in photographs(lab) if one.masks])
    names = one_token_words(lab, sorted({category for one in pictures for category in one.masks}))
    require_several(len(names), "categories", f"{len(pictures)} pictures with masks")
    items = [Item(f"image:{one.id}", "", "zxx", one.id, "image", one.image) for one in pictures]
    store = media_store(lab, "masked-pictures", "image", items)
    rows = media_tokens(lab, store, [item.id for item in items])
    rng = np.random.default_rng(lab.seed)
    seen, targets, picture = [], [], []
    for number, one in enumerate(pictures):
        others = [name for name in names if name not in one.masks]
        if not others:
            raise AnalysisError(f"picture {one.id} has every category that is read; give pictures of others too")
        for category, covered in covered_tokens(lab, one, [name for name in one.masks if name in names]):
            seen.append(rows[number][covered])
            targets.append([names[category], names[others[int(rng.integers(len(others)))]]])
            picture.append(number)
    require_several(len(set(picture)), "pictures", f"{len(pictures)} with categories that cover half of a token")
    regions = make_regions(seen, targets)
    groups = np.array(picture)

    def find(layer: str, found: Floats) -> list[Row]:
        values = {OWN: found[:, 0], OTHER: found[:, 1], HEADLINE: found[:, 0] - found[:, 1]}
        return mean_rows(layer, values, lab.resampling, groups)

    masks = sum(len(one.masks) for one in pictures)
    note = (
        f"{len(seen):,} categories in {len(set(picture)):,} pictures, {len(regions.rows):,} tokens; left out are "
        f"{masks - len(seen):,} masks that cover half of no token, or of a category whose name is not one token"
    )
    return read_outcome(lab, read_regions(lab, store, regions, log_probabilities, find), (HEADLINE,), PLOTS, (note,))


def covered_tokens(lab: Lab, one: Photograph, categories: Sequence[str]) -> list[tuple[str, Ints]]:
    """Categories with the picture's tokens that they cover, where there are any."""
    if not categories:
        return []
    width, height = open_image(one.image).size
    masks = [one.mask(category, width, height) for category in categories]
    shares = coverage(lab.model.adapters["image"].reader, masks, lab.media_template)
    covered = [np.flatnonzero(share > COVERED) for share in shares]
    return [(category, tokens) for category, tokens in zip(categories, covered, strict=True) if len(tokens)]
