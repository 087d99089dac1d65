"""More tiny random families that read images or audio, beside those of `tests.tiny_media`."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers

from tests.tiny_media import FAMILIES, GROUPED, VISION, Family, tokenizer
from tests.tiny_models import VOCABULARY, tiny_tokenizer

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
SPEECH = {
    **LAYERS,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (8, 8, 5),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": VOCABULARY,
}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}


@cache
def _image_processor() -> Any:
    size = {"height": 32, "width": 32}
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)


def _images(name: str, **options: Any) -> Family:
    return _stages(name, **{**VISION, "num_hidden_layers": 3, **options})


def _stages(name: str, **options: Any) -> Family:
    def make() -> tuple[Any, Any]:
        config = getattr(transformers, f"{name}Config")(**options)
        return getattr(transformers, f"{name}Model")(config), _image_processor()

    return Family("image", make)


def _audio(name: str, masked: bool = True, **options: Any) -> Family:
    def make() -> tuple[Any, Any]:
        config = getattr(transformers, f"{name}Config")(**{**SPEECH, **options})
        ears = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked)
        return getattr(transformers, f"{name}Model")(config), ears

    return Family("audio", make)


def _wav2vec2_bert() -> tuple[Any, Any]:
    config = transformers.Wav2Vec2BertConfig(**LAYERS, feature_projection_input_dim=32, vocab_size=VOCABULARY)
    ears = transformers.SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, stride=2)
    return transformers.Wav2Vec2BertModel(config), ears


def _ast() -> tuple[Any, Any]:
    config = transformers.ASTConfig(
        **LAYERS, patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=16
    )
    return transformers.ASTModel(config), transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64)


def _heard(ears: Any) -> Any:
    """A processor of audio clips, and of the texts that its decoder writes."""
    made = transformers.Wav2Vec2Processor.__new__(transformers.Wav2Vec2Processor)
    made.feature_extractor, made.tokenizer = ears, tiny_tokenizer("encoder")
    made.chat_template = None
    return made


def _speech_to_text() -> tuple[Any, Any]:
    config = transformers.Speech2TextConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        input_feat_per_channel=16,
        conv_channels=16,
        max_source_positions=100,
        max_target_positions=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.Speech2TextModel(config), _heard(
        transformers.Speech2TextFeatureExtractor(feature_size=16, num_mel_bins=16)
    )


def _moonshine() -> tuple[Any, Any]:
    config = transformers.MoonshineConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=3,
        decoder_num_hidden_layers=3,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.MoonshineModel(config), _heard(
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    )


def _parakeet() -> tuple[Any, Any]:
    config = transformers.ParakeetEncoderConfig(**LAYERS, num_mel_bins=16, subsampling_conv_channels=8)
    return transformers.ParakeetEncoder(config), transformers.ParakeetFeatureExtractor(feature_size=16)


def _paligemma() -> tuple[Any, Any]:
    words = tokenizer(image_token="<image>")
    config = transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", **GROUPED, "head_dim": 8, "vocab_size": VOCABULARY + 1200},  # places
        vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 32},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return transformers.PaliGemmaModel(config), transformers.PaliGemmaProcessor(images, words)


def _llava_next() -> tuple[Any, Any]:
    words = tokenizer("<image>")
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.MistralConfig(**GROUPED),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32]],
        vision_feature_layer=-1,
    )
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32]]
    )
    processor = transformers.LlavaNextProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return transformers.LlavaNextModel(config), processor


def _blip() -> tuple[Any, Any]:
    text = {**LAYERS, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.BlipModel(config), transformers.BlipProcessor(images, tiny_tokenizer("encoder"))


def _of(name: str, stack: str) -> Family:
    return Family(FAMILIES[name].modality, FAMILIES[name].make, stack)


MEDIA: dict[str, Family] = {
    **{name: family for name, family in FAMILIES.items() if name != "gemma3"},
    "gemma3-images": FAMILIES["gemma3"],
    "clip-text": Family("text", FAMILIES["clip"].make, "text"),
    "siglip-text": Family("text", FAMILIES["siglip"].make, "text"),
    "clap-text": Family("text", FAMILIES["clap"].make, "text"),
    "clap-audio": _of("clap", "audio"),
    "blip": Family("image", _blip),
    "paligemma": Family("image", _paligemma),
    "llava-next": Family("image", _llava_next),
    "deit": _images("DeiT"),
    "beit": _images("Beit", use_relative_position_bias=True),
    "data2vec-vision": _images("Data2VecVision"),
    "dinov2-registers": _images("Dinov2WithRegisters", num_register_tokens=2),
    "dinov3": _images("DINOv3ViT", num_register_tokens=2),
    "vit-mae": _images("ViTMAE", decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_intermediate_size=32),
    "vit-msn": _images("ViTMSN"),
    "ijepa": _images("IJepa"),
    "siglip-vision-alone": _images("SiglipVision"),
    "clip-vision-alone": _images("CLIPVision"),
    "yolos": _images("Yolos", image_size=[32, 32], num_detection_tokens=4),
    "swin": _stages("Swin", image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2, patch_size=4),
    "swinv2": _stages(
        "Swinv2", image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2, patch_size=4
    ),
    "convnext": _stages("ConvNext", **STAGES),
    "convnextv2": _stages("ConvNextV2", **STAGES),
    "resnet": _stages("ResNet", embedding_size=16, **STAGES),
    "segformer": _stages(
        "Segformer",
        num_encoder_blocks=2,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        num_attention_heads=[1, 2],
        sr_ratios=[2, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
    ),
    "pvt": _stages(
        "Pvt",
        image_size=32,
        num_encoder_blocks=2,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        num_attention_heads=[1, 2],
        sequence_reduction_ratios=[2, 1],
        patch_sizes=[4, 2],
        strides=[4, 2],
        mlp_ratios=[2, 2],
    ),
    "focalnet": _stages(
        "FocalNet",
        image_size=32,
        embed_dim=16,
        depths=[1, 1],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        patch_size=4,
        hidden_sizes=[16, 32],
    ),
    "poolformer": _stages(
        "PoolFormer",
        num_encoder_blocks=2,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
    ),
    "videomae": _images("VideoMAE", num_frames=2, tubelet_size=2),
    "hubert": _audio("Hubert"),
    "wavlm": _audio("WavLM", num_buckets=16, max_bucket_distance=32),
    "unispeech": _audio("UniSpeech"),
    "unispeech-sat": _audio("UniSpeechSat"),
    "data2vec-audio": _audio("Data2VecAudio"),
    "sew": _audio("SEW", squeeze_factor=2),
    "wav2vec2-conformer": _audio("Wav2Vec2Conformer"),
    "wav2vec2-bert": Family("audio", _wav2vec2_bert),
    "ast": Family("audio", _ast),
    "speech-to-text-encoder": Family("audio", _speech_to_text, "encoder"),
    "speech-to-text-decoder": Family("audio", _speech_to_text, "decoder"),
    "moonshine-encoder": Family("audio", _moonshine, "encoder"),
    "moonshine-decoder": Family("audio", _moonshine, "decoder"),
    "parakeet": Family("audio", _parakeet),
}
