"""Does an English "one more" in the state change how a sum is completed (Wu et al., 2025)?

"8=5+" is completed by 3. At its last token the state of "eight equals to six plus" is added, and that of "eight equals
to five plus" taken away, both of their last tokens. The model then takes the 5 for a 6, says 2, and as the 5 still
stands there puts it right: "8=5+2+1". That is a success; "one less" is any completion that begins with that 2.

The paper takes the states of layer 25 of 32 and adds them after the block that follows, one layer further up. Here
this is done as it is there, and at a middle and at that layer with the states of the very layer; in a model of
another depth at layers as deep. The control is the direction of another sum, of another left operand: of its kind and
length, but of other numbers. Continuations are greedy, of five tokens, of which "2+1" and what follows need no more.

Shown: at one layer and strength successes are more frequent than without steering, and than with the control, both
corrected for having picked layer and strength.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hubstore.api import Store
from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.arithmetic import Expression, expressions, number_word
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.steered import (
    COLUMNS,
    UNSTEERED,
    Continued,
    as_deep_as,
    clearest,
    conditions,
    continue_prompts,
    examples,
    headline,
)
from hubstore.experiments.verdict import Floats, mean_rows
from hubstore.models import Model
from hubstore.steer import Continuation, Decoding

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
DECODING = Decoding(max_new_tokens=5)
MIDDLE, PAPER = 17, 25
OWN, CONTROL = "its own sum", "another sum's"
SUCCESS, CONTROLLED = "one less, then +1", "one less, then +1, by another sum's direction"
HEADLINES = ("successes - unsteered", "successes - another sum's direction")
DRAWN = (SUCCESS, CONTROLLED, "one less", "unchanged")


@dataclass(frozen=True)
class Place:
    """Where states are taken, and where their difference is added.

    Args:
        taken: a layer.
        added: a layer.
    """

    taken: int
    added: int

    @property
    def name(self) -> str:
        """ "14", or "14 to 15" where they differ."""
        return str(self.added) if self.taken == self.added else f"{self.taken} to {self.added}"


def run(lab: Lab) -> Outcome:
    """How often sums are completed by one less, and then by one more, over strengths."""
    sums = lab.sample([one for one in expressions() if one.operator == "+"])
    texts = list(dict.fromkeys(text for one in sums for text in (phrase(one), phrase(one, 1))))
    store = lab.store("arithmetic-phrases", Corpus.from_items([Item(t, t, "en") for t in texts], "arithmetic phrases"))
    others = other_sums(sums, lab.seed)
    prompts = [one.question for one in sums]
    places = places_of(lab.language_model)
    unsteered = continue_prompts(lab, prompts, places[0].added, {}, [UNSTEERED], DECODING)
    rows, notes = [], [_completed(sums, unsteered)]
    for place in places:
        own = _directions(store, sums, place.taken)
        notes.append(_lengths(store, place, own))
        steered = continue_prompts(
            lab, prompts, place.added, {OWN: own, CONTROL: own[others]}, conditions((OWN, CONTROL), STRENGTHS), DECODING
        )
        rows += _rows(lab, place, sums, {**unsteered, **steered})
    notes += examples({**unsteered, **{one: found for one, found in steered.items() if one[0] == OWN}})
    best = clearest(rows, HEADLINES)
    table = make_table(({**row, "quantity": at_layer(row["quantity"], row["layer"])} for row in rows), COLUMNS)
    plots = tuple(
        Plot(
            f"layer {place.name} of {lab.language_model.depth}",
            "share of sums",
            tuple(at_layer(name, place.name) for name in DRAWN),
            "strength",
            "strength",
        )
        for place in places
    )
    return Outcome(best.shown, headline(best), best.n, table, plots, tuple(dict.fromkeys(notes)))


def places_of(model: Model) -> list[Place]:
    """A middle layer, the paper's, and the paper's with its step to the next; fewer in a model too shallow for them."""
    middle, paper, after = (as_deep_as(layer, model) for layer in (MIDDLE, PAPER, PAPER + 1))
    above = min(max(after, paper + 1), model.depth)
    return list(dict.fromkeys([Place(middle, middle), Place(paper, paper), Place(paper, above)]))


def phrase(one: Expression, more: int = 0) -> str:
    """ "eight equals to five plus"; with one more, "eight equals to six plus"."""
    return f"{number_word(one.result)} equals to {number_word(one.left + more)} plus"


def at_layer(quantity: str, layer: str) -> str:
    """The name of a quantity at a layer."""
    return f"{quantity}, layer {layer}"


def is_success(one: Expression, text: str) -> bool:
    """Whether a continuation of "8=5+" is "2+1"."""
    return re.match(rf"\s*{one.right - 1}\s*\+\s*1(?!\d)", text) is not None


def begins_with(number: int, text: str) -> bool:
    """Whether a continuation's first number is this one."""
    return re.match(rf"\s*{number}(?!\d)", text) is not None


