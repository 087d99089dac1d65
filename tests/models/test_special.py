"""Special tokens stand once where a tokenizer adds them, and texts are no longer than a model has positions for."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from hubstore.errors import ModelError
from hubstore.forward import Capture, make_batch, pack, tokenize
from hubstore.models import load_model, wrap_model
from tests.tiny_models import FAMILIES, VOCABULARY, save_tiny_model, tiny_model, tiny_tokenizer


def ids_of(model, *texts):
    return tokenize(model, texts, 64)[0]


@pytest.mark.parametrize("text", ["<s>hello", "<s><s>hello"])
def test_a_text_that_begins_with_the_bos_has_the_states_of_the_text_without_it(text):
    model = tiny_model("llama")
    assert ids_of(model, text) == ids_of(model, "hello")


def test_a_text_within_the_tokens_that_an_encoder_adds_has_them_once():
    model = tiny_model("bert")
    assert ids_of(model, "<s>hello</s>") == ids_of(model, "hello")
    inside = ids_of(model, "hello</s>hello")[0]
    assert inside.count(2) == 2, "what stands inside a text stays"


def test_a_text_of_nothing_but_the_bos_has_no_token():
    with pytest.raises(ModelError, match="makes no token"):
        ids_of(tiny_model("llama"), "<s>")


@pytest.mark.parametrize("padding", ["right", "left", "packed"])
def test_first_and_mean_pass_over_a_bos_that_only_some_texts_have(padding):
    """The tokenizer adds none, and a text or template holds it."""
    trunk = tiny_model("llama").trunk
    tokenizer = tiny_tokenizer("bare")
    tokenizer.bos_token = "<s>"
    model = wrap_model(trunk, tokenizer, name="tiny")
    token_ids = ids_of(model, "<s>hello there", "hello there")
    assert [ids[0] == 0 for ids in token_ids] == [True, False]
    batch = (
        pack(model, token_ids, 64).to(model.device) if padding == "packed" else make_batch(model, token_ids, padding)
    )
    states = Capture(model, ("2",), ("first", "mean", "tokens"), torch.float32).run(batch)
    tokens = states["tokens"][0].split([len(ids) for ids in token_ids])
    for item, skip in enumerate((1, 0)):
        torch.testing.assert_close(states["first"][0, item], tokens[item][skip])
        torch.testing.assert_close(states["mean"][0, item], tokens[item][skip:].mean(0))


def test_a_tokenizer_of_more_words_than_embeddings_is_refused_and_of_more_special_tokens_is_not():
    trunk = tiny_model("llama").trunk
    words, special = tiny_tokenizer("bos"), tiny_tokenizer("bos", pad=False)
    words.add_tokens(["Zebra"])
    with pytest.raises(ModelError, match=rf"beyond its {VOCABULARY} embeddings, such as 'Zebra' \({VOCABULARY}\)"):
        wrap_model(trunk, words, name="tiny")
    special.add_special_tokens({"pad_token": "[PAD]"})
    model = wrap_model(trunk, special, name="tiny")
    assert model.pad_id < VOCABULARY
    make_batch(model, ids_of(model, "a", "two words"))
    with pytest.raises(ModelError, match=r"holds the token '\[PAD\]'"):
        ids_of(model, "so [PAD] so")


@pytest.mark.parametrize(
    ("family", "limit"), [("xlm-roberta", 128), ("bert", 130), ("opt", 128), ("gpt2", 128), ("llama", 128)]
)
def test_a_text_is_cut_to_the_positions_that_the_model_has(family, limit):
    make_config, kind = FAMILIES[family]
    tokenizer = tiny_tokenizer(kind)
    tokenizer.model_max_length = int(1e30)  # none
    model = wrap_model(transformers.AutoModel.from_config(make_config()), tokenizer, name="tiny")
    assert model.max_tokens == limit
    ids, cut = tokenize(model, ["long " * 300], model.max_tokens)
    assert cut == [True]
    with torch.inference_mode():
        model.trunk(**make_batch(model, ids).inputs)


@pytest.mark.parametrize("written", [-1, 0, None, int(1e30)])
def test_a_limit_that_is_none_is_no_limit(tmp_path, written):
    folder = save_tiny_model("llama", tmp_path / "model")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": written}))
    model = load_model(str(folder), device="cpu")
    assert model.max_tokens == 128
    assert ids_of(model, "one text")


def test_a_model_without_input_embeddings_is_refused_by_name():
    class Without(transformers.LlamaModel):
        def get_input_embeddings(self):
            raise NotImplementedError

    trunk = Without(FAMILIES["llama"][0]())
    with pytest.raises(ModelError, match=r"tiny \(Without\) has no table of input embeddings"):
        wrap_model(trunk, tiny_tokenizer("bos"), name="tiny")
