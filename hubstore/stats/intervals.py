"""Intervals in closed form: of shares and other means between 0 and 1, which have a width where nothing varies."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

POISSON = (0.0, 0.0513, 0.3554, 0.8177)
"""Means under which 0, 1, 2, 3 events or more come in 5 %: half the quantiles of chi square with twice as many."""


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t, within 1 % from 3 degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    return of_student(NormalDist().inv_cdf(probability), freedom)


def of_student(z: float, freedom: int) -> float:
    """Student's quantile where the normal one is `z`."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def share_intervals(values: Floats, level: float = 0.95) -> Floats:
    """Low and high [2, m] of the means of `values` [n, m], each between 0 and 1: recalls, reciprocal ranks.

    Wilson's (1927) score interval, for as many independent trials of yes or no as would vary as much: values that vary
    less than those, such as reciprocal ranks, count for more. Where nothing varies they count once each.

    Args:
        values: float64 [n, m], from 0 to 1.
        level: how often an interval should cover.
    """
    n = len(values)
    z = student((1 + level) / 2, n - 1) if n > 3 else NormalDist().inv_cdf((1 + level) / 2)
    mean = values.mean(0)
    # Shrunk toward the variance of yes and no by a trial of either: a few equal values do not show that none varies.
    spread = mean * (1 - mean)
    most = (n * spread + 0.5) / (n + 2)
    found = (n * values.var(0) + 0.5) / (n + 2)
    trials = n * most / np.minimum(found, most)
    center = (mean + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * np.sqrt(spread / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    # Near an end few trials differ, and what they leave possible is Poisson's (Brown, Cai and DasGupta, 2001).
    least = np.interp(trials * np.minimum(mean, 1 - mean), range(len(POISSON)), POISSON) / trials
    low = np.where(trials * mean < len(POISSON) - 1, np.minimum(least, center - half), center - half)
    high = np.where(trials * (1 - mean) < len(POISSON) - 1, np.maximum(1 - least, center + half), center + half)
    return np.asarray(np.clip([low, high], 0.0, 1.0))
