"""Stores over the same items are compared layer by layer, beside what shuffled items give, and the best layers too."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import compare
from hubstore.analysis.calibration import MEASURES, View, permutations, permuted_values, row_of
from hubstore.errors import AnalysisError, QueryError
from hubstore.plots.compare import compare_grids
from tests.analysis.test_calibrated import sides
from tests.memory_store import MemoryStore


def store(name, states, languages=("en",), concepts=None):
    """A store called `name` whose layers are `states` [layers of [n, width]], the same in each language."""
    n = len(states[0])
    concepts = concepts or [f"c{i}" for i in range(n)]
    layers = {str(i): torch.cat([rows.float()] * len(languages)) for i, rows in enumerate(states)}
    made = MemoryStore(dict.fromkeys(languages, concepts), layers)
    made.path = type(made.path)(name)
    return made


def alike(n=40, width=(10, 14), seed=0):
    """Two stores: layer 1 of one is like layer 0 of the other, all else is noise."""
    x, y = sides(n, width, noise=0.3, seed=seed)
    g = torch.Generator().manual_seed(seed)
    return store("one.hub", [torch.randn(n, width[0], generator=g), x]), store(
        "other.hub", [y, torch.randn(n, width[1], generator=g)]
    )


def rows(table, **where):
    for column, value in where.items():
        table = table.filter(pc.equal(table[column], value))
    return table.to_pylist()


def test_permutations_of_all_measures_at_once_are_those_of_permuted_states():
    x, y = sides(n=24, width=(6, 6))
    orders = permutations(24, 3, seed=0)
    found = permuted_values([View(x, 4), View(y, 4)], [View(y, 4)], orders)
    assert found.keys() == set(MEASURES)
    for r, order in enumerate(orders):
        again = permuted_values([View(x, 4), View(y, 4)], [View(y[order], 4)], orders[:0])
        for name, values in again.items():
            torch.testing.assert_close(found[name][:, :, 1 + r], values[:, :, 0], msg=str(name), atol=1e-9, rtol=0)


def test_the_layers_that_are_alike_are_found_and_the_best_pair_is_judged_by_the_best_of_each_permutation():
    table = compare(*alike(), k=5, permutations=39)
    for metric in ("cka", "mutual_knn", "linear_r2", "mapped_recall@1"):
        cells = {(r["layer"], r["layer_y"]): r for r in rows(table, metric=metric, variant="raw")}
        best = cells.pop(("best", "best"))
        assert max(cells, key=lambda at: cells[at]["calibrated"]) == ("1", "0")
        assert best["value"] == max(r["value"] for r in cells.values())
        assert best["p_value"] == 1 / 40
        assert best["null_mean"] > min(r["null_mean"] for r in cells.values())
        assert cells["0", "1"]["calibrated"] < 0.35 < cells["1", "0"]["calibrated"]
    assert set(table["store_x"].to_pylist()) == {"one"}
    (grid,) = compare_grids(table, "cka")
    assert np.unravel_index(grid.values.argmax(), grid.values.shape) == (1, 0)


def test_where_nothing_is_alike_the_best_layers_are_seldom_significant():
    said = []
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        noise = [store(f"{i}.hub", [torch.randn(20, 8, generator=g) for _ in range(4)]) for i in range(2)]
        table = compare(*noise, measures=["cka", "mutual_knn"], permutations=19, seed=seed)
        said += [[r["p_value"] <= 0.05 for r in rows(table, layer="best")]]
        single = [r["p_value"] <= 0.05 for r in table.to_pylist() if r["layer"] != "best"]
        said[-1].append(any(single))
    shares = np.mean(said, 0)
    assert (shares[:3] <= 0.25).all()
    assert shares[3] > 0.5  # any of 48 rows by itself


def test_three_stores_and_every_partition_that_all_have_are_compared():
    x, y = sides()
    made = [store("a.hub", [x], ("en", "de")), store("b.hub", [y], ("de", "en")), store("c.hub", [y], ("de", "sw"))]
    table = compare(*made, measures=["cka"], permutations=0)
    assert {(r["store_x"], r["store_y"], r["x"]) for r in table.to_pylist()} == {
        ("a", "b", "de"), ("a", "c", "de"), ("b", "c", "de")
    }  # fmt: skip
    assert all(r["value"] == pytest.approx(1, abs=1e-6) for r in rows(table, store_x="b", variant="raw"))
    crossed = compare(*made[:2], pairs=[("en", "de")], measures=["cka"], permutations=0)
    assert {(r["x"], r["y"]) for r in crossed.to_pylist()} == {("en", "de")}


def test_one_item_of_a_concept_is_taken_so_that_a_map_is_tested_on_other_concepts():
    x, y = sides(n=40)
    concepts = [f"c{i // 2}" for i in range(40)]
    table = compare(store("a.hub", [x], concepts=concepts), store("b.hub", [y], concepts=concepts))
    assert {(r["n"], r["left_out_x"], r["left_out_y"]) for r in table.to_pylist()} == {(20, 20, 20)}


def test_items_of_one_id_and_another_text_are_not_the_same():
    x, y = sides(n=30)
    one, other = store("a.hub", [x]), store("b.hub", [y], concepts=[f"c{i}" for i in range(20)] + ["d"] * 10)
    (n,) = set(compare(one, other, permutations=0)["n"].to_pylist())
    assert n == 20
    strange = store("b.hub", [y], concepts=[f"d{i}" for i in range(30)])
    message = (
        r"'en' of a.hub \(30 items\) and 'en' of b.hub \(30 items\) share 30 values of 'id', 0 of them with one text"
    )
    with pytest.raises(AnalysisError, match=message):
        compare(one, strange)


def test_layers_of_one_name_alone_are_compared_where_that_is_asked_for():
    x, y = sides()
    table = compare(store("a.hub", [x, y]), store("b.hub", [x, y]), cross_layers=False, measures=["cka"])
    assert {(r["layer"], r["layer_y"]) for r in table.to_pylist()} == {("0", "0"), ("1", "1"), ("best", "best")}


def test_the_best_of_layers_of_one_name_is_judged_by_the_best_of_each_permutation():
    false = {"best": 0, "picked": 0}
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        one, other = (store(name, list(torch.randn(8, 16, 6, generator=g))) for name in ("a.hub", "b.hub"))
        table = compare(one, other, cross_layers=False, measures=["cka"], permutations=39, seed=seed)
        cells = {r["layer"]: r for r in rows(table, variant="raw")}
        best = cells.pop("best")
        picked = max(cells.values(), key=lambda cell: cell["calibrated"])
        false["best"] += best["p_value"] <= 0.05
        false["picked"] += picked["p_value"] <= 0.05
    assert false["best"] <= 6 < false["picked"]


@pytest.mark.parametrize("pairs", [("en", "de"), "en:de", ["en:de"], [("en", "de")], [["en", "de"], "en:de"]])
def test_pairs_are_written_as_everywhere_else(pairs):
    x, y = sides(n=30)
    made = [store("a.hub", [x], ("en", "de")), store("b.hub", [y], ("en", "de"))]
    table = compare(*made, pairs=pairs, measures=["cka"], permutations=0)
    assert {(r["x"], r["y"]) for r in table.to_pylist()} == {("en", "de")}


def test_a_pair_that_is_none_is_refused():
    x, y = sides(n=30)
    with pytest.raises(AnalysisError, match="the pair 'en' is not two partitions"):
        compare(store("a.hub", [x]), store("b.hub", [y]), pairs=["en"])


def test_what_cannot_be_compared_is_said():
    x, y = sides()
    one, other = store("a.hub", [x]), store("b.hub", [y], ("de",))
    with pytest.raises(AnalysisError, match=r"no partition is in all stores: a.hub has en; b.hub has de"):
        compare(one, other)
    with pytest.raises(AnalysisError, match="is compared with nothing"):
        compare(one)
    with pytest.raises(AnalysisError, match="2 poolings for 3 stores"):
        compare(one, other, one, poolings=["mean", "mean"])
    with pytest.raises(AnalysisError, match="there is no measure 'ckq'; choose from cka, rsa"):
        compare(one, other, measures=["ckq"])
    with pytest.raises(QueryError, match="has no layer '7'"):
        compare(one, other, layers=[7])


def test_a_measure_that_never_changes_is_no_sign_of_anything():
    assert row_of(("cka", "raw"), torch.ones(20, dtype=torch.float64), None)["p_value"] == 1
