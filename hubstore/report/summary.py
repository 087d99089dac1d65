"""What the numbers say about the hub hypothesis, in sentences computed from them, whichever way they fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from hubstore.analysis.resolution import resolves
from hubstore.plots.cube import Cube, Floats, Pair, mean_over
from hubstore.plots.text import layer_label, number, with_interval

WHOLE = "*"
AT_ONCE = "By 95 % intervals of all differences between layers at once, of the same concepts,"
ABOVE = f"{AT_ONCE} the largest is above."
Leads = dict[tuple[str, str], tuple[str, dict[str, float]]]
"""By metric and variant the layer of the peak, and the least that it is above each other."""
AS_PREDICTED, NOT_AS_PREDICTED, OPEN = "as predicted", "not as predicted", "not settled"


@dataclass(frozen=True)
class Statement:
    """A sentence about one quantity.

    Args:
        brief: what was found, in a line.
        words: the sentence.
        verdict: AS_PREDICTED, NOT_AS_PREDICTED or OPEN, of what the hub hypothesis predicts.
    """

    brief: str
    words: str
    verdict: str


@dataclass(frozen=True)
class Profile:
    """A quantity over the layers, with its intervals, each [layers]; NaN where there are none.

    Args:
        peak: the layer of the largest value, where the lead is known.
        lead: by other layer, the least that the peak is above it, by intervals that cover whichever was picked.
    """

    layers: tuple[str, ...]
    value: Floats
    low: Floats
    high: Floats
    peak: str | None = None
    lead: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_layer(self) -> int:
        """Place of the largest value; of tied ones that which the lead is of."""
        return self.layers.index(self.peak) if self.peak is not None else int(np.nanargmax(self.value))

    def at(self, place: int) -> str:
        """The number at one layer and where that is."""
        words = with_interval(float(self.value[place]), float(self.low[place]), float(self.high[place]))
        return f"{words} at layer {layer_label(self.layers[place])}"

    def brief(self, place: int) -> str:
        """The number at one layer without its interval, and which layer."""
        return f"{number(float(self.value[place]))} (layer {self.layers[place]})"

    def above(self, end: int) -> bool:
        """Whether the peak is above the value at `end`, by intervals of all differences at once."""
        return self.lead[self.layers[end]] > 0


def summarize(cubes: dict[str, Cube], pairs: Sequence[Pair], finer: str, contrasts: pa.Table | None) -> list[Statement]:
    """Statements on the difference of matched and baseline, recall@1 and concept purity.

    Args:
        cubes: the analyses' results.
        pairs: of partitions.
        finer: what to do where the store's dtype does not resolve a difference.
        contrasts: of `hubstore.analysis.contrasts`, over these pairs; None where nothing was resampled.
    """
    out = []
    leads: Leads = {}
    for row in [] if contrasts is None else contrasts.to_pylist():
        _, lead = leads.setdefault((row["metric"], row["variant"]), (row["layer"], {}))
        lead[row["layer_y"]] = np.nan if row["low"] is None else row["low"]
    over = "" if len(pairs) == 1 else f"mean over {len(pairs)} pairs"
    for variant in ("centered", "raw"):
        if "similarity" in cubes:
            profile = pair_profile(cubes["similarity"], pairs, variant, "difference", leads)
            statement = middle(f"Matched minus baseline, {variant}", profile, over)
            resolution = cubes["similarity"].mean("resolution", pairs, variant, "difference")
            out += [_resolved(statement, profile, resolution, finer)]
        if "retrieval" in cubes:
            both = [*pairs, *((y, x) for x, y in pairs)]
            profile = pair_profile(cubes["retrieval"], both, variant, "recall@1", leads)
            out.append(middle(f"Recall@1, {variant}", profile, ", ".join(filter(None, ("both directions", over)))))
        if "clustering" in cubes:
            out.append(purity(cubes["clustering"], variant))
    return out


def pair_profile(
    cube: Cube,
    pairs: Sequence[Pair],
    variant: str,
    metric: str,
    leads: Leads | None = None,
) -> Profile:
    """The mean over pairs, and by how much its peak leads each layer, by metric and variant."""
    value, low, high = (mean_over(cube.lines(c, pairs, variant, metric)) for c in ("value", "low", "high"))
    return Profile(cube.layers, value, low, high, *(leads or {}).get((metric, variant), (None, {})))


def middle(name: str, of: Profile, over: str = "") -> Statement:
    """Whether a quantity is larger at some layer between the ends than at both of them; `over` is what it is of."""
    if not np.isfinite(of.value).any():
        words = f"{name} has no value at any layer."
        return Statement(words, words, OPEN)
    if len(of.layers) < 3:
        every = " and ".join(of.at(place) for place in range(len(of.layers)))
        words = f"{name} is {every}; where it peaks takes at least three layers to say."
        return Statement(f"{name}: {every}.", words, OPEN)
    of_what = f"{name} ({over})" if over else name
    predicts = f"{of_what}: the hub hypothesis predicts more between the first and the last layer than at either"
    last, best_layer = len(of.layers) - 1, of.best_layer
    ends = f"{of.at(0)} and {of.at(last)}"
    if best_layer in (0, last):
        return _at_an_end(name, predicts, of)
    brief = f"{name} peaks at {of.brief(best_layer)}, against {of.brief(0)} and {of.brief(last)}."
    finding = f"here it is largest {best_layer / last:.0%} of the way up, {of.at(best_layer)}, against {ends}"
    if not of.lead:
        return Statement(brief, f"{predicts}; {finding}. No intervals were computed.", OPEN)
    near = [end for end in (0, last) if not of.above(end)]
    if near:
        which = " and ".join(f"layer {layer_label(of.layers[end])}" for end in near)
        words = f"{AT_ONCE} it may not be above {which}: it is not settled."
        return Statement(brief, f"{predicts}; {finding}. {words}", OPEN)
    return Statement(brief, f"{predicts}; {finding}. {ABOVE}", AS_PREDICTED)


def _at_an_end(name: str, predicts: str, of: Profile) -> Statement:
    last = len(of.layers) - 1
    inner = 1 + int(np.argmax(np.nan_to_num(of.value[1:-1], nan=-np.inf)))
    which, other = ("first", last) if of.best_layer == 0 else ("last", 0)
    finding = f"here it is largest at the {which} layer, {of.at(of.best_layer)}, against {of.at(other)} and at most "
    words = f"{predicts}; {finding}{of.at(inner)} between them."
    brief = f"{name} peaks at the {which} layer: {of.brief(of.best_layer)}, against {of.brief(inner)} between."
    if not of.lead:
        return Statement(brief, f"{words} No intervals were computed.", OPEN)
    if not of.above(inner):
        return Statement(brief, f"{words} {AT_ONCE} either may be larger: it is not settled.", OPEN)
    return Statement(brief, f"{words} {ABOVE}", NOT_AS_PREDICTED)


def _resolved(statement: Statement, profile: Profile, resolution: Floats, finer: str) -> Statement:
    if not np.isfinite(profile.value).any():
        return statement
    places = (0, profile.best_layer, len(profile.layers) - 1)
    if all(resolves(float(profile.value[place]), float(resolution[place])) for place in places):
        return statement
    words = f"The store's dtype leaves fewer than two digits of one of these: {finer}."
    return Statement(statement.brief, f"{statement.words} {words}", OPEN)


def purity(cube: Cube, variant: str) -> Statement:
    """Whether neighborhoods share the concept rather than the language, and at which layers."""
    whole = [(WHOLE, WHOLE)]
    concept, language = (pair_profile(cube, whole, variant, f"{what}_purity") for what in ("concept", "language"))
    null, p = (cube.mean(column, whole, variant, "concept_purity") for column in ("null_mean", "p_value"))
    best = concept.best_layer
    above = [layer for layer, c, of in zip(cube.layers, concept.value, language.value, strict=True) if c > of]
    where = f"at layers {spans(cube.layers, above)}" if above else "at no layer"
    chance = f" ({number(null[best])} by chance, p = {number(p[best])})" if np.isfinite(p[best]) else ""
    words = (
        f"Neighborhoods ({variant}): the hub hypothesis predicts neighbors that share the meaning more often than "
        f"the language in the middle layers; here the meaning wins {where}, and is shared most often, "
        f"{concept.at(best)}{chance}, against {number(language.value[best])} for the language."
    )
    brief = f"Neighbors ({variant}) share the meaning more often than the language {where}."
    inner = set(above) & set(cube.layers[1:-1])
    if inner and cube.layers[0] in above:
        words += f" It wins at layer {layer_label(cube.layers[0])} too, before any block: shared words alone may do it."
        return Statement(brief, words, OPEN)
    return Statement(brief, words, AS_PREDICTED if inner else NOT_AS_PREDICTED if len(cube.layers) > 2 else OPEN)


def spans(layers: Sequence[str], chosen: Sequence[str]) -> str:
    """Some of `layers` in words, runs of three and more shortened: "0, 3–7, final"."""
    places = [layers.index(layer) for layer in chosen]
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    words = []
    for run in runs:
        short = len(run) > 2
        words += [f"{layers[run[0]]}–{layers[run[-1]]}"] if short else [layers[place] for place in run]
    return ", ".join(words)
