"""A "yes" is seldom wrong, whatever the number of clusters, ties and skewed values; a real difference is found."""

import numpy as np
import pytest

from benchmarks.coverage import LAYERS, NULLS, correlated
from hubstore.errors import AnalysisError
from hubstore.stats.verdicts import false_discovery, sign_flip_test


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
