"""What the report says of the hub hypothesis follows from the numbers, whichever way they fall."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hubstore.plots.cube import Cube
from hubstore.report.summary import (
    AS_PREDICTED,
    NOT_AS_PREDICTED,
    OPEN,
    WHOLE,
    Profile,
    middle,
    purity,
    summarize,
)
from hubstore.stats.bootstrap import Bootstrap

LAYERS = ("0", "1", "2")


def shares(concept, language):
    """The cube of one partition's neighborhoods, by layer."""
    rows = [
        {"x": WHOLE, "y": WHOLE, "variant": "raw", "metric": metric, "layer": layer, "value": value}
        | {"low": value - 0.01, "high": value + 0.01, "n": 50, "null_mean": 0.1, "p_value": 0.01}
        for metric, values in (("concept_purity", concept), ("language_purity", language))
        for layer, value in zip(LAYERS, values, strict=True)
    ]
    return Cube(pa.Table.from_pylist(rows), LAYERS, ("null_mean", "p_value"))


@pytest.mark.parametrize(
    ("concept", "verdict", "where"),
    [
        ((0.2, 0.6, 0.3), AS_PREDICTED, "at layers 1"),
        ((0.6, 0.6, 0.3), OPEN, "at layers 0, 1"),
        ((0.6, 0.7, 0.8), OPEN, "at layers 0–2"),
        ((0.2, 0.2, 0.2), NOT_AS_PREDICTED, "at no layer"),
        ((0.6, 0.2, 0.2), NOT_AS_PREDICTED, "at layers 0,"),
    ],
)
def test_meaning_that_wins_at_the_embeddings_too_does_not_speak_for_a_hub(concept, verdict, where):
    said = purity(shares(concept, (0.5, 0.5, 0.5)), "raw")
    assert said.verdict == verdict
    assert where in said.words
    assert ("shared words alone may do it" in said.words) == (verdict == OPEN)


def differences(values, peak, low):
    """Differences by layer of one pair, and the contrasts of the layer `peak`, at least `low` above each other."""
    common = {"variant": "raw", "metric": "difference", "n": 50}
    own = [
        {**common, "x": "en", "y": "zh", "layer": layer, "value": value, "low": value - 0.01, "high": value + 0.01,
         "resolution": 0.0}
        for layer, value in zip(LAYERS, values, strict=True)
    ]  # fmt: skip
    leads = [{**common, "layer": peak, "layer_y": layer, "low": low} for layer in LAYERS if layer != peak]
    return Cube(pa.Table.from_pylist(own), LAYERS, ("resolution",)), pa.Table.from_pylist(leads)


@pytest.mark.parametrize(
    ("values", "peak", "low", "verdict"),
    [
        ((0.1, 0.5, 0.2), "1", 0.1, AS_PREDICTED),
        ((0.1, 0.5, 0.2), "1", -0.1, OPEN),
        ((0.1, 0.5, 0.2), "1", None, OPEN),
        ((0.5 + 1e-16, 0.5, 0.2), "1", 0.1, AS_PREDICTED),  # tied but for the order of a sum
        ((0.5, 0.5 + 1e-15, 0.2), "0", -0.1, OPEN),
        ((0.5, 0.1, 0.2), "0", 0.1, NOT_AS_PREDICTED),
    ],
)
def test_the_peak_is_that_of_the_contrasts_and_leads_by_their_least(values, peak, low, verdict):
    cube, leads = differences(values, peak, low)
    said = [one for one in summarize({"similarity": cube}, [("en", "zh")], "", leads) if ", raw" in one.words]
    assert [one.verdict for one in said] == [verdict]


def test_where_the_layers_after_the_first_do_not_differ_they_are_seldom_as_predicted():
    rng, layers, false, plain = np.random.default_rng(0), tuple(map(str, range(12))), 0, 0
    for seed in range(150):
        values = rng.normal(size=(60, 1)) + rng.normal(size=(60, 12))
        values[:, 0] -= 5
        means = values.mean(0)
        peak, bootstrap = int(means.argmax()), Bootstrap(300, seed)
        said = []
        for low in (bootstrap.of_lead(values, peak)[0], bootstrap.of_means(values[:, [peak]] - values)[0]):
            lead = {layer: bound for layer, bound in zip(layers, low, strict=True) if layer != layers[peak]}
            of = Profile(layers, means, means - 1, means + 1, layers[peak], lead)
            said.append(middle("Noise", of).verdict == AS_PREDICTED)
        false, plain = false + said[0], plain + said[1]
    assert false <= 0.07 * 150 < plain  # 2.5 % and three standard errors; each interval by itself says it more often
