"""Language ablation: what is measured is the model with the eraser in it, on texts that it was not fitted on."""

import numpy as np
import pytest
import torch

from hubstore.analysis import language_eraser
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.corpus import read_sample
from hubstore.errors import AnalysisError, ModelError, SteeringError
from hubstore.extraction import Settings, extract
from hubstore.lens import Lens, TokenLanguages
from hubstore.lens.languages import tokenizer_digest
from hubstore.steer import Decoding, Intervention, generate, language_ablation, perplexity, steering
from hubstore.steer.ablation import parted
from hubstore.store import StoreReader
from tests.tiny_models import tiny_language_model


@pytest.fixture(scope="module")
def model():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("ablation") / "two.hub"
    corpus = read_sample("ntrex", languages=["en", "es"], limit=60)
    extract(corpus, model, path, Settings(poolings=("mean",), dtype="float32"))
    return StoreReader(path)


@pytest.fixture(scope="module")
def languages(model):
    """Tokens of even number are English, of odd number Spanish; every fifth was never counted."""
    lens = Lens.of_model(model)
    size = lens.head.vocabulary
    even = (torch.arange(size) % 2 == 0).float()
    counted = torch.arange(size) % 5 != 0
    provenance = {"tokenizer": tokenizer_digest(lens.vocabulary)}
    return TokenLanguages(("en", "es"), torch.stack([even, 1 - even], 1), provenance, counted)


def test_what_is_measured_is_the_model_with_the_eraser_in_it(model, store, languages):
    table = language_ablation(
        store,
        model,
        [1, 2],
        methods=["lsar", "leace", "random"],
        tokens=languages,
        limit=3,
        new_tokens=5,
        bootstrap=100,
    )
    cells = {(r["layer"], r["method"], r["partition"], r["metric"]): r for r in table.to_pylist()}
    assert {(layer, method) for layer, method, *_ in cells} == {
        ("*", "none"), *((layer, method) for layer in "12" for method in ("lsar", "leace", "random"))
    }  # fmt: skip
    concepts = SharedConcepts.of(store, ["en", "es"], 0)
    rows = concepts.selections[1].positions[concepts.tested[:3]]
    prompts, rests = zip(*(parted(store.items["text"][int(row)].as_py()) for row in rows), strict=True)
    erased = Intervention(
        language_eraser(store, 2, method="leace"), [2], "erase", positions=[slice(1, None)], when="every step"
    )
    own = np.log(perplexity(model, prompts, rests))
    with steering(model, [erased]):
        without = np.log(perplexity(model, prompts, rests))
    assert np.abs(without - own).max() > 1e-4
    found = cells["2", "leace", "es", "loss, added"]
    assert found["value"] == pytest.approx(float((without - own).mean()), abs=1e-5)
    assert found["low"] <= found["value"] <= found["high"]
    assert (found["n"], found["directions"]) == (3, 1)
    assert cells["*", "none", "es", "loss"]["value"] == pytest.approx(float(own.mean()), abs=1e-5)
    shares = []
    for one in generate(model, prompts, [erased], decoding=Decoding(5)):
        counted = [token for token in one.token_ids if token % 5]
        shares += [np.mean([token % 2 for token in counted])] if counted else []
    assert cells["2", "leace", "es", "own language"]["value"] == pytest.approx(np.mean(shares))
    assert cells["2", "leace", "es", "English"]["value"] == pytest.approx(1 - np.mean(shares))


def test_without_languages_of_tokens_only_the_loss_is_told(model, store):
    steps = []
    table = language_ablation(
        store, model, [1], methods=["random"], limit=2, bootstrap=100, progress=lambda *step: steps.append(step)
    )
    assert set(table["metric"].to_pylist()) == {"loss", "loss, added"}
    assert steps == [(1, 2), (2, 2)]


def test_a_text_is_parted_at_a_space_before_its_middle_or_in_the_middle():
    assert parted("one two three four") == ("one two", " three four")
    assert parted("接下来的文字") == ("接下来", "的文字")
    assert parted("ab c") == ("ab", " c")


def test_what_cannot_be_erased_is_refused(model, store):
    with pytest.raises(SteeringError, match=r"layers \[0\]: erase at one or more, from 1 to"):
        language_ablation(store, model, [0])
    with pytest.raises(ModelError, match=r"whose .*weights.* differ"):
        language_ablation(store, tiny_language_model("gemma3"), [1])
    with pytest.raises(AnalysisError, match="there is no eraser 'lda'"):
        language_ablation(store, model, [1], methods=["lda"], limit=2)
    for limit in (0, -3):
        with pytest.raises(SteeringError, match="limit"):
            language_ablation(store, model, [1], limit=limit)
