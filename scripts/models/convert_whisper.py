"""Reads Whisper as CTranslate2 keeps it: `model.bin`, followed by its `tokenizer.json` and `config.json`.

`model.bin` is a header, the variables one after the other, and aliases of them, all little-endian; strings end with a
zero byte that their length counts. CTranslate2 joins the query, key and value matrices of a block, which are taken
apart again; the bias that it gives keys is zero, and Whisper has none.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizerFast,
)

VERSION, SPECIFICATION = 6, "WhisperSpec"
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
HEAD_WIDTH = 64  # of every Whisper
LONGEST = 448  # tokens that Whisper may write

Weights = dict[str, torch.Tensor]


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def value(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        return self.take(self.value("H"))[:-1].decode()

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError(f"the file ends at byte {len(self.data)}, within a field of {size} bytes at {self.at}")
        self.at += size
        return piece


@dataclass(frozen=True)
class _File:
    variables: Weights  # float32, but for what counts
    tokenizer: dict[str, Any]
    config: dict[str, Any]

    def layers(self, side: str) -> int:
        return len({m[1] for name in self.variables if (m := re.match(rf"{side}/layer_(\d+)/", name))})

    def heads(self, side: str) -> int:
        stated = self.variables.get(f"{side}/num_heads")
        return int(stated) if stated is not None else self.variables[f"{side}/layer_norm/gamma"].shape[0] // HEAD_WIDTH


def convert(path: Path) -> tuple[WhisperConfig, Weights, WhisperProcessor, GenerationConfig]:
    """The file's configuration, float32 state dict of a `WhisperForConditionalGeneration`, and what goes with it.

    Output embeddings are tied to the decoder's and not in the state dict.

    Raises:
        ValueError: the file is not a Whisper of CTranslate2, or ends early.
    """
    file = _parse(path.read_bytes())
    tokens = {token["content"]: token["id"] for token in file.tokenizer["added_tokens"]}
    end = tokens["<|endoftext|>"]
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    special["decoder_start_token_id"] = tokens["<|startoftranscript|>"]
    extractor = WhisperFeatureExtractor(feature_size=file.variables["encoder/conv1/weight"].shape[1])
    processor = WhisperProcessor(extractor, _tokenizer(file))
    return _config(file, special), _weights(file), processor, _generation(file, tokens, special)


def _parse(data: bytes) -> _File:
    cursor = _Cursor(data)
    if cursor.value("I") != VERSION or cursor.text() != SPECIFICATION:
        raise ValueError(f"not a {SPECIFICATION} file of version {VERSION}")
    cursor.value("I")  # the specification's revision
    variables = {}
    for _ in range(cursor.value("I")):
        name = cursor.text()
        shape = [cursor.value("I") for _ in range(cursor.value("B"))]
        dtype = np.dtype(DTYPES[cursor.value("B")])
        values = np.frombuffer(cursor.take(cursor.value("I")), dtype).reshape(shape)
        variables[name] = torch.from_numpy(values.astype(np.float32 if dtype.kind == "f" else np.int64))
    for _ in range(cursor.value("I")):
        alias = cursor.text()
        variables[alias] = variables[cursor.text()]
    tokenizer, end = json.JSONDecoder().raw_decode(rest := data[cursor.at :].decode())
    return _File(variables, tokenizer, json.loads(rest[end:]))


def _config(file: _File, special: dict[str, int]) -> WhisperConfig:
    variables = file.variables
    words, width = variables["decoder/embeddings/weight"].shape
    return WhisperConfig(
        vocab_size=words,
        d_model=width,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        encoder_layers=file.layers("encoder"),
        decoder_layers=file.layers("decoder"),
        encoder_attention_heads=file.heads("encoder"),
        decoder_attention_heads=file.heads("decoder"),
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
        **special,
    )


def _weights(file: _File) -> Weights:
    weights = {"model.decoder.embed_tokens.weight": file.variables["decoder/embeddings/weight"]}
    for convolution in ("conv1", "conv2"):
        weights |= _linear(file, f"model.encoder.{convolution}", f"encoder/{convolution}")
    for side in ("encoder", "decoder"):
        positions = file.variables[f"{side}/position_encodings/encodings"]
        weights[f"model.{side}.embed_positions.weight"] = positions
        weights |= _norm(file, f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(file.layers(side)):
            weights |= _block(file, f"model.{side}.layers.{layer}", f"{side}/layer_{layer}", decoder=side == "decoder")
    return {name: weight.clone() for name, weight in weights.items()}


def _block(file: _File, to: str, block: str, *, decoder: bool) -> Weights:
    weights = (
        _parts(file, f"{to}.self_attn", f"{block}/self_attention/linear_0", "qkv")
        | _linear(file, f"{to}.self_attn.out_proj", f"{block}/self_attention/linear_1")
        | _norm(file, f"{to}.self_attn_layer_norm", f"{block}/self_attention/layer_norm")
        | _linear(file, f"{to}.fc1", f"{block}/ffn/linear_0")
        | _linear(file, f"{to}.fc2", f"{block}/ffn/linear_1")
        | _norm(file, f"{to}.final_layer_norm", f"{block}/ffn/layer_norm")
    )
    if decoder:
        weights |= (
            _parts(file, f"{to}.encoder_attn", f"{block}/attention/linear_0", "q")
            | _parts(file, f"{to}.encoder_attn", f"{block}/attention/linear_1", "kv")
            | _linear(file, f"{to}.encoder_attn.out_proj", f"{block}/attention/linear_2")
            | _norm(file, f"{to}.encoder_attn_layer_norm", f"{block}/attention/layer_norm")
        )
    return weights


def _linear(file: _File, to: str, module: str) -> Weights:
    return {f"{to}.{kind}": file.variables[f"{module}/{kind}"] for kind in ("weight", "bias")}


def _norm(file: _File, to: str, module: str) -> Weights:
    return {
        f"{to}.weight": file.variables[f"{module}/gamma"],
        f"{to}.bias": file.variables[f"{module}/beta"],
    }


def _parts(file: _File, to: str, module: str, kinds: str) -> Weights:
    """The matrices of `kinds` ("q", "k", "v") that one module joins."""
    weights = {}
    joined = (file.variables[f"{module}/{kind}"].chunk(len(kinds)) for kind in ("weight", "bias"))
    for kind, weight, bias in zip(kinds, *joined, strict=True):
        weights[f"{to}.{kind}_proj.weight"] = weight
        if kind != "k":
            weights[f"{to}.{kind}_proj.bias"] = bias
        elif bias.any():
            raise ValueError(f"the keys of {module} have a bias, and Whisper's have none")
    return weights


def _tokenizer(file: _File) -> WhisperTokenizerFast:
    model = file.tokenizer["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    tokenizer = WhisperTokenizerFast(vocab=model["vocab"], merges=merges, model_max_length=LONGEST)
    added = sorted(file.tokenizer["added_tokens"], key=lambda token: token["id"])
    tokenizer.add_tokens([_added_token(token) for token in added])
    tokenizer.set_prefix_tokens()  # again, now that they are there
    if (
        wrong := next((t for t in added if tokenizer.convert_tokens_to_ids(t["content"]) != t["id"]), None)
    ) is not None:
        raise ValueError(f"token {wrong['content']} is not {wrong['id']}: there are gaps between the tokens' ids")
    return tokenizer


def _added_token(token: dict[str, Any]) -> AddedToken:
    return AddedToken(**{name: value for name, value in token.items() if name != "id"})


def _generation(file: _File, tokens: dict[str, int], special: dict[str, int]) -> GenerationConfig:
    languages = set(file.config["lang_ids"])
    return GenerationConfig(
        **special,
        is_multilingual=True,
        lang_to_id={token: i for token, i in tokens.items() if i in languages},
        task_to_id={task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=tokens["<|notimestamps|>"],
        prev_sot_token_id=tokens["<|startofprev|>"],
        suppress_tokens=file.config["suppress_ids"],
        begin_suppress_tokens=file.config["suppress_ids_begin"],
        alignment_heads=file.config["alignment_heads"],
        return_timestamps=False,
        max_length=LONGEST,
    )
