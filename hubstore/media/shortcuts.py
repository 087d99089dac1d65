"""Faster equivalents of a processor's work on images and audio, each used only where it gives the same output.

Whether it does is found by comparing outputs of samples, not from the processor's name: a processor that does more
(pads after normalizing, say) is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

PIXELS: Final = "pixel_values"
VALUES: Final = 256
SIZES: Final = ((40, 300), (300, 40), (9, 14), (500, 380), (33, 32))
"""Height and width of the sample images whose shapes a processor may treat differently; others are square."""

SECONDS: Final = (0.01, 0.5, 3.3)
"""Durations of the audio samples."""

FAINTEST: Final = 1e-10
DECADES: Final = 8.0
"""Of a mel band's power: the floor, and the range below an audio clip's loudest."""

TOLERANCE: Final = 1e-5
"""Largest difference of audio features, as transformers allows between its own two implementations."""


@dataclass(frozen=True)
class DeferredNormalization:
    """Rescaling and normalization on the model's device: a table lookup, exact, and one byte a pixel to send.

    Args:
        table: [3, 256]: the processor's output for each byte value of each channel.
    """

    table: torch.Tensor

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, height, width] to the processor's own values, on the pixels' device."""
        table = self.table.to(pixels.device)
        channels = pixels.movedim(-3, 0)
        looked_up = [of[level.reshape(-1).int()].view(level.shape) for of, level in zip(table, channels, strict=True)]
        return torch.stack(looked_up, dim=-3)


def with_fast_resize(processor: Any) -> Any:
    """The same processor with a faster resampling of images, where it resamples with Pillow and gives the same.

    Args:
        processor: of images, or one that has an `image_processor`.
    """
    original = getattr(processor, "image_processor", processor)
    if getattr(original, "backend", None) != "pil" or not getattr(original, "do_resize", False):
        return processor
    quick = copy.copy(original)
    quick.resize = partial(_resize, original.resize)
    return _with_images(processor, quick) if _same(original, quick) else processor


def _resize(by_pillow: Callable[..., Any], image: Any, size: Any, resample: Any = None, **options: Any) -> Any:
    """Replaces transformers' `resize` of one image [3, height, width]; what is not plain goes to the original."""
    from hubstore.media.resize import resize_rgb  # compiled, so imported where there are images

    plain = isinstance(image, np.ndarray) and image.dtype == np.uint8 and len(image) == 3
    expected = _output_size(image.shape[1:], size) if plain else None
    if expected is not None and resample is not None and not any(options.values()):
        made = resize_rgb(np.moveaxis(image, 0, -1), expected, int(resample))
        if made is not None:
            return made
    return by_pillow(image, size, resample=resample, **options)


def _output_size(original: tuple[int, int], size: Any) -> tuple[int, int] | None:
    """Height and width to which transformers would resize an image."""
    if size.height and size.width:
        return int(size.height), int(size.width)
    if size.shortest_edge and not size.longest_edge:
        height, width = original
        short, long = min(height, width), max(height, width)
        longest = int(size.shortest_edge * long / short)
        return (size.shortest_edge, longest) if height < width else (longest, size.shortest_edge)
    return None


def with_fused_crop(processor: Any) -> Any:
    """The same processor made to resample only the crop it returns, where that is all that it does.

    Args:
        processor: of images whose pixels it leaves as bytes, or one that has an `image_processor`.
    """
    original = getattr(processor, "image_processor", processor)
    if getattr(original, "backend", None) != "pil" or not getattr(original, "do_resize", False):
        return processor
    quick = copy.copy(original)
    quick.preprocess = partial(_frame, original)
    return _with_images(processor, quick) if _same(original, quick) else processor


def _frame(original: Any, images: Any, **options: Any) -> Any:
    """Replaces transformers' `preprocess` of one RGB image; what is not plain goes to the original."""
    image = images
    while isinstance(image, list) and len(image) == 1:
        image = image[0]
    made = _resized_crop(original, image) if options == {"return_tensors": "pt"} else None
    if made is None:
        return original.preprocess(images, **options)
    from transformers import BatchFeature

    return BatchFeature({PIXELS: torch.from_numpy(made)[None]})


def _resized_crop(original: Any, image: Any) -> npt.NDArray[np.uint8] | None:
    """uint8 [3, height, width]: the center of a resampled image; None where it is not large enough."""
    from PIL import Image

    from hubstore.media.resize import pixels_of, resize_rgb  # compiled, so imported where there are images

    if not isinstance(image, Image.Image) or image.mode != "RGB" or original.resample is None:
        return None
    size = _output_size((image.height, image.width), original.size)
    if size is None:
        return None
    crop = (original.crop_size.height, original.crop_size.width) if original.do_center_crop else size
    if crop[0] > size[0] or crop[1] > size[1]:
        return None
    return resize_rgb(pixels_of(image), size, int(original.resample), crop)


def _same(original: Any, quick: Any) -> bool:
    """Whether two processors give the same output for the sample images."""
    for image in _sample_images():
        try:
            expected, quick_output = (dict(made(images=image, return_tensors="pt")) for made in (original, quick))
        except Exception:  # whatever a processor's own code raises of an image that it does not take
            return False
        if not _equal(expected, quick_output):
            return False
    return True


def _with_images(processor: Any, image_processor: Any) -> Any:
    if not hasattr(processor, "image_processor"):
        return image_processor
    whole = copy.copy(processor)
    whole.image_processor = image_processor
    return whole


