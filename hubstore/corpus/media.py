"""Decodes pictures and sounds: what a model's processor is given."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hubstore.corpus.item import Media
from hubstore.errors import CorpusError, MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image

NEEDED = "pictures and sounds need Pillow, soundfile and soxr: pip install 'hubstore[media]'"


def media_bytes(media: Media) -> bytes:
    """The encoded bytes of a picture or a sound.

    Raises:
        CorpusError: its file is not there, or cannot be read.
    """
    if media.data is not None:
        return media.data
    try:
        return Path(media.name).read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{media.name}: there is no such file; check the path") from None
    except OSError as error:
        raise CorpusError(f"{media.name}: cannot be read: {error}; check that it is a file and may be read") from error


def open_image(media: Media) -> Image.Image:
    """Decode a picture: RGB, upright as its EXIF orientation says, what is transparent laid over white.

    Of an animation the first frame is taken; more than 8 bits a channel are scaled to 8.

    Raises:
        CorpusError: it is no picture that Pillow reads, is cut off, or would be too large when decoded.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError(NEEDED) from error
    data = media_bytes(media)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorpusError(f"{media.name}: {error}; make the picture smaller, or leave it out") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises of damaged files
        raise CorpusError(
            f"{media.name}: is no picture that can be read: {_short(error)}; check that the file is whole"
        ) from error


def open_sound(media: Media, rate: int) -> npt.NDArray[np.float32]:
    """Decode a sound: float32 [samples], the mean of its channels, at `rate` samples a second.

    Raises:
        CorpusError: it is no sound that libsndfile reads, or holds no sample or one that is not finite.
        MissingDependencyError: soundfile or soxr is not installed.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise MissingDependencyError(NEEDED) from error
    data = media_bytes(media)
    try:
        samples, own_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise CorpusError(
            f"{media.name}: is no sound that can be read: {_short(error)}; check that the file is whole"
        ) from error
    if not len(samples):
        raise CorpusError(f"{media.name}: the sound has no samples; leave it out")
    if not np.isfinite(samples).all():
        raise CorpusError(f"{media.name}: the sound has samples that are not finite; leave it out")
    mono = samples.mean(axis=1, dtype=np.float32)
    resampled: npt.NDArray[np.float32] = mono if own_rate == rate else soxr.resample(mono, own_rate, rate)
    return resampled


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey is scaled by its range, wider integers and floats by their own."""
    from PIL import Image

    values = np.asarray(image, np.float64)
    most = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 1e-12)
    return Image.fromarray((values.clip(0, most) * (255 / most)).round().astype(np.uint8))


def _short(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
