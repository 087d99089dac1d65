"""Verdicts: whether a difference is above zero, or an association above chance, at some layer.

Every test here looks at all layers (and headlines) at once: a p value is that of the largest statistic anywhere under
the null, so that picking the best layer needs no further correction (Westfall and Young, 1993; Nichols and Holmes,
2002). What counts as one observation is a cluster: a concept, a text, a recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hubstore.errors import AnalysisError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Verdict = Literal["yes", "no", "too few to say"]

YES: Verdict = "yes"
NO: Verdict = "no"
TOO_FEW: Verdict = "too few to say"
FEWEST_CLUSTERS = 20
"""Below this no test of these is trusted."""
LEVEL = 0.025
"""How often a "yes" may come by chance; one-sided, as a 95 % interval above zero is."""
SKEWNESS_RULE = 25.0
"""A mean of values of skewness g is taken for normal from 25 g² of them on (Cochran, 1977, p. 42)."""
LEVELS = 5
"""Values of as few levels are shares or counts: bounded, so that a tail cannot hide beyond what was seen."""
FLOOR = 1 / 16
"""Of those, least variance of a resample in that of the sample: one that misses the few that differ shows no tail."""
UNSEEN = 3
"""Of n equal clusters so many more may differ at 95 %."""
DRAWS = 1999
BLOCK = 1 << 24  # drawn signs or counts at a time
ROUNDING = 1e-9  # relative: sums of the same values in another order are no difference


@dataclass(frozen=True, eq=False)
class MaxTest:
    """What a test over all layers found.

    Args:
        observed: float64 [layers] or [layers, headlines], the statistic where nothing is shuffled.
        null_mean: float64, as `observed`, what is expected where nothing is there: 0.
        p: float64, as `observed`: how often chance gives as clear a statistic at any layer or headline (family-wise).
        z: float64, as `observed`: the statistic in its standard deviations under the null, which layers share.
        clusters: independent observations; of the headline with the fewest.
        verdict: "yes" where at one layer every headline has p <= LEVEL; "too few to say" under `FEWEST_CLUSTERS`, or
            where a "yes" would rest on values too skewed for so few; else "no".
    """

    observed: Floats
    null_mean: Floats
    p: Floats
    z: Floats
    clusters: int
    verdict: Verdict

    @property
    def p_by_layer(self) -> Floats:
        """float64 [layers]: the p value of the least clear headline at each layer."""
        return np.asarray(self.p.reshape(len(self.p), -1).max(1))

    @property
    def best(self) -> int:
        """The layer whose least clear headline is clearest: of the least p, the largest z."""
        z = self.z.reshape(len(self.z), -1).min(1)
        return int(np.lexsort((-z, self.p_by_layer))[0])


def sign_flip_test(differences: Floats, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> MaxTest:
    """Whether the mean of differences is above zero at some layer.

    Two nulls must both be rejected. Random signs: each cluster's differences, at all layers together, are as likely of
    the other sign; the statistic Σ d / sqrt(Σ d²) is defined where nothing varies, and a few clusters cannot reach a
    small p. Signs assume symmetry, and differences that lean to the left say "yes" too often, so the studentized
    bootstrap must agree (Hall, 1988), with the largest t over layers. Values more skewed to the left than so many can
    carry, by Cochran's rule, give no verdict; shares, which are bounded, are excepted.

    Args:
        differences: float64 [clusters, layers] or [clusters, layers, headlines], in any unit; NaN where a cluster has
            no value. Whole clusters are flipped and drawn.
        draws: of signs, and of resamples.
        seed: of the draws.
        level: how often a "yes" may come by chance.

    Returns:
        See `MaxTest`; `observed` is the mean, `null_mean` is 0.

    Raises:
        AnalysisError: there is no cluster or no layer.
    """
    shape = differences.shape[1:]
    flat = differences.reshape(len(differences), -1)
    if not flat.size:
        raise AnalysisError(f"differences of shape {differences.shape}: a test needs a cluster and a layer")
    present = np.isfinite(flat)
    values = np.where(present, flat, 0.0)
    counts = present.sum(0)
    rng = np.random.default_rng([seed, len(flat)])
    norms = np.sqrt((values**2).sum(0))
    units = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    p = np.maximum(_by_signs(units, draws, rng), _by_resamples(values, present, draws, rng))
    means = values.sum(0) / np.maximum(counts, 1)
    clusters = int(counts.min())
    verdict = _verdict(p.reshape(shape), _carried(values, present).reshape(shape), clusters, level)
    z = units.sum(0).reshape(shape)
    return MaxTest(means.reshape(shape), np.zeros(shape), p.reshape(shape), z, clusters, verdict)


def false_discovery(p: Sequence[float] | Floats) -> Floats:
    """p values adjusted to q values, float64 [m]: those at most q hold a share q of false ones.

    By Benjamini and Hochberg (1995): for one claim in many languages, where some are expected to be wrong. NaN, of what
    was not tested, stays and does not count.
    """
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1])
    return adjusted


def _verdict(p: Floats, carried: Flags, clusters: int, level: float) -> Verdict:
    if clusters < FEWEST_CLUSTERS:
        return TOO_FEW
    clear, certain = (part.reshape(len(p), -1).all(1) for part in (p <= level, carried))
    if (clear & certain).any():
        return YES
    return TOO_FEW if clear.any() else NO


def _by_signs(units: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """p values [m] of the sums of columns [clusters, m] of length 1, against the largest under random signs."""
    observed = units.sum(0)
    as_large = np.zeros(len(observed), np.int64)
    for count in _blocks(draws, len(units)):
        signs = rng.integers(0, 2, (count, len(units)), dtype=np.int8) * 2.0 - 1
        as_large += ((signs @ units).max(1)[:, None] >= observed - ROUNDING).sum(0)
    return np.asarray((1 + as_large) / (1 + draws))


def _by_resamples(values: Floats, present: Flags, draws: int, rng: np.random.Generator) -> Floats:
    """The largest studentized mean of resamples, centered, against the observed one; t without the root of n."""
    n, counts = len(values), np.maximum(present.sum(0), 1)
    means = values.sum(0) / counts
    centered = np.where(present, values - means, 0.0)
    spread = np.sqrt((centered**2).sum(0) / counts)
    constant = spread <= ROUNDING * np.abs(means)
    observed = np.where(constant, np.copysign(np.inf, means), means / np.where(constant, 1.0, spread))
    observed[constant & (means == 0)] = 0.0
    floor = np.where(_few_levels(values), FLOOR * spread**2, 0.0)
    as_large = np.zeros(len(observed), np.int64)
    for count in _blocks(draws, n):
        drawn = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(count)]).astype(np.float64)
        sizes = np.maximum(drawn @ present, 1)
        shift = drawn @ centered / sizes
        variance = drawn @ centered**2 / sizes - shift**2
        variance = np.maximum(variance, floor)
        flat = variance <= ROUNDING * spread**2  # one value alone was drawn
        t = np.where(flat, np.where(shift > 0, np.inf, 0.0), shift / np.sqrt(np.where(flat, 1.0, variance)))
        t[:, constant] = 0.0
        as_large += (t.max(1)[:, None] >= observed).sum(0)
    return np.asarray((1 + as_large) / (1 + draws))


def _few_levels(values: Floats) -> Flags:
    return np.array([len(np.unique(column)) <= LEVELS for column in values.T])


def _carried(values: Floats, present: Flags) -> Flags:
    """Whether so many clusters can carry a mean of values so skewed to the left: [m]."""
    counts = np.maximum(present.sum(0), 1)
    enough = counts >= SKEWNESS_RULE * np.minimum(_skewness(values, present), 0) ** 2
    # Of equal values 3 in n may differ that were not seen (the rule of three), and be as low as -1, as shares may.
    highest = np.abs(values).max(0)
    equal = np.where(present, values, -np.inf).max(0) == np.where(present, values, np.inf).min(0)
    survives = values.sum(0) * (1 - UNSEEN / counts) > UNSEEN * np.maximum(highest, 1.0)
    return np.asarray(np.where(equal, survives, enough | _few_levels(values)))


def _skewness(values: Floats, present: Flags) -> Floats:
    counts = np.maximum(present.sum(0), 1)
    means = values.sum(0) / counts
    centered = np.where(present, values - means, 0.0)
    variance = (centered**2).sum(0) / counts
    moves = variance > (ROUNDING * means) ** 2
    return np.where(moves, (centered**3).sum(0) / counts / np.where(moves, variance, 1.0) ** 1.5, 0.0)


def _blocks(draws: int, n: int) -> Iterator[int]:
    step = max(1, BLOCK // n)
    for start in range(0, draws, step):
        yield min(step, draws - start)
