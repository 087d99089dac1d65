"""Does an English colour's unembedding, put in place of half a picture's states, change the colours (Wu et al., 2025)?

A picture's upper half has one of four colours and its lower half another; the model is asked for the colours. Of one
half the old colour is to give way to one of the two that the picture lacks: at half of the picture's tokens, at every
layer from l on, states are not added to but replaced by U[new] - U[old], the difference of the colours' unembeddings.
Two colours in order, a half and a new colour make the paper's 48 trials, done for every l: 48 x 32 in its model. The
length of what replaces the states does not matter: a block reads them through its norm, and what it makes of them is
replaced again.

Success: the continuation names the new colour, and not the old one. The control is the colour that is neither in the
picture nor the new one: a model that is merely disturbed names it as often. Continuations are greedy, of twelve tokens.

Tokens are taken in the model's order, from the upper left: the first half of them is the upper half of the picture, but
for the middle row where a model has an odd number of rows, which is shared. From the last layer on, which nothing
reads but at the last token, replacing changes nothing.

Shown: from one layer on, between the first and the last, successes are more frequent than without steering, and than
those of the control, both corrected for having picked the layer. Pictures are resampled whole.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hubstore.corpus import Item, Media
from hubstore.errors import AnalysisError, MissingDependencyError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import Floats, mean_rows, peak
from hubstore.steer import Continuation, Decoding, Intervention, MediaPrompt, generate, media_prompt
from hubstore.steer.prompts import with_text

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
QUESTION = "The two colors in this picture are"
SIZE = 256
"""Pixels across and down; a model's processor makes of it what it needs."""

DECODING = Decoding(max_new_tokens=12)
SUCCESS, CONTROL = "new colour, and not the old", "the fourth colour, and not the old"
HEADLINES = ("new colour - unsteered", "new colour - the fourth")
EXAMPLES = 2


@dataclass(frozen=True)
class Trial:
    """A picture, the half of it that is steered, and to what.

    Args:
        upper: the colour of the picture's upper half.
        lower: of its lower half.
        half: 0 for the upper, 1 for the lower.
        new: the colour that the half is to have.
    """

    upper: str
    lower: str
    half: int
    new: str

    @property
    def picture(self) -> tuple[str, str]:
        """Its colours, from above."""
        return self.upper, self.lower

    @property
    def old(self) -> str:
        """The colour that is to go."""
        return self.picture[self.half]

    @property
    def kept(self) -> str:
        """The colour that is to stay."""
        return self.picture[1 - self.half]

    @property
    def fourth(self) -> str:
        """The colour that has no part in it."""
        (left,) = COLOURS.keys() - {*self.picture, self.new}
        return left


def run(lab: Lab) -> Outcome:
    """How often the new colour is named, by the layer that replacing begins at."""
    model, chosen = lab.language_model, lab.sample(trials())
    prompts = {colours: prompt(lab, colours) for colours in dict.fromkeys(one.picture for one in chosen)}
    asked = [prompts[one.picture] for one in chosen]
    colours = [lab.lens.vocabulary.token(f" {colour}") for colour in COLOURS]
    unembedding = model.require_head().unembedding[colours].to("cpu", torch.float32)
    row_of = {colour: row for row, colour in enumerate(COLOURS)}
    vectors = torch.stack([unembedding[row_of[one.new]] - unembedding[row_of[one.old]] for one in chosen])
    places = [half_of(given, one.half) for given, one in zip(asked, chosen, strict=True)]
    unsteered = dict(zip(prompts, generate(model, list(prompts.values()), decoding=DECODING), strict=True))
    before = [unsteered[one.picture] for one in chosen]
    rows, found = [], {}
    for layer in range(1, model.depth + 1):
        replaced = Intervention(vectors, range(layer, model.depth + 1), "replace", positions=places)
        found[str(layer)] = generate(model, asked, [replaced], decoding=DECODING)
        rows += _rows(lab, str(layer), chosen, before, found[str(layer)])
        lab.progress("replacing half of a picture", layer, model.depth)
    best = peak(rows, HEADLINES, lab.intermediate)
    plots = (
        Plot(
            "what is named, replaced from this layer on",
            "share of trials",
            (SUCCESS, CONTROL, "new colour", "old colour", "kept colour"),
        ),
        Plot("successes more frequent", "difference of shares", HEADLINES),
    )
    notes = (
        _named(unsteered),
        f"{len(chosen)} trials on {len(prompts)} pictures, {len(places[0])} to {len(asked[0].places) - len(places[0])} "
        "tokens are half of one",
        *_examples(chosen, before, found[str(best.rows[0]["layer"])]),
    )
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), plots, notes)


