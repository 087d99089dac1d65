import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import similarity, unresolved
from hubstore.analysis import states as analysis_states
from hubstore.analysis.resolution import spacing
from hubstore.errors import AnalysisError, NonFiniteError, QueryError
from tests.analysis import authors
from tests.memory_store import MemoryStore, parallel


def related(layers=3, n=60, width=32, languages=2, seed=0, common=2.0):
    """States by layer [languages, n, width]: a shared meaning, a language's own offset, noise."""
    g = torch.Generator().manual_seed(seed)
    meaning = torch.randn(n, width, generator=g)
    return {
        str(layer): meaning * layer
        + common * torch.randn(languages, 1, width, generator=g)
        + torch.randn(languages, n, width, generator=g)
        for layer in range(layers)
    }


def values(table, metric="difference", variant="raw", **where):
    for column, value in {"metric": metric, "variant": variant, **where}.items():
        table = table.filter(pc.equal(table[column], value))
    return table


def brute_force(x, y):
    """Matched, baseline and difference of [n, width], float64, from all n x n cosines."""
    x, y = (t.double() / t.double().norm(dim=1, keepdim=True) for t in (x, y))
    cells = (x[:, None] * y[None]).sum(-1)
    matched = cells.diagonal().mean()
    baseline = cells[~torch.eye(len(cells), dtype=torch.bool)].mean()
    return matched.item(), baseline.item(), (matched - baseline).item()


def test_the_raw_difference_is_what_the_authors_code_computes():
    states = related()
    table = values(similarity(parallel(["en", "zh"], states), bootstrap=0))
    x, y = (torch.stack([rows[side] for rows in states.values()], 1) for side in (0, 1))
    np.testing.assert_allclose(table["value"].to_numpy(), authors.difference(x, y).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [1 << 21, 500])
def test_every_value_is_the_float64_brute_force(monkeypatch, block):
    monkeypatch.setattr(analysis_states, "BLOCK", block)
    states = related(languages=3)
    table = similarity(parallel(["en", "zh", "sw"], states), bootstrap=0)
    for i, j, x, y in ((0, 1, "en", "zh"), (0, 2, "en", "sw"), (1, 2, "zh", "sw")):
        for layer, rows in states.items():
            for variant in ("raw", "centered"):
                pair = [rows[i].double(), rows[j].double()]
                if variant == "centered":
                    pair = [side - side.mean(0) for side in pair]
                matched, baseline, difference = brute_force(*pair)
                if variant == "centered":  # what removing the sample's own means adds
                    difference *= 1 - 1 / len(pair[0])
                    baseline = matched - difference
                expected = (matched, baseline, difference)
                for metric, value in zip(("matched", "baseline", "difference"), expected, strict=True):
                    found = values(table, metric, variant, layer=layer, x=x, y=y)["value"].to_pylist()
                    assert found == [pytest.approx(value, abs=1e-12)]


def test_neither_order_nor_scale_of_items_changes_a_value():
    rows = related()["2"]
    expected = similarity(parallel(["en", "zh"], {"0": rows}), bootstrap=0)["value"].to_numpy()
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = similarity(parallel(["en", "zh"], {"0": rows[:, order]}), bootstrap=0)["value"].to_numpy()
    np.testing.assert_allclose(shuffled, expected, rtol=0, atol=1e-13)
    powers = 2.0 ** torch.randint(-3, 4, (2, rows.shape[1], 1))
    scaled = values(similarity(parallel(["en", "zh"], {"0": rows * powers}), bootstrap=0))["value"]
    np.testing.assert_allclose(scaled.to_numpy(), expected[2], rtol=0, atol=1e-13)


def near_parallel(dtype, common=8, n=200, width=48):
    """States as e5-small's last token has them: a mean cosine near 1, a difference of about 1e-5."""
    g = torch.Generator().manual_seed(5)
    common = common * torch.randn(width, generator=g, dtype=torch.float64)
    meaning = 0.03 * torch.randn(n, width, generator=g, dtype=torch.float64)
    noise = 0.02 * torch.randn(2, n, width, generator=g, dtype=torch.float64)
    exact = common + meaning + noise
    return exact, parallel(["en", "zh"], {"0": exact.to(dtype)})


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float16, 0.05)])
def test_a_difference_of_1e_5_on_a_mean_near_1_is_right_where_it_is_called_resolved(dtype, error):
    exact, store = near_parallel(dtype)
    matched, _, difference = brute_force(*exact)
    assert matched > 0.9999
    assert 5e-6 < difference < 5e-5
    table = similarity(store, bootstrap=0)
    assert values(table)["value"][0].as_py() == pytest.approx(difference, rel=error)
    assert values(table)["resolved"].to_pylist() == [True]
    assert unresolved(table) is None


