"""Converting: what a published format changed is undone, against models that transformers itself made."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from fetch_models import _check_shapes
from models import convert_e5, convert_gguf, convert_whisper
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    WhisperForConditionalGeneration,
)

from . import tiny_whisper
from .tiny_e5 import tiny_file, tiny_tensors

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
PIECES = {"▁": -4.0, "a": -5.0, "b": -6.0, "▁a": -1.0, "ab": -2.0, "▁ab": -3.0, "é": -7.0}


def gemma3() -> PreTrainedModel:
    rope = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
    config = Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=7,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=8,
        rms_norm_eps=1e-6,
        rope_parameters={k: {"rope_type": "default", "rope_theta": theta} for k, theta in rope.items()},
    )
    return randomised(Gemma3ForCausalLM(config))


def llama() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 100_000.0}
    config = LlamaConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=rope)
    return randomised(LlamaForCausalLM(config))


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Norms too, which transformers starts at a constant that would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return model.eval()


def write_gguf(path: Path, model: PreTrainedModel) -> None:
    """The model as llama.cpp's converter writes it, unquantized."""
    config = model.config
    name = {"gemma3_text": "gemma3", "llama": "llama"}[config.model_type]
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if name == "gemma3":
        writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
        add_sentencepiece(writer)
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        add_byte_level(writer)
    for key, value in ggml_tensors(model, name).items():
        writer.add_tensor(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ggml_tensors(model: PreTrainedModel, name: str) -> dict[str, np.ndarray]:
    modules = {"gemma3": convert_gguf.GEMMA3_MODULES, "llama": convert_gguf.LLAMA_MODULES}[name]
    short = {module: key for key, module in modules.items()}
    config = model.config
    tensors = {}
    for key, tensor in model.model.state_dict().items():
        value = tensor.numpy()
        if name == "gemma3" and key.endswith("norm.weight"):
            value = value + 1
        for module, heads in {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.items():
            if name == "llama" and f".{module}." in key:
                halves = value.reshape(heads, 2, -1, value.shape[1])
                value = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(value.shape)
        if key.startswith("layers."):
            _, layer, rest = key.split(".", 2)
            tensors[f"blk.{layer}.{short[rest.removesuffix('.weight')]}.weight"] = value
        else:
            tensors[{"embed_tokens": "token_embd", "norm": "output_norm"}[key.split(".")[0]] + ".weight"] = value
    return tensors


def add_sentencepiece(writer: gguf.GGUFWriter) -> None:
    types = gguf.TokenType
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "  ", *PIECES]
    kinds = [types.CONTROL] * 4 + [types.BYTE] * 256 + [types.USER_DEFINED] + [types.NORMAL] * len(PIECES)
    scores = [-1000.0] * 261 + list(PIECES.values())
    spare = SIZES["vocab_size"] - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens + [f"<unused{i}>" for i in range(spare)])
    writer.add_token_types([*kinds, *[types.CONTROL] * spare])
    writer.add_token_scores(scores + [-1000.0] * spare)
    add_special(writer, add_bos=True)


def add_byte_level(writer: gguf.GGUFWriter) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted(ByteLevel.alphabet()), "ab", "Ġab"]
    spare = SIZES["vocab_size"] - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens + [f"<unused{i}>" for i in range(spare)])
    writer.add_token_types([3] * 4 + [1] * (len(tokens) - 4) + [3] * spare)
    writer.add_token_merges(["a b", "Ġ ab"])
    add_special(writer, add_bos=False)


def add_special(writer: gguf.GGUFWriter, *, add_bos: bool) -> None:
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(add_bos)


@pytest.mark.parametrize("make", [gemma3, llama])
def test_gguf_gives_back_the_configuration_and_the_weights(make, tmp_path: Path):
    model = make()
    write_gguf(tmp_path / "model.gguf", model)
    config, weights, _ = convert_gguf.convert(tmp_path / "model.gguf")
    again = type(model)(config).eval()
    missing, unexpected = again.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert unexpected == []
    for key in SIZES | dict.fromkeys(["num_hidden_layers", "rms_norm_eps", "head_dim", "rope_parameters"]):
        assert getattr(config, key) == getattr(model.config, key), key
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_gemma_has_a_global_layer_after_every_five_local_ones(tmp_path: Path):
    write_gguf(tmp_path / "model.gguf", gemma3())
    config, _, _ = convert_gguf.convert(tmp_path / "model.gguf")
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]


