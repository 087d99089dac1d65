"""Writes a Whisper model as CTranslate2 keeps one, with its tokenizer and settings behind it."""

from __future__ import annotations

import json
import struct

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|es|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startofprev|>", "<|notimestamps|>"]
TIMES = ["<|0.00|>", "<|0.02|>"]
PIECES = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "hel", "Ġhe"]
MERGES = ["h e", "he l", "Ġ he"]
SETTINGS = {
    "lang_ids": [261, 262],
    "suppress_ids": [1, 2],
    "suppress_ids_begin": [220, 259],
    "alignment_heads": [[1, 0]],
}


def tiny_whisper() -> WhisperForConditionalGeneration:
    """Two blocks a side, of float16 values, so that a file of float16 can hold them."""
    end = len(PIECES)
    config = WhisperConfig(
        vocab_size=end + len(SPECIAL) + len(TIMES),
        d_model=64,
        num_mel_bins=80,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=96,
        decoder_ffn_dim=128,
        max_source_positions=1500,
        max_target_positions=32,
        decoder_start_token_id=end + 1,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
    )
    model = WhisperForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
        parameter.data = parameter.data.half().float()
    return model


def tiny_file(model: WhisperForConditionalGeneration, *, key_bias: float = 0.0) -> bytes:
    """The model's file; with `key_bias`, keys have a bias, which no Whisper's have."""
    variables = _variables({k: v.numpy() for k, v in model.state_dict().items()}, key_bias)
    heads = model.config.encoder_attention_heads
    variables |= {f"{side}/num_heads": np.array(heads, "<i2") for side in ("encoder", "decoder")}
    data = struct.pack("<I", 6) + _text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        stored = value.astype("<f2") if value.dtype.kind == "f" else value
        data += _text(name) + struct.pack(f"<B{stored.ndim}I", stored.ndim, *stored.shape)
        data += struct.pack("<BI", 4 if value.dtype.kind == "f" else 2, stored.nbytes) + stored.tobytes()
    data += struct.pack("<I", 1) + _text("decoder/projection/weight") + _text("decoder/embeddings/weight")
    return data + json.dumps(_tokenizer()).encode() + json.dumps(SETTINGS).encode()


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _variables(state: dict[str, np.ndarray], key_bias: float) -> dict[str, np.ndarray]:
    variables = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}
    simple = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm"}
    block = {
        "self_attn_layer_norm": "self_attention/layer_norm",
        "self_attn.out_proj": "self_attention/linear_1",
        "encoder_attn_layer_norm": "attention/layer_norm",
        "encoder_attn.q_proj": "attention/linear_0",
        "encoder_attn.out_proj": "attention/linear_2",
        "fc1": "ffn/linear_0",
        "fc2": "ffn/linear_1",
        "final_layer_norm": "ffn/layer_norm",
    }
    for key, value in state.items():
        if key == "proj_out.weight":  # tied
            continue
        _, side, *rest = key.split(".")
        module, kind = ".".join(rest[:-1]), rest[-1]
        if module == "embed_positions":
            variables[f"{side}/position_encodings/encodings"] = value
        elif module in simple:
            variables[f"{side}/{simple[module]}/{_kind(module, kind)}"] = value
        elif rest[0] == "layers" and (module := ".".join(rest[2:-1])) in block:
            variables[f"{side}/layer_{rest[1]}/{block[module]}/{_kind(module, kind)}"] = value
    for side, module, joined, kinds in (
        ("encoder", "self_attn", "self_attention/linear_0", "qkv"),
        ("decoder", "self_attn", "self_attention/linear_0", "qkv"),
        ("decoder", "encoder_attn", "attention/linear_1", "kv"),
    ):
        for layer in {k.split(".")[3] for k in state if k.startswith(f"model.{side}.layers.")}:
            for kind in ("weight", "bias"):
                parts = [state.get(f"model.{side}.layers.{layer}.{module}.{x}_proj.{kind}") for x in kinds]
                filled = [
                    np.full(len(state["model.encoder.layer_norm.bias"]), key_bias, "f4") if p is None else p
                    for p in parts
                ]
                variables[f"{side}/layer_{layer}/{joined}/{kind}"] = np.concatenate(filled)
    return variables


def _kind(module: str, kind: str) -> str:
    return {"weight": "gamma", "bias": "beta"}[kind] if module.endswith("norm") else kind


def _tokenizer() -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    added = [
        {
            "id": len(PIECES) + i,
            "content": content,
            **flags,
            "normalized": content in TIMES,
            "special": content in SPECIAL,
        }
        for i, content in enumerate([*SPECIAL, *TIMES])
    ]
    return {"added_tokens": added, "model": {"vocab": {p: i for i, p in enumerate(PIECES)}, "merges": MERGES}}
