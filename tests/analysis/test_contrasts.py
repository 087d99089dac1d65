"""Two layers are told apart by the same concepts and resamples at both, which their own intervals cannot."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import contrasts, retrieval, similarity
from hubstore.options import CompareOptions
from hubstore.stats.bootstrap import Bootstrap
from tests.memory_store import MemoryStore, parallel

PAIRS = [("en", "zh"), ("en", "sw")]


def nearly_one_layer(n=60, width=24, gain=0.1, seed=0):
    """States at three layers, the second of which shares a little more than the first, with the same noise."""
    g = torch.Generator().manual_seed(seed)
    meaning, own = torch.randn(n, width, generator=g), torch.randn(3, n, width, generator=g)
    scale = torch.linspace(0.2, 2, n)[:, None]  # how much is shared differs from concept to concept
    return {str(layer): meaning * scale * (1 + gain * (layer == 1)) + own * (1 + (layer == 2)) for layer in range(3)}


def rows(table, **where):
    for column, value in where.items():
        table = table.filter(pc.equal(table[column], value))
    return {row["layer_y"]: row for row in table.to_pylist()}


def test_values_are_the_means_over_pairs_of_what_the_analyses_find():
    store = parallel(["en", "zh", "sw"], nearly_one_layer())
    table = contrasts(store, PAIRS, CompareOptions(bootstrap=50))
    for analysis, metric in ((similarity, "difference"), (retrieval, "recall@1")):
        for variant in ("raw", "centered"):
            found = analysis(store, PAIRS, bootstrap=0)
            chosen = found.filter(pc.and_(pc.equal(found["metric"], metric), pc.equal(found["variant"], variant)))
            means = {
                layer: np.mean([row["value"] for row in chosen.to_pylist() if row["layer"] == layer]) for layer in "012"
            }
            peak = max(means, key=means.__getitem__)
            of = rows(table, metric=metric, variant=variant)
            assert of.keys() == set("012") - {peak}
            for layer, row in of.items():
                assert row["layer"] == peak
                assert row["value"] == pytest.approx(means[peak] - means[layer], abs=1e-6)


def test_a_small_difference_that_most_concepts_have_is_certain_where_the_layers_own_intervals_overlap():
    store = parallel(["en", "zh", "sw"], nearly_one_layer())
    (row,) = [
        one
        for at, one in rows(contrasts(store, PAIRS, CompareOptions()), metric="difference", variant="centered").items()
        if at == "0"
    ]
    assert row["layer"] == "1"
    assert 0 < row["low"] < row["value"] < row["high"]
    own = similarity(store, PAIRS[:1]).to_pylist()
    low, high = (
        {r["layer"]: r[side] for r in own if (r["metric"], r["variant"]) == ("difference", "centered")}
        for side in ("low", "high")
    )
    assert low["1"] < high["0"]
    assert row["high"] - row["low"] < 0.5 * (high["1"] - low["1"])


def test_where_nothing_differs_zero_is_in_the_interval():
    g = torch.Generator().manual_seed(3)
    states = {str(layer): torch.randn(2, 40, 8, generator=g) for layer in range(2)}
    (row,) = rows(
        contrasts(parallel(["en", "zh"], states), PAIRS[:1], CompareOptions(), ["difference"]), variant="raw"
    ).values()
    assert row["low"] < 0.05
    assert row["low"] <= row["value"] <= row["high"]


def test_pairs_of_different_concepts_count_alike():
    concepts = {
        "en": [f"c{i}" for i in range(40)],
        "zh": [f"c{i}" for i in range(40)],
        "sw": [f"c{i}" for i in range(10)],
    }
    g = torch.Generator().manual_seed(1)
    store = MemoryStore(concepts, {str(layer): torch.randn(90, 6, generator=g) for layer in range(2)})
    table = contrasts(store, PAIRS, CompareOptions(bootstrap=20), ["difference"])
    found = similarity(store, PAIRS, bootstrap=0).to_pylist()
    means = [
        np.mean([r["value"] for r in found if (r["metric"], r["variant"], r["layer"]) == ("difference", "raw", at)])
        for at in "01"
    ]
    (row,) = rows(table, variant="raw").values()
    assert row["value"] == pytest.approx(abs(means[0] - means[1]), abs=1e-6)
    assert row["n"] == 40


def test_of_layers_that_do_not_differ_a_peak_is_seldom_said_to_lead_any():
    rng = np.random.default_rng(0)
    drawn = {
        "normal": lambda n: rng.normal(size=(n, 1)) + rng.normal(size=(n, 12)),
        "skewed": lambda n: rng.lognormal(size=(n, 12)),
        "shares": lambda n: (rng.random((n, 12)) < 0.3).astype(np.float64),
    }
    for name, draw in drawn.items():
        for n in (20, 60):
            rows = [draw(n) for _ in range(120)]
            lows = [Bootstrap(300, seed).of_lead(of, int(of.mean(0).argmax()))[0] for seed, of in enumerate(rows)]
            false = sum((low > 0).any() for low in lows)
            assert false <= 0.11 * 120, (name, n)  # 5 % and three standard errors


def test_bounds_of_a_lead_cover_what_most_concepts_have_and_layers_without_a_value_have_none():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 1)) + 0.2 * rng.normal(size=(60, 5)) + np.array([0, 0.3, 1, 0.9, 0])
    values[3, 4] = np.nan
    low, high = Bootstrap(500, 0).of_lead(values, 2)
    assert np.isnan([low[4], high[4]]).all()
    assert (low[[0, 1]] > 0).all()
    assert (low[2], high[2]) == (0, 0)
    assert low[3] < 0.1 < high[3]
    assert np.isnan(Bootstrap(0, 0).of_lead(values, 2)).all()
    assert np.isnan(Bootstrap(10, 0).of_lead(values[:1], 2)).all()
