"""Directions of the language are found on some concepts and removed from others, and the meaning stays."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import language_eraser, metadata, subspace
from hubstore.analysis.erasers import inlp, leace, lsar, orthogonal
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.analysis.states import States
from hubstore.errors import AnalysisError
from hubstore.stats.ridge import fit_ridge, indicators
from tests.memory_store import MemoryStore, parallel

LANGUAGES = ("en", "de", "sw", "th")


def spoken(n=80, width=24, shift=3.0, seed=0, noise=0.6):
    """States [languages, n, width]: a meaning, and an offset for each language in a space of three directions."""
    g = torch.Generator().manual_seed(seed)
    offsets = shift * torch.randn(len(LANGUAGES), 1, 3, generator=g) @ torch.randn(3, width, generator=g)
    return torch.randn(n, width, generator=g) + offsets + noise * torch.randn(len(LANGUAGES), n, width, generator=g) + 4


def cells(table, x="*"):
    rows = table.filter(pc.equal(table["x"], x)).to_pylist()
    return {(row["variant"], row["metric"]): row for row in rows}


def labeled(width=9, n=200, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    mixing = torch.randn(width, width, generator=g, dtype=torch.float64)
    rows = torch.randn(n, width, generator=g, dtype=torch.float64) @ mixing
    return rows + 2 * torch.randn(classes, width, generator=g, dtype=torch.float64)[labels], labels


def test_leace_is_the_published_formula_and_leaves_no_linear_trace():
    rows, labels = labeled()
    x, z = rows.numpy(), np.eye(3)[labels.numpy()]
    xc, zc = x - x.mean(0), z - z.mean(0)
    values, vectors = np.linalg.eigh(xc.T @ xc / len(x))
    white = vectors @ np.diag(values**-0.5) @ vectors.T
    mapped = white @ (xc.T @ zc / len(x))
    projection = mapped @ np.linalg.pinv(mapped, rcond=1e-8)
    expected = x - xc @ (np.linalg.inv(white) @ projection @ white).T
    eraser = leace(rows, labels, 3)
    np.testing.assert_allclose(eraser(rows).numpy(), expected, atol=1e-9)
    assert eraser.directions == 2
    after = eraser(rows)
    assert float((after.T @ (indicators(labels, 3) - indicators(labels, 3).mean(0))).abs().max()) < 1e-8 * len(rows)


def test_leace_moves_states_less_than_removing_the_same_classes_orthogonally():
    rows, labels = labeled()
    means = torch.stack([rows[labels == one].mean(0) for one in range(3)])
    moved = [(eraser(rows) - rows).square().sum() for eraser in (leace(rows, labels, 3), lsar(means, 2))]
    assert moved[0] < moved[1]


def test_lsar_removes_what_tells_the_means_apart_and_leaves_what_they_share():
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, 12, generator=g, dtype=torch.float64) + 3
    after = lsar(means, 3)(means)
    torch.testing.assert_close(after, after[:1].expand(4, -1), atol=1e-10, rtol=0)
    assert float(after[0].norm()) > 1
    assert lsar(means, 1).directions == 1
    assert lsar(means[:1].expand(4, -1) + torch.eye(4, 12), 3).directions == 3


def test_an_orthogonal_eraser_removes_its_basis_and_nothing_else():
    basis = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64)).Q
    rows = torch.randn(5, 8, dtype=torch.float64)
    after = orthogonal(basis)(rows)
    torch.testing.assert_close(after @ basis, torch.zeros(5, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(orthogonal(basis)(after), after)


def test_inlp_goes_on_until_no_classifier_is_better_than_chance():
    rows, labels = labeled(n=600)
    held = torch.arange(600) % 4 == 3
    eraser = inlp(rows, labels, 3, held)
    left = eraser(rows)
    classifier = fit_ridge(left[~held], indicators(labels[~held], 3), held[~held], (1e-2,))
    assert float((classifier(left[held]).argmax(1) == labels[held]).double().mean()) < 0.45
    assert 2 <= eraser.directions < 9


def test_language_is_erased_from_concepts_that_nothing_was_fitted_on_and_retrieval_is_better_for_it():
    table = subspace(parallel(LANGUAGES, {"0": spoken()}), bootstrap=50)
    found = cells(table)
    assert found["one_mean", "language_accuracy"]["value"] > 0.95
    for erased in ("centered", "lsar", "leace", "inlp"):
        assert found[erased, "language_accuracy"]["value"] < 0.4, erased
        assert found[erased, "recall@1"]["value"] > found["one_mean", "recall@1"]["value"] + 0.3, erased
    assert found["random", "language_accuracy"]["value"] > 0.9
    assert found["lsar", "directions_for_90%"]["value"] == 3
    assert 1 <= found["lsar", "directions_with_90%"]["value"] <= 3
    assert found["lsar", "recall@1"]["directions"] == 3
    assert found["lsar", "recall@1"]["n"] == 40
    assert found["lsar", "recall@1"]["low"] < found["lsar", "recall@1"]["value"] < found["lsar", "recall@1"]["high"]
    assert metadata(table)["notes"] == {"fitted": 40, "tested": 40}


def test_values_are_those_of_a_plain_loop_over_pairs():
    states = spoken(n=30)
    table = subspace(parallel(LANGUAGES, {"0": states}), bootstrap=0, seed=3)
    tested = np.sort(np.random.default_rng([3, 30]).permutation(30)[15:])
    units = torch.nn.functional.normalize(states[:, tested].double(), dim=-1)
    hits, differences = [], []
    for x in range(4):
        for y in range(4):
            if x != y:
                cosines = (units[x] @ units[y].T).numpy()
                hits.append((cosines.argmax(1) == np.arange(15)).mean())
                apart = cosines[~np.eye(15, dtype=bool)].mean()
                differences.append(cosines.diagonal().mean() - apart)
    found = cells(table)
    assert found["raw", "recall@1"]["value"] == pytest.approx(np.mean(hits))
    assert found["raw", "difference"]["value"] == pytest.approx(np.mean(differences))
    of_english = cells(table, "en")
    assert of_english["raw", "recall@1"]["value"] == pytest.approx(np.mean(hits[:3]))


def test_languages_that_do_not_differ_have_no_directions_to_count():
    table = subspace(parallel(LANGUAGES, {"0": spoken(shift=0.0)}), bootstrap=0)
    assert cells(table)["one_mean", "language_accuracy"]["value"] < 0.4
    assert cells(table)["lsar", "directions_for_90%"]["value"] == 0


def test_directions_are_counted_between_the_numbers_that_are_shown():
    names = [f"x-l{i}" for i in range(9)]
    g = torch.Generator().manual_seed(2)
    offsets = 6 * torch.randn(9, 1, 5, generator=g) @ torch.linalg.qr(torch.randn(24, 5, generator=g)).Q.T
    states = torch.randn(80, 24, generator=g) + offsets + 0.3 * torch.randn(9, 80, 24, generator=g)
    found = cells(subspace(parallel(names, {"0": states}), bootstrap=0))
    assert {variant for variant, _ in found} >= {"lsar_1", "lsar_2", "lsar_4", "lsar"}
    assert found["lsar_4", "language_accuracy"]["value"] > 0.2  # more than a tenth of what was above 1 in 9
    assert found["lsar", "directions_for_90%"]["value"] == 5


def test_partitions_that_share_too_few_concepts_are_named_with_their_counts():
    concepts = [f"c{i}" for i in range(30)]
    store = MemoryStore({"en": concepts, "de": concepts[:9]}, {"0": torch.randn(39, 4)})
    with pytest.raises(AnalysisError, match=r"share 9 concepts, at least 24 are needed \(each has: en 30, de 9\)"):
        subspace(store)
    with pytest.raises(AnalysisError, match="one partition has no language"):
        subspace(store, ["en"])


def test_an_eraser_for_the_running_model_is_the_one_that_is_measured():
    store = parallel(LANGUAGES, {"0": spoken()})
    rows = [row for row in subspace(store).to_pylist() if row["x"] == "*" and row["metric"] == "language_accuracy"]
    measured = {row["variant"]: row["directions"] for row in rows}
    concepts = SharedConcepts.of(store, list(store.partitions), 0)
    layer = store.layers[0]
    every = concepts.states(States(store, store.poolings[0]), layer)
    tested = every[:, concepts.tested]
    before = tested.mean(1).var(0).sum()
    for method in ("lsar", "leace", "inlp", "random"):
        eraser = language_eraser(store, layer, method=method)
        assert eraser.directions == measured[method]
        left = eraser(tested).mean(1).var(0).sum() / before
        assert left > 0.5 if method == "random" else left < 0.1
    assert language_eraser(store, layer, directions=1).directions == 1


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"method": "lda"}, "there is no eraser 'lda'; use lsar, leace, inlp, random"),
        ({"directions": 0}, "directions 0 of lsar"),
        ({"method": "leace", "directions": 2}, "directions 2 of leace: give 1 or more, of lsar or random"),
    ],
)
def test_an_eraser_that_cannot_be_fitted_is_refused(asked, problem):
    with pytest.raises(AnalysisError, match=problem):
        language_eraser(parallel(LANGUAGES, {"0": spoken()}), 0, **asked)
