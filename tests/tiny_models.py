"""Tiny random models of the families that hubstore reads, with a real tokenizer trained on the shipped sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hubstore.models import Model, wrap_model

VOCABULARY = 400
SAMPLE = Path(__file__).parents[1] / "hubstore/corpus/samples/ntrex"


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]  # ids 0, 1, 2, as XLM-R has them
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [line for name in ("en", "es") for line in (SAMPLE / f"{name}.txt").read_text().splitlines()[:100]]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(kind: str, pad: bool = True) -> Any:
    """`kind` is "encoder" (<s> text </s>), "bos" (<s> text) or "bare" (text)."""
    tokenizer = Tokenizer.from_str(_trained())
    templates = {"encoder": "<s> $A </s>", "bos": "<s> $A"}
    if kind in templates:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=templates[kind], special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    options = {"pad_token": "<pad>"} if pad else {}
    if kind != "bare":
        options["bos_token"] = "<s>"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", model_max_length=128, **options
    )


def _config(class_name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, class_name)(vocab_size=VOCABULARY, **options)


_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
}

FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (_config("BertConfig", **_BERT, pad_token_id=1), "encoder"),
    "xlm-roberta": (_config("XLMRobertaConfig", **_BERT, pad_token_id=1), "encoder"),
    "modernbert": (
        _config("ModernBertConfig", **{**_BERT, "local_attention": 8}, pad_token_id=1, attn_implementation="sdpa"),
        "encoder",
    ),
    "llama": (_config("LlamaConfig", **_LLAMA), "bos"),
    "mistral": (_config("MistralConfig", **_LLAMA, sliding_window=8), "bos"),
    "gemma3": (_config("Gemma3TextConfig", **_LLAMA, head_dim=8, sliding_window=8, layer_types=None), "bos"),
    "qwen2": (_config("Qwen2Config", **_LLAMA), "bare"),
    "qwen3": (_config("Qwen3Config", **_LLAMA, head_dim=8), "bare"),
    "gpt2": (
        _config("GPT2Config", n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=2),
        "bare",
    ),
    "gpt-neox": (
        _config("GPTNeoXConfig", **{k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}),
        "bare",
    ),
    "phi": (_config("PhiConfig", **_LLAMA), "bare"),
    "opt": (
        _config(
            "OPTConfig",
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            pad_token_id=1,
        ),
        "bos",
    ),
    "bloom": (_config("BloomConfig", hidden_size=32, n_layer=3, n_head=4), "bare"),
    "falcon": (
        _config("FalconConfig", hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=False),
        "bare",
    ),
}


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, pad: bool = True) -> Model:
    """A random model of `family`, three blocks of width 32, the same for the same seed."""
    make_config, kind = FAMILIES[family]
    torch.manual_seed(seed)
    trunk = transformers.AutoModel.from_config(make_config()).to(dtype)
    # Random position embeddings are tiny; states must depend on positions for a position error to show.
    for name, parameter in trunk.named_parameters():
        if "position" in name or "wpe" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    return wrap_model(trunk, tiny_tokenizer(kind, pad), name=f"tiny-{family}")


def save_tiny_model(family: str, folder: Path, *, seed: int = 0) -> Path:
    """The same model as a folder that `transformers` loads."""
    model = tiny_model(family, seed=seed)
    model.trunk.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def tiny_language_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Model:
    """`tiny_model` with a head, and with weights large enough for its logits to differ."""
    make_config, kind = FAMILIES[family]
    torch.manual_seed(seed)
    whole = transformers.AutoModelForCausalLM.from_config(make_config()).to(dtype)
    for name, parameter in whole.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 if "position" in name or "wpe" in name else 0.2)
        elif "norm" in name or "ln_" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "weight" in name else 0.0, std=0.2)
    return wrap_model(whole.base_model, tiny_tokenizer(kind), name=f"tiny-{family}", language_model=whole)


def save_tiny_language_model(family: str, folder: Path, *, seed: int = 0, depth: int = 3) -> Path:
    """The same model as a folder that `transformers` loads, head and all."""
    make_config, kind = FAMILIES[family]
    torch.manual_seed(seed)
    config = make_config()
    config.num_hidden_layers = depth
    whole = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in whole.named_parameters():
        if "norm" in name or "ln_" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "weight" in name else 0.0, std=0.2)
    whole.save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder
