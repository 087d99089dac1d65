"""Reads a GGUF file of a Gemma 3 or Llama model: its configuration, dequantized weights and tokenizer.

What GGUF changes is undone: Gemma's norm weights are kept there as 1 + w, and Llama's query and key rows with
the two halves of each head interleaved. What GGUF leaves out is added: Gemma 3's local rotary base and its
pattern of local and global layers, and what SmolLM's pre-tokenizer splits at.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # token types

MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_MODULES = MODULES | {"ffn_norm": "post_attention_layernorm"}
GEMMA3_MODULES = MODULES | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

Weights = dict[str, torch.Tensor]


def convert(path: Path) -> tuple[PreTrainedConfig, Weights, PreTrainedTokenizerFast]:
    """The file's configuration, float32 state dict of the causal language model, and tokenizer.

    Output embeddings are tied to the input's and not in the state dict.

    Raises:
        ValueError: the file is not GGUF, or of another architecture than Gemma 3 and Llama.
    """
    reader = GGUFReader(path)
    fields = _Fields(reader)
    architecture = fields["general.architecture"]
    readers: dict[str, Callable[[GGUFReader, _Fields], tuple[PreTrainedConfig, Weights]]]
    readers = {"gemma3": _gemma3, "llama": _llama}
    if architecture not in readers:
        raise ValueError(f"architecture {architecture!r}; only {', '.join(readers)} are known")
    config, weights = readers[architecture](reader, fields)
    return config, weights, _tokenizer(fields, config)


class _Fields:
    """The file's metadata by name, floats at the shortest decimal that is the same float32."""

    def __init__(self, reader: GGUFReader) -> None:
        self._fields = reader.fields

    def __getitem__(self, name: str) -> Any:
        if name not in self._fields:
            raise ValueError(f"the file has no field {name}")
        value = self._fields[name].contents()
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._fields else default


def _common(fields: _Fields, prefix: str) -> dict[str, Any]:
    return {
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields[f"{prefix}.embedding_length"],
        "intermediate_size": fields[f"{prefix}.feed_forward_length"],
        "num_hidden_layers": fields[f"{prefix}.block_count"],
        "num_attention_heads": fields[f"{prefix}.attention.head_count"],
        "num_key_value_heads": fields[f"{prefix}.attention.head_count_kv"],
        "max_position_embeddings": fields[f"{prefix}.context_length"],
        "rms_norm_eps": fields[f"{prefix}.attention.layer_norm_rms_epsilon"],
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _gemma3(reader: GGUFReader, fields: _Fields) -> tuple[PreTrainedConfig, Weights]:
    layers = fields["gemma3.block_count"]
    head_dim = fields["gemma3.attention.key_length"]
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": fields["gemma3.rope.freq_base"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    config = Gemma3TextConfig(
        **_common(fields, "gemma3"),
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        hidden_activation="gelu_pytorch_tanh",
        sliding_window=fields["gemma3.attention.sliding_window"],
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)],
        rope_parameters=rope,
        architectures=["Gemma3ForCausalLM"],
    )
    weights = _weights(reader, GEMMA3_MODULES)
    return config, {k: w - 1 if k.endswith("norm.weight") else w for k, w in weights.items()}


def _llama(reader: GGUFReader, fields: _Fields) -> tuple[PreTrainedConfig, Weights]:
    config = LlamaConfig(
        **_common(fields, "llama"),
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        architectures=["LlamaForCausalLM"],
    )
    weights = _weights(reader, LLAMA_MODULES)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in weights.items():
        if (module := name.split(".")[-2]) in heads:
            pairs = weight.view(heads[module], -1, 2, weight.shape[1])  # [heads, head width / 2, half, in]
            weights[name] = pairs.transpose(1, 2).reshape(weight.shape).contiguous()
    return config, weights


def _weights(reader: GGUFReader, modules: dict[str, str]) -> Weights:
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    weights = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("blk."):
            _, layer, short, kind = tensor.name.split(".")
            name = f"model.layers.{layer}.{modules[short]}.{kind}" if short in modules else None
        else:
            name = names.get(tensor.name)
        if name is None:
            raise ValueError(f"the file has a tensor {tensor.name} that the architecture does not")
        weights[name] = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
    return weights


def _tokenizer(fields: _Fields, config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    kind = fields["tokenizer.ggml.model"]
    if kind == "llama":
        tokenizer = _sentencepiece_bpe(tokens, fields["tokenizer.ggml.scores"], types)
    elif kind == "gpt2":
        tokenizer = _byte_level_bpe(tokens, fields["tokenizer.ggml.merges"], fields["tokenizer.ggml.pre"])
    else:
        raise ValueError(f"tokenizer {kind!r}; only llama and gpt2 are known")
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=True) if k == CONTROL]
    )
    # SentencePiece takes its user's symbols (runs of spaces, tags) whole, before any merge.
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED]
    )
    bos = tokens[config.bos_token_id]
    if fields["tokenizer.ggml.add_bos_token"]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, config.bos_token_id)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=tokens[config.eos_token_id],
        pad_token=tokens[config.pad_token_id],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        chat_template=fields.get("tokenizer.chat_template"),
        padding_side="left" if kind == "llama" else "right",  # as Gemma and SmolLM2 were published
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _sentencepiece_bpe(tokens: list[str], scores: list[float], types: list[int]) -> Tokenizer:
    """A SentencePiece BPE model with byte fallback: spaces are "▁", nothing is put before the text."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    mergeable = [i for i, kind in enumerate(types) if kind == NORMAL]
    ranked = []
    for i in mergeable:
        token = tokens[i]
        for cut in range(1, len(token)):
            if token[:cut] in vocabulary and token[cut:] in vocabulary:
                ranked.append((-scores[i], vocabulary[token[:cut]], vocabulary[token[cut:]]))
    merges = [(tokens[left], tokens[right]) for _, left, right in sorted(ranked)]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _byte_level_bpe(tokens: list[str], merges: list[str], splits: str) -> Tokenizer:
    """GPT-2's byte-level BPE, with each digit a word of its own as SmolLM has it."""
    if splits != "smollm":
        raise ValueError(f"pre-tokenizer {splits!r}; only smollm is known")
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
