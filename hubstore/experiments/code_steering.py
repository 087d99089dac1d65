"""At "range(" in Python, does a state moved from "end" toward "start" make the model write a start (Wu et al., 2025)?

MBPP's programs up to "range(" where one argument follows, by ranges that the model, unsteered, gives one argument too.
To the state of the last token is added a multiple of U["start"] - U["end"], a difference of unembeddings, at the
output of block 17 of 32, counted from 0; in a model of another depth at a layer as deep. Success: the continuation
gives a start, two arguments or three. "0 and the same end" is the paper's, which asks for 0 and then the argument
that came unsteered; "a start that is called start" says how often the model does no more than write the word that it
is steered toward. Continuations are greedy, of twelve tokens (the paper's are of 32); what does not close the
parenthesis within them has no arguments.

The paper's strengths are 10 to 80 times the difference, whose length and the states' differ from model to model. Those
are done as they are; and besides, the difference is added at shares of the states' mean length at that layer, with two
controls: the opposite direction, and random ones of the same length, another for each range.

Shown: at one share starts are more frequent than with the opposite direction, and than with random ones, both
corrected for having picked the share. Programs are resampled whole.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.data import programs
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.programs import Source
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
    random_directions,
)
from hubstore.experiments.verdict import Floats, Ints, mean_rows
from hubstore.quiet import ignored_warnings
from hubstore.steer import Continuation, Decoding, difference_of_tokens

LAYER = 18
"""The output of block 17, counted from 0."""

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the mean length of the states."""

PAPER_STRENGTHS = (10.0, 20.0, 40.0, 80.0)
DECODING = Decoding(max_new_tokens=12)
TOWARD, OPPOSITE, RANDOM = "toward start", "toward end", "random directions"
HEADLINES = (f"{TOWARD} - {OPPOSITE}", f"{TOWARD} - {RANDOM}")
SAME_END, NAMED = "0 and the same end", "a start that is called start"
PAPER = "the paper's strengths"
OF_PAPER = (f"{TOWARD}, {PAPER}", f"{SAME_END}, {PAPER}")


@dataclass(frozen=True)
class Range:
    """A call of range with one argument.

    Args:
        item: its id, unique.
        task: the program's number in MBPP.
        prompt: the program up to the opening parenthesis.
    """

    item: str
    task: int
    prompt: str


def run(lab: Lab) -> Outcome:
    """How often a start is written at "range(", over strengths."""
    drawn = lab.sample(list(ranges()))
    model = lab.language_model
    layer, found = as_deep_as(LAYER, model), difference_of_tokens(model, "start", "end").vector
    before = continue_prompts(lab, [one.prompt for one in drawn], layer, {}, [UNSTEERED], DECODING)[UNSTEERED]
    kept = [(one, old) for one, old in zip(drawn, before, strict=True) if len(arguments(old.text) or ()) == 1]
    if not kept:
        raise AnalysisError(f"unsteered, {model.identity['id']} gives none of {len(drawn)} ranges one argument")
    sites, unsteered = [one for one, _ in kept], [old for _, old in kept]
    length = _mean_length(lab, sites, layer)
    share = length / float(found.norm())
    random = random_directions(found, len(sites), lab.seed)
    directions = {TOWARD: share * found, OPPOSITE: -share * found, RANDOM: share * random}
    continued = continue_prompts(
        lab,
        [one.prompt for one in sites],
        layer,
        {**directions, PAPER: found},
        [*conditions(directions, SHARES), *conditions((PAPER,), PAPER_STRENGTHS)],
        DECODING,
    )
    groups = np.array([one.task for one in sites])
    rows = _rows(lab, str(layer), {UNSTEERED: unsteered, **continued}, share, groups)
    best = clearest(rows, HEADLINES)
    plots = (
        Plot(
            "ranges with a start",
            "share of ranges",
            (TOWARD, OPPOSITE, RANDOM, NAMED, SAME_END),
            "strength",
            "state lengths",
        ),
        Plot(f"ranges with a start, {PAPER}", "share of ranges", OF_PAPER, "multiple", "times the difference"),
    )
    ends = [multiple / share for multiple in (PAPER_STRENGTHS[0], PAPER_STRENGTHS[-1])]
    notes = (
        f"{len(sites):,} of {len(drawn):,} ranges have one argument unsteered, in {len(np.unique(groups)):,} programs",
        f"states at layer {layer} are {length:.4g} long on average, U[start] - U[end] is {float(found.norm()):.4g}: "
        f"{PAPER} are {ends[0]:.3g} to {ends[1]:.3g} state lengths here",
        *examples({UNSTEERED: unsteered, **{one: c for one, c in continued.items() if one[0] in (TOWARD, PAPER)}}),
    )
    table = make_table(rows, {**COLUMNS, "multiple": pa.float64()})
    return Outcome(best.shown, headline(best), best.n, table, plots, notes)


