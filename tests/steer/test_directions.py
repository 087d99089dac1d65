"""Directions are the differences that they say, keep what they were made from, and fit only their own model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubstore.corpus import read_sample
from hubstore.errors import LensError, ModelError, QueryError, SteeringError
from hubstore.extraction import Settings, extract
from hubstore.forward import make_batch, tokenize
from hubstore.steer import (
    Direction,
    difference_of_partitions,
    difference_of_texts,
    difference_of_tokens,
    load_direction,
)
from hubstore.store import StoreReader
from tests.tiny_models import FAMILIES, tiny_language_model, tiny_model

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]


def last_state(model, text, layer):
    ids = tokenize(model, [text], 128)[0]
    kept = []
    if layer == 0:
        handle = model.blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    else:
        handle = model.blocks[layer - 1].register_forward_hook(
            lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.inference_mode():
        model.trunk(**make_batch(model, ids).inputs)
    handle.remove()
    return kept[0][0, -1]


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_difference_of_texts_is_that_of_their_last_tokens_states(family, layer):
    model = tiny_language_model(family)
    found = difference_of_texts(model, "A good day.", "Bad", layer)
    wanted = last_state(model, "A good day.", layer) - last_state(model, "Bad", layer)
    torch.testing.assert_close(found.vector, wanted, rtol=1e-4, atol=1e-5)
    assert found.vector.dtype == torch.float32
    assert found.provenance["model"]["weights"] == model.identity["weights"]
    assert (found.provenance["to"], found.provenance["away"], found.provenance["layer"]) == (
        ["A good day."],
        ["Bad"],
        layer,
    )


def test_a_difference_of_sets_is_that_of_their_means():
    model = tiny_language_model("llama")
    to, away = ["Good", "A very fine day", "Yes"], ["Bad", "No"]
    found = difference_of_texts(model, to, away, 2)
    means = [torch.stack([last_state(model, text, 2) for text in texts]).mean(0) for texts in (to, away)]
    torch.testing.assert_close(found.vector, means[0] - means[1], rtol=1e-4, atol=1e-5)


def test_making_a_direction_leaves_the_model_whole():
    model = tiny_language_model("llama")
    difference_of_texts(model, "Good", "Bad", 1)
    assert len(model.blocks) == 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.trunk.modules())


def test_a_difference_of_tokens_is_that_of_their_unembeddings():
    model = tiny_language_model("llama")
    found = difference_of_tokens(model, "a", "b")
    a, b = (model.tokenizer.convert_tokens_to_ids(token) for token in "ab")
    unembedding = model.require_head().unembedding
    torch.testing.assert_close(found.vector, unembedding[a] - unembedding[b])
    assert found.provenance["tokens"] == [a, b]
    with pytest.raises(LensError, match="'zqzq' is not one token but 4: 'z' \\+ 'q' \\+ 'z' \\+ 'q'"):
        difference_of_tokens(model, "zqzq", "b")
    with pytest.raises(ModelError, match="head=True"):
        difference_of_tokens(tiny_model("llama"), "a", "b")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "x.hub"
    settings = Settings(poolings=("mean", "tokens"), layers=("all", "final"), dtype="float32")
    extract(read_sample("ntrex", languages=["en", "es"], limit=20), tiny_language_model("llama"), path, settings)
    return StoreReader(path)


def test_a_difference_of_partitions_is_that_of_their_means(store):
    found = difference_of_partitions(store, "es", "en", 2)
    means = [store.hidden(2, "mean").take(store.partition(p).positions()).mean(0) for p in ("es", "en")]
    torch.testing.assert_close(found.vector, means[0] - means[1], rtol=1e-4, atol=1e-6)
    assert found.provenance["commits"] == store.digest
    found.check(tiny_language_model("llama"))
    with pytest.raises(SteeringError, match="whose weights are not those of tiny-llama"):
        found.check(tiny_language_model("llama", seed=1))
    with pytest.raises(QueryError, match="has no partition 'de'; it has en, es"):
        difference_of_partitions(store, "de", "en", 2)
    with pytest.raises(SteeringError, match="layer final"):
        difference_of_partitions(store, "es", "en", "final")
    with pytest.raises(SteeringError, match="pooling tokens"):
        difference_of_partitions(store, "es", "en", 2, "tokens")


def test_a_saved_direction_comes_back_with_its_record(tmp_path):
    model = tiny_language_model("llama")
    made = difference_of_texts(model, "Good", "Bad", 1)
    made.save(tmp_path / "good.safetensors")
    read = load_direction(tmp_path / "good.safetensors")
    assert read.vector.equal(made.vector)
    assert read.provenance == json.loads(json.dumps(made.provenance))
    assert list(load_file(tmp_path / "good.safetensors")) == ["direction"]
    assert [path.name for path in tmp_path.iterdir()] == ["good.safetensors"], "no partial file is left"


def test_files_that_are_no_direction_are_named(tmp_path):
    with pytest.raises(SteeringError, match="there is no file"):
        load_direction(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("hello")
    save_file({"direction": torch.ones(4)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(SteeringError, match=f"{name} holds no direction"):
            load_direction(tmp_path / name)
    with pytest.raises(SteeringError, match="could not be written"):
        Direction(torch.ones(4), {}).save(tmp_path / "no folder" / "x")


def test_a_direction_that_points_nowhere_is_refused():
    model = tiny_language_model("llama")
    with pytest.raises(SteeringError, match="points nowhere"):
        difference_of_texts(model, "Good", "Good", 1)
    with pytest.raises(SteeringError, match="points nowhere"):
        Direction(torch.tensor([1.0, torch.nan]), {})
    with pytest.raises(SteeringError, match=r"is \[width\]"):
        Direction(torch.ones(2, 3), {})
    with pytest.raises(SteeringError, match="each a text at least"):
        difference_of_texts(model, [], "Good", 1)
    with pytest.raises(SteeringError, match="has no layer 7 to steer; it has 0"):
        difference_of_texts(model, "Good", "Bad", 7)