def defer_normalization(processor: Any, dtype: torch.dtype) -> tuple[Any, DeferredNormalization] | None:
    """A processor that leaves pixels as bytes, and the normalization left to do; None where that is no table lookup.

    Args:
        processor: of images, or one that has an `image_processor`.
        dtype: of the pixels that the model is given.
    """
    original = getattr(processor, "image_processor", processor)
    if not (getattr(original, "do_rescale", False) or getattr(original, "do_normalize", False)):
        return None
    bare = copy.copy(original)
    bare.do_rescale = bare.do_normalize = False
    table = _table(original, bare, dtype)
    return None if table is None else (_with_images(processor, bare), DeferredNormalization(table))


def _table(original: Any, bare: Any, dtype: torch.dtype) -> torch.Tensor | None:
    table = torch.full((3, VALUES), torch.nan, dtype=dtype)
    for image in _sample_images():
        try:
            expected, bytes_only = (dict(made(images=image, return_tensors="pt")) for made in (original, bare))
        except Exception:  # whatever a processor's own code raises of arguments that it does not know
            return None
        full, pixels = expected.pop(PIXELS, None), bytes_only.pop(PIXELS, None)
        if not _equal(expected, bytes_only) or not _byte_for_value(full, pixels):
            return None
        values = full.movedim(-3, 0).reshape(3, -1).to(dtype)
        places = pixels.movedim(-3, 0).reshape(3, -1).long()
        table.scatter_(1, places, values)
        if not torch.equal(table.gather(1, places), values):  # a byte has several values
            return None
    return None if table.isnan().any() else table


def _byte_for_value(full: Any, pixels: Any) -> bool:
    return (
        isinstance(full, torch.Tensor)
        and isinstance(pixels, torch.Tensor)
        and pixels.dtype == torch.uint8
        and full.is_floating_point()
        and full.shape == pixels.shape
        and full.ndim >= 3
        and full.shape[-3] == 3
    )


def _equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first
    )


def _sample_images() -> Iterator[Any]:
    """Images that hold every byte value in areas wide enough to survive resizing, and noise of other shapes."""
    from PIL import Image

    for first in range(0, VALUES, 16):
        grid = np.arange(first, first + 16, dtype=np.uint8).reshape(4, 4)
        for turned in (grid, np.roll(grid, (2, 2), (0, 1))):  # what is at an edge, and cut off, is in the middle then
            yield Image.fromarray(np.repeat(np.repeat(turned, 96, 0), 96, 1)).convert("RGB")
    noise = np.random.default_rng(0)
    for size in SIZES:
        yield Image.fromarray(noise.integers(0, VALUES, (*size, 3), np.uint8))


def whisper_features(extractor: Any, samples: npt.NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """Whisper's input features of an audio clip, computed only as far as it has samples.

    Whisper's extractor pads every clip to half a minute. Frames of nothing but padding are the same, so that one of
    them is computed and copied to the others.

    Args:
        extractor: for which `can_trim_padding` holds.
        samples: float32 [samples], at most `extractor.n_samples`.

    Returns:
        "input_features", float32 [1, mels, frames], the logarithm of a mel spectrogram as in Radford et al. 2022
        (arXiv 2212.04356), section 2.2; "attention_mask", int32 [1, frames], 1 where a frame starts within the clip.
    """
    hop = extractor.hop_length
    frames = extractor.n_samples // hop
    computed = min((len(samples) + 2 * extractor.n_fft) // hop + 1, frames)
    padded = torch.zeros(computed * hop)
    padded[: len(samples)] = torch.from_numpy(np.ascontiguousarray(samples))
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(padded, extractor.n_fft, hop, window=window, return_complex=True)[:, :-1]
    squares = torch.view_as_real(spectrum).square()
    mels = torch.from_numpy(extractor.mel_filters.T).float() @ (squares[..., 0] + squares[..., 1])
    decades = mels.clamp_(min=FAINTEST).log10_()
    features = torch.empty(1, len(mels), frames)
    features[0, :, :computed] = (decades.clamp_(min=decades.max() - DECADES) + 4) / 4
    features[0, :, computed:] = features[0, :, computed - 1 : computed]
    within = torch.arange(0, extractor.n_samples, hop) < len(samples)
    return {"input_features": features, "attention_mask": within[None].int()}


def can_trim_padding(extractor: Any) -> bool:
    """Whether `whisper_features` gives what the extractor gives."""
    needed = ("hop_length", "n_fft", "n_samples", "mel_filters")
    if any(getattr(extractor, name, None) is None for name in needed):
        return False
    options = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt", "return_attention_mask": True}
    noise = np.random.default_rng(0)
    for seconds in SECONDS:
        samples = noise.normal(0, 0.1, int(seconds * extractor.sampling_rate)).astype(np.float32)
        samples = samples[: extractor.n_samples]
        try:
            whole, found = dict(extractor(samples, **options)), whisper_features(extractor, samples)
        except Exception:  # whatever an extractor of another kind raises of arguments that it does not know
            return False
        if whole.keys() != found.keys() or any(whole[name].shape != found[name].shape for name in whole):
            return False
        if not all(torch.allclose(whole[name].float(), found[name].float(), rtol=0, atol=TOLERANCE) for name in whole):
            return False
    return True
