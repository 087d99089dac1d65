"""The head found in a model computes what the model's own head does, and loading says where there is none."""

import dataclasses

import pytest
import torch
import transformers

from hubstore.errors import ModelError
from hubstore.models import FinalNorm, load_model, wrap_model
from tests.tiny_models import FAMILIES, save_tiny_language_model, save_tiny_model, tiny_tokenizer

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]


@pytest.mark.parametrize("family", CAUSAL)
def test_final_norm_and_unembedding_give_the_models_own_logits(family, tmp_path):
    folder = save_tiny_language_model(family, tmp_path)
    model = load_model(str(folder), device="cpu", head=True)
    own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([model.tokenizer("Sharks bite, they say.")["input_ids"]])
    kept = []
    handle = own.base_model.get_submodule(_path_of(own.base_model, model)).register_forward_hook(
        lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.inference_mode():
        wanted = own(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    handle.remove()
    head = model.require_head()
    torch.testing.assert_close(head.logits(head.norm(kept[0][0])), wanted, rtol=1e-5, atol=1e-5)


def _path_of(trunk, model):
    """Name of the last block."""
    blocks = next(name for name, module in model.trunk.named_modules() if module is model.blocks)
    return f"{blocks}.{len(model.blocks) - 1}"


def test_a_trunks_digest_is_the_same_with_its_head(tmp_path):
    folder = save_tiny_language_model("llama", tmp_path)
    assert (
        load_model(str(folder), device="cpu", head=True).identity["weights"]
        == (load_model(str(folder), device="cpu").identity["weights"])
    )


def test_scale_and_softcap_are_part_of_the_head():
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.05,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    model = wrap_model(whole.base_model, tiny_tokenizer("bos"), name="tiny-gemma2", language_model=whole)
    assert model.require_head().softcap == 0.05
    config = transformers.GraniteConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    model = wrap_model(whole.base_model, tiny_tokenizer("bos"), name="tiny-granite", language_model=whole)
    assert model.require_head().scale == 1 / 8


def test_an_encoder_has_no_head_to_load(tmp_path):
    with pytest.raises(ModelError, match=r"saved without its head: cls\.predictions.* need a causal language model"):
        load_model(str(save_tiny_model("bert", tmp_path)), device="cpu", head=True)


def test_a_model_loaded_without_its_head_says_how_to_have_it(tmp_path):
    model = load_model(str(save_tiny_language_model("llama", tmp_path)), device="cpu")
    with pytest.raises(ModelError, match="head=True"):
        model.require_head()


def test_a_head_that_does_something_else_is_refused():
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"][0]())
    whole.lm_head.forward = lambda hidden: (
        hidden @ whole.lm_head.weight.T + hidden.sum(-1, keepdim=True) ** 3 * (torch.arange(400) % 2)
    )
    with pytest.raises(ModelError, match="does something that hubstore does not know"):
        wrap_model(whole.base_model, tiny_tokenizer("bos"), name="odd", language_model=whole)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_final_norm_is_torchs(kind):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16), torch.rand(16) + 0.5
    own = torch.nn.RMSNorm(16, eps=1e-3) if kind == "rms" else torch.nn.LayerNorm(16, eps=1e-3)
    own.weight.data.copy_(weight)
    norm = FinalNorm(kind, 1e-3, weight)
    torch.testing.assert_close(norm(x), own(x))
    torch.testing.assert_close(norm(x.double()), own.double()(x.double()))
    assert dataclasses.replace(norm, kind="none")(x).equal(x)
