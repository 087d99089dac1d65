"""Tiny random models of the families that read images or audio, with their real processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image

from hubstore.models import Model, wrap_model
from tests.tiny_models import VOCABULARY, tiny_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY + 40,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
AUDIO = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 16}


class Family(NamedTuple):
    """How to make one: a model without its head, and its processor."""

    modality: str
    make: Callable[[], tuple[Any, Any]]
    stack: str | None = None


def tokenizer(*tokens: str, kind: str = "bos", **named: str) -> Any:
    """The test tokenizer with tokens of its own for media; `named` become attributes, as some processors want."""
    made = tiny_tokenizer(kind)
    made.add_special_tokens({"additional_special_tokens": [*tokens, *named.values()]})
    if named:
        made = type(made)(
            tokenizer_object=made.backend_tokenizer,
            bos_token="<s>",
            pad_token="<pad>",
            eos_token="</s>",
            model_max_length=512,
            extra_special_tokens=named,
        )
    made.model_max_length = 512
    return made


def random_image(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """An image of random blocks of color."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def random_audio(seed: int, seconds: float = 0.5, rate: int = 16_000) -> Any:
    """float32 samples of a chord in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tones = np.sin(2 * np.pi * rng.uniform(100, 2000, (3, 1)) * time).sum(0)
    return (0.2 * tones + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def _clip_processor(size: int = 32) -> Any:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_center_crop=True
    )


def _llava() -> tuple[Any, Any]:
    words = tokenizer("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.Gemma3TextConfig(**GROUPED, head_dim=8),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = transformers.LlavaProcessor(
        _clip_processor(), words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return transformers.LlavaModel(config), processor


def _qwen2_vl(name: str) -> tuple[Any, Any]:
    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", kind="bare")
    ids = {
        f"{part}_token_id": words.convert_tokens_to_ids(token)
        for part, token in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    vision = {"depth": 2, "num_heads": 4, "patch_size": 8, "in_channels": 3}
    vision |= (
        {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
        if name == "Qwen2VL"
        else {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "fullatt_block_indexes": [1]}
    )
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = getattr(transformers, f"{name}Config")(
        text_config={**GROUPED, "rope_parameters": rotary},
        vision_config=vision,
        **ids,
    )
    image_processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    )
    processor = _without_video(getattr(transformers, f"{name}Processor"))(image_processor, words)
    return getattr(transformers, f"{name}Model")(config), processor


def _without_video(of: type) -> type:
    """A processor class that wants no video processor, which needs torchvision."""

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else of.check_argument_for_proper_class(self, name, part)

    return type(of.__name__, (of,), {"check_argument_for_proper_class": check})


def _gemma3() -> tuple[Any, Any]:
    words = tokenizer(image_token="<image_soft>", boi_token="<boi>", eoi_token="<eoi>")
    config = transformers.Gemma3Config(
        text_config={**GROUPED, "head_dim": 8},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_id=words.convert_tokens_to_ids("<image_soft>"),
        boi_token_index=words.convert_tokens_to_ids("<boi>"),
        eoi_token_index=words.convert_tokens_to_ids("<eoi>"),
    )
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    model = transformers.Gemma3Model(config)
    torch.nn.init.normal_(model.multi_modal_projector.mm_input_projection_weight)  # zeros, until it is trained
    return model, transformers.Gemma3Processor(images, words, image_seq_length=4)


def _idefics3() -> tuple[Any, Any]:
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>")
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**GROUPED),
        vision_config=VISION,
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=1,
    )
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    return transformers.Idefics3Model(config), transformers.Idefics3Processor(images, words, image_seq_len=4)


def _chameleon() -> tuple[Any, Any]:
    words = tokenizer("<image>", "<racm3:break>", "<eoss>")
    codes = {f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(i))}Z": 100 + i for i in range(32)}
    config = transformers.ChameleonConfig(
        **GROUPED,
        vq_config={
            "embed_dim": 16,
            "num_embeddings": 32,
            "latent_channels": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "resolution": 32,
        },
        vocabulary_map={"<image>": words.convert_tokens_to_ids("<image>"), **codes},
    )
    images = transformers.ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return transformers.ChameleonModel(config), transformers.ChameleonProcessor(images, words, image_seq_length=256)


def _qwen2_audio() -> tuple[Any, Any]:
    words = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", kind="bare")
    config = transformers.Qwen2AudioConfig(
        text_config=transformers.Qwen2Config(**GROUPED),
        audio_config={**AUDIO, "max_source_positions": 100},
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    ears = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return transformers.Qwen2AudioModel(config), transformers.Qwen2AudioProcessor(ears, words)


def _audio_flamingo() -> tuple[Any, Any]:
    words = tokenizer("<sound>")
    config = transformers.AudioFlamingo3Config(
        text_config=transformers.Qwen2Config(**GROUPED),
        audio_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "num_mel_bins": 16,
            "max_source_positions": 100,
        },
        audio_token_id=words.convert_tokens_to_ids("<sound>"),
    )
    ears = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return transformers.AudioFlamingo3Model(config), transformers.AudioFlamingo3Processor(ears, words)


def _clip() -> tuple[Any, Any]:
    text = {name: value for name, value in TEXT.items() if name != "vocab_size"} | {"vocab_size": VOCABULARY}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return transformers.CLIPModel(config), transformers.CLIPProcessor(_clip_processor(), tiny_tokenizer("encoder"))


def _siglip() -> tuple[Any, Any]:
    text = {**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "projection_size": 32}
    words = tiny_tokenizer("encoder")
    words.model_input_names = ["input_ids"]
    words.model_max_length = 64
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.SiglipModel(config), transformers.SiglipProcessor(images, words)


def _clap() -> tuple[Any, Any]:
    config = transformers.ClapConfig(
        text_config={**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 130},
        audio_config={
            "hidden_size": 32,
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "spec_size": 64,
            "num_mel_bins": 16,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "window_size": 4,
        },
        projection_dim=16,
    )
    ears = transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        hop_length=160,
        max_length_s=1,
        fft_window_size=512,
        frequency_max=8000,
        truncation="rand_trunc",
    )
    return transformers.ClapModel(config), transformers.ClapProcessor(ears, tiny_tokenizer("encoder"))


def _whisper() -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        **AUDIO,
        vocab_size=VOCABULARY,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_source_positions=100,
        max_target_positions=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    ears = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return transformers.WhisperModel(config), transformers.WhisperProcessor(ears, tiny_tokenizer("encoder"))


def _vit(name: str) -> tuple[Any, Any]:
    config = getattr(transformers, f"{name}Config")(**VISION)
    return getattr(transformers, f"{name}Model")(config), _clip_processor()


def _wav2vec2(norm: str) -> tuple[Any, Any]:
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 4),
        conv_stride=(8, 8, 5),
        num_feat_extract_layers=3,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=VOCABULARY,
    )
    ears = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
    return transformers.Wav2Vec2Model(config), ears


FAMILIES: dict[str, Family] = {
    "llava": Family("image", _llava),
    "qwen2-vl": Family("image", lambda: _qwen2_vl("Qwen2VL")),
    "qwen2.5-vl": Family("image", lambda: _qwen2_vl("Qwen2_5_VL")),
    "gemma3": Family("image", _gemma3),
    "idefics3": Family("image", _idefics3),
    "chameleon": Family("image", _chameleon),
    "qwen2-audio": Family("audio", _qwen2_audio),
    "audioflamingo3": Family("audio", _audio_flamingo),
    "clip": Family("image", _clip),
    "clip-vision": Family("image", _clip, "image"),
    "siglip": Family("image", _siglip),
    "siglip-vision": Family("image", _siglip, "image"),
    "clap": Family("audio", _clap),
    "whisper-encoder": Family("audio", _whisper, "encoder"),
    "whisper-decoder": Family("audio", _whisper, "decoder"),
    "vit": Family("image", lambda: _vit("ViT")),
    "dinov2": Family("image", lambda: _vit("Dinov2")),
    "wav2vec2": Family("audio", lambda: _wav2vec2("group")),
    "wav2vec2-large": Family("audio", lambda: _wav2vec2("layer")),
}


def tiny_media_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Model:
    """A random model of a family, the same for the same seed."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    loaded, processor = family.make()
    words = getattr(processor, "tokenizer", None)
    return wrap_model(loaded.to(dtype), words, name=f"tiny-{name}", processor=processor, stack=family.stack)


def media_of(name: str) -> list[Any]:
    """Decoded images of three sizes, or audio clips of three lengths, as the family reads them."""
    if FAMILIES[name].modality == "image":
        return [random_image(0, 40, 32), random_image(1, 64, 24), random_image(2, 32, 60)]
    return [random_audio(0, 0.5), random_audio(1, 0.83), random_audio(2, 1.31)]
