"""Every measure of alignment agrees with its published formula, and is 0 on average where nothing aligns."""

import itertools

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from numpy.testing import assert_allclose

from hubstore.analysis import analyze, calibrated, calibrated_between, calibration
from hubstore.analysis.calibration import View, compare, expected, permutations, permuted_values
from hubstore.errors import AnalysisError
from tests.analysis.test_similarity import related
from tests.largest_tensor import LargestTensor
from tests.memory_store import parallel


def sides(n=40, width=(12, 12), noise=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    meaning = torch.randn(n, 8, generator=g, dtype=torch.float64)
    return [
        meaning @ torch.randn(8, w, generator=g, dtype=torch.float64)
        + noise * torch.randn(n, w, generator=g, dtype=torch.float64) + 2
        for w in width
    ]  # fmt: skip


def raw(x, y, k=5):
    found = permuted_values([View(x, k)], [View(y, k)], torch.empty(0, len(x), dtype=torch.int64))
    return {name: float(values) for name, values in found.items()}


# platonic-rep's metrics, written anew from Huh et al. (2024), appendix, and its formulas.


def nearest(gram, k):
    masked = gram.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(gram).scatter_(1, masked.topk(k, dim=1).indices, 1.0)


def hsic_biased(k, l):  # noqa: E741
    h = torch.eye(len(k), dtype=k.dtype) - 1 / len(k)
    return torch.trace(k @ h @ l @ h)


def hsic_unbiased(k, l):  # noqa: E741
    m = len(k)
    k, l = (side.clone().fill_diagonal_(0) for side in (k, l))  # noqa: E741
    value = (k * l.T).sum() + k.sum() * l.sum() / ((m - 1) * (m - 2)) - 2 * (k @ l).sum() / (m - 2)
    return value / (m * (m - 3))


def platonic_cka(x, y):
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic_biased(k, l) / (torch.sqrt(hsic_biased(k, k) * hsic_biased(l, l)) + 1e-6)


def platonic_cknna(x, y, k):
    grams = [side @ side.T for side in (x, y)]

    def similarity(one, other):
        mask = nearest(one, k) * nearest(other, k)
        return hsic_unbiased(mask * one, mask * other)

    own = similarity(grams[0], grams[0]) * similarity(grams[1], grams[1])
    return similarity(*grams) / (torch.sqrt(own) + 1e-6)


def platonic_mutual_knn(x, y, k):
    both = nearest(x @ x.T, k) * nearest(y @ y.T, k)
    return (both.sum(1) / k).mean()


def normed(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


@pytest.mark.parametrize("width", [(12, 12), (9, 60)])
def test_platonic_reps_metrics_are_those_of_its_formulas(width):
    x, y = sides(width=width)
    found = raw(x, y)
    assert found["cka", "raw"] == pytest.approx(float(platonic_cka(x, y)), abs=1e-5)
    x, y = normed(x), normed(y)
    assert found["cka", "unit"] == pytest.approx(float(platonic_cka(x, y)), abs=1e-5)
    assert found["mutual_knn", "raw"] == pytest.approx(float(platonic_mutual_knn(x, y, 5)), abs=1e-5)
    assert found["cknna", "raw"] == pytest.approx(float(platonic_cknna(x, y, 5)), abs=1e-5)


def test_mexa_is_the_share_of_items_whose_match_is_nearest_in_row_and_column():
    x, y = sides(noise=2.0)
    cosines = (normed(x) @ normed(y).T).numpy()
    hits = 0
    for i, own in enumerate(cosines.diagonal()):
        rivals = np.concatenate([np.delete(cosines[i], i), np.delete(cosines[:, i], i)])
        hits += own > rivals.max()
    assert 0 < hits < len(x)
    assert raw(x, y)["mexa", "raw"] == pytest.approx(hits / len(x))
    assert ("mexa", "raw") not in raw(*sides(width=(12, 13)))


def test_rsa_is_the_rank_correlation_of_cosines():
    x, y = sides()
    i, j = np.triu_indices(len(x), 1)
    ranks = [(normed(s) @ normed(s).T).numpy()[i, j].argsort().argsort() for s in (x, y)]
    assert raw(x, y)["rsa", "raw"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-10)


def test_procrustes_svcca_and_maps_are_what_numpy_computes():
    x, y = sides(n=80, width=(6, 7))
    found = raw(x, y)
    a, b = (side.numpy() - side.numpy().mean(0) for side in (x, y))
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert found["procrustes", "raw"] == pytest.approx(nuclear)
    q = [np.linalg.qr(side)[0] for side in (a, b)]
    assert found["svcca", "raw"] == pytest.approx(np.linalg.svd(q[0].T @ q[1], compute_uv=False).mean())
    left = b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    assert found["linear_r2", "raw"] == pytest.approx(1 - (left**2).sum() / (b**2).sum())
    assert raw(x, x @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q)["mapped_recall@1", "raw"] == 1


def test_closed_forms_are_the_means_over_all_permutations():
    x, y = (View(side, 2) for side in sides(n=6, width=(4, 4)))
    orders = torch.tensor(list(itertools.permutations(range(6))))
    known = 0
    for (metric, variant), values in permuted_values([x], [y], orders).items():
        closed = expected(metric, variant, x, y)
        if closed is not None:
            known += 1
            assert float(values[0, 0, 1:].mean()) == pytest.approx(closed, abs=1e-12)
    assert known == 5


def test_what_is_independent_is_0_when_calibrated_and_seldom_significant_where_raw_values_are_large():
    runs = []
    for seed in range(25):
        g = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(32, 60, generator=g) for _ in range(2))
        runs.append(
            {(r["metric"], r["variant"]): r for r in compare(View(x, 5), View(y, 5), permutations(32, 39, seed))}
        )
    for name in runs[0]:
        column = {key: np.array([run[name][key] for run in runs]) for key in ("value", "calibrated", "p_value")}
        spread = column["calibrated"].std() / 5 + 0.01
        assert abs(column["calibrated"].mean()) < 4 * spread, name
        assert (column["p_value"] <= 0.05).mean() <= 0.25, name
    assert np.mean([run["cka", "raw"]["value"] for run in runs]) > 0.5


def test_a_store_is_compared_layer_by_layer_and_any_layer_with_any():
    states = related(n=24, width=10)
    store = parallel(["en", "zh"], states)
    table = analyze(store, ["calibrated"], bootstrap=0)["calibrated"]
    assert table.num_rows == len(states) * 10
    assert set(table["n"].to_pylist()) == {24}
    crossed = calibrated(store, [("en", "en")], cross_layers=True, permutations=9)
    same = crossed.filter(pc.equal(crossed["layer"], crossed["layer_y"])).to_pylist()
    for row in same:
        assert row["value"] == pytest.approx(1, abs=1e-4)
        assert row["calibrated"] == pytest.approx(1, abs=1e-4)
        assert row["p_value"] == pytest.approx(0.1)
    assert crossed.num_rows == len(states) ** 2 * 10


def test_two_stores_are_compared_by_concept_whatever_their_widths():
    x, y = sides(n=30, width=(8, 11))
    one, other = (parallel(["en", "zh"], {"0": torch.stack([s, s]).float()}) for s in (x, y))
    table = calibrated_between(one, other, ("en", "zh"), permutations=9)
    rows = {(row["metric"], row["variant"]): row["value"] for row in table.to_pylist()}
    assert rows.keys() == raw(x, y).keys()
    assert_allclose(rows["cka", "raw"], float(platonic_cka(x, y)), atol=1e-5)
    with pytest.raises(AnalysisError, match="share 0 values of 'id'"):
        calibrated_between(one, other, ("en", "zh"), by="id")


def test_items_are_drawn_where_there_are_more_than_the_sample():
    table = calibrated(parallel(["en", "zh"], related(n=24, width=10)), sample=15, permutations=0)
    assert set(table["n"].to_pylist()) == {15}
    assert table["p_value"].null_count == table.num_rows
    with pytest.raises(AnalysisError, match="at least 12"):
        calibrated(parallel(["a", "b"], {"0": torch.randn(2, 11, 4)}), [("a", "b")])


def test_permutations_of_many_items_are_done_some_at_a_time_with_the_same_result(monkeypatch):
    x, y = (View(side, 10) for side in sides(64, (20, 20)))
    orders = permutations(64, 600, 0)
    whole = permuted_values([x], [y], orders)
    monkeypatch.setattr(calibration, "BLOCK", 1 << 13)
    with LargestTensor() as largest:
        some = permuted_values([x], [y], orders)
    assert largest.elements <= 601 * 64  # the orders themselves
    assert some.keys() == whole.keys()
    for name, values in whole.items():
        assert_allclose(some[name], values, atol=1e-12, err_msg=str(name))
