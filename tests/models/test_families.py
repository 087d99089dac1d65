"""Every family gives the same states batched as single, in both padding directions, and the model's own."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

from hubstore.errors import ModelError, SelfCheckError
from hubstore.extraction import self_check
from hubstore.forward import Capture, make_batch, tokenize
from hubstore.models import find_blocks, load_model, wrap_model
from tests.tiny_models import FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer

TEXTS = [
    "Hello.",
    "A sentence that is a good deal longer than the first one, so that padding matters.",
    "Una frase en español.",
    "中文句子",
    "The quick brown fox jumps over the lazy dog.",
]
ENCODERS = {"bert", "xlm-roberta", "modernbert"}


def layers_of(model):
    return model.layer_names()


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_states_equal_single_states(family, padding):
    model = tiny_model(family)
    token_ids, cut = tokenize(model, TEXTS, model.max_tokens)
    assert not any(cut)
    check = self_check(Capture(model, layers_of(model), ("mean",), torch.float32), token_ids, padding)
    assert check.deviation < 1e-4
    assert check.items == len(TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_kind_is_found_from_the_model(family):
    assert tiny_model(family).kind == ("encoder" if family in ENCODERS else "causal")


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_a_forward_ends_at_the_deepest_layer_wanted_and_the_model_stays_whole(family):
    model = tiny_model(family)
    batch = make_batch(model, tokenize(model, TEXTS, 128)[0])
    expected = Capture(model, ("1", "2", "3"), ("last",), torch.float32).run(batch)["last"][:2]
    run = []
    handles = [block.register_forward_hook(lambda module, *_: run.append(module)) for block in model.blocks]
    states = Capture(model, ("1", "2"), ("last",), torch.float32).run(batch)["last"]
    assert run == list(model.blocks)[:2]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(states, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.trunk.modules())
    assert len(model.blocks) == len(find_blocks(model.trunk)) == model.depth


@pytest.mark.parametrize("family", ["llama", "xlm-roberta", "gpt2"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_poolings_equal_a_loop_over_unpadded_items(family, padding):
    model = tiny_model(family)
    token_ids = tokenize(model, TEXTS, 128)[0]
    batch = make_batch(model, token_ids, padding, explicit_positions=family == "gpt2")
    states = Capture(model, ("0", "2"), ("last", "mean", "first", "tokens"), torch.float32).run(batch)
    skip = 1 if family == "llama" else 0  # a causal model's BOS has the same state in every item
    tokens = []
    for item, ids in enumerate(token_ids):
        with torch.inference_mode():
            own = model.trunk(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        hidden = torch.stack([own[0][0], own[2][0]])
        for pooling, expected in (
            ("last", hidden[:, -1]),
            ("first", hidden[:, skip]),
            ("mean", hidden[:, skip:].mean(1)),
        ):
            ours = states[pooling][:, item]
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        tokens.append(hidden[0])
    torch.testing.assert_close(states["tokens"][0], torch.cat(tokens), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_pad_token_is_padded_all_the_same():
    model = tiny_model("gpt2", pad=False)
    assert model.tokenizer.pad_token_id is None
    check = self_check(Capture(model, ("3",), ("last",), torch.float32), tokenize(model, TEXTS, 128)[0], "right")
    assert check.deviation < 1e-4


def test_left_padding_needs_explicit_positions_only_where_positions_are_absolute():
    for family, expected in (("gpt2", True), ("bert", True), ("xlm-roberta", False)):
        model = tiny_model(family)
        check = self_check(Capture(model, ("3",), ("last",), torch.float32), tokenize(model, TEXTS, 128)[0], "left")
        assert check.explicit_positions is expected, family


class _IgnoresPositions(transformers.GPT2Model):
    """Positions broken on purpose: counted from the batch's left edge, whatever it is told."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)


class _IgnoresMask(transformers.BertModel):
    """A mask broken on purpose: padding is attended to."""

    def forward(self, input_ids=None, attention_mask=None, **options):
        return super().forward(input_ids=input_ids, **options)


