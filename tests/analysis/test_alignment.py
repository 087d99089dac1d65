import numpy as np
import pytest
import torch

from hubstore.analysis import alignment, cka
from hubstore.analysis.neighbors import jackknifed_overlap, overlaps
from hubstore.errors import AnalysisError
from hubstore.kernels import neighbor_weights
from tests.analysis.test_similarity import related
from tests.memory_store import parallel


def published_cka(x, y):
    """Song et al. (2012), equation 5, with linear kernels, divided as Kornblith et al. (2019) divide HSIC."""

    def hsic(a, b):
        n, ones = len(a), np.ones(len(a))
        k, l = a @ a.T, b @ b.T  # noqa: E741
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l, 0)
        first = np.trace(k @ l)
        second = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        third = 2 / (n - 2) * (ones @ k @ l @ ones)
        return (first + second - third) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def published_mutual_knn(x, y, k):
    """Huh et al. (2024), definition of the mutual nearest-neighbor metric, by sets."""

    def neighbors(rows):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        return [set(np.argsort(-row)[:k].tolist()) for row in cosines]

    return np.mean([len(a & b) / k for a, b in zip(neighbors(x), neighbors(y), strict=True)])


def found(table, metric, variant):
    return [row for row in table.to_pylist() if (row["metric"], row["variant"]) == (metric, variant)]


@pytest.mark.parametrize(("n", "width"), [(60, 32), (30, 48)])
def test_cka_and_mutual_knn_are_as_published_in_feature_space_and_by_gram_matrices(n, width):
    rows = related(n=n, width=width)["1"]
    table = alignment(parallel(["en", "zh"], {"1": rows}), bootstrap=100)
    x, y = (side.double().numpy() for side in rows)
    (row,) = found(table, "cka", "debiased")
    assert row["value"] == pytest.approx(published_cka(x, y), abs=1e-12)
    assert row["low"] < row["value"] < row["high"]
    for variant in ("raw", "centered"):
        sides = [side - (variant == "centered") * side.mean(0) for side in (x, y)]
        (row,) = found(table, "mutual_knn", variant)
        assert row["value"] == pytest.approx(published_mutual_knn(*sides, 10), abs=1e-12)
        assert row["chance"] == pytest.approx(10 / (n - 1))


def sides_of(x, gram, step=7):
    """`x` as a side, by its Gram matrix or in feature space, given in pieces."""
    width = len(x) if gram else 1
    padded = torch.nn.functional.pad(x, (0, max(0, width - x.shape[1])))
    return cka.side(lambda: iter(padded.split(step)))


def test_each_items_share_is_the_same_in_feature_space_as_by_gram_matrices():
    x, y = related(n=40, width=12)["1"].double()
    (slow, slow_shares), (fast, fast_shares) = (cka.cka(sides_of(x, gram), sides_of(y, gram)) for gram in (True, False))
    assert fast == pytest.approx(slow, abs=1e-12)
    np.testing.assert_allclose(fast_shares, slow_shares, rtol=0, atol=1e-10)


def test_debiased_cka_of_independent_states_is_zero_on_average_where_plain_cka_is_far_from_it():
    values, plain = [], []
    for seed in range(40):
        x, y = torch.randn(2, 40, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        values.append(cka.cka(sides_of(x, True), sides_of(y, True))[0])
        k, l = ((c := s - s.mean(0)) @ c.T for s in (x, y))  # noqa: E741
        plain.append(float((k * l).sum() / (k.norm() * l.norm())))
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5
    assert np.mean(plain) > 0.5


def test_cka_ignores_rotation_scale_and_shift_and_is_one_for_equal_states():
    x, y = related(n=50, width=16)["1"].double()
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)).double()).Q
    expected = cka.cka(sides_of(x, False), sides_of(y, False))[0]
    moved = cka.cka(sides_of(3 * x @ rotation + 100, False), sides_of(y, False))[0]
    assert moved == pytest.approx(expected, abs=1e-10)
    assert cka.cka(sides_of(x, False), sides_of(x, False))[0] == pytest.approx(1)


def test_states_that_do_not_vary_have_no_cka():
    assert np.isnan(cka.cka(sides_of(torch.ones(9, 4).double(), False), sides_of(torch.randn(9, 4).double(), False))[0])


def test_the_intervals_of_cka_cover_its_large_sample_value():
    def draw(n, seed):
        g = torch.Generator().manual_seed(seed)
        meaning = torch.randn(n, 6, generator=g)
        return torch.stack([meaning, meaning + 0.7 * torch.randn(n, 6, generator=g)])

    truth, _ = cka.cka(*(sides_of(side.double(), False, step=5000) for side in draw(100_000, 999)))
    hits = 0
    for seed in range(100):
        store = parallel(["a", "b"], {"0": draw(100, seed)})
        (row,) = found(alignment(store, seed=seed, bootstrap=200), "cka", "debiased")
        hits += row["low"] <= truth <= row["high"]
    assert 0.86 <= hits / 100 <= 1.0


def test_any_two_layers_can_be_compared():
    states = related(n=30, width=8)
    store = parallel(["en", "zh"], states)
    table = alignment(store, cross_layers=True, bootstrap=0)
    cells = {(row["layer"], row["layer_y"]): row["value"] for row in found(table, "cka", "debiased")}
    assert len(cells) == 9
    for (one, other), value in cells.items():
        expected = published_cka(states[one][0].double().numpy(), states[other][1].double().numpy())
        assert value == pytest.approx(expected, abs=1e-12)
    within = alignment(store, [("en", "en")], cross_layers=True, bootstrap=0)
    assert all(
        row["value"] == pytest.approx(1) for row in found(within, "cka", "debiased") if row["layer"] == row["layer_y"]
    )
    with pytest.raises(AnalysisError, match="name the pairs"):
        alignment(parallel(["a", "b", "c"], {"0": torch.randn(3, 9, 4)}), cross_layers=True)


def test_fewer_than_four_concepts_have_no_debiased_cka():
    with pytest.raises(AnalysisError, match="share 3 concepts, at least 4"):
        alignment(parallel(["a", "b"], {"0": torch.randn(2, 3, 4)}), [("a", "b")])


def test_identical_states_have_no_more_neighbors_in_common_than_chance():
    rows = torch.stack([torch.ones(50, 8), torch.full((50, 8), 2.0)])
    for row in found(alignment(parallel(["a", "b"], {"0": rows}), bootstrap=50), "mutual_knn", "raw"):
        assert row["value"] == pytest.approx(10 / 49) == pytest.approx(row["chance"])


def test_independent_sides_of_three_distinct_states_have_as_many_neighbors_in_common_as_chance():
    rng, values = np.random.default_rng(0), []
    for _ in range(25):
        x, y = (torch.from_numpy(rng.normal(size=(3, 16))[rng.integers(3, size=100)]) for _ in range(2))
        sides = (neighbor_weights(side, 10, seed=seed) for seed, side in enumerate((x, y)))
        values.append(overlaps(*sides, 100, 10).mean())
    assert np.mean(values) == pytest.approx(10 / 99, abs=0.012)


def test_what_an_item_adds_is_what_leaving_it_out_changes():
    n, k = 30, 4
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(n, 6)))
    y = x + torch.from_numpy(rng.normal(size=(n, 6)))
    shared, added = jackknifed_overlap(neighbor_weights(x, k), neighbor_weights(y, k), n, k)
    for gone in range(n):
        left = np.arange(n) != gone
        without = overlaps(*(neighbor_weights(side[left], k) for side in (x, y)), n - 1, k).mean()
        assert (shared.sum() - added[gone]) / (n - 1) == pytest.approx(without, abs=1e-12)
