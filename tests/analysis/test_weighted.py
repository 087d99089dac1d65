"""Of a store that keeps every token, analyses take the mean of an item's tokens that is weighted by their places."""

import numpy as np
import pytest
import torch

import hubstore
from hubstore.analysis import calibrated, similarity
from hubstore.analysis.pairs import Selection
from hubstore.analysis.states import States
from hubstore.corpus import read_sample
from hubstore.errors import AnalysisError, QueryError
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weighted")
    model = str(save_tiny_model("llama", folder / "tiny"))
    corpus = read_sample("ntrex", languages=["en", "es"], limit=16)
    settings = {"poolings": ("tokens",), "layers": ("0", "2"), "dtype": "float32"}
    return hubstore.extract(corpus, model, folder / "x.hub", device="cpu", **settings)


def test_the_mean_counts_the_first_token_once_and_the_last_most(store):
    positions = np.array([3, 20])
    found = States(store, "weighted").rows("2", Selection.of("en", positions))
    for row, (start, stop) in zip(found, store.token_ranges()[positions], strict=True):
        states = store.hidden("2", "tokens").read(start, stop).double()
        weights = torch.arange(1, stop - start + 1).double()
        expected = (weights[:, None] * states).sum(0) / weights.sum()
        torch.testing.assert_close(row, expected.float(), atol=1e-6, rtol=0)
    assert stop - start > 3


def test_mexas_score_is_of_weighted_means_where_that_is_asked_for(store):
    (row,) = calibrated(store, pooling="weighted", layers=[2], measures=["mexa"], permutations=0).to_pylist()
    sides = [States(store, "weighted").rows("2", Selection.of("", np.arange(16) + 16 * place)) for place in range(2)]
    x, y = (torch.nn.functional.normalize(side.double(), dim=1) for side in sides)
    cosines = (x @ y.T).numpy()
    others = np.where(np.eye(16, dtype=bool), -2, cosines)
    expected = (cosines.diagonal() > np.maximum(others.max(0), others.max(1))).mean()
    assert row["value"] == pytest.approx(expected)


def test_a_store_of_tokens_alone_says_what_to_ask_for_and_one_without_tokens_has_no_weights(store, tmp_path):
    with pytest.raises(AnalysisError, match=r"use weighted \(weighted: the mean of an item's tokens"):
        similarity(store)
    corpus = read_sample("ntrex", languages=["en"], limit=2)
    pooled = hubstore.extract(corpus, store.model(), tmp_path / "y.hub", poolings=("mean",), layers=("1",))
    with pytest.raises(QueryError, match="has no pooling 'weighted'"):
        similarity(pooled, pooling="weighted")
