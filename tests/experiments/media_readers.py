"""Tiny random models that read images or audio, whose tokenizer knows words, and plain oracles."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hubstore.experiments.materials.media import BASIC_COLORS
from hubstore.media.decode import open_audio, open_image
from hubstore.models import Model, wrap_model
from tests.tiny_media import AUDIO, VISION

WORDS = (
    *BASIC_COLORS, *(color.capitalize() for color in BASIC_COLORS),
    "man", "table", "laptop", "street", "kitchen", "mirror",
    "people", "desk", "food", "beach", "bus", "road", "bowl", "cat", "horses", "book", "pizza", "person", "cake", "car",
    "plates", "chair", "cup", "fork", "bottle", "knife", "sink", "truck", "broccoli", "bench", "dog", "bird", "bark",
    "rain", "sea", "waves", "baby", "cry", "clock", "tick", "sneeze", "helicopter", "rooster", "fire",
)  # fmt: skip
MARKERS = {"image": "<image>", "audio": "<|AUDIO|>"}
VOCABULARY = 600
BLOCKS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 10,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"say {word}" for word in WORDS for _ in range(50)], trainer)
    return tokenizer.to_str()


def _tokenizer():
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), eos_token="</s>", bos_token="<s>", pad_token="<pad>"
    )
    words.add_special_tokens({"additional_special_tokens": [*MARKERS.values(), "<|audio_bos|>", "<|audio_eos|>"]})
    words.model_max_length = 512
    return words


@cache
def seeing() -> Model:
    """A LLaVA of 4 x 4 image tokens, float32, with a head."""
    return _wrapped(*_llava())


def save_seeing(folder):
    """The same as a folder that transformers loads."""
    for part in _llava():
        part.save_pretrained(folder)
    return folder


def _llava():
    words = _tokenizer()
    torch.manual_seed(0)  # of the tower
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**BLOCKS, vocab_size=VOCABULARY),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    processor = transformers.LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return _random(transformers.LlavaForConditionalGeneration(config)), processor


@cache
def hearing() -> Model:
    """A Qwen2-Audio, float32, with a head."""
    words = _tokenizer()
    torch.manual_seed(0)  # of the tower
    config = transformers.Qwen2AudioConfig(
        text_config=transformers.Qwen2Config(**BLOCKS, vocab_size=VOCABULARY),
        audio_config={**AUDIO, "max_source_positions": 100},
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    ears = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    processor = transformers.Qwen2AudioProcessor(ears, words)
    return _wrapped(_random(transformers.Qwen2AudioForConditionalGeneration(config)), processor)


def _random(whole):
    """Its language model made random anew, with states that differ."""
    torch.manual_seed(0)
    language_model = whole.get_decoder() if hasattr(whole, "get_decoder") else whole.model
    for name, parameter in language_model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        elif "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    torch.nn.init.normal_(whole.get_output_embeddings().weight, std=0.3)
    return whole


def _wrapped(whole, processor) -> Model:
    tokenizer = processor.tokenizer
    return wrap_model(whole.base_model, tokenizer, name="tiny-media", processor=processor, language_model=whole)


@torch.inference_mode()
def media_states(model: Model, modality: str, medium, template: str = "{media}"):
    """float64 [layers, tokens, width] of one medium alone, embeddings dropped, and which tokens are its own."""
    reader = model.adapters[modality].reader
    decoded = open_image(medium) if modality == "image" else open_audio(medium, reader.rate)
    inputs = reader.finish(reader.read(decoded, template))
    kept = []
    hooks = [block.register_forward_hook(lambda m, i, out: kept.append(out)) for block in model.blocks]
    last = model.adapters[modality].whole(**inputs.tensors).last_hidden_state
    for hook in hooks:
        hook.remove()
    layers = [*(out[0] if isinstance(out, tuple) else out for out in kept[:-1]), last]
    own = np.concatenate([np.arange(start, stop) for start, stop in inputs.media])
    return torch.stack([layer.reshape(-1, layer.shape[-1]) for layer in layers]).double().numpy(), own