def other_sums(sums: Sequence[Expression], seed: int) -> list[int]:
    """For each sum the place of another, drawn among those of another left operand.

    Raises:
        AnalysisError: a sum has no such other.
    """
    left, rng = np.array([one.left for one in sums]), np.random.default_rng(seed)
    others = [np.flatnonzero(left != own) for own in left]
    if not all(len(places) for places in others):
        raise AnalysisError("all sums have one left operand and no control; give a greater limit, or another seed")
    return [int(rng.choice(places)) for places in others]


def _directions(store: Store, sums: Sequence[Expression], layer: int) -> Tensor:
    """float32 [sums, width]."""
    hidden = store.hidden(str(layer), "last")
    one_more, as_is = (
        hidden.take(store.positions([phrase(one, more) for one in sums])).to(torch.float32) for more in (1, 0)
    )
    return one_more - as_is


def _lengths(store: Store, place: Place, directions: Tensor) -> str:
    hidden = store.hidden(str(place.taken), "last")
    states = hidden.take(np.arange(len(hidden))).to(torch.float32)
    share = float(directions.norm(dim=-1).mean() / states.norm(dim=-1).mean())
    return f"directions at layer {place.taken} are {share:.3g} as long as the phrases' states, on average"


def _rows(lab: Lab, place: Place, sums: Sequence[Expression], continued: Continued) -> list[Row]:
    rows: list[Row] = []
    before = _successes(sums, continued[UNSTEERED])
    for strength in (0.0, *STRENGTHS):
        own, control = ((name, strength) if strength else UNSTEERED for name in (OWN, CONTROL))
        found = [one.text for one in continued[own]]
        success, controlled = (_successes(sums, continued[which]) for which in (own, control))
        values = {
            SUCCESS: success,
            CONTROLLED: controlled,
            "one less": _indicator(begins_with(one.right - 1, text) for one, text in zip(sums, found, strict=True)),
            "unchanged": _indicator(begins_with(one.right, text) for one, text in zip(sums, found, strict=True)),
        }
        if strength:
            values |= {HEADLINES[0]: success - before, HEADLINES[1]: success - controlled}
        rows += [{**row, "strength": strength} for row in mean_rows(place.name, values, lab.resampling)]
    return rows


def _successes(sums: Sequence[Expression], found: Sequence[Continuation]) -> Floats:
    return _indicator(is_success(one, continuation.text) for one, continuation in zip(sums, found, strict=True))


def _indicator(holds: Iterable[bool]) -> Floats:
    return np.array(list(holds), np.float64)


def _completed(sums: Sequence[Expression], unsteered: Continued) -> str:
    found = zip(sums, unsteered[UNSTEERED], strict=True)
    right = sum(begins_with(one.right, continuation.text) for one, continuation in found)
    return f"unsteered, {right:,} of {len(sums):,} sums are completed with the right number"
