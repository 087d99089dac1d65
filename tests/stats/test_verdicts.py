"""A "yes" is seldom wrong, whatever the number of clusters, ties and skewed values; a real difference is found."""

import numpy as np
import pytest

from hubstore.errors import AnalysisError
from hubstore.stats.verdicts import false_discovery, permutation_test, shuffled_within, sign_flip_test

LAYERS = 9


def correlated(rng, clusters, rho=0.9):
    """Values of mean 0 at LAYERS layers that resemble their neighbors, [clusters, LAYERS]."""
    drawn = rng.standard_normal((clusters, LAYERS))
    for layer in range(1, LAYERS):
        drawn[:, layer] = rho * drawn[:, layer - 1] + np.sqrt(1 - rho**2) * drawn[:, layer]
    return drawn


NULLS = {
    "normal": correlated,
    "independent layers": lambda rng, n: correlated(rng, n, 0.0),
    "ties": lambda rng, n: np.round(correlated(rng, n)),
    "rare shares": lambda rng, n: (rng.random((n, LAYERS)) < 0.05) * 1.0 - (rng.random((n, LAYERS)) < 0.05),
    "right-skewed": lambda rng, n: np.exp(2 * correlated(rng, n)) - np.exp(2),
    "left-skewed": lambda rng, n: np.exp(2) - np.exp(2 * correlated(rng, n)),
    "mildly left-skewed": lambda rng, n: np.exp(0.5) - np.exp(correlated(rng, n)),
}


def rates(make, clusters, runs=120):
    verdicts = [sign_flip_test(make(np.random.default_rng([7, s]), clusters), draws=199).verdict for s in range(runs)]
    return {name: verdicts.count(name) / runs for name in ("yes", "no", "too few to say")}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("clusters", [20, 60])
def test_a_yes_where_nothing_is_there_comes_as_seldom_as_it_says(name, clusters):
    assert rates(NULLS[name], clusters)["yes"] <= 0.07  # 2.5 %, and three standard errors of 120 runs


def test_under_20_clusters_there_is_no_verdict():
    for clusters in (1, 2, 5, 19):
        assert rates(lambda rng, n: correlated(rng, n) + 9, clusters, 5)["too few to say"] == 1


def test_a_real_difference_is_found_and_named_at_its_layer():
    rng = np.random.default_rng(0)
    values = correlated(rng, 60, 0.0)
    values[:, 5] += 0.8
    found = sign_flip_test(values)
    assert (found.verdict, found.best, found.clusters) == ("yes", 5, 60)
    assert found.observed == pytest.approx(values.mean(0))
    assert found.p[5] < 0.01
    assert found.p[0] > 0.05
    assert not found.null_mean.any()


def test_an_interval_of_no_width_is_no_certainty():
    assert sign_flip_test(np.zeros((50, 3))).verdict == "no"
    assert sign_flip_test(np.full((4, 3), 0.5)).verdict == "too few to say"
    assert sign_flip_test(np.full((20, 3), 0.1)).verdict == "too few to say"  # a tenth of them may be at -1
    assert sign_flip_test(np.full((20, 3), 0.9)).verdict == "yes"
    once = np.zeros((50, 1))
    once[0] = 1.0
    assert sign_flip_test(once).verdict == "no"


def test_every_headline_must_be_clear_at_one_layer():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((50, LAYERS, 2))
    values[:, 2, 0] += 2
    values[:, 6, 1] += 2
    assert sign_flip_test(values).verdict == "no"
    values[:, 2, 1] += 2
    assert (sign_flip_test(values).verdict, sign_flip_test(values).best) == ("yes", 2)


def test_a_cluster_without_a_value_counts_at_no_layer_where_it_has_none():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((40, 2)) + 3
    values[:25, 1] = np.nan
    found = sign_flip_test(values)
    assert (found.clusters, found.verdict) == (15, "too few to say")
    assert found.observed == pytest.approx(np.nanmean(values, 0))


def test_values_too_skewed_for_so_few_give_no_verdict():
    values = np.random.default_rng(8).uniform(0.9, 1.1, (300, 1))
    values[:9] = -9.0  # who knows how many more of these there are, and how low
    assert sign_flip_test(values).verdict == "too few to say"


def test_shares_near_1_are_no_less_clear_for_the_few_that_fail():
    rng = np.random.default_rng(9)
    for clusters in (40, 100):
        assert sign_flip_test((rng.random((clusters, 3)) < 0.95) - 0.05).verdict == "yes"


def test_a_test_of_nothing_is_refused():
    with pytest.raises(AnalysisError, match="needs a cluster and a layer"):
        sign_flip_test(np.empty((5, 0)))


def association(shift, seed, n=40):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((LAYERS, n, 8))
    y = rng.standard_normal((LAYERS, n, 8)) + shift[:, None, None] * x
    return lambda order: np.einsum("lnd,lnd->l", x, y[:, order]) / n


def test_a_permutation_of_the_whole_pipeline_finds_what_is_there_and_seldom_what_is_not():
    def test(shift, seed):
        statistic = association(shift, seed)
        return permutation_test(
            statistic, np.arange(40), lambda rng: rng.permutation(40), clusters=40, permutations=99, seed=seed
        )

    shift = np.zeros(LAYERS)
    assert np.mean([test(shift, seed).verdict == "yes" for seed in range(120)]) <= 0.07
    shift[4] = 1.0
    found = test(shift, 0)
    assert (found.verdict, found.best) == ("yes", 4)
    assert abs(found.null_mean).max() < 1 < found.observed[4]


def test_a_statistic_that_shuffling_does_not_change_says_nothing():
    found = permutation_test(
        lambda order: np.array([order.sum(), 1.0]), np.arange(30), lambda rng: rng.permutation(30), clusters=30
    )
    assert (found.p.tolist(), found.verdict) == ([1.0, 1.0], "no")


def test_states_are_shuffled_within_their_partition_alone():
    groups = np.array([1, 0, 1, 0, 0, 1, 2])
    orders = np.stack([shuffled_within(groups, np.random.default_rng(seed)) for seed in range(300)])
    assert (np.sort(orders, 1) == np.arange(7)).all()
    assert (groups[orders] == groups).all()
    assert [len(np.unique(column)) for column in orders.T] == [3, 3, 3, 3, 3, 3, 1]


def test_false_discovery_is_that_of_benjamini_and_hochberg():
    p = [0.01, np.nan, 0.04, 0.03, 0.005, 0.8]
    assert false_discovery(p)[[4, 0, 3, 2, 5]] == pytest.approx([0.025, 0.025, 0.05, 0.05, 0.8])
    assert np.isnan(false_discovery(p)[1])
    rng = np.random.default_rng(3)
    for _ in range(20):  # against the step-up rule itself
        p = rng.random(30) ** 3
        ranked = np.sort(p)
        below = np.flatnonzero(ranked <= 0.1 * np.arange(1, 31) / 30)
        expected = p <= (ranked[below[-1]] if len(below) else -1)
        assert ((false_discovery(p) <= 0.1) == expected).all()
