"""How a loaded model reads images and audio, found from the model itself.

Four kinds: a language model that images or audio are projected into; a pair of towers that meet in one vector
(CLIP, SigLIP, CLAP); a speech encoder and its decoder (Whisper); an encoder of one modality (ViT, wav2vec 2.0).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

import torch
from torch import nn

from hubstore.errors import ModelError
from hubstore.media.processor import MediaInputs, MediaReader, processor_digest
from hubstore.media.shortcuts import can_trim_padding, defer_normalization, with_fast_resize, with_fused_crop
from hubstore.models.blocks import find_blocks, on_calls
from hubstore.reading.texts import NOTHING, Added

FEATURES: Final[dict[str, str]] = {"image": "get_image_features", "audio": "get_audio_features"}
INPUTS: Final[dict[str, str]] = {"pixel_values": "image", "input_features": "audio", "input_values": "audio"}


@dataclass(frozen=True)
class Adapter:
    """How a model reads one modality.

    Args:
        reader: makes its arguments.
        whole: the module that takes them; the model's blocks are inside it.
        identity: digests of processor and weights, as kept in the store.
        rows: of an item's arguments, how many tokens its blocks see and how many of them are the item's; None
            where a prompt's length says it.
    """

    reader: MediaReader
    whole: Any
    identity: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[Mapping[str, torch.Tensor]], tuple[int, int]] | None = None

    @property
    def pinned(self) -> bool:
        """Whether batches are laid in pinned memory, from which a GPU takes them without another copy."""
        return any(parameter.is_cuda for parameter in itertools.islice(self.whole.parameters(), 1))

    def length_of(self, inputs: MediaInputs) -> int:
        """Tokens of one item."""
        if inputs.length is not None:
            return inputs.length
        assert self.rows is not None
        return self.rows(inputs.tensors)[1]


@dataclass(frozen=True)
class Stack:
    """One stack of blocks of a model, and what is read through it.

    Args:
        trunk: the module whose blocks they are, and whose output is "final".
        adapters: by modality, how images and audio get there.
        text: whether texts do.
        joint: instead of blocks, by modality: the function that gives each item its vector in the space that the
            towers share.
        width: elements of a joint vector.
    """

    trunk: Any
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    text: bool = True
    joint: Mapping[str, Callable[..., torch.Tensor]] = field(default_factory=dict)
    width: int | None = None


def find_stack(loaded: Any, processor: Any, name: str, requested: str | None) -> Stack:
    """The stack of blocks of a model without its head.

    Args:
        loaded: what `transformers.AutoModel` gives.
        processor: its processor; None for a language model.
        name: for messages.
        requested: of a pair, "joint" (the default), "text", "image" or "audio"; of a speech model, "encoder" (the
            default) or "decoder".

    Raises:
        ModelError: the model has no such stack, or reads its medium in a way that is not known here.
    """
    stacks = _stacks(loaded, processor, name)
    chosen = next(iter(stacks)) if requested is None else requested
    if chosen not in stacks:
        choices = ", ".join(stacks) if len(stacks) > 1 else "one only; leave the option out"
        raise ModelError(f"{name} has no stack {requested!r}; it has {choices}")
    return stacks[chosen]()


def media_modalities(loaded: Any) -> tuple[str, ...]:
    """The modalities beside text that a model reads; none for a language model."""
    config = loaded.config
    if INPUTS.get(getattr(loaded, "main_input_name", "")):
        return (INPUTS[loaded.main_input_name],)
    found = [modality for modality, method in FEATURES.items() if hasattr(loaded, method)]
    if getattr(config, "audio_config", None) is not None and "audio" not in found:
        found.append("audio")
    return tuple(found)


def _stacks(loaded: Any, processor: Any, name: str) -> Mapping[str, Callable[[], Stack]]:
    modalities = media_modalities(loaded)
    if not modalities:
        if getattr(loaded.config, "is_encoder_decoder", False) and hasattr(loaded, "decoder"):
            raise ModelError(
                f"{name} is an encoder-decoder ({loaded.config.model_type}); hubstore reads text through encoders and "
                "decoder-only models"
            )
        return {"text": lambda: Stack(loaded)}
    if hasattr(loaded, "get_text_features"):
        towers = {modality: partial(_tower, loaded, processor, name, modality) for modality in modalities}
        return {
            "joint": lambda: _joint(loaded, processor, modalities),
            "text": lambda: Stack(loaded.text_model),
            **towers,
        }
    if getattr(loaded.config, "is_encoder_decoder", False):
        return {
            "encoder": lambda: _encoder(loaded.get_encoder(), processor, name, modalities[0], loaded),
            "decoder": lambda: _speech_decoder(loaded, processor),
        }
    if loaded.main_input_name in INPUTS:
        return {"encoder": lambda: _encoder(loaded, processor, name, modalities[0], loaded)}
    return {"decoder": lambda: _composite(loaded, processor, name, modalities)}


def _joint(loaded: Any, processor: Any, modalities: tuple[str, ...]) -> Stack:
    adapters = {
        modality: _adapter(
            _reader(loaded, processor, modality, marker=""), loaded, processor, rows=lambda tensors: (1, 1)
        )
        for modality in modalities
    }
    joint = {modality: _features(getattr(loaded, FEATURES[modality])) for modality in modalities}
    joint["text"] = _features(loaded.get_text_features)
    return Stack(loaded, adapters, joint=joint, width=_joint_width(loaded))


def _joint_width(loaded: Any) -> int:
    width = getattr(loaded.config, "projection_dim", None)
    return int(width or loaded.config.text_config.hidden_size)  # SigLIP has no projection of another width


def _features(method: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    accepted = inspect.signature(method).parameters

    def vectors(**inputs: torch.Tensor) -> torch.Tensor:
        made = method(**{name: value for name, value in inputs.items() if name in accepted})
        pooled: torch.Tensor = made if isinstance(made, torch.Tensor) else made.pooler_output
        return pooled

    return vectors


def _tower(loaded: Any, processor: Any, name: str, modality: str) -> Stack:
    tower = loaded.vision_model if modality == "image" else loaded.audio_model
    if getattr(tower.config, "depths", None) is not None:
        raise ModelError(f"the blocks of {name}'s {modality} tower have states of several widths; use stack joint")
    return _encoder(tower, processor, name, modality, tower)


def _encoder(encoder: Any, processor: Any, name: str, modality: str, outer: Any) -> Stack:
    reader = _reader(encoder, processor, modality, marker="")
    return Stack(encoder, {modality: _adapter(reader, encoder, processor, rows=_rows_of(encoder, outer))}, text=False)


def _speech_decoder(loaded: Any, processor: Any) -> Stack:
    reader = _reader(loaded, processor, "audio", marker="", decoder=True)
    return Stack(loaded.get_decoder(), {"audio": _adapter(reader, loaded, processor)}, text=False)


def _composite(loaded: Any, processor: Any, name: str, modalities: tuple[str, ...]) -> Stack:
    adapters = {}
    for modality in modalities:
        marker, ids = _marker(loaded.config, processor, name, modality)
        reader = _reader(loaded, processor, modality, marker=marker, token_ids=ids)
        adapters[modality] = _adapter(reader, loaded, processor)
    return Stack(loaded.get_decoder(), adapters)


def _reader(
    module: Any,
    processor: Any,
    modality: str,
    *,
    marker: str,
    token_ids: frozenset[int] = frozenset(),
    decoder: bool = False,
) -> MediaReader:
    dtype = next(parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    strip = (Added.by(processor.tokenizer) if marker or decoder else NOTHING).without
    if modality == "image":
        quick, normalization = with_fast_resize(processor), None
        left = defer_normalization(quick, dtype)
        if left is not None:
            quick, normalization = with_fused_crop(left[0]), left[1]
        return MediaReader(
            modality,
            processor,
            marker,
            token_ids,
            dtype,
            decoder=decoder,
            quick=quick,
            normalization=normalization,
            strip=strip,
        )
    extractor = getattr(processor, "feature_extractor", processor)
    samples, trims_padding = None, False
    if modality == "audio" and not marker and "input_features" in getattr(extractor, "model_input_names", ()):
        samples = getattr(extractor, "n_samples", None) or getattr(extractor, "nb_max_samples", None)
        trims_padding = can_trim_padding(extractor)
    return MediaReader(
        modality, processor, marker, token_ids, dtype, samples, decoder, trims_padding=trims_padding, strip=strip
    )


def _adapter(
    reader: MediaReader,
    whole: Any,
    processor: Any,
    rows: Callable[[Mapping[str, torch.Tensor]], tuple[int, int]] | None = None,
) -> Adapter:
    return Adapter(reader, whole, {"class": type(whole).__name__, "processor": processor_digest(processor)}, rows)


def _marker(config: Any, processor: Any, name: str, modality: str) -> tuple[str, frozenset[int]]:
    """What stands for a medium in a prompt, with what the model wants around it; and its tokens' ids."""
    token = getattr(processor, "boi_token", None) if modality == "image" else None  # Gemma 3 fills in the rest
    around = (
        ("vision_start_token", "vision_end_token") if modality == "image" else ("audio_bos_token", "audio_eos_token")
    )
    token = token or getattr(processor, f"{modality}_token", None)
    ids = [getattr(config, f"{modality}_token_{end}", None) for end in ("id", "index")]
    if token is None or all(number is None for number in ids):
        raise ModelError(
            f"{name} reads {modality} items, but its processor ({type(processor).__name__}) names no token for them; "
            "hubstore cannot make its prompts"
        )
    before, after = (_token(config, processor, which) for which in around)
    return f"{before}{token}{after}", frozenset(int(number) for number in ids if number is not None)


