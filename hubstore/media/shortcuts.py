"""Shorter ways to what a processor makes of a picture or a sound, each taken only where it gives the same.

They are found by comparing what the processor itself makes of samples, not from its name: one that does something
else beside (pads after normalising, say) is left as it is.
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
LEVELS: Final = 256
SIZES: Final = ((40, 300), (300, 40), (9, 14), (500, 380), (33, 32))
"""Height and width of the sample pictures whose shapes a processor may take apart; others are square."""

SECONDS: Final = (0.01, 0.5, 3.3)
"""Of the sample sounds."""

FAINTEST: Final = 1e-10
DECADES: Final = 8.0
"""Of a mel band's power: the least that is told apart, and how far below a sound's loudest."""

TOLERANCE: Final = 1e-5
"""Of a sound's features, what transformers allows between its own two ways to them."""


@dataclass(frozen=True)
class Levels:
    """Rescaling and normalising, left to the model's device: a table lookup, exact, and one byte a pixel to send.

    Args:
        table: [3, 256]: what the processor makes of the levels of each channel.
    """

    table: torch.Tensor

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, height, width] to the processor's own values, on the pixels' device."""
        table = self.table.to(pixels.device)
        channels = pixels.movedim(-3, 0)
        looked_up = [of[level.reshape(-1).int()].view(level.shape) for of, level in zip(table, channels, strict=True)]
        return torch.stack(looked_up, dim=-3)


def quickened(processor: Any) -> Any:
    """The same processor with a faster resampling of pictures, where it resamples with Pillow and gives the same.

    Args:
        processor: of pictures, or one that has an `image_processor`.
    """
    own = getattr(processor, "image_processor", processor)
    if getattr(own, "backend", None) != "pil" or not getattr(own, "do_resize", False):
        return processor
    quick = copy.copy(own)
    quick.resize = partial(_resize, own.resize)
    return _with_images(processor, quick) if _same(own, quick) else processor


def _resize(by_pillow: Callable[..., Any], image: Any, size: Any, resample: Any = None, **options: Any) -> Any:
    """In the place of transformers' `resize` of one picture [3, height, width]; what is not plain goes there."""
    from hubstore.media.resize import resize_rgb  # compiled, so imported where there are pictures

    plain = isinstance(image, np.ndarray) and image.dtype == np.uint8 and len(image) == 3
    wanted = _wanted(image.shape[1:], size) if plain else None
    if wanted is not None and resample is not None and not any(options.values()):
        made = resize_rgb(np.moveaxis(image, 0, -1), wanted, int(resample))
        if made is not None:
            return made
    return by_pillow(image, size, resample=resample, **options)


def _wanted(own: tuple[int, int], size: Any) -> tuple[int, int] | None:
    """Height and width that transformers would give a picture of these."""
    if size.height and size.width:
        return int(size.height), int(size.width)
    if size.shortest_edge and not size.longest_edge:
        height, width = own
        short, long = min(height, width), max(height, width)
        longest = int(size.shortest_edge * long / short)
        return (size.shortest_edge, longest) if height < width else (longest, size.shortest_edge)
    return None


def framed(processor: Any) -> Any:
    """The same processor made to resample only what it keeps of a picture, where that is all that it does.

    Args:
        processor: of pictures whose pixels it leaves as bytes, or one that has an `image_processor`.
    """
    own = getattr(processor, "image_processor", processor)
    if getattr(own, "backend", None) != "pil" or not getattr(own, "do_resize", False):
        return processor
    quick = copy.copy(own)
    quick.preprocess = partial(_frame, own)
    return _with_images(processor, quick) if _same(own, quick) else processor


def _frame(own: Any, images: Any, **options: Any) -> Any:
    """In the place of transformers' `preprocess` of one RGB picture; what is not plain goes there."""
    picture = images
    while isinstance(picture, list) and len(picture) == 1:
        picture = picture[0]
    made = _framed(own, picture) if options == {"return_tensors": "pt"} else None
    if made is None:
        return own.preprocess(images, **options)
    from transformers import BatchFeature

    return BatchFeature({PIXELS: torch.from_numpy(made)[None]})


def _framed(own: Any, picture: Any) -> npt.NDArray[np.uint8] | None:
    """uint8 [3, height, width]: the middle of a picture that was resampled; None where it is not large enough."""
    from PIL import Image

    from hubstore.media.resize import pixels_of, resize_rgb  # compiled, so imported where there are pictures

    if not isinstance(picture, Image.Image) or picture.mode != "RGB" or own.resample is None:
        return None
    size = _wanted((picture.height, picture.width), own.size)
    if size is None:
        return None
    crop = (own.crop_size.height, own.crop_size.width) if own.do_center_crop else size
    if crop[0] > size[0] or crop[1] > size[1]:
        return None
    return resize_rgb(pixels_of(picture), size, int(own.resample), crop)


def _same(own: Any, quick: Any) -> bool:
    """Whether two processors make the same of the sample pictures."""
    for picture in _pictures():
        try:
            wanted, ours = (dict(made(images=picture, return_tensors="pt")) for made in (own, quick))
        except Exception:  # whatever a processor's own code raises of a picture that it does not take
            return False
        if not _alike(wanted, ours):
            return False
    return True


