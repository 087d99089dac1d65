"""Thumbnails and clips: small images and audio that results are shown with. The same medium gives the same bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from hubstore.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image

PIXELS: Final = 160
SECONDS: Final = 5.0
CLIP_RATE: Final = 16_000
UNKNOWN: Final = "application/octet-stream"

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
)
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}


def thumbnail(image: Image.Image, size: int = PIXELS) -> bytes:
    """An image that fits into size x size pixels, as WebP: of what browsers show, the smallest."""
    from PIL import Image

    small = image.copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", quality=80, method=4)
    return encoded.getvalue()


def clip(samples: npt.NDArray[np.float32], rate: int, seconds: float = SECONDS) -> bytes:
    """The first seconds of an audio clip at 16 kHz, as MP3: of what browsers play, small and without random numbers.

    (An Ogg stream has a random serial number; FLAC is four times as large.)

    Args:
        samples: float32 [samples], mono.
        rate: samples a second.
        seconds: how much to keep.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: no libsndfile for soundfile
        from hubstore.media.decode import NEEDED

        raise MissingDependencyError(NEEDED) from error
    beginning = samples[: max(1, int(seconds * rate))]
    if rate != CLIP_RATE:
        beginning = soxr.resample(beginning, rate, CLIP_RATE)
    written = io.BytesIO()
    soundfile.write(written, np.clip(beginning, -1, 1), CLIP_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return written.getvalue()


def mime_of(data: bytes) -> str:
    """The media type of encoded bytes, by how they begin; "application/octet-stream" for none that is known."""
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], UNKNOWN)
    return next((kind for start, kind in _SIGNATURES if data.startswith(start)), UNKNOWN)
