"""Real models over real translations: figures that an independent run of the same models gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubstore.analysis import retrieval, similarity
from hubstore.corpus import read_sample
from hubstore.extraction import Settings, extract
from hubstore.models import load_model
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, write_metadata, write_shard
from hubstore.store.layout import Layout

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def two_threads(one_thread):
    torch.set_num_threads(2)


def recalls_at_1(store, languages, layers):
    """By language, layer and variant."""
    table = retrieval(store, [("en", language) for language in languages], layers=layers, bootstrap=0)
    rows = [row for row in table.to_pylist() if row["metric"] == "recall@1" and row["x"] == "en"]
    return {(row["y"], row["layer"], row["variant"]): row["value"] for row in rows}


def extract_e5(real_model, path, languages):
    corpus = read_sample("ntrex", languages=["en", *languages], limit=200)
    settings = Settings(poolings=("mean", "last"), dtype="float32", template="query: {text}")
    done = extract(corpus, load_model(real_model("multilingual-e5-small"), device="cpu"), path, settings)
    assert done.self_check.deviation < 1e-5
    assert done.self_check.reference == "own hidden states"
    return StoreReader(path)


@pytest.fixture(scope="module")
def e5(real_model, tmp_path_factory):
    return extract_e5(real_model, tmp_path_factory.mktemp("real") / "e5.hub", ["es", "zh-Hans"])


def require_recalls(store, language, raw, centered):
    found = recalls_at_1(store, [language], ["12"])
    assert found[language, "12", "raw"] == pytest.approx(raw, abs=0.02)
    assert found[language, "12", "centered"] == pytest.approx(centered, abs=0.02)


@pytest.mark.parametrize(("language", "raw", "centered"), [("es", 0.99, 0.99), ("zh-Hans", 0.945, 0.975)])
def test_e5_retrieves_translations_as_an_independent_run_does(e5, language, raw, centered):
    require_recalls(e5, language, raw, centered)


@pytest.mark.slow
def test_e5_retrieves_russian_and_swahili_as_an_independent_run_does(real_model, tmp_path):
    store = extract_e5(real_model, tmp_path / "e5.hub", ["ru", "sw"])
    require_recalls(store, "ru", 0.975, 0.985)
    require_recalls(store, "sw", 0.965, 0.96)


@pytest.mark.slow
def test_gemmas_middle_layers_retrieve_translations_and_its_embeddings_do_not(real_model, tmp_path):
    corpus = read_sample("ntrex", languages=["en", "es", "zh-Hans"], limit=100)
    model = load_model(real_model("gemma-3-270m"), device="cpu")
    assert model.kind == "causal"
    extract(corpus, model, tmp_path / "gemma.hub", Settings(poolings=("last",), dtype="float32"))
    store = StoreReader(tmp_path / "gemma.hub")
    expected = {"es": (0.93, 0.92), "zh-Hans": (0.75, 0.84)}
    found = recalls_at_1(store, list(expected), store.layers)
    for language, peaks in expected.items():
        for variant, peak in zip(("raw", "centered"), peaks, strict=True):
            over_layers = [found[language, layer, variant] for layer in store.layers]
            assert max(over_layers) == pytest.approx(peak, abs=0.02), (language, variant)
            assert over_layers[0] < 0.1
            assert 5 < int(np.argmax(over_layers)) < 18, "the peak is in the middle"


def differences(store, **options):
    table = similarity(store, [("en", "es")], pooling="last", bootstrap=0, **options)
    wanted = (r for r in table.to_pylist() if r["metric"] == "difference" and r["variant"] == "raw")
    return {r["layer"]: r for r in wanted}


def float64_difference(store, layer):
    """Eq. 1 by brute force in float64."""
    x, y = (store.hidden(layer, "last").take(store.partition(p).positions()).double() for p in ("en", "es"))
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    n = len(cosines)
    matched = cosines.diagonal()
    return float(matched.mean() - (cosines.sum() - matched.sum()) / (n * (n - 1)))


def test_a_difference_of_1e_5_on_a_mean_near_1_is_right_to_two_digits(e5):
    found = differences(e5)
    middle = found["6"]
    assert 5e-6 < middle["value"] < 5e-5, "e5-small's last token hardly differs between texts in the middle layers"
    for layer, row in found.items():
        assert row["value"] == pytest.approx(float64_difference(e5, layer), rel=1e-6)
        assert row["resolved"]
    assert recalls_at_1(e5, ["es"], ["6"])["es", "6", "raw"] > 0.7, "small as it is, the difference is a real one"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_that_cannot_resolve_the_difference_says_so(e5, tmp_path, dtype):
    layout = Layout(e5.layers, ("last",), dtype, e5.width, 8192, 256)
    target = getattr(torch, dtype)
    states = torch.stack([e5.hidden(layer, "last").read().to(target) for layer in e5.layers])
    storage = LocalStorage(tmp_path / "x.hub")
    write_metadata(storage, layout, dict(e5.attributes) | layout.to_json(), len(e5), 0)
    write_shard(storage, layout, 0, e5.items, {"last": states})
    exact, found = differences(e5), differences(StoreReader(tmp_path / "x.hub"))
    for layer, row in found.items():
        error = abs(row["value"] - exact[layer]["value"])
        assert not row["resolved"] or error < 0.01 * abs(exact[layer]["value"]), layer
        assert error < 6 * row["resolution"] + 1e-12, "the stated resolution is what rounding really does"
    assert not found["6"]["resolved"] or dtype == "float16"
