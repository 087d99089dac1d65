"""Bootstrap intervals: one set of resamples for all statistics of as many concepts, one product for all of them.

A statistic that is a mean over concepts is resampled as it is. One that compares concepts with one another
(a baseline, CKA) would count a concept's own duplicates as different concepts if its pairs were resampled,
so what is resampled is its Hájek projection: each concept's first-order share in the statistic
(van der Vaart, Asymptotic Statistics, 1998, chapters 11 and 12).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch

from hubstore.stats.blocks import map_blocks
from hubstore.stats.intervals import of_student, student

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-12  # of squares: what is left of differences of equal columns
BLOCK = 1 << 22  # resampled weights that are float64 at a time
HELD = 1 << 26  # bytes of draws that are kept: statistics of a layer are over several numbers of concepts


class Bootstrap:
    """Expanded percentile intervals from `replicates` resamples of the concepts; none of them where it is 0.

    The same number of concepts is always resampled in the same way, so that the intervals of neighboring
    layers, pairs and statistics move together.

    Args:
        replicates: resamples, for instance 1000.
        seed: of the random draws.
        level: how often an interval should cover.
    """

    def __init__(self, replicates: int, seed: int, level: float = 0.95) -> None:
        self.replicates = replicates
        self._seed = seed
        self._tails = [(1 - level) / 2, (1 + level) / 2]
        self._drawn: dict[int, torch.Tensor] = {}

    def means(self, values: Floats) -> Floats:
        """Means of `values` [n, m] over each resample of its rows: float64 [replicates, m]."""
        columns = torch.from_numpy(np.ascontiguousarray(values))
        counts = torch.split(self._counts(len(values)), max(1, BLOCK // len(values)))
        sums = map_blocks(lambda block: block.to(torch.float64) @ columns, counts)
        return np.asarray(torch.cat([*sums, columns[:0]]).numpy() / len(values))

    def of_means(self, values: Floats) -> Floats:
        """Low and high [2, m] of the means of `values` [n, m]."""
        return self._interval(values.mean(0), self.means(values), len(values))

    def of_estimates(self, estimates: Floats, shares: Floats) -> Floats:
        """Low and high [2, m] of `estimates` [m] from each concept's Hájek projection `shares` [n, m]."""
        return self._interval(estimates, estimates + self.means(shares - shares.mean(0)), len(shares))

    def of_ratios(self, numerators: Floats, denominators: Floats) -> Floats:
        """Low and high [2, m] of Σ numerators / Σ denominators, both [n, m]; NaN where a resample has none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            estimates = numerators.sum(0) / denominators.sum(0)
            replicates = self.means(numerators) / self.means(denominators)
            return self._interval(estimates, replicates, len(numerators))

    def of_lead(self, values: Floats, peak: int) -> Floats:
        """Low and high [2, m]: how far the mean of column `peak` of `values` [n, m] is above each; NaN of one with NaN.

        The intervals are of all differences between two columns at once, so that they cover whichever was picked: the
        largest studentized difference of a resample, of any two, sets the width (Romano and Wolf, 2005; in the tails
        Student's t, as in `of_means`).
        """
        bounds = np.full((2, values.shape[1]), np.nan)
        known = np.asarray(np.isfinite(values).all(0))
        n = len(values)
        if not self.replicates or n < 2 or not known[peak]:
            return bounds
        means = values[:, known].mean(0)
        centered = values[:, known] - means
        products = centered.T @ centered
        squares = products.diagonal()[:, None] + products.diagonal() - 2 * products
        spread = np.sqrt(np.where(squares > ROUNDING * products.diagonal().max(), squares, 0.0)) / n
        shifts = self.means(centered)
        largest = np.zeros(len(shifts))
        for column, of in enumerate(spread):
            apart = np.abs(shifts[:, [column]] - shifts)
            studentized = np.divide(apart, of, out=np.zeros_like(apart), where=of > 0)
            largest = np.maximum(largest, studentized.max(1))
        width = of_student(float(np.quantile(largest, 1 - 2 * self._tails[0])), n - 1) * (n / (n - 1)) ** 0.5
        place = int(known[:peak].sum())
        bounds[:, known] = means[place] - means + np.multiply.outer([-width, width], spread[place])
        return bounds

    def _interval(self, estimates: Floats, replicates: Floats, n: int) -> Floats:
        """Percentiles, as much farther from the estimate as t is than normal, and as the sample's spread is too small.

        Without, intervals of 20 concepts cover as those of 93 % should (Hesterberg, 2015, section 4.3).
        """
        if not self.replicates:
            return np.full((2, replicates.shape[1]), np.nan)
        bounds = np.quantile(replicates, self._tails, axis=0)
        normal = NormalDist().inv_cdf(self._tails[1])
        widen = student(self._tails[1], n - 1) / normal * (n / (n - 1)) ** 0.5 if n > 1 else 1.0
        return np.asarray(estimates + widen * (bounds - estimates))

    def _counts(self, n: int) -> torch.Tensor:
        """How often each of n concepts is in each resample: uint8 [replicates, n]; beyond 255 is out of reach."""
        drawn = self._drawn.get(n)
        if drawn is None:
            rng = np.random.default_rng([self._seed, n])
            counts = np.empty((self.replicates, n), np.uint8)
            for row in counts:
                row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
            drawn = torch.from_numpy(counts)
            if sum(map(torch.numel, self._drawn.values())) + counts.size > HELD:
                self._drawn.clear()
            self._drawn[n] = drawn
        return drawn
