import numpy as np
import pytest
import torch

from hubstore.analysis import clustering
from hubstore.errors import AnalysisError
from tests.memory_store import MemoryStore, parallel


def planted(meaning, language, seed=0, languages=5, n=24, width=16):
    """States [languages, n, width] with so much of meaning and of language in them."""
    g = torch.Generator().manual_seed(seed)
    concepts, tongues = torch.randn(n, width, generator=g), torch.randn(languages, 1, width, generator=g)
    return meaning * concepts + language * tongues + torch.randn(languages, n, width, generator=g)


def whole(table, metric="concept_purity", variant="raw"):
    (row,) = [row for row in table.to_pylist() if (row["x"], row["metric"], row["variant"]) == ("*", metric, variant)]
    return row


def brute_force(rows, k):
    """Concept and language purity, and each neighbor list, by sorting every cosine."""
    languages, n, _ = rows.shape
    flat = rows.reshape(-1, rows.shape[-1]).double().numpy()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    near = np.argsort(-cosines, 1)[:, :k]
    concept, language = np.tile(np.arange(n), languages), np.repeat(np.arange(languages), n)
    return [(labels[near] == labels[:, None]).mean() for labels in (concept, language)]


def test_purities_are_the_brute_force_and_k_is_one_for_each_other_language():
    rows = planted(1.0, 1.0)
    table = clustering(parallel("abcde", {"0": rows}), permutations=20, bootstrap=100)
    for variant in ("raw", "centered"):
        centered = rows.double() - (variant == "centered") * rows.double().mean(1, keepdim=True)
        expected = brute_force(centered, 4)
        for metric, value in zip(("concept_purity", "language_purity"), expected, strict=True):
            row = whole(table, metric, variant)
            assert row["value"] == pytest.approx(value, abs=1e-12)
            assert row["low"] < row["value"] < row["high"]
            assert (row["k"], row["n"], row["y"]) == (4, 120, "*")
    parts = [r["value"] for r in table.to_pylist() if r["x"] != "*" and r["variant"] == "raw"]
    assert len(parts) == 10
    assert np.mean(parts[::2]) == pytest.approx(whole(table)["value"])


def test_a_perfect_hub_has_concept_purity_one_and_languages_apart_have_language_purity_one():
    hub = clustering(parallel("abc", {"0": planted(100.0, 0.0, languages=3)}), permutations=99, bootstrap=0)
    assert whole(hub)["value"] == 1
    assert whole(hub)["p_value"] == 0.01
    apart = clustering(parallel("abc", {"0": planted(0.0, 100.0, languages=3)}), permutations=99, bootstrap=0)
    assert whole(apart, "language_purity")["value"] == 1
    assert whole(apart)["p_value"] == 1


def test_planted_clusters_are_significant_where_their_excess_is_small():
    row = whole(clustering(parallel("abcde", {"0": planted(0.5, 0.5)}), permutations=199, bootstrap=0))
    assert row["value"] < 0.5
    assert row["p_value"] == pytest.approx(1 / 200)
    assert row["null_mean"] < row["value"]


def test_under_the_null_p_is_uniform_and_its_mean_is_that_of_the_permutations():
    p, values, nulls = [], [], []
    for seed in range(120):
        rows = planted(0.0, 0.5, seed=seed, languages=3, n=15, width=8)
        row = whole(clustering(parallel("abc", {"0": rows}), permutations=99, bootstrap=0, seed=seed, k=4))
        p.append(row["p_value"])
        values.append(row["value"])
        nulls.append(row["null_mean"])
    assert abs(np.mean(values) - np.mean(nulls)) < 0.006
    # Purity is discrete, so that p is uniform or larger.
    assert 0.45 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.05) <= 0.1
    assert 0.1 < np.mean(np.array(p) <= 0.25) <= 0.35


def test_only_concepts_of_two_partitions_count_and_what_is_left_out_is_told():
    from hubstore.analysis import metadata

    partitions = {"a": ["1", "2", "3", "3"], "b": ["2", "1", "9"], "c": ["1", None]}
    store = MemoryStore(partitions, {"0": torch.randn(9, 4, generator=torch.Generator().manual_seed(1))})
    table = clustering(store, permutations=9, bootstrap=20)
    assert whole(table)["n"] == 5
    assert metadata(table)["notes"]["left_out"] == {"a": 2, "b": 1, "c": 1}
    with pytest.raises(AnalysisError, match="share 1 concepts"):
        clustering(store, ["a", "c"])