def trials() -> list[Trial]:
    """All 48: two colours in order, a half, and a colour of neither."""
    return [
        Trial(upper, lower, half, new)
        for upper, lower in itertools.permutations(COLOURS, 2)
        for half in (0, 1)
        for new in COLOURS
        if new not in (upper, lower)
    ]


def picture(colours: tuple[str, str]) -> bytes:
    """A PNG whose halves have these colours, from above; MissingDependencyError without Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("pictures are made with Pillow: pip install 'hubstore[media]'") from error
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    pixels[: SIZE // 2], pixels[SIZE // 2 :] = (COLOURS[colour] for colour in colours)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="PNG")
    return target.getvalue()


def prompt(lab: Lab, colours: tuple[str, str]) -> MediaPrompt:
    """A picture and the question, in the lab's template."""
    name = " over ".join(colours)
    item = Item(name, QUESTION, "en", modality="image", media=Media(f"{name}.png", picture(colours)))
    return media_prompt(lab.language_model, item, with_text(lab.media_template))


def half_of(prompt: MediaPrompt, half: int) -> list[int]:
    """The places of the first or the second half of a picture's tokens.

    Raises:
        AnalysisError: the model has one token for a picture.
    """
    places = prompt.places
    if len(places) < 2:
        raise AnalysisError(f"{prompt.shown!r}: a picture of {len(places)} tokens has no halves to steer")
    middle = len(places) // 2
    return places[middle:] if half else places[:middle]


def names(colour: str, text: str) -> bool:
    """Whether a text says the colour, as a word."""
    return re.search(rf"\b{colour}\b", text, re.IGNORECASE) is not None


def gives_way(old: str, new: str, text: str) -> bool:
    """Whether a text names one colour and not the other."""
    return names(new, text) and not names(old, text)


def _rows(
    lab: Lab, layer: str, chosen: Sequence[Trial], before: Sequence[Continuation], found: Sequence[Continuation]
) -> list[Row]:
    pairs = [(one, continuation.text) for one, continuation in zip(chosen, found, strict=True)]
    success = _shares([gives_way(one.old, one.new, text) for one, text in pairs])
    control = _shares([gives_way(one.old, one.fourth, text) for one, text in pairs])
    unsteered = _shares([gives_way(one.old, one.new, old.text) for one, old in zip(chosen, before, strict=True)])
    values = {
        SUCCESS: success,
        CONTROL: control,
        "new colour": _shares([names(one.new, text) for one, text in pairs]),
        "old colour": _shares([names(one.old, text) for one, text in pairs]),
        "kept colour": _shares([names(one.kept, text) for one, text in pairs]),
        HEADLINES[0]: success - unsteered,
        HEADLINES[1]: success - control,
    }
    pictures = np.unique(["/".join(one.picture) for one in chosen], return_inverse=True)[1]
    return mean_rows(layer, values, lab.resampling, pictures)


def _shares(holds: Sequence[bool]) -> Floats:
    return np.array(holds, np.float64)


def _named(unsteered: dict[tuple[str, str], Continuation]) -> str:
    right = sum(all(names(colour, one.text) for colour in colours) for colours, one in unsteered.items())
    return f"unsteered, both colours are named of {right} of {len(unsteered)} pictures"


def _examples(
    chosen: Sequence[Trial], before: Sequence[Continuation], found: Sequence[Continuation]
) -> tuple[str, ...]:
    return tuple(
        f"{one.upper} over {one.lower}, {one.old} to {one.new}: {old.text!r} -> {new.text!r}"
        for one, old, new in list(zip(chosen, before, found, strict=True))[:EXAMPLES]
    )
