import json
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import PROJECTION_SCHEMA, metadata, projection
from hubstore.analysis.projection import aligned, sampled
from hubstore.analysis.results import result_key
from hubstore.errors import AnalysisError, MissingDependencyError, NonFiniteError, QueryError
from tests.analysis.test_similarity import related
from tests.memory_store import MemoryStore, parallel


def shares_by_numpy(rows):
    """Coordinates [n, 3] and shares of variance of unit rows less their mean, by a plain SVD in float64."""
    wide = rows.double().numpy()
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    left, singular, right = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    signs = np.sign(right[np.arange(3), np.abs(right[:3]).argmax(1)])
    return (left * singular)[:, :3] * signs, (singular**2 / (singular**2).sum())[:3]


def points_of(table, layer):
    chosen = table.filter(pc.equal(table["layer"], layer))
    return np.stack([chosen[axis].to_numpy() for axis in "xyz"], 1)


@pytest.mark.parametrize("width", [3, 40, 700])
def test_pca_is_the_plain_svd_of_centered_unit_rows(width):
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(300, width, generator=g) * torch.arange(1, width + 1) ** -0.4 + 2
    rows[:, width // 2] += 500  # a direction that all rows share, as causal models have it
    table = projection(MemoryStore({"en": ["c"] * 300}, {"0": rows}))
    expected, shares = shares_by_numpy(rows)
    provenance = metadata(table)
    np.testing.assert_allclose(provenance["components"]["0"], shares, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(provenance["explained"]["0"], shares, rtol=1e-4, atol=1e-8)
    found = points_of(table, "0") / provenance["scale"]["0"]
    np.testing.assert_allclose(found, expected, atol=3e-4 * np.abs(expected).max())


def test_columns_are_those_of_the_items_and_the_text_is_cut():
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    store = MemoryStore({"en": ["a", None], "image/zxx": ["a", "日" * 500]}, {"0": rows})
    table = projection(store)
    assert table.schema.equals(PROJECTION_SCHEMA)
    assert table["position"].to_pylist() == [0, 1, 2, 3]
    assert table.drop(["layer", "position", "text", "x", "y", "z"]).equals(
        store.items.select(["id", "concept", "language", "modality"])
    )
    assert table["text"].to_pylist()[3] == "日" * 200
    assert json.loads(table.schema.metadata[b"hubstore"])["commits"] == store.digest


def test_each_layer_lies_as_near_the_one_before_as_a_rotation_of_its_plane_brings_it():
    first = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 6, 4, *[0.1] * 9])
    turned = first @ torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2)))[0] * 7
    other = torch.randn(50, 12, generator=torch.Generator().manual_seed(3))
    table = projection(parallel(["en"], {"0": first[None], "1": turned[None], "2": other[None]}))
    maps = [points_of(table, layer).astype(np.float64) for layer in "012"]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4)
    for points in maps:
        assert (points[:, :2] ** 2).sum() / len(points) == pytest.approx(1, rel=1e-5)
    for axes in (slice(0, 2), slice(2, 3)):
        left, _, right = np.linalg.svd(maps[2][:, axes].T @ maps[1][:, axes])
        np.testing.assert_allclose(left @ right, np.eye(len(right)), atol=1e-4)  # no rotation brings it nearer
    provenance = metadata(table)
    plane, third = provenance["components"]["2"][:2], provenance["components"]["2"][2]
    assert sum(provenance["explained"]["2"][:2]) == pytest.approx(sum(plane), rel=1e-5)
    assert provenance["explained"]["2"][2] == pytest.approx(third, rel=1e-5)
    assert abs(provenance["explained"]["2"][0] - plane[0]) > 1e-6  # the plane was turned


def test_alignment_undoes_a_rotation_and_a_reflection():
    points = np.random.default_rng(0).normal(size=(20, 3))
    points -= points.mean(0)
    for sign in (1, -1):
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] * [sign, 1, 1]
        np.testing.assert_allclose(aligned(points @ turn, points), points, atol=1e-12)


def test_a_sample_keeps_equivalent_items_together_and_the_seed_decides_which():
    store = parallel(["en", "zh", "sw"], {"0": torch.randn(3, 100, 4)})
    chosen = sampled(store, np.arange(300), 61, seed=5)
    assert len(chosen) == 61
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(chosen % 100, minlength=100)
    assert sorted(counts[counts > 0]) == [1, *[3] * 20]
    np.testing.assert_array_equal(chosen, sampled(store, np.arange(300), 61, seed=5))
    assert not np.array_equal(chosen, sampled(store, np.arange(300), 61, seed=6))
    np.testing.assert_array_equal(sampled(store, np.arange(300), 300, seed=5), np.arange(300))