@pytest.mark.parametrize(
    ("broken", "family", "padding"), [(_IgnoresPositions, "gpt2", "left"), (_IgnoresMask, "bert", "right")]
)
def test_a_family_whose_positions_or_mask_are_broken_goes_in_batches_of_one_length(broken, family, padding):
    make_config, kind = FAMILIES[family]
    torch.manual_seed(0)
    trunk = broken(make_config())
    torch.nn.init.normal_(
        trunk.get_parameter("wpe.weight" if family == "gpt2" else "embeddings.position_embeddings.weight")
    )
    model = wrap_model(trunk, tiny_tokenizer(kind), name="broken")
    capture = Capture(model, ("1", "2", "3"), ("mean",), torch.float32)
    check = self_check(capture, tokenize(model, TEXTS, 128)[0], padding)
    assert (check.batching, check.deviation < 1e-4) == ("same_shape", True)
    assert re.search(r"padded states differ, most at layer \d: .*: only items of one length share", check.refused)


class _DropsLateTokens(transformers.LlamaModel):
    """As a mixture of experts with room for 40 tokens of a batch: those beyond get no block."""

    def forward(self, input_ids=None, attention_mask=None, **options):
        inputs = self.embed_tokens(input_ids)
        late = torch.arange(inputs.shape[0] * inputs.shape[1]).view(inputs.shape[:2]) >= 40
        return super().forward(
            inputs_embeds=inputs.masked_fill(late[..., None], 0), attention_mask=attention_mask, **options
        )


def test_a_model_whose_items_compete_for_room_is_run_an_item_at_a_time():
    torch.manual_seed(0)
    model = wrap_model(_DropsLateTokens(FAMILIES["llama"][0]()), tiny_tokenizer("bos"), name="near_parallel")
    capture = Capture(model, ("1", "3"), ("mean",), torch.float32)
    check = self_check(capture, [ids[:30] for ids in tokenize(model, TEXTS, 128)[0]], "right")
    assert (check.batching, check.deviation) == ("single", 0)
    assert "every item is a batch, which is much slower" in check.refused


class _NeverTheSame(transformers.LlamaModel):
    """Other states at every forward."""

    def forward(self, input_ids=None, **options):
        inputs = self.embed_tokens(input_ids)
        return super().forward(inputs_embeds=inputs + torch.randn_like(inputs), **options)


def test_a_model_with_other_states_at_every_run_is_refused():
    model = wrap_model(_NeverTheSame(FAMILIES["llama"][0]()), tiny_tokenizer("bos"), name="noisy")
    with pytest.raises(SelfCheckError, match=r"noisy: .*hidden states|noisy: text items have other states each time"):
        self_check(Capture(model, ("1",), ("mean",), torch.float32), tokenize(model, TEXTS, 128)[0], "right")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_passes_within_its_tolerance_and_position_errors_do_not(dtype):
    model = tiny_model("gpt2", dtype=dtype)
    token_ids = tokenize(model, TEXTS, 128)[0]
    check = self_check(Capture(model, ("1", "2", "3"), ("mean",), dtype), token_ids, "left")
    assert check.deviation < check.tolerance
    assert check.explicit_positions


def test_a_folder_loads_with_the_same_digests_and_a_wrong_one_is_a_clear_error(tmp_path):
    folder = save_tiny_model("llama", tmp_path / "model")
    model = load_model(str(folder), device="cpu")
    assert model.identity["weights"] == tiny_model("llama").identity["weights"]
    assert model.identity["weights"] != tiny_model("llama", seed=1).identity["weights"]
    assert model.identity["id"] == "model"
    with pytest.raises(ModelError, match="could not be loaded as a model"):
        load_model(str(tmp_path / "nothing-here"), device="cpu")


def test_an_encoder_decoder_is_refused(tmp_path):
    transformers.T5Config(d_model=8, num_layers=1, num_heads=1, d_ff=8).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_model(str(tmp_path), device="cpu")


def test_long_texts_are_cut_and_reported():
    model = tiny_model("bert")
    ids, cut = tokenize(model, ["short", "long " * 200], 32)
    assert cut == [False, True]
    assert len(ids[1]) == 32
    assert ids[1][-1] == 2, "the closing special token stays"
