"""Similarities are those of one text at a time and all n x n cosines."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hubstore.errors import CorpusError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.arithmetic import Expression, expressions
from hubstore.experiments.materials.logical_forms import meanings, names, swapped
from hubstore.experiments.recipes import similarity
from tests.experiments.readers import curve, reader, states


def context(tmp_path, limit, **options):
    return ExperimentContext(reader(), tmp_path, limit=limit, bootstrap=200, device="cpu", **options)


def last(texts):
    """Unit rows of the last token, float64 [layers, n, width]."""
    found = np.stack([states(reader(), text)[:, -1] for text in texts], axis=1)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def test_arithmetic_similarity_is_that_of_all_cosines(tmp_path):
    here = context(tmp_path, 40)
    result = similarity.arithmetic_similarity(here)
    chosen = here.sample(expressions())
    cosines = last([one.symbols for one in chosen]) @ last([one.words for one in chosen]).transpose(0, 2, 1)
    results = np.array([one.result for one in chosen])
    same, itself = results[:, None] == results, np.eye(len(chosen), dtype=bool)
    assert (same & ~itself).any()
    expected = {
        "exact match": cosines[:, itself].mean(1),
        "same result": cosines[:, same & ~itself].mean(1),
        "other results": cosines[:, ~same].mean(1),
        "all pairs": cosines.reshape(len(cosines), -1).mean(1),
    }
    for quantity, values in expected.items():
        assert_allclose(curve(result, quantity, here.layers), values, atol=1e-5)
    difference = expected["exact match"] - expected["all pairs"]
    assert_allclose(curve(result, "exact match - all pairs", here.layers), difference, atol=1e-5)


def test_its_intervals_are_those_of_expressions_resampled():
    """Against resampled rows and columns of all cosines: of a mean over pairs, and of the exact matches."""
    import torch

    rng = np.random.default_rng(0)
    n = 60
    results = rng.integers(12, size=n)
    centers = rng.normal(size=(12, 16))
    x, y = (centers[results] + rng.normal(size=(n, 16)) for _ in range(2))
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
    where = ExperimentContext("model", None, bootstrap=3000)
    chosen = [Expression("+", 1, 1, result) for result in results]
    rows = similarity.compare_expressions(where, "1", torch.from_numpy(x), torch.from_numpy(y), chosen)
    cosines = x @ y.T
    same = (results[:, None] == results) & ~np.eye(n, dtype=bool)
    drawn = []
    for _ in range(3000):
        m = np.bincount(rng.integers(n, size=n), minlength=n).astype(float)
        pairs = m[:, None] * m
        other = pairs * (results[:, None] != results)
        drawn.append(
            ((m * np.diag(cosines)).sum() / n, (pairs * same * cosines).sum() / (pairs * same).sum()
             - (other * cosines).sum() / other.sum())
        )  # fmt: skip
    found = {row["quantity"]: (row["low"], row["high"]) for row in rows}
    for quantity, sampled in zip(("exact match", "same result - other results"), np.array(drawn).T, strict=True):
        low, high = np.quantile(sampled, [0.025, 0.975])
        assert found[quantity][1] - found[quantity][0] == pytest.approx(high - low, rel=0.15)


def test_semantics_similarity_is_that_of_single_texts(tmp_path):
    here = context(tmp_path, 12)
    result = similarity.semantics_similarity(here)
    pairs = here.sample(meanings()[: similarity.PAIRS])
    cosines = last([one.sentence for one in pairs]) @ last([one.form for one in pairs]).transpose(0, 2, 1)
    diagonal = np.eye(len(pairs), dtype=bool)
    expected = cosines[:, diagonal].mean(1) - cosines[:, ~diagonal].mean(1)
    assert_allclose(curve(result, "matched - baseline", here.layers), expected, atol=1e-5)

    two = here.sample([one for one in meanings() if len(names(one.form)) == 2])
    batches = similarity.swapped_forms(two, here.seed).batches()
    items = {row["id"]: row["text"] for batch in batches for row in batch.to_pylist()}
    by_kind = {
        kind: last([items[f"{kind}:{number}"] for number in range(len(two))])
        for kind in ("en", "x-cogs", "x-cogs-swapped", "x-cogs-shuffled", "x-cogs-both")
    }
    cosine = {kind: (by_kind["en"] * other).sum(-1).mean(1) for kind, other in by_kind.items()}
    for quantity, (more, less) in similarity.CONTRASTS.items():
        assert_allclose(curve(result, quantity, here.layers), cosine[more] - cosine[less], atol=1e-5)


def test_shuffled_forms_differ_in_names_alone():
    two = [one for one in meanings() if len(names(one.form)) == 2][:20]
    batches = similarity.swapped_forms(two, 0).batches()
    items = {row["id"]: row["text"] for batch in batches for row in batch.to_pylist()}
    for number in range(len(two)):
        both = items[f"x-cogs-both:{number}"]
        assert swapped(both) == items[f"x-cogs-shuffled:{number}"]


def test_texts_go_on_after_a_full_stop_only():
    assert similarity.continued_text("It rained.") == "It rained. This represents"
    assert similarity.continued_text("下雨了。") == "下雨了。这代表了"
    assert similarity.continued_text("Did it rain?") == "Did it rain?"


def test_multilingual_similarity_of_the_users_files(tmp_path):
    (tmp_path / "en.txt").write_text("A cat.\nTwo dogs!\nThree birds.\n")
    (tmp_path / "zh-Hans.txt").write_text("一只猫。\n两条狗！\n三只鸟。\n", encoding="utf-8")
    here = context(tmp_path / "out", None, data=tmp_path)
    result = similarity.multilingual_similarity(here)
    english = last(["A cat. This represents", "Two dogs!", "Three birds. This represents"])
    cosines = last(["一只猫。这代表了", "两条狗！", "三只鸟。这代表了"]) @ english.transpose(0, 2, 1)
    diagonal = np.eye(3, dtype=bool)
    expected = cosines[:, diagonal].mean(1) - cosines[:, ~diagonal].mean(1)
    assert_allclose(curve(result, "matched - baseline", here.layers), expected, atol=1e-5)
    assert "2 of 6 texts do not end in a full stop and stay as they are" in result.notes


def test_one_file_of_a_pair_is_refused(tmp_path):
    (tmp_path / "en.txt").write_text("A cat.\n")
    with pytest.raises(CorpusError, match=r"en\.txt and zh-Hans\.txt; give both"):
        similarity.parallel_sentences(context(tmp_path / "out", None, data=tmp_path))
