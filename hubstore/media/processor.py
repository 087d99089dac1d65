"""From an image or audio clip to what a model is given: its processor, a prompt around it, and where its tokens are.

A reader works without the model, so that other processes can read while the model is busy. What it makes of one
item does not depend on other items; `hubstore.forward.collate_media` joins several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from hubstore.errors import CorpusError, ModelError
from hubstore.media.shortcuts import PIXELS, DeferredNormalization, whisper_features

MEDIA: Final = "{media}"
TEXT: Final = "{text}"

SAMPLES_A_SECOND: Final = 16_000
"""Where a processor does not say."""

DROPPED: Final = ("num_crops", "audio_embed_sizes", "num_audio_tokens")
"""What some processors return that no model takes."""


@dataclass(frozen=True)
class MediaInputs:
    """One image or audio clip, ready for the model.

    Args:
        tensors: the model's arguments, for a batch of one; pixels may still be bytes (`DeferredNormalization`).
        media: (start, stop) of the medium's tokens among the item's, in order; empty where only its length is known.
        length: tokens that the blocks will see; None where only the model knows (`Adapter.rows_of`).
        truncated: whether the medium was longer than the model takes.
    """

    tensors: Mapping[str, torch.Tensor]
    media: tuple[tuple[int, int], ...] = ()
    length: int | None = None
    truncated: bool = False

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class MediaReader:
    """Turns one decoded image or audio clip, and a text beside it, into a model's arguments.

    Args:
        modality: "image" or "audio".
        processor: transformers' processor, image processor or feature extractor.
        marker: what stands for the medium in a prompt; "" for a model that reads no text beside it.
        token_ids: the ids of the medium's tokens once the processor has filled in the marker.
        dtype: of the floating-point arguments.
        samples: most samples of an audio clip that the model takes; None for any number.
        decoder: whether the text goes to a decoder of its own ("decoder_input_ids").
        quick: what images go through in the processor's place, to the same effect; None for the processor itself.
        normalization: what is left to the device of an image's processing; None where the processor does all of it.
        trims_padding: whether audio is processed only as far as it has samples; see `whisper_features`.
        strip: leaves out of prompts the special tokens that its tokenizer adds anyway.
    """

    modality: str
    processor: Any
    marker: str
    token_ids: frozenset[int]
    dtype: torch.dtype
    samples: int | None = None
    decoder: bool = False
    quick: Any = None
    normalization: DeferredNormalization | None = None
    trims_padding: bool = False
    strip: Callable[[Sequence[str]], list[str]] = list

    @property
    def takes_text(self) -> bool:
        """Whether a prompt goes with the medium."""
        return bool(self.marker) or self.decoder

    @property
    def rate(self) -> int:
        """Samples a second that an audio clip must have."""
        part = getattr(self.processor, "feature_extractor", None) or getattr(self.processor, "audio_processor", None)
        return int(getattr(part or self.processor, "sampling_rate", None) or SAMPLES_A_SECOND)

    def check(self, template: str, whose: str) -> None:
        """ModelError unless the template is one that the model can be given."""
        if template.count(MEDIA) != 1 or template.count(TEXT) > 1:
            raise ModelError(f"media template {template!r} must hold {MEDIA} exactly once, and {TEXT} once at most")
        if not self.takes_text and template != MEDIA:
            raise ModelError(f"{whose} reads no text beside {self.modality} items; the media template must be {MEDIA}")

    def read(self, medium: Any, template: str = MEDIA, text: str = "") -> MediaInputs:
        """The model's arguments for one item, but for what is left to the device; see `finish`.

        Args:
            medium: an RGB `PIL.Image`, or float32 samples at `rate`.
            template: the prompt: `{media}` stands for the medium, `{text}` for the item's text.
            text: the item's text.

        Raises:
            CorpusError: the text holds what stands for a medium in the model's prompts.
        """
        self._check_text(text, template)
        truncated = self.samples is not None and len(medium) > self.samples
        if truncated:
            medium = medium[: self.samples]  # some processors would draw a part at random
        prompt = template.replace(MEDIA, self.marker).replace(TEXT, text)  # a text may hold "{media}" itself
        (prompt,) = self.strip([prompt])
        arguments = dict(self._process(medium, prompt))
        for name in DROPPED:
            arguments.pop(name, None)
        tensors = {name: _tensor(value, self.dtype) for name, value in arguments.items()}
        if self.decoder:
            ids = self.processor.tokenizer(self.strip([text]))["input_ids"][0]
            tensors["decoder_input_ids"] = torch.tensor([ids])
            return MediaInputs(tensors, length=len(ids), truncated=truncated)
        if "input_ids" not in tensors:
            return MediaInputs(tensors, truncated=truncated)
        is_media = np.isin(tensors["input_ids"][0].numpy(), list(self.token_ids))
        edges = np.flatnonzero(np.diff(is_media, prepend=False, append=False)).tolist()
        media = tuple(zip(edges[::2], edges[1::2], strict=True))
        return MediaInputs(tensors, media, len(is_media), truncated)

    def _check_text(self, text: str, template: str) -> None:
        """A marker in a text would be filled in as the medium is, or its token be taken for one of the medium's."""
        if not self.marker or not text or TEXT not in template:
            return
        tokenizer = self.processor.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = next((tokenizer.convert_ids_to_tokens(i) for i in ids if i in self.token_ids), None)
        if found is None and self.marker in text:
            found = self.marker
        if found is not None:
            raise CorpusError(
                f"its text {text[:80]!r} holds {found!r}, which stands for {self.modality} input in this model's "
                "prompts; change the text, or leave the item out"
            )

    def finish(self, inputs: MediaInputs) -> MediaInputs:
        """The same with nothing left to the device: its tensors are the model's own arguments."""
        if self.normalization is None or PIXELS not in inputs.tensors:
            return inputs
        return replace(inputs, tensors={**inputs.tensors, PIXELS: self.normalization.finish(inputs.tensors[PIXELS])})

    def _process(self, medium: Any, prompt: str) -> Mapping[str, Any]:
        options: dict[str, Any] = {"return_tensors": "pt"}
        processor = self.processor if self.quick is None else self.quick
        if self.modality == "audio":
            options["sampling_rate"] = self.rate
        if self.marker:
            part = {"images": [medium]} if self.modality == "image" else {"audio": [medium]}
            if self.modality == "audio" and not hasattr(processor, "feature_extractor"):
                del options["sampling_rate"]  # its audio processor knows one rate only
            fill: Callable[..., Mapping[str, Any]] = processor
            return fill(text=[prompt], **part, **options)
        if self.modality == "image":
            make: Callable[..., Mapping[str, Any]] = getattr(processor, "image_processor", processor)
            return make(images=medium, **options)
        extractor = getattr(self.processor, "feature_extractor", self.processor)
        if "input_features" in extractor.model_input_names:
            options["return_attention_mask"] = True  # its padding is part of what the model sees, but none of the audio
        if self.trims_padding:
            return whisper_features(extractor, medium)
        extract: Callable[..., Mapping[str, Any]] = extractor
        return extract(medium, **options)


def shapes_of(inputs: MediaInputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of an item's arguments: items that agree in them need no padding."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in inputs.tensors.items())


def processor_digest(processor: Any) -> str:
    """SHA-256 of what a processor is configured with; its tokenizer has a digest of its own."""
    parts = ("image_processor", "feature_extractor", "audio_processor", "video_processor")
    configured: dict[str, Any] = {
        name: getattr(processor, name).to_dict() for name in parts if getattr(processor, name, None) is not None
    }
    own = processor.to_dict()
    configured["own"] = {name: value for name, value in own.items() if name not in (*parts, "tokenizer")}
    return hashlib.sha256(json.dumps(configured, sort_keys=True, default=str).encode()).hexdigest()


def _tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