def test_sentencepiece_tokenizer_merges_by_score_and_falls_back_to_bytes(tmp_path: Path):
    write_gguf(tmp_path / "model.gguf", gemma3())
    _, _, tokenizer = convert_gguf.convert(tmp_path / "model.gguf")
    # "▁a" has the best score and forms first; "▁ab" is then its merge with "b". Runs of spaces are taken whole.
    assert tokenizer.tokenize(" ab") == ["▁ab"]
    assert tokenizer.tokenize("ab a") == ["ab", "▁a"]
    assert tokenizer.tokenize("a  b") == ["a", "  ", "b"]
    assert tokenizer.tokenize("éñ") == ["é", "<0xC3>", "<0xB1>"]
    for text in (" ab", "a  b", "ñ\n\t€", "b"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("<bos>", add_special_tokens=False)["input_ids"] == [2]


def test_byte_level_tokenizer_splits_digits_and_adds_no_bos(tmp_path: Path):
    write_gguf(tmp_path / "model.gguf", llama())
    _, _, tokenizer = convert_gguf.convert(tmp_path / "model.gguf")
    assert tokenizer.tokenize("ab ab 12") == ["ab", "Ġab", "Ġ", "1", "2"]
    assert tokenizer.decode(tokenizer("ñ ab  €\n")["input_ids"]) == "ñ ab  €\n"


def test_gguf_of_another_architecture_is_refused(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture 'mamba'; only gemma3, llama are known"):
        convert_gguf.convert(tmp_path / "model.gguf")


def test_e5_tokenizer_normalizes_as_sentencepiece_does(tmp_path: Path):
    (tmp_path / "e5").write_bytes(tiny_file(tiny_tensors()))
    _, _, tokenizer = convert_e5.convert(tmp_path / "e5")
    plain = tokenizer("ab é 1")["input_ids"]
    for text in (" ab  é 1 ", "ab\té\n1\u200b", "\ufeffab\u200eé\u3000\u2460", "a\x07b e\u0301 \uff11"):
        assert tokenizer(text)["input_ids"] == plain, ascii(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"GGUF" + d[4:], "not an E5S1 file of version 1"),
        (lambda d: d[:4] + b"\x02" + d[5:], "not an E5S1 file of version 1"),
        (lambda d: d[:-1], "before the end of tensor l0.oln.b"),
    ],
)
def test_damaged_e5_file_is_refused(tmp_path: Path, change, message: str):
    (tmp_path / "e5").write_bytes(change(tiny_file(tiny_tensors())))
    with pytest.raises(ValueError, match=message):
        convert_e5.convert(tmp_path / "e5")


def test_whisper_gives_back_the_model_that_was_written(tmp_path: Path):
    model = tiny_whisper.tiny_whisper()
    (tmp_path / "whisper").write_bytes(tiny_whisper.tiny_file(model))
    config, weights, _, _ = convert_whisper.convert(tmp_path / "whisper")
    _check_shapes("whisper", config, weights)
    again = WhisperForConditionalGeneration(config).eval()
    missing, unexpected = again.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], [])
    recording = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(20).reshape(2, 10)
    with torch.inference_mode():
        expected, got = (m(input_features=recording, decoder_input_ids=ids) for m in (model, again))
    torch.testing.assert_close(got.encoder_last_hidden_state, expected.encoder_last_hidden_state)
    torch.testing.assert_close(got.logits, expected.logits)


def test_whisper_comes_with_its_processor_and_settings_of_generation(tmp_path: Path):
    (tmp_path / "whisper").write_bytes(tiny_whisper.tiny_file(tiny_whisper.tiny_whisper()))
    _, _, processor, generation = convert_whisper.convert(tmp_path / "whisper")
    assert processor.tokenizer.tokenize("hello he") == ["hel", "l", "o", "Ġhe"]
    assert processor.tokenizer.decode(processor.tokenizer("hello ñ").input_ids, skip_special_tokens=True) == "hello ñ"
    assert processor.tokenizer("he").input_ids == [260, 266, 256, 259]  # start, no timestamps, the text, end
    assert processor.feature_extractor(np.zeros(16_000, np.float32), sampling_rate=16_000).input_features[0].shape == (
        80,
        3000,
    )
    assert generation.lang_to_id == {"<|en|>": 261, "<|es|>": 262}
    assert generation.task_to_id == {"transcribe": 264, "translate": 263}
    assert generation.begin_suppress_tokens == [220, 259]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: b"GGUF" + tiny_whisper.tiny_file(model), "not a WhisperSpec file of version 6"),
        (lambda model: tiny_whisper.tiny_file(model)[:50_000], "the file ends at byte 50000, within a field of"),
        (lambda model: tiny_whisper.tiny_file(model, key_bias=0.5), "linear_0 have a bias, and Whisper's have none"),
    ],
)
def test_whisper_file_that_is_none_is_refused(tmp_path: Path, change, message: str):
    (tmp_path / "whisper").write_bytes(change(tiny_whisper.tiny_whisper()))
    with pytest.raises(ValueError, match=message):
        convert_whisper.convert(tmp_path / "whisper")