def test_items_without_a_concept_are_drawn_one_by_one():
    store = MemoryStore({"en": [None] * 500 + ["c"] * 4}, {"0": torch.randn(504, 4)})
    found = [sampled(store, np.arange(504), 50, seed) for seed in range(40)]
    together = [int((positions >= 500).sum()) for positions in found]
    assert set(together) <= {0, 1, 2, 3, 4}
    assert 0 in together
    assert all(len(np.unique(positions)) == 50 for positions in found)


def test_every_layer_shows_the_sample_of_the_items_that_pass_the_filters():
    states = {layer: torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) for layer in ("0", "1")}
    names = [f"c{i}" for i in range(10)]
    store = MemoryStore({"en": names, "zh": names, "sw": names, "image/en": names}, states)
    table = projection(store, points=8, languages=["en", "zh"], modalities=["text"])
    assert table.num_rows == 16
    assert table["position"].to_pylist()[:8] == table["position"].to_pylist()[8:]
    assert set(zip(table["language"].to_pylist(), table["modality"].to_pylist(), strict=True)) == {
        ("en", "text"),
        ("zh", "text"),
    }
    assert metadata(table)["sampled"] == 8
    assert metadata(table)["items"] == 20
    assert metadata(table)["parameters"]["languages"] == ["en", "zh"]


def test_a_map_is_kept_and_read_back_without_the_states(monkeypatch):
    store = parallel(["en", "zh"], related(layers=2, n=12, width=6))
    reported = []
    first = projection(store, progress=lambda *step: reported.append(step))
    assert reported == [(1, 2), (2, 2)]
    assert list(store.storage.files) == [result_key(metadata(first))]

    def refuse(*_):
        raise AssertionError("the hidden states were read")

    monkeypatch.setattr(store, "hidden", refuse)
    second = projection(store, layers=["0", -1])
    assert second.equals(first)
    assert second.schema.metadata == first.schema.metadata
    with pytest.raises(AssertionError, match="were read"):
        projection(store, points=7)


def test_the_same_seed_gives_the_same_map():
    maps = [projection(parallel(["en", "zh"], related(n=80)), points=50, seed=3) for _ in range(2)]
    assert maps[0].equals(maps[1])


def test_what_does_not_vary_or_has_too_few_dimensions_is_mapped_all_the_same():
    table = projection(MemoryStore({"en": ["c"] * 5}, {"0": torch.ones(5, 4), "1": torch.ones(5, 4)}))
    assert not points_of(table, "1").any()
    assert metadata(table)["explained"]["0"] is None
    two = projection(MemoryStore({"en": ["c"] * 2}, {"0": torch.tensor([[1.0, 0], [0, 1]])}))
    np.testing.assert_allclose(np.abs(points_of(two, "0")), [[1, 0, 0], [1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(metadata(two)["explained"]["0"], [1, 0, 0], atol=1e-6)


def test_what_cannot_be_mapped_is_told():
    store = parallel(["en", "zh"], related(n=12))
    with pytest.raises(AnalysisError, match="no method 'tsne'; choose from pca, umap"):
        projection(store, method="tsne")
    with pytest.raises(AnalysisError, match="points is 1; ask for 2 at least for a map by pca"):
        projection(store, points=1)
    with pytest.raises(QueryError, match=r"memory\.hub has no language 'fr'; it has en, zh"):
        projection(store, languages=["en", "fr"])
    with pytest.raises(QueryError, match=r"no modality 'image'; it has text"):
        projection(store, modalities=["image"])
    with pytest.raises(QueryError, match="no layer '9'"):
        projection(store, layers=[9])
    with pytest.raises(AnalysisError, match=r"0 items of memory\.hub pass the filters"):
        projection(store, languages=[])
    with pytest.raises(AnalysisError, match="'tokens'"):
        projection(parallel(["en"], {"0": torch.ones(1, 4, 2)}, pooling="tokens"))
    store.states["1"][15] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'zh:3' .* NaN or infinity at layer 1"):
        projection(store)


def test_umap_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependencyError, match=r"hubstore\[umap\].*--method pca"):
        projection(parallel(["en", "zh"], related(n=12)), method="umap")


def test_umap_keeps_clusters_apart_and_layers_near_and_the_seed_fixes_it():
    pytest.importorskip("umap")
    g = torch.Generator().manual_seed(0)
    centers = 5 * torch.randn(3, 1, 10, generator=g)
    states = {str(layer): centers + torch.randn(3, 30, 10, generator=g) for layer in range(2)}
    first, second = (projection(parallel(["en", "zh", "sw"], states), method="umap", seed=4) for _ in range(2))
    assert first.equals(second)
    assert first["z"].null_count == first.num_rows
    assert "explained" not in metadata(first)
    maps = [points_of(first, layer)[:, :2].reshape(3, 30, 2) for layer in "01"]
    for points in maps:
        middles = points.mean(1)
        within = np.linalg.norm(points - middles[:, None], axis=-1).mean()
        between = min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
        assert between > 3 * within
    assert np.linalg.norm(maps[1].mean(1) - maps[0].mean(1), axis=-1).max() < 0.5