def ranges() -> Iterator[Range]:
    """The calls of range with one argument in MBPP, in its order."""
    for program in programs():
        source = Source(program.code)
        for number, place in enumerate(openings(source)):
            yield Range(f"mbpp:{program.task}:{number}", program.task, source.text[: place + 1])


def openings(source: Source) -> Iterator[int]:
    """Characters of the parentheses that open the single argument of range."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            place = source.after(node.func, " ")
            if len(node.args) == 1 and not node.keywords and source.text[place] == "(":
                yield place


def arguments(continuation: str) -> tuple[str, ...] | None:
    """The arguments of the call that "range(" and a continuation make, up to the parenthesis that closes it.

    Returns:
        Each as Python prints its syntax; None where none closes it or what stands between is no Python.
    """
    for place, character in enumerate(continuation):
        if character == ")":
            call = _parsed(f"range({continuation[: place + 1]}")
            if isinstance(call, ast.Call):
                return tuple(ast.unparse(argument) for argument in call.args)
    return None


def _parsed(expression: str) -> ast.expr | None:
    try:
        with ignored_warnings():  # of what a model writes
            return ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def gives_start(text: str) -> bool:
    """Whether a continuation of "range(" gives a start: range takes start and stop, or start, stop and step."""
    return len(arguments(text) or ()) in (2, 3)


def names_start(text: str) -> bool:
    """Whether a continuation gives a start in which the word itself is written, as in "start_index, n)"."""
    return gives_start(text) and "start" in (arguments(text) or ("",))[0].casefold()


def is_same_end(old: str, text: str) -> bool:
    """Whether a continuation gives 0, and then the argument that the unsteered one gave."""
    return arguments(text) == ("0", *(arguments(old) or ()))


def _mean_length(lab: Lab, sites: Sequence[Range], layer: int) -> float:
    """Of the states of the prompts' last tokens."""
    items = [Item(one.item, one.prompt, "x-python") for one in sites]
    store = lab.store("mbpp-ranges", Corpus.from_items(items, "ranges"))
    states = store.hidden(str(layer), "last").take(store.positions([one.item for one in sites]))
    return float(states.to(torch.float64).norm(dim=-1).mean())


def _rows(lab: Lab, layer: str, continued: Continued, share: float, groups: Ints) -> list[Row]:
    unsteered = continued[UNSTEERED]
    rows: list[Row] = []
    for strength in (0.0, *SHARES):
        starts = {
            name: _starts(continued[(name, strength) if strength else UNSTEERED]) for name in (TOWARD, OPPOSITE, RANDOM)
        }
        toward = continued[(TOWARD, strength) if strength else UNSTEERED]
        values = {
            **starts,
            NAMED: np.array([names_start(one.text) for one in toward], np.float64),
            SAME_END: _same_ends(unsteered, toward),
        }
        if strength:
            values |= {
                name: starts[TOWARD] - starts[less] for name, less in zip(HEADLINES, (OPPOSITE, RANDOM), strict=True)
            }
        found = mean_rows(layer, values, lab.resampling, groups)
        rows += [{**row, "strength": strength, "multiple": strength * share} for row in found]
    for multiple in (0.0, *PAPER_STRENGTHS):
        steered = continued[(PAPER, multiple) if multiple else UNSTEERED]
        values = dict(zip(OF_PAPER, (_starts(steered), _same_ends(unsteered, steered)), strict=True))
        found = mean_rows(layer, values, lab.resampling, groups)
        rows += [{**row, "strength": multiple / share, "multiple": multiple} for row in found]
    return rows


def _starts(found: Sequence[Continuation]) -> Floats:
    return np.array([gives_start(one.text) for one in found], np.float64)


def _same_ends(unsteered: Sequence[Continuation], found: Sequence[Continuation]) -> Floats:
    pairs = zip(unsteered, found, strict=True)
    return np.array([is_same_end(old.text, one.text) for old, one in pairs], np.float64)
