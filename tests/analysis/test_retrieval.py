import numpy as np
import pytest
import torch

from hubstore.analysis import retrieval
from hubstore.kernels.cpu import match
from tests.analysis.test_similarity import related
from tests.memory_store import parallel


def ranks(scores):
    """1-based rank of each diagonal entry in its row."""
    return 1 + (scores > scores.diagonal()[:, None]).sum(1)


def csls(cosines, k):
    """Conneau et al. (2018): 2 cos - r(x) - r(y)."""
    of_x = np.sort(cosines, 1)[:, -k:].mean(1)
    of_y = np.sort(cosines, 0)[-k:].mean(0)
    return 2 * cosines - of_x[:, None] - of_y


@pytest.mark.parametrize("tile", [1024, 17])
def test_every_recall_and_mrr_is_the_brute_force(monkeypatch, tile):
    monkeypatch.setattr(match, "SIDE", tile)
    rows = related(languages=2)["1"]
    table = retrieval(parallel(["en", "zh"], {"1": rows}), bootstrap=50)
    assert table.num_rows == 2 * 4 * 4
    for centered in (False, True):
        x, y = (side.double().numpy() - centered * side.double().mean(0).numpy() for side in rows)
        x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
        cosines = x @ y.T
        for name, scores in {"": cosines, "csls_": csls(cosines, 10)}.items():
            for (asks, answers), grid in {("en", "zh"): scores, ("zh", "en"): scores.T}.items():
                found = [
                    row
                    for row in table.to_pylist()
                    if (row["x"], row["y"]) == (asks, answers)
                    and row["variant"] == name + ("centered" if centered else "raw")
                ]
                place = ranks(grid)
                expected = {f"recall@{k}": (place <= k).mean() for k in (1, 5, 10)} | {"mrr": (1 / place).mean()}
                assert {row["metric"]: row["value"] for row in found} == pytest.approx(expected, abs=1e-12)
                assert all(row["low"] <= row["value"] <= row["high"] for row in found)
                assert {row["n"] for row in found} == {60}


def test_removing_means_brings_back_what_a_few_huge_dimensions_hide():
    rows = related(layers=3, common=1.0)["2"]
    rows[0, :, :2] += 3000
    rows[1, :, 1:3] += 3000
    table = retrieval(parallel(["en", "zh"], {"0": rows}), bootstrap=0).to_pylist()
    at_1 = {row["variant"]: row["value"] for row in table if row["metric"] == "recall@1" and row["x"] == "en"}
    assert at_1["raw"] < 0.5
    assert at_1["centered"] > 0.9


def test_csls_undoes_a_hub():
    rows = related()["2"].clone()
    hub = rows[1].mean(0)
    rows[1, 0] = 0.7 * rows[1, 0] + 3 * hub / hub.norm() * rows[1].norm(dim=1).mean()
    rows[0] += 2 * hub
    table = retrieval(parallel(["en", "zh"], {"0": rows}), bootstrap=0).to_pylist()
    at_1 = {row["variant"]: row["value"] for row in table if row["metric"] == "recall@1" and row["x"] == "en"}
    assert at_1["csls_raw"] > at_1["raw"] + 0.2


def test_a_pair_smaller_than_the_neighborhood_is_ranked_all_the_same():
    table = retrieval(parallel(["en", "zh"], {"0": torch.eye(3).repeat(2, 1, 1)}), bootstrap=10).to_pylist()
    assert {row["value"] for row in table} == {1.0}
