"""Do English directions steer arithmetic and code (Wu et al., 2025)?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.context import RANDOM_WEIGHTS, ExperimentContext
from hubstore.experiments.materials import programs
from hubstore.experiments.materials.arithmetic import Expression, number_word, sums
from hubstore.experiments.materials.programs import Range, range_arguments, ranges
from hubstore.experiments.recipes.steering import (
    ACROSS,
    COLUMNS,
    PERPLEXITY,
    RANDOM,
    UNSTEERED,
    Continued,
    as_deep_as,
    as_long_as,
    at_layer,
    condition,
    conditions,
    continue_prompts,
    examples,
    fluency_rows,
    random_directions,
    shares,
    steering_result,
    strength_rows,
)
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.significance import Floats, Ints, with_differences
from hubstore.models import Model
from hubstore.plots.experiment import Plot
from hubstore.steer import Decoding, difference_of_tokens
from hubstore.store import StoreReader

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
FIVE_TOKENS = Decoding(max_new_tokens=5)
MIDDLE, PAPER = 17, 25
OWN_SUM, OTHER_SUM = "its own sum", "another sum's"
SUCCESS, CONTROLLED = "one less, then +1", "one less, then +1, by another sum's direction"
SUCCESSES = ("successes - unsteered", "successes - another sum's direction")
NO_NUMBER = "no number"

START_LAYER = 18
"""The output of block 17, counted from 0."""

LENGTHS = (0.125, 0.25, 0.5, 1.0)
"""Strengths as shares of the mean length of the states."""

MULTIPLES = (10.0, 20.0, 40.0, 80.0)
TWELVE_TOKENS = Decoding(max_new_tokens=12)
TOWARD, OPPOSITE = "toward start", "toward end"
STARTS = (f"{TOWARD} - {OPPOSITE}", f"{TOWARD} - {RANDOM}")
BROKEN = "no arguments at all"
SAME_END, NAMED_START = "0 and the same end", "a start that is called start"
OF_PAPER = "the paper's strengths"
PAPER_STARTS = (f"{TOWARD}, {OF_PAPER}", f"{SAME_END}, {OF_PAPER}")


@experiment(
    "arithmetic-steering",
    title="8=5+ with the state of five moved to six: completed by 2+1",
    claim="English directions steer arithmetic: five moved to six makes the model say one less, and add it again.",
    data="846 sums below 100, made here",
    head=True,
    controls=(RANDOM_WEIGHTS,),
)
def arithmetic_steering(context: ExperimentContext) -> Result:
    """Does an English "one more" in the state change how a sum is completed?

    "8=5+" is completed by 3. At its last token the state of "eight equals to six plus" is added, and that of "eight
    equals to five plus" taken away, both of their last tokens. The model then takes the 5 for a 6, says 2, and as the 5
    still stands there puts it right: "8=5+2+1". That is a success; "one less" is what begins with that 2.

    The paper takes the states of layer 25 of 32 and adds them after the block that follows, one layer further up. Here
    this is done as it is there, and at a middle and at that layer with the states of the very layer; in a model of
    another depth at layers as deep. The control is the direction of another sum, of another left operand: of its kind,
    made as long, but of other numbers. Continuations are greedy, of five tokens, of which "2+1" and what follows need
    no more.

    Shown: at one layer and strength successes are more frequent than without steering, and than with the control, both
    corrected for having picked layer and strength.
    """
    chosen, model = context.sample(sums()), context.language_model
    texts = list(dict.fromkeys(text for one in chosen for text in (phrase(one), phrase(one, 1))))
    corpus = Corpus.from_items([Item(text, text, "en") for text in texts], "arithmetic phrases")
    store = context.store("arithmetic-phrases", corpus)
    others = other_sums(chosen, context.seed)
    prompts = [one.question for one in chosen]
    places = places_of(model)
    unsteered = continue_prompts(context, prompts, places[0].added, {}, [UNSTEERED], FIVE_TOKENS)
    right = sum(begins_with(one.right, old.text) for one, old in zip(chosen, unsteered[UNSTEERED], strict=True))
    rows, notes = [], [f"unsteered, {right:,} of {len(chosen):,} sums are completed with the right number"]
    for place in places:
        own, length = phrase_directions(store, chosen, place.taken)
        notes.append(f"directions at layer {place.taken} are {length:.3g} as long as the phrases' states, on average")
        directions = {OWN_SUM: own, OTHER_SUM: as_long_as(own[others], own)}
        continued = {
            **unsteered,
            **continue_prompts(
                context, prompts, place.added, directions, conditions(directions, STRENGTHS), FIVE_TOKENS
            ),
        }
        rows += sum_rows(context, place.name, chosen, continued)
        rows += fluency_rows(context, place.name, continued, directions, (0.0, *STRENGTHS))
    drawn = (SUCCESS, CONTROLLED, "one less", "unchanged", NO_NUMBER)
    fluent = [f"{PERPLEXITY}, {name}" for name in (OWN_SUM, OTHER_SUM)]
    plots = [
        Plot(f"layer {place.name} of {model.depth}", unit, tuple(at_layer(n, place.name) for n in quantities), *ACROSS)
        for unit, quantities in (("share of sums", drawn), ("nats a token", fluent))
        for place in places
    ]
    return steering_result(rows, SUCCESSES, plots, [*notes, *examples(continued, [OWN_SUM])], by_layer=True)


@experiment(
    "code-steering",
    title="range( in Python with the state moved from 'end' to 'start'",
    claim="English words steer code: moved toward 'start', the model gives range a start that it did not give before.",
    data="MBPP, 974 Python programs that ship",
    shipped=(programs.SHIPPED,),
    head=True,
    controls=(RANDOM_WEIGHTS,),
)
def code_steering(context: ExperimentContext) -> Result:
    """At "range(" in Python, does a state moved from "end" toward "start" make the model write a start?

    MBPP's programs up to "range(" where one argument follows, by ranges that the model, unsteered, gives one argument
    too. To the state of the last token is added a multiple of U["start"] - U["end"], a difference of unembeddings, at
    the output of block 17 of 32, counted from 0; in a model of another depth at a layer as deep. Success: the
    continuation gives a start, two arguments or three. "0 and the same end" is the paper's, which asks for 0 and then
    the argument that came unsteered; "a start that is called start" says how often the model does no more than write
    the word that it is steered toward, and "no arguments at all" how often it closes no parenthesis any more.
    Continuations are greedy, of twelve tokens (the paper's are of 32); what does not close the parenthesis within them
    has no arguments.

    The paper's strengths are 10 to 80 times the difference, whose length and the states' differ from model to model.
    Those are done as they are; and besides, the difference is added at shares of the states' mean length at that layer,
    with two controls: the opposite direction, and random ones of the same length, another for each range.

    Shown: at one share starts are more frequent than with the opposite direction, and than with random ones, both
    corrected for having picked the share. Programs are resampled whole.
    """
    drawn, model = context.sample(list(ranges())), context.language_model
    layer, difference = as_deep_as(START_LAYER, model), difference_of_tokens(model, "start", "end").vector
    prompts = [one.prompt for one in drawn]
    before = continue_prompts(context, prompts, layer, {}, [UNSTEERED], TWELVE_TOKENS)[UNSTEERED]
    answered = [(one, old) for one, old in zip(drawn, before, strict=True) if len(range_arguments(old.text) or ()) == 1]
    if not answered:
        raise AnalysisError(f"unsteered, {model.identity['id']} gives none of {len(drawn)} ranges one argument")
    calls, unsteered = [one for one, _ in answered], [old for _, old in answered]
    length, norm = mean_length(context, calls, layer), float(difference.norm())
    share = length / norm
    random = random_directions(difference, len(calls), context.seed)
    directions = {TOWARD: share * difference, OPPOSITE: -share * difference, RANDOM: share * random}
    continued = {
        UNSTEERED: unsteered,
        **continue_prompts(
            context,
            [one.prompt for one in calls],
            layer,
            {**directions, OF_PAPER: difference},
            [*conditions(directions, LENGTHS), *conditions((OF_PAPER,), MULTIPLES)],
            TWELVE_TOKENS,
        ),
    }
    groups = np.array([one.task for one in calls])
    rows = start_rows(context, str(layer), continued, share, groups)
    rows += [
        {**row, "multiple": row["strength"] * share}
        for row in fluency_rows(context, str(layer), continued, directions, (0.0, *LENGTHS), groups)
    ]
    quantities = (TOWARD, OPPOSITE, RANDOM, NAMED_START, SAME_END, BROKEN)
    fluent = tuple(f"{PERPLEXITY}, {name}" for name in directions)
    plots = (
        Plot("ranges with a start", "share of ranges", quantities, "strength", "state lengths"),
        Plot("how improbable the text is", "nats a token", fluent, "strength", "state lengths"),
        Plot(f"ranges with a start, {OF_PAPER}", "share of ranges", PAPER_STARTS, "multiple", "times the difference"),
    )
    notes = (
        f"{len(calls):,} of {len(drawn):,} ranges have one argument unsteered, in {len(np.unique(groups)):,} programs",
        f"states at layer {layer} are {length:.4g} long on average, U[start] - U[end] is {norm:.4g}: {OF_PAPER} are "
        f"{MULTIPLES[0] / share:.3g} to {MULTIPLES[-1] / share:.3g} state lengths here",
        *examples(continued, [TOWARD, OF_PAPER]),
    )
    return steering_result(rows, STARTS, plots, notes, {**COLUMNS, "multiple": pa.float64()})


class Place(NamedTuple):
    """The layer where states are taken, and the one where their difference is added."""

    taken: int
    added: int

    @property
    def name(self) -> str:
        """ "14", or "14 to 15" where they differ."""
        return str(self.added) if self.taken == self.added else f"{self.taken} to {self.added}"


def places_of(model: Model) -> list[Place]:
    """A middle layer, the paper's, and the paper's with its step to the next; fewer in a model too shallow for them."""
    middle, paper, after = (as_deep_as(layer, model) for layer in (MIDDLE, PAPER, PAPER + 1))
    above = min(max(after, paper + 1), model.depth)
    return list(dict.fromkeys([Place(middle, middle), Place(paper, paper), Place(paper, above)]))


def phrase(one: Expression, more: int = 0) -> str:
    """ "eight equals to five plus"; with one more, "eight equals to six plus"."""
    return f"{number_word(one.result)} equals to {number_word(one.left + more)} plus"


def is_success(one: Expression, text: str) -> bool:
    """Whether a continuation of "8=5+" is "2+1"."""
    return re.match(rf"\s*{one.right - 1}\s*\+\s*1(?!\d)", text) is not None


def begins_with(number: int, text: str) -> bool:
    """Whether a continuation's first number is this one."""
    return re.match(rf"\s*{number}(?!\d)", text) is not None


def other_sums(chosen: Sequence[Expression], seed: int) -> list[int]:
    """For each sum the place of another, drawn among those of another left operand.

    Raises:
        AnalysisError: a sum has no such other.
    """
    left, rng = np.array([one.left for one in chosen]), np.random.default_rng(seed)
    others = [np.flatnonzero(left != own) for own in left]
    if not all(len(places) for places in others):
        raise AnalysisError("all sums have one left operand and no control; give a greater limit, or another seed")
    return [int(rng.choice(places)) for places in others]


def phrase_directions(store: StoreReader, chosen: Sequence[Expression], layer: int) -> tuple[Tensor, float]:
    """Directions float32 [sums, width], and how long they are on average, in lengths of the phrases' states."""
    hidden = store.hidden(str(layer), "last")
    states = hidden.take(np.arange(len(hidden))).to(torch.float32)
    one_more, as_is = (states[store.positions([phrase(one, more) for one in chosen])] for more in (1, 0))
    directions = one_more - as_is
    return directions, float(directions.norm(dim=-1).mean() / states.norm(dim=-1).mean())


def sum_rows(context: ExperimentContext, layer: str, chosen: Sequence[Expression], continued: Continued) -> list[Row]:
    """Shares of sums by strength: successes, those of the control, one less, unchanged, and the headlines."""

    def successes(name: str, strength: float) -> Floats:
        found = zip(chosen, continued[condition(name, strength)], strict=True)
        return shares(is_success(one, continuation.text) for one, continuation in found)

    def values(strength: float) -> dict[str, Floats]:
        success, controlled = successes(OWN_SUM, strength), successes(OTHER_SUM, strength)
        found = [
            (one, steered.text) for one, steered in zip(chosen, continued[condition(OWN_SUM, strength)], strict=True)
        ]
        quantities = {
            SUCCESS: success,
            CONTROLLED: controlled,
            "one less": shares(begins_with(one.right - 1, text) for one, text in found),
            "unchanged": shares(begins_with(one.right, text) for one, text in found),
            NO_NUMBER: shares(re.match(r"\s*\d", text) is None for _, text in found),
        }
        if strength:
            differences = (success - successes(OWN_SUM, 0.0), success - controlled)
            quantities |= dict(zip(SUCCESSES, differences, strict=True))
        return quantities

    return strength_rows(context, layer, (0.0, *STRENGTHS), values)


def gives_start(text: str) -> bool:
    """Whether a continuation of "range(" gives a start: range takes start and stop, or start, stop and step."""
    return len(range_arguments(text) or ()) in (2, 3)


def names_start(text: str) -> bool:
    """Whether a continuation gives a start in which the word itself is written, as in "start_index, n)"."""
    return gives_start(text) and "start" in (range_arguments(text) or ("",))[0].casefold()


def is_same_end(old: str, text: str) -> bool:
    """Whether a continuation gives 0, and then the argument that the unsteered one gave."""
    return range_arguments(text) == ("0", *(range_arguments(old) or ()))


def mean_length(context: ExperimentContext, calls: Sequence[Range], layer: int) -> float:
    """Of the states of the prompts' last tokens."""
    items = [Item(one.item, one.prompt, "x-python") for one in calls]
    store = context.store("mbpp-ranges", Corpus.from_items(items, "ranges"))
    states = store.hidden(str(layer), "last").take(store.positions([one.item for one in calls]))
    return float(states.to(torch.float64).norm(dim=-1).mean())


def start_rows(context: ExperimentContext, layer: str, continued: Continued, share: float, groups: Ints) -> list[Row]:
    """Shares of ranges with a start, by strength in state lengths, and by the paper's multiples of the difference."""

    def starts(name: str, strength: float) -> Floats:
        return shares(gives_start(one.text) for one in continued[condition(name, strength)])

    def same_ends(name: str, strength: float) -> Floats:
        pairs = zip(continued[UNSTEERED], continued[condition(name, strength)], strict=True)
        return shares(is_same_end(old.text, one.text) for old, one in pairs)

    def by_length(strength: float) -> dict[str, Floats]:
        found = {name: starts(name, strength) for name in (TOWARD, OPPOSITE, RANDOM)}
        found[NAMED_START] = shares(names_start(one.text) for one in continued[condition(TOWARD, strength)])
        found[SAME_END] = same_ends(TOWARD, strength)
        found[BROKEN] = shares(range_arguments(one.text) is None for one in continued[condition(TOWARD, strength)])
        return with_differences(found, STARTS) if strength else found

    def by_multiple(multiple: float) -> dict[str, Floats]:
        return dict(zip(PAPER_STARTS, (starts(OF_PAPER, multiple), same_ends(OF_PAPER, multiple)), strict=True))

    lengths = strength_rows(context, layer, (0.0, *LENGTHS), by_length, groups)
    multiples = strength_rows(context, layer, (0.0, *MULTIPLES), by_multiple, groups)
    return [
        *({**row, "multiple": row["strength"] * share} for row in lengths),
        *({**row, "strength": row["strength"] / share, "multiple": row["strength"]} for row in multiples),
    ]