def _token(config: Any, processor: Any, which: str) -> str:
    """A token by name, as the processor has it or the configuration by its id; "" where there is none."""
    named = getattr(processor, which, None) or getattr(
        processor, which.replace("start", "bos").replace("end", "eos"), None
    )
    if named is not None:
        return str(named)
    number = getattr(config, f"{which}_id", None)
    return "" if number is None else str(processor.tokenizer.convert_ids_to_tokens(number))


def _rows_of(encoder: nn.Module, outer: Any) -> Callable[[Mapping[str, torch.Tensor]], tuple[int, int]]:
    """How many tokens an encoder's blocks see of an input, and how many of them are of the medium."""
    lengths = getattr(outer, "_get_feat_extract_output_lengths", None) or getattr(
        encoder, "_get_feat_extract_output_lengths", None
    )
    seen = cache(_SeenRows(encoder).rows)

    def rows(tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        mask = tensors.get("attention_mask")
        if lengths is not None and "input_values" in tensors:
            whole = int(lengths(tensors["input_values"].shape[-1]))
        else:
            whole = seen(tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items()))
        if mask is None or lengths is None:
            return whole, whole
        found = lengths(mask[0].sum().to(torch.long))
        # Whisper's gives the lengths after each of its two reductions.
        return whole, max(1, min(whole, int(found[-1] if isinstance(found, tuple) else found)))

    return rows


