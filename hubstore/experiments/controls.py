"""What an experiment finds where nothing is to be found, and whether what it finds in the model is more than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hubstore.experiments.result import Control, Result, Row
from hubstore.experiments.significance import ClusterValues, difference_words, joint, stacked_clusters
from hubstore.stats.verdicts import NO, TOO_FEW, YES, Verdict, sign_flip_test

LED = {YES: "the model leads it", NO: "the model does not lead it", TOO_FEW: TOO_FEW}


def compare(name: str, result: Result, control: Result, seed: int) -> Control:
    """What a control says, and whether the model leads it.

    The model is taken at its best layer, where all differences are above zero at once, and the control at that where
    each difference alone is greatest: a control is not led because another difference is low where one is high.
    """
    pairs = zip(result.readings, control.readings, strict=True)
    verdicts = tuple(leads(own.rows, other.greatest, seed) for own, other in pairs)
    words = (
        "; ".join(f"{difference_words(row)} at layer {row['layer']}" for row in one.greatest)
        for one in control.readings
    )
    return Control(name, tuple(words), verdicts)


def not_done(name: str, result: Result, why: str) -> Control:
    """A control in which there was nothing to measure, such as a random model that completes no program."""
    return Control(name, (why,) * len(result.readings), (YES,) * len(result.readings))


def leads(rows: Sequence[Row], others: Sequence[Row], seed: int) -> Verdict:
    """Whether every difference is greater than the control's, by the texts or concepts that both have."""
    differences = []
    for own, other in zip(rows, others, strict=True):
        left, right = own["clusters"], other["clusters"]
        ids, own_places, other_places = np.intersect1d(left.ids, right.ids, return_indices=True)
        values = left.values[own_places] - right.values[other_places]
        differences.append({"clusters": ClusterValues(ids, values)})
    stacked = stacked_clusters([differences])
    if not len(stacked):
        return TOO_FEW
    return sign_flip_test(stacked, seed=seed).verdict


def with_controls(result: Result, controls: Sequence[Control]) -> Result:
    """The result whose claim counts as shown only where the model leads every control."""
    readings = [
        replace(one, verdict=joint([one.verdict, *(control.verdicts[place] for control in controls)]))
        for place, one in enumerate(result.readings)
    ]
    own = {one.note for one in result.readings}
    notes = [
        f"{f'{reading.name}, ' if reading.name else ''}control {control.name} ({LED[control.verdicts[place]]}): "
        f"{control.words[place]}"
        for place, reading in enumerate(result.readings)
        for control in controls
    ]
    rest = [note for note in result.notes if note not in own]
    judged = Result.of(readings, result.n, result.table, result.plots, (*notes, *rest))
    return replace(judged, controls=tuple(controls))


def without_controls(result: Result) -> Result:
    """The result of an experiment that was done without controls, of which nothing counts as shown."""
    note = f"done without controls; by its own rule alone: {result.verdict}"
    return replace(result, verdict=NO if result.verdict == YES else result.verdict, notes=(note, *result.notes))
