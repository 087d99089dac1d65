"""Intervals cover about as often as they say, few items and values near 0 or 1 included."""

import numpy as np
import pytest
import torch

from hubstore.analysis import similarity
from hubstore.analysis.neighbors import jackknifed_overlap, tempered
from hubstore.kernels import neighbor_weights
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.intervals import share_intervals, student
from tests.memory_store import parallel


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.1824), (5, 2.5706), (19, 2.0930), (100, 1.9840)])
def test_students_quantiles_are_those_of_tables(freedom, quantile):
    assert student(0.975, freedom) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("n", [20, 100, 300])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.98])
def test_shares_are_covered_near_their_ends_too(n, share):
    values = (np.random.default_rng(n).random((n, 1000)) < share) * 1.0
    low, high = share_intervals(values)
    assert ((low <= share) & (share <= high)).mean() >= 0.92  # of counts: no interval covers them evenly


def test_a_share_of_all_is_no_certainty():
    low, high = share_intervals(np.ones((50, 1)))
    assert 0.9 < low[0] < 0.95
    assert high[0] == 1


def test_reciprocal_ranks_vary_less_than_yes_and_no_and_are_covered():
    rng = np.random.default_rng(0)
    ranks = 1 / rng.choice([1, 2, 3, 10], p=[0.7, 0.1, 0.1, 0.1], size=(60, 1000))
    truth = 0.7 + 0.1 * (1 / 2 + 1 / 3 + 1 / 10)
    low, high = share_intervals(ranks)
    assert 0.92 <= ((low <= truth) & (truth <= high)).mean() <= 0.985
    assert (high - low).mean() < (np.diff(share_intervals((rng.random((60, 1000)) < truth) * 1.0), axis=0)).mean()


def test_means_of_20_are_covered_as_wide_as_t_has_it():
    values = np.random.default_rng(1).normal(size=(20, 1500))
    low, high = Bootstrap(500, 0).of_means(values)
    assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.97


def test_neighbors_in_common_are_covered_where_keeping_neighbors_does_not():
    def draw(seed, n=40, k=5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 12))
        sides = (neighbor_weights(torch.from_numpy(side), k) for side in (x, x + rng.normal(size=(n, 12))))
        return jackknifed_overlap(*sides, n, k)

    found = [draw(seed) for seed in range(150)]
    values = np.array([shared.mean() for shared, _ in found])
    hits = {"kept": 0, "tempered": 0}
    for shared, added in found:
        for name, columns in (("kept", shared), ("tempered", tempered(shared, added))):
            low, high = Bootstrap(200, 0).of_estimates(np.array([shared.mean()]), columns[:, None])
            hits[name] += low[0] <= values.mean() <= high[0]
    assert hits["kept"] / 150 < 0.92 <= hits["tempered"] / 150


def test_the_difference_of_centered_states_is_the_same_on_average_however_few_they_are():
    def draw(n, seed):
        g = torch.Generator().manual_seed(seed)
        meaning = torch.randn(n, 24, generator=g)
        return torch.stack([meaning + torch.randn(n, 24, generator=g) + 3 for _ in range(2)])

    def differences(n, seeds):
        for seed in seeds:
            for row in similarity(parallel(["a", "b"], {"0": draw(n, seed)}), bootstrap=0).to_pylist():
                if (row["variant"], row["metric"]) == ("centered", "difference"):
                    yield row["value"]

    few = list(differences(12, range(150)))
    (many,) = differences(20_000, [999])
    assert abs(np.mean(few) - many) < 3 * np.std(few) / 150**0.5 < 0.03
    assert abs(np.mean(few) * 12 / 11 - many) > 3 * np.std(few) / 150**0.5
