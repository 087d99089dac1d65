"""The lens and steering on a GPU, against the CPU; a case of each runs on the CPU too."""

import numpy as np
import pytest
import torch

import hubstore
from hubstore.corpus import read_sample
from hubstore.lens import Lens, count_token_languages, language_trends, lens_summary, read_store, read_texts
from hubstore.steer import Decoding, Intervention, generate
from tests.devices import DEVICES
from tests.tiny_models import save_tiny_language_model

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_language_model("gemma3", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    settings = {"poolings": ("tokens",), "layers": ("all", "final"), "dtype": "float32"}
    corpus = read_sample("ntrex", languages=["en", "es"], limit=12)
    return hubstore.extract(
        corpus, folder, tmp_path_factory.mktemp("s") / "a.hub", device="cpu", with_lens=True, **settings
    )


def column(table, name):
    return np.array(table[name].to_pylist(), np.float64)


@pytest.mark.parametrize("variant", ["raw", "normed"])
def test_readings_summaries_and_trends_are_those_of_the_cpu(store, variant, device):
    here, there = Lens.of_store(store), Lens.of_store(store, device)
    tokens = count_token_languages(read_sample("ntrex", languages=["en", "es", "de"]), here)
    options = {"variant": variant, "targets": [" the", "a"]}
    one, other = (read_store(store, lens, **options) for lens in (here, there))
    # Where logits are equal to rounding, tokens may change places.
    ranks = column(one, "target_ranks") - column(other, "target_ranks")
    assert abs(ranks).max() <= 1
    assert (ranks != 0).mean() < 0.01
    assert (
        np.mean([a == b for a, b in zip(one["top_ids"].to_pylist(), other["top_ids"].to_pylist(), strict=True)]) > 0.99
    )
    np.testing.assert_allclose(
        column(one, "target_log_probabilities"), column(other, "target_log_probabilities"), atol=1e-4
    )
    one, other = (
        lens_summary(store, lens, bootstrap=0, seed=seed, **options) for seed, lens in enumerate((here, there))
    )
    np.testing.assert_allclose(column(one, "value"), column(other, "value"), rtol=1e-4)
    one, other = (
        language_trends(store, lens, tokens, variant=variant, bootstrap=0, seed=seed)
        for seed, lens in enumerate((here, there))
    )
    np.testing.assert_allclose(column(one, "value"), column(other, "value"), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_texts_are_read_and_steered_on_the_gpu(folder, dtype, device):
    model = hubstore.load_model(folder, device=device, dtype=dtype, head=True)
    readings = read_texts(model, ["Sharks bite.", "A longer line about sharks."], k=3)
    assert readings["agrees"].to_pylist()[-1]
    vector = torch.randn(model.width, generator=torch.Generator().manual_seed(0))
    prompts = ["Sharks bite divers", "No", "No", "No"]
    steered = [Intervention(vector, layers=[2], strength=[0.0, 0.0, 3.0, -3.0], when="every step")]
    plain, moved = (generate(model, prompts, given, decoding=Decoding(8)) for given in ([], steered))
    assert [one.token_ids for one in plain[:2]] == [one.token_ids for one in moved[:2]]
    if dtype == "float32":
        cpu = hubstore.load_model(folder, device="cpu", head=True)
        assert [one.token_ids for one in generate(cpu, prompts, steered, decoding=Decoding(8))] == [
            one.token_ids for one in moved
        ]
        wanted = read_texts(cpu, ["Sharks bite.", "A longer line about sharks."], k=3)
        assert readings["top_ids"] == wanted["top_ids"]
