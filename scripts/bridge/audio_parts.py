"""How a trained projector, Whisper's encoder and Gemma are joined to a folder that `transformers` loads.

Only the projector is trained and kept. Joined with the encoder and the language model, whose weights are copied as
they are, it is a plain `AudioFlamingo3ForConditionalGeneration`: its encoder is Whisper's, with a mask over what is no
audio, and the mean of every two states; its projector has two layers; a second of audio has 25 tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.parts import media_tokenizer, read_parts

if TYPE_CHECKING:
    from transformers import AudioFlamingo3Config, PreTrainedConfig, WhisperConfig

AUDIO = "<sound>"
UNUSED = "<unused1>"  # becomes the audio token; images take the one before
ENCODER = "model.encoder."  # of Whisper's weights


def model_config(whisper: WhisperConfig, text: PreTrainedConfig, token_id: int) -> AudioFlamingo3Config:
    """The configuration that joins both."""
    from transformers import AudioFlamingo3Config, AudioFlamingo3EncoderConfig

    encoder = AudioFlamingo3EncoderConfig(
        num_mel_bins=whisper.num_mel_bins,
        hidden_size=whisper.d_model,
        num_hidden_layers=whisper.encoder_layers,
        num_attention_heads=whisper.encoder_attention_heads,
        intermediate_size=whisper.encoder_ffn_dim,
        activation_function=whisper.activation_function,
        scale_embedding=whisper.scale_embedding,
        max_source_positions=whisper.max_source_positions,
    )
    return AudioFlamingo3Config(
        audio_config=encoder,
        text_config=copy.deepcopy(text),  # a composite changes its parts' attention
        audio_token_id=token_id,
        tie_word_embeddings=False,  # the class keeps its head apart, and so the folder holds it twice
    )


def make_projector(config: AudioFlamingo3Config) -> nn.Module:
    """The part that is trained: states of the encoder [..., its width] to audio tokens [..., width]."""
    from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3MultiModalProjector

    projector: nn.Module = AudioFlamingo3MultiModalProjector(config)
    return projector


def read_encoder(whisper: Path, config: AudioFlamingo3Config) -> nn.Module:
    """Whisper's encoder in float32, in the class of the joined model."""
    from safetensors import safe_open
    from transformers import AudioFlamingo3Encoder

    with safe_open(whisper / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith(ENCODER)]  # noqa: SIM118
        weights = {name.removeprefix(ENCODER): file.get_tensor(name).float() for name in names}
    encoder: nn.Module = AudioFlamingo3Encoder(config.audio_config).eval().requires_grad_(False)
    encoder.load_state_dict(weights)
    return encoder


def save_encoder(whisper: Path, out: Path) -> None:
    """Writes what training needs of Whisper's folder to a smaller one: the encoder, in float16, as it was published.

    Args:
        whisper: Whisper's folder, with float32 weights that were float16.
        out: the folder to make.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoFeatureExtractor

    weights = {k: v.half() for k, v in load_file(whisper / "model.safetensors").items() if k.startswith(ENCODER)}
    AutoConfig.from_pretrained(whisper).save_pretrained(out)
    AutoFeatureExtractor.from_pretrained(whisper).save_pretrained(out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def encoded(encoder: Any, features: Tensor, frames: Tensor) -> Tensor:
    """What the encoder gives for features that are shorter than the half minute that it asks for.

    What is masked is never attended to, so that it need not be there; at a fifteenth of the cost for a word.

    Args:
        encoder: an `AudioFlamingo3Encoder`.
        features: log-mel [items, bins, frames]; a frame or more of silence after the longest.
        frames: int64 [items], that are audio.

    Returns:
        [items, frames / 4, width]; the first `tokens_of(frames)` of each are the audio's.
    """
    hidden = F.gelu(encoder.conv1(features))
    hidden = F.gelu(encoder.conv2(hidden)).mT
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    inside = torch.arange(hidden.shape[1], device=hidden.device) < ((frames - 1) // 2 + 1)[:, None]
    mask = inside[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    pooled: Tensor = encoder.layer_norm(encoder.avg_pooler(hidden.mT).mT)
    return pooled


def tokens_of(frames: Tensor) -> Tensor:
    """Audio tokens of log-mel frames, int64 [items]."""
    return ((frames - 1) // 2 - 1) // 2 + 1


def assemble_audio(parts: Path, whisper: Path, gemma: Path, out: Path) -> None:
    """Joins a projector, Whisper's encoder and Gemma to a folder for `AutoModelForSeq2SeqLM` and `AutoProcessor`.

    Args:
        parts: the file of the trained projector.
        whisper: the folder of the Whisper that it was trained with.
        gemma: the folder of the language model that it was trained with.
        out: the folder to make.
    """
    from transformers import (
        AudioFlamingo3ForConditionalGeneration,
        AudioFlamingo3Processor,
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForCausalLM,
    )

    weights, _ = read_parts(parts)
    tokenizer = media_tokenizer(gemma, AUDIO, UNUSED)
    text = AutoConfig.from_pretrained(gemma)
    text.name_or_path = ""  # a folder of this machine
    config = model_config(AutoConfig.from_pretrained(whisper), text, tokenizer.convert_tokens_to_ids(AUDIO))
    language_model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    with torch.device("meta"):
        model = AudioFlamingo3ForConditionalGeneration(config)
    projector = make_projector(config)
    projector.load_state_dict(weights)
    model.model.audio_tower = read_encoder(whisper, config)
    model.model.multi_modal_projector = projector
    model.model.language_model = language_model.model
    model.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False, device="meta")
    model.lm_head.weight = nn.Parameter(language_model.lm_head.weight.detach().clone())
    model.config.dtype = torch.float32
    model.save_pretrained(out)
    # safetensors lets only the owner read; a cache may be shared.
    (out / "model.safetensors").chmod((out / "config.json").stat().st_mode & 0o777)
    extractor = AutoFeatureExtractor.from_pretrained(whisper)
    AudioFlamingo3Processor(extractor, tokenizer, audio_token=AUDIO).save_pretrained(out)
