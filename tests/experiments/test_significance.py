"""A verdict says yes where a difference is there, no where it is not, and seldom yes by chance."""

import numpy as np
import pytest

from hubstore.errors import AnalysisError
from hubstore.experiments.significance import best_layer, joint, mean_rows, stacked_clusters
from hubstore.stats.bootstrap import Bootstrap

LAYERS = tuple(map(str, range(1, 18)))


def rows_of(rng, mean, quantity="difference", n=100):
    shift = dict(zip(LAYERS, np.broadcast_to(mean, len(LAYERS)), strict=True))
    resampling = Bootstrap(300, 0)
    return [row for k in LAYERS for row in mean_rows(k, {quantity: rng.normal(shift[k], 1.0, n)}, resampling)]


def test_a_real_difference_at_one_layer_is_shown_there():
    mean = np.zeros(len(LAYERS))
    mean[8] = 1.0
    found = best_layer(rows_of(np.random.default_rng(0), mean), ("difference",), LAYERS)
    assert found.shown
    assert found.rows[0]["layer"] == "9"
    assert found.n == 100


def test_no_difference_and_a_negative_one_are_not_shown():
    for mean in (0.0, -1.0):
        assert not best_layer(rows_of(np.random.default_rng(1), mean), ("difference",), LAYERS).shown


def test_the_best_of_many_layers_is_seldom_above_zero_by_chance():
    rng = np.random.default_rng(2)
    runs = [rows_of(rng, 0.0, n=60) for _ in range(120)]
    corrected = np.mean([best_layer(rows, ("difference",), LAYERS).shown for rows in runs])
    uncorrected = np.mean([any(row["low"] > 0 for row in rows) for rows in runs])
    assert corrected < 0.07
    assert uncorrected > 0.2


def test_all_differences_must_be_above_zero_at_one_layer():
    early, late = np.zeros(len(LAYERS)), np.zeros(len(LAYERS))
    early[2], late[12] = 1.0, 1.0
    rng = np.random.default_rng(3)
    apart = rows_of(rng, early, "one") + rows_of(rng, late, "other")
    assert not best_layer(apart, ("one", "other"), LAYERS).shown
    together = rows_of(rng, early, "one") + rows_of(rng, early, "other")
    found = best_layer(together, ("one", "other"), LAYERS)
    assert found.shown
    assert [row["layer"] for row in found.rows] == ["3", "3"]


def test_a_model_without_intermediate_blocks_is_refused():
    with pytest.raises(AnalysisError, match="two blocks or more"):
        best_layer(rows_of(np.random.default_rng(0), 0.0), ("difference",), ())


def test_intervals_over_texts_are_those_of_whole_texts_resampled():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(30), rng.integers(1, 12, 30))
    values = rng.normal(size=len(groups)) + np.repeat(rng.normal(size=30) * 2, np.bincount(groups))
    (row,) = mean_rows("1", {"x": values}, Bootstrap(4000, 0), groups)
    means = []
    for _ in range(4000):
        drawn = rng.integers(30, size=30)
        means.append(np.concatenate([values[groups == one] for one in drawn]).mean())
    assert row["value"] == pytest.approx(values.mean())
    assert row["n"] == len(values)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.12)
    (alone,) = mean_rows("1", {"x": values}, Bootstrap(4000, 0))
    assert alone["high"] - alone["low"] < row["high"] - row["low"]


def test_under_20_texts_there_are_too_few_to_say_however_many_positions_they_have():
    groups = np.repeat(np.arange(19), 50)
    values = np.random.default_rng(5).normal(3.0, 1.0, len(groups))
    few = best_layer(mean_rows("1", {"x": values}, Bootstrap(100, 0), groups), ("x",), ("1",))
    assert (few.verdict, few.n, few.test.clusters) == ("too few to say", 950, 19)
    assert few.words().endswith("too few to say")


def test_a_text_is_one_cluster_at_every_layer_and_difference_even_where_it_has_no_value_of_one():
    resampling = Bootstrap(100, 0)
    every, some = np.array([7, 3, 3, 9]), np.array([3, 9])
    rows = [
        [
            *mean_rows("1", {"a": np.arange(4.0)}, resampling, every),
            *mean_rows("1", {"b": np.ones(2)}, resampling, some),
        ]
    ]
    found = stacked_clusters(rows)
    assert found.shape == (3, 1, 2)
    assert np.nanmean(found, 0)[0] == pytest.approx([1.5, 1.0])
    assert np.isnan(found[:, 0, 1]).tolist() == [False, True, False]


def test_a_claim_of_several_verdicts_is_no_where_one_is_no():
    assert joint(["yes", "yes"]) == "yes"
    assert joint(["yes", "too few to say"]) == "too few to say"
    assert joint(["too few to say", "no"]) == "no"