def _with_images(processor: Any, image_processor: Any) -> Any:
    if not hasattr(processor, "image_processor"):
        return image_processor
    whole = copy.copy(processor)
    whole.image_processor = image_processor
    return whole


def without_levels(processor: Any, dtype: torch.dtype) -> tuple[Any, Levels] | None:
    """A processor that leaves pixels as bytes, and what is then left to do; None where it cannot be told apart.

    Args:
        processor: of pictures, or one that has an `image_processor`.
        dtype: of the pixels that the model is given.
    """
    own = getattr(processor, "image_processor", processor)
    if not (getattr(own, "do_rescale", False) or getattr(own, "do_normalize", False)):
        return None
    bare = copy.copy(own)
    bare.do_rescale = bare.do_normalize = False
    table = _table(own, bare, dtype)
    return None if table is None else (_with_images(processor, bare), Levels(table))


def _table(own: Any, bare: Any, dtype: torch.dtype) -> torch.Tensor | None:
    table = torch.full((3, LEVELS), torch.nan, dtype=dtype)
    for picture in _pictures():
        try:
            wanted, levels = (dict(made(images=picture, return_tensors="pt")) for made in (own, bare))
        except Exception:  # whatever a processor's own code raises of arguments that it does not know
            return None
        full, pixels = wanted.pop(PIXELS, None), levels.pop(PIXELS, None)
        if not _alike(wanted, levels) or not _byte_for_value(full, pixels):
            return None
        values = full.movedim(-3, 0).reshape(3, -1).to(dtype)
        places = pixels.movedim(-3, 0).reshape(3, -1).long()
        table.scatter_(1, places, values)
        if not torch.equal(table.gather(1, places), values):  # the same level has several values
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


def _alike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours
    )


def _pictures() -> Iterator[Any]:
    """Pictures that hold every level in areas wide enough to stay as they are, and noise of other shapes."""
    from PIL import Image

    for first in range(0, LEVELS, 16):
        grid = np.arange(first, first + 16, dtype=np.uint8).reshape(4, 4)
        for turned in (grid, np.roll(grid, (2, 2), (0, 1))):  # what is at an edge, and cut off, is in the middle then
            yield Image.fromarray(np.repeat(np.repeat(turned, 96, 0), 96, 1)).convert("RGB")
    noise = np.random.default_rng(0)
    for size in SIZES:
        yield Image.fromarray(noise.integers(0, LEVELS, (*size, 3), np.uint8))


def extract_heard(extractor: Any, samples: npt.NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """What Whisper's extractor makes of a sound, computed as far as there is sound.

    It pads every sound to half a minute of samples. Frames of nothing but padding are alike, so that one of them is
    computed and laid in the place of the others.

    Args:
        extractor: for which `skips_silence` holds.
        samples: float32 [samples], at most `extractor.n_samples`.

    Returns:
        "input_features", float32 [1, mels, frames], the logarithm of a mel spectrogram as in Radford et al. 2022
        (arXiv 2212.04356), section 2.2; "attention_mask", int32 [1, frames], 1 where a frame starts within the sound.
    """
    hop = extractor.hop_length
    frames = extractor.n_samples // hop
    heard = min((len(samples) + 2 * extractor.n_fft) // hop + 1, frames)
    padded = torch.zeros(heard * hop)
    padded[: len(samples)] = torch.from_numpy(np.ascontiguousarray(samples))
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(padded, extractor.n_fft, hop, window=window, return_complex=True)[:, :-1]
    squares = torch.view_as_real(spectrum).square()
    mels = torch.from_numpy(extractor.mel_filters.T).float() @ (squares[..., 0] + squares[..., 1])
    decades = mels.clamp_(min=FAINTEST).log10_()
    features = torch.empty(1, len(mels), frames)
    features[0, :, :heard] = (decades.clamp_(min=decades.max() - DECADES) + 4) / 4
    features[0, :, heard:] = features[0, :, heard - 1 : heard]
    within = torch.arange(0, extractor.n_samples, hop) < len(samples)
    return {"input_features": features, "attention_mask": within[None].int()}


def skips_silence(extractor: Any) -> bool:
    """Whether `extract_heard` gives what the extractor gives."""
    needed = ("hop_length", "n_fft", "n_samples", "mel_filters")
    if any(getattr(extractor, name, None) is None for name in needed):
        return False
    options = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt", "return_attention_mask": True}
    noise = np.random.default_rng(0)
    for seconds in SECONDS:
        samples = noise.normal(0, 0.1, int(seconds * extractor.sampling_rate)).astype(np.float32)
        samples = samples[: extractor.n_samples]
        try:
            whole, ours = dict(extractor(samples, **options)), extract_heard(extractor, samples)
        except Exception:  # whatever an extractor of another kind raises of arguments that it does not know
            return False
        if whole.keys() != ours.keys() or any(whole[name].shape != ours[name].shape for name in whole):
            return False
        if not all(torch.allclose(whole[name].float(), ours[name].float(), rtol=0, atol=TOLERANCE) for name in whole):
            return False
    return True
