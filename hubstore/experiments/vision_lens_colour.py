"""Do the tokens of a picture of one colour read as its name (Wu et al., 2025)?

Pictures of the eleven basic colours of English (Berlin and Kay, 1969), each of one colour all over, are made here. Read
at every token of the picture: whether the most probable token is the colour's name, with or without a space and a
capital. The control is the mean over the other colours' names. Shown: more of the tokens read as the picture's own
colour than as another, at an intermediate block.
"""

from __future__ import annotations

import io

import torch

from hubstore.corpus import Item, Media
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row
from hubstore.experiments.regions import make_regions, media_store, media_tokens, read_regions, require_several
from hubstore.experiments.sites import read_outcome
from hubstore.experiments.verdict import Floats, mean_rows
from hubstore.kernels import LensSweep

COLOURS = ("black", "white", "red", "green", "yellow", "blue", "brown", "orange", "pink", "purple", "gray")
SIDE = 336  # pixels
OWN, OTHER = "own colour", "another colour"
HEADLINE = f"{OWN} - {OTHER}"
PLOTS = (
    Plot("what a picture of one colour reads as", "share of its tokens", (OWN, OTHER)),
    Plot("how much more often", "difference of shares", (HEADLINE,)),
)


def run(lab: Lab) -> Outcome:
    """Shares of picture tokens whose most probable token is the colour's name, or another colour's."""
    lab.model.require_modality("image")
    names = {colour: tokens for colour in lab.sample(COLOURS) if (tokens := name_tokens(lab, colour))}
    require_several(len(names), "names", f"{len(COLOURS)} colours")
    items = [Item(f"image:{name}", "", "zxx", name, "image", Media(f"{name}.png", solid(name))) for name in names]
    store = media_store(lab, "colours", "image", items)
    own = max(map(len, names.values()))
    targets = []
    for name, tokens in names.items():
        others = [token for other, several in names.items() if other != name for token in several]
        targets.append([*tokens, *tokens[:1] * (own - len(tokens)), *others])
    regions = make_regions(media_tokens(lab, store, [item.id for item in items]), targets)

    def read_names(swept: LensSweep, looked_up: torch.Tensor) -> torch.Tensor:
        is_name = swept.top_tokens == looked_up
        return torch.stack([is_name[:, :own].any(1), is_name[:, own:].any(1)], 1)

    def find(layer: str, found: Floats) -> list[Row]:
        values = {OWN: found[:, 0], OTHER: found[:, 1] / (len(names) - 1)}
        return mean_rows(layer, {**values, HEADLINE: values[OWN] - values[OTHER]}, lab.resampling)

    note = f"{len(names)} colours whose names are one token, {len(regions.rows):,} tokens of pictures"
    return read_outcome(lab, read_regions(lab, store, regions, read_names, find, k=1), (HEADLINE,), PLOTS, (note,))


def name_tokens(lab: Lab, colour: str) -> list[int]:
    """A name's spellings that are one token."""
    spellings = [f"{space}{name}" for space in (" ", "") for name in (colour, colour.capitalize())]
    found = [lab.lens.token_or_none(spelling) for spelling in spellings]
    return [token for token in found if token is not None]


def solid(colour: str) -> bytes:
    """A picture of one colour, as PNG."""
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(target, "PNG")
    return target.getvalue()