@pytest.mark.parametrize(("dtype", "common"), [(torch.float16, 64), (torch.bfloat16, 8), (torch.bfloat16, 300)])
def test_a_dtype_too_coarse_for_the_difference_is_flagged_with_the_remedy(dtype, common):
    exact, store = near_parallel(dtype, common)
    table = similarity(store, bootstrap=0)
    difference = brute_force(*exact)[2]
    assert values(table)["resolved"].to_pylist() == [False]
    fine = similarity(near_parallel(torch.float32, common)[1], bootstrap=0)
    assert values(fine)["resolved"].to_pylist() == [True]
    assert values(fine)["value"][0].as_py() == pytest.approx(difference, rel=0.005)
    assert "--dtype float32" in unresolved(table)
    assert "layers 0" in unresolved(table)
    assert "--dtype float32" in unresolved(table, dtype)
    advice = unresolved(table, torch.float32)
    assert "no dtype of a store is finer than this one, float32" in advice
    assert "--dtype" not in advice


@pytest.mark.parametrize("variant", ["raw", "centered"])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_resolution_is_the_error_that_rounding_is_seen_to_cause(variant, scale):
    """Many roundings of one state, each from another random shift below a spacing; 1e-6 is subnormal."""
    g = torch.Generator().manual_seed(3)
    exact = scale * (3 + torch.randn(2, 30, 16, generator=g, dtype=torch.float64))
    errors = []
    for _ in range(150):
        stored = exact + (torch.rand(exact.shape, generator=g) - 0.5) * spacing(exact, torch.float16)
        pair = [side - side.mean(0) if variant == "centered" else side for side in stored]
        errors.append(brute_force(*pair)[2])
    table = similarity(parallel(["en", "zh"], {"0": exact.half()}), bootstrap=0)
    resolution = values(table, variant=variant)["resolution"][0].as_py()
    assert resolution == pytest.approx(np.std(errors), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_spacing_is_the_distance_to_the_next_number(dtype):
    integers = {2: torch.int16, 4: torch.int32}[torch.finfo(dtype).bits // 8]
    values_ = torch.tensor([0.0, 6e-8, 3e-5, 6.1e-5, 0.1, 1.0, 1.5, 2.0, 1000.0, 60000.0]).to(dtype)
    after = (values_.view(integers) + 1).view(dtype)
    expected = after.double() - values_.double()
    assert torch.equal(spacing(values_, dtype), expected)
    assert torch.equal(spacing(-values_, dtype), expected)


def test_items_are_paired_by_concept_first_of_each_in_corpus_order_and_the_rest_is_counted():
    rows = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))
    partitions = {"en": ["a", "b", None, "c", "b", "x"], "image/zxx": ["c", "b", "a", "a", "y"]}
    table = values(similarity(MemoryStore(partitions, {"0": rows}), bootstrap=0))
    expected = brute_force(rows[[0, 1, 3]], rows[[8, 7, 6]])[2]
    assert table["value"].to_pylist() == [pytest.approx(expected, abs=1e-12)]
    assert table["n"].to_pylist() == [3]
    assert (table["left_out_x"].to_pylist(), table["left_out_y"].to_pylist()) == ([3], [2])


def test_what_cannot_be_answered_is_refused_by_name():
    rows = torch.randn(6, 8)
    store = MemoryStore({"en": ["a", "b", "c"], "zh": ["a", "x", "y"]}, {"0": rows})
    with pytest.raises(AnalysisError, match=r"'en' and 'zh' of memory\.hub share 1 concepts"):
        similarity(store, [("en", "zh")])
    with pytest.raises(AnalysisError, match=r"no two partitions of memory\.hub share 2"):
        similarity(store)
    with pytest.raises(AnalysisError, match="'en' is paired with itself"):
        similarity(store, [("en", "en")])
    with pytest.raises(QueryError, match="no partition 'fr'; it has en, zh"):
        similarity(store, [("en", "fr")])
    with pytest.raises(QueryError, match="no layer '7'"):
        similarity(store, layers=[7])
    with pytest.raises(AnalysisError, match="pooling 'tokens'"):
        similarity(MemoryStore({"en": ["a"]}, {"0": rows[:1]}, pooling="tokens"))
    rows[4, 2] = torch.inf
    store = MemoryStore({"en": ["a", "b", "c"], "zh": ["a", "b", "y"]}, {"0": rows})
    with pytest.raises(NonFiniteError, match=r"'zh:1' \(position 4\).* at layer 0"):
        similarity(store)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    """Unit rows on a circle at x = t, y = t + e: E cos(e) and the mean cosine of two draws are known."""
    rng = np.random.default_rng(0)
    hits, trials, n = 0, 200, 80
    truth = np.exp(-0.5 * 0.5**2) - np.exp(-0.5 * 0.5**2) * np.exp(-(0.8**2))
    for trial in range(trials):
        angle = rng.normal(0, 0.8, n)
        other = angle + rng.normal(0, 0.5, n)
        rows = [np.stack([np.cos(a), np.sin(a)], 1) for a in (angle, other)]
        store = parallel(["en", "zh"], {"0": torch.from_numpy(np.stack(rows)).float()})
        row = values(similarity(store, seed=trial, bootstrap=300)).to_pylist()[0]
        assert row["low"] < row["value"] < row["high"]
        hits += row["low"] <= truth <= row["high"]
    assert 0.88 <= hits / trials <= 0.985
