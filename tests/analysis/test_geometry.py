import numpy as np
import pytest
import torch

from hubstore.analysis import geometry, metadata
from hubstore.analysis.geometry import skewness
from hubstore.errors import AnalysisError
from tests.memory_store import MemoryStore


def store_of(rows, sizes):
    names = "abcdefgh"[: len(sizes)]
    return MemoryStore({name: [None] * size for name, size in zip(names, sizes, strict=True)}, {"0": rows})


def found(table, x, variant):
    return {row["metric"]: row for row in table.to_pylist() if (row["x"], row["variant"]) == (x, variant)}


def brute_force(rows, k=10):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    norms = np.linalg.norm(rows, axis=1)
    singular = np.linalg.svd(rows, compute_uv=False)
    p = singular / singular.sum()
    p = p[p > 0]
    energy = np.sort((rows**2).sum(0))[::-1] / (rows**2).sum()
    off = cosines[~np.eye(len(rows), dtype=bool)]
    np.fill_diagonal(cosines, -np.inf)
    occurrences = np.bincount(np.argsort(-cosines, 1)[:, :k].ravel(), minlength=len(rows))
    deviations = occurrences - occurrences.mean()
    return {
        "anisotropy": off.mean(),
        "norm_mean": norms.mean(),
        "norm_median": np.median(norms),
        "norm_max": norms.max(),
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "share_top1": energy[0],
        "share_top10": energy[:10].sum(),
        "hubness": (deviations**3).mean() / (deviations**2).mean() ** 1.5,
    }


@pytest.mark.parametrize("width", [12, 100])
def test_every_metric_is_the_brute_force_for_partitions_and_for_all(width):
    rows = 1 + torch.randn(90, width, generator=torch.Generator().manual_seed(0))
    rows[:, 5] += 20
    table = geometry(store_of(rows, [40, 50]), bootstrap=100)
    wide = rows.double().numpy()
    parts = {"a": [wide[:40]], "b": [wide[40:]], "*": [wide[:40], wide[40:]]}
    for x, sides in parts.items():
        for variant in ("raw", "centered"):
            states = np.concatenate([side - (variant == "centered") * side.mean(0) for side in sides])
            rows_found = found(table, x, variant)
            values = {metric: row["value"] for metric, row in rows_found.items()}
            expected = brute_force(states)
            if variant == "centered":  # a mean removed leaves a singular value that is zero but for rounding
                assert values.pop("effective_rank") == pytest.approx(expected.pop("effective_rank"), rel=1e-5)
            assert values == pytest.approx(expected, abs=1e-9)
            for metric in ("anisotropy", "norm_mean", "share_top1", "share_top10"):
                assert rows_found[metric]["low"] <= values[metric] <= rows_found[metric]["high"]
            assert rows_found["hubness"]["low"] is None
    assert found(table, "a", "raw")["share_top1"]["dimension"] == 5
    assert found(table, "a", "raw")["anisotropy"]["dimension"] is None


def test_effective_rank_is_the_number_of_equal_directions():
    rows = torch.eye(7).repeat(5, 1)
    assert found(geometry(store_of(rows, [35])), "a", "raw")["effective_rank"]["value"] == pytest.approx(7)


def test_hubness_of_many_items_is_that_of_a_sample_whose_size_is_told():
    rows = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    table = geometry(store_of(rows, [100, 200]), sample=150, bootstrap=0)
    assert [found(table, x, "raw")["hubness"]["n"] for x in ("a", "b", "*")] == [100, 150, 150]
    assert found(table, "*", "raw")["anisotropy"]["n"] == 300


def test_partitions_of_one_item_are_skipped_and_told():
    rows = torch.randn(5, 4)
    table = geometry(store_of(rows, [1, 4]), bootstrap=10)
    assert metadata(table)["notes"]["skipped_partitions"] == ["a"]
    with pytest.raises(AnalysisError, match=r"no partition of memory\.hub has 2 items"):
        geometry(store_of(rows[:1], [1]))


def test_the_interval_of_anisotropy_covers_the_known_mean_cosine():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(150):
        angle = rng.normal(0, 0.8, 60)
        rows = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], 1)).float()
        row = found(geometry(store_of(rows, [60]), seed=seed, bootstrap=300), "a", "raw")["anisotropy"]
        hits += row["low"] <= np.exp(-(0.8**2)) <= row["high"]
    assert 0.87 <= hits / 150 <= 0.99


def test_skewness_of_what_does_not_vary_is_unknown():
    assert np.isnan(skewness(np.ones(5)))
    assert skewness(np.array([0.0, 0, 0, 10])) > 1