class _StopForward(Exception):  # noqa: N818 - no error: it ends the forward pass
    """The first block was reached."""


class _SeenRows:
    """Asks the encoder itself, up to its first block."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    @torch.inference_mode()
    def rows(self, shapes: tuple[tuple[str, torch.Size, torch.dtype], ...]) -> int:
        """Tokens in the first block for arguments of these shapes, for one item."""
        found: list[int] = []

        def before(number: int, module: nn.Module, hidden: Any) -> None:
            found.append(int(hidden.shape[1]))
            raise _StopForward

        device, own_dtype = next((parameter.device, parameter.dtype) for parameter in self._encoder.parameters())

        def kind(dtype: torch.dtype) -> torch.dtype:
            return own_dtype if dtype == torch.uint8 else dtype  # pixels that are bytes until they are sent

        ones = {n: torch.ones((1, *shape), dtype=kind(dtype), device=device) for n, shape, dtype in shapes}
        try:
            with on_calls(find_blocks(self._encoder)[:1], before, lambda number, module, output: None):
                self._encoder(**ones)
        except _StopForward:
            return found[0]
        except Exception as error:  # whatever a model's own code raises
            raise self._unread(f"it cannot be run on one item ({type(error).__name__}: {error})") from error
        raise self._unread("its forward calls none of its blocks")

    def _unread(self, why: str) -> ModelError:
        kind = type(self._encoder).__name__
        return ModelError(f"{kind}: {why.splitlines()[0]}; hubstore cannot read it: use another model")
