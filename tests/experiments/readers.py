"""A tiny random language model whose tokenizer knows the words that experiments look up, and plain oracles."""

from __future__ import annotations

from functools import cache
from itertools import islice

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hubstore.experiments.materials.arithmetic import DIGITS, number_word
from hubstore.experiments.materials.logical_forms import meanings
from hubstore.experiments.materials.programs import programs
from hubstore.models import Model, wrap_model
from tests.tiny_models import SAMPLE

VOCABULARY = 2500


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [*(number_word(n) for n in (0, *DIGITS)), "and", "or", "not", "agent", "theme", "recipient", "cat", "dog"]
    lines = [f"say {word}" for word in words for _ in range(200)]
    lines += [one.sentence for one in islice(meanings(), 2000)]
    lines += [one.code for one in islice(programs(), 100)]
    lines += ["猫，狗，经济，的，在，中国" * 50, *(SAMPLE / "zh-Hans.txt").read_text(encoding="utf-8").splitlines()]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer.to_str()


@cache
def reader(seed: int = 0) -> Model:
    """Three blocks of width 32, float32, with a head."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), eos_token="</s>", bos_token="<s>", pad_token="<pad>"
    )
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in whole.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        elif "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return wrap_model(whole.base_model, tokenizer, name="tiny-reader", language_model=whole)


def save_reader(folder):
    """The same as a folder that transformers loads."""
    model = reader()
    config = model.trunk.config
    whole = transformers.AutoModelForCausalLM.from_config(config)
    whole.model.load_state_dict(model.trunk.state_dict())
    whole.lm_head.weight.data = model.head.unembedding.clone()
    whole.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@torch.inference_mode()
def states(model: Model, text: str) -> np.ndarray:
    """float64 [layers, tokens, width] of one text alone, as the paper takes them: embeddings dropped, last normed."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    hidden = model.trunk(input_ids=ids, output_hidden_states=True).hidden_states[1:]
    return torch.stack([one[0] for one in hidden]).double().numpy()


def log_probabilities(model: Model, hidden: np.ndarray) -> np.ndarray:
    """float64 [..., vocabulary] of states [..., width], without a norm."""
    logits = torch.from_numpy(hidden) @ model.head.unembedding.double().T
    return torch.log_softmax(logits, -1).numpy()


def curve(result, quantity, layers):
    """The values of a quantity, [layers]."""
    cells = {(row["layer"], row["quantity"]): row["value"] for row in result.table.to_pylist()}
    return np.array([cells[layer, quantity] for layer in layers])
