"""Decodes images and audio: what a model's processor is given."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from hubstore.corpus.files import POINTER, pointer_problem
from hubstore.corpus.item import MEMBER, Media
from hubstore.corpus.remote import RemoteFile, remote_bytes, remote_file, url_of
from hubstore.corpus.suffixes import is_tar
from hubstore.corpus.transient import is_transient, patiently, unreachable
from hubstore.errors import CorpusError, MissingDependencyError
from hubstore.quiet import ignored_warnings

if TYPE_CHECKING:
    from PIL import Image

NEEDED: Final = "images and audio need Pillow, soundfile and soxr: pip install 'hubstore[media]'"

IMAGE_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's decoders that are used; of the others some start a program (EPS starts Ghostscript)."""

MOST_SAMPLES: Final = 1 << 28
"""Of each channel of a recording, as it is and at the model's rate: 1 GiB as float32, 93 minutes at 48 kHz."""

_WHOLE: Final = 0.9  # of what a header announces: that of an MP3 may be an estimate
_BLOCK: Final = 1 << 20  # samples of all channels that are decoded at a time
_ROWS: Final = 256  # of an image of more than 8 bits that are scaled at a time
_ENDLESS: Final = 0x7F000000  # sizes from here on, and 0, stand in the headers of audio clips written as a stream


def media_bytes(media: Media) -> bytes:
    """The encoded bytes of an image or audio clip: its own, its file's, or those of a member of a tar archive.

    Raises:
        CorpusError: its file or member is not there, is none that can be read, or is a pointer of Git LFS to another.
        CorpusUnreachableError: it may be there, and cannot be read now, after a few attempts.
    """
    data = media.data if media.data is not None else patiently(lambda: _stored_bytes(media))
    if data.startswith(POINTER):
        raise CorpusError(pointer_problem(media.name))
    return data


def _stored_bytes(media: Media) -> bytes:
    archive, separator, member = media.name.partition(MEMBER)
    url = url_of(archive)
    try:
        if url is not None:
            inside = separator and is_tar(url.name)
            return _member(remote_file(url), member) if inside else _remote(media.name)
        if separator and Path(archive).is_file():
            return _member(Path(archive), member)
        return Path(media.name).read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{media.name}: there is no such file; check the path") from None
    except CorpusError:
        raise
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        if is_transient(error):
            raise unreachable(media.name, error) from error
        raise CorpusError(f"{media.name}: cannot be read: {error}; check that it is a file and may be read") from error


def open_image(media: Media) -> Image.Image:
    """Decode an image: RGB, upright as its EXIF orientation says, what is transparent laid over white.

    Of an animation the first frame is taken; more than 8 bits a channel are scaled to 8.

    Raises:
        CorpusError: it is no image that Pillow reads, is cut off, or would be too large when decoded.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError(NEEDED) from error
    data = media_bytes(media)
    try:
        with ignored_warnings(), _opened_image(data) as image:  # of odd metadata, which would name no file
            _check_pixels(image.size, Image.MAX_IMAGE_PIXELS, media.name)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except Image.DecompressionBombError as error:
        raise CorpusError(f"{media.name}: {_short(error)}; make the image smaller, or leave it out") from None
    except (CorpusError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise CorpusError(
            f"{media.name}: is no image that can be read: it is none of {', '.join(_image_formats())}; check that "
            "the file is whole, or convert it to PNG"
        ) from None
    except Exception as error:  # damaged images raise whatever their decoder trips over
        raise CorpusError(
            f"{media.name}: is no image that can be read: {_short(error)}; check that the file is whole"
        ) from error


def decoded_size(modality: str, data: bytes, rate: int) -> int:
    """How much there is to decode, as the header announces it: pixels of an image, samples of audio at `rate`.

    No more than is announced is decoded. 0 where the header cannot be read: the decoder says what is wrong.
    """
    try:
        if modality == "image":
            with ignored_warnings(), _opened_image(data) as image:
                return image.width * image.height
        import soundfile

        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return _samples(file.frames, file.samplerate, rate)
    except MemoryError:
        raise
    except Exception:
        return 0


def _opened_image(data: bytes) -> Image.Image:
    """An image whose header is read."""
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=_image_formats())


@cache
def _image_formats() -> tuple[str, ...]:
    """Those of IMAGE_FORMATS that this Pillow has."""
    return IMAGE_FORMATS if find_spec("PIL.AvifImagePlugin") else IMAGE_FORMATS[:-1]


def _check_pixels(size: tuple[int, int], most: int | None, name: str) -> None:
    """Of what Pillow itself would only warn, up to twice as many pixels."""
    if most is not None and size[0] * size[1] > most:
        raise CorpusError(
            f"{name}: its {size[0] * size[1]:,} pixels are more than the {most:,} that are safe to decode; make the "
            "image smaller, or leave it out"
        )


def open_audio(media: Media, rate: int) -> npt.NDArray[np.float32]:
    """Decode an audio clip: float32 [samples], the mean of its channels, at `rate` samples a second.

    An Ogg stream that was cut off cannot be told from a shorter one: what there is of it is the audio.

    Raises:
        CorpusError: it is no audio that libsndfile reads, is cut off, is longer than MOST_SAMPLES, or holds no sample
            or one that is not finite.
        MissingDependencyError: soundfile or soxr is not installed.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: no libsndfile for soundfile
        raise MissingDependencyError(NEEDED) from error
    data = media_bytes(media)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            announced, own_rate = file.frames, file.samplerate
            _check_samples(_samples(announced, own_rate, rate), own_rate, media.name)
            mono, finite = _mono(file)
        if problem := _audio_problem(mono, announced, data, finite):
            raise CorpusError(f"{media.name}: {problem}")
        if own_rate == rate:
            return mono
        resampled: npt.NDArray[np.float32] = soxr.resample(mono, own_rate, rate, quality="HQ")
    except (CorpusError, MemoryError):
        raise
    except Exception as error:  # damaged audio clips raise whatever their decoder trips over
        raise CorpusError(
            f"{media.name}: is no audio that can be read: {_short(error)}; check that the file is whole"
        ) from error
    if not len(resampled):
        raise CorpusError(f"{media.name}: the audio has no samples at {rate:,} Hz, of {own_rate:,} Hz; leave it out")
    return resampled


def _samples(announced: int, own_rate: int, rate: int) -> int:
    """Samples of a channel as it is, or at `rate` where those are more."""
    return max(announced, announced * rate // max(own_rate, 1))


def _check_samples(samples: int, own_rate: int, name: str) -> None:
    if samples > MOST_SAMPLES:
        raise CorpusError(
            f"{name}: the audio, of {own_rate:,} Hz, has {samples:,} samples decoded, more than the {MOST_SAMPLES:,} "
            "that are safe to decode; cut it into parts, or leave it out"
        )


def _mono(file: Any) -> tuple[npt.NDArray[np.float32], bool]:
    """float32 [samples], the mean of an opened file's channels, and whether every one is finite."""
    mono, count, finite = np.empty(file.frames, np.float32), 0, True
    block = max(1, _BLOCK // file.channels)
    while count < len(mono):
        part = file.read(min(block, len(mono) - count), dtype="float32", always_2d=True)
        if not len(part):
            break
        finite = finite and bool(np.isfinite(part).all())
        mono[count : count + len(part)] = part[:, 0] if part.shape[1] == 1 else part.mean(axis=1, dtype=np.float32)
        count += len(part)
    return mono[:count], finite


def _member(archive: Path | RemoteFile, member: str) -> bytes:
    with archive.open("rb") as opened, tarfile.open(fileobj=opened) as tar:
        try:
            file = tar.extractfile(member)
        except KeyError:
            file = None
        if file is None:
            raise CorpusError(f"{archive}: has no member {member!r}; check that it is still the same archive")
        return file.read()


def _remote(name: str) -> bytes:
    url = url_of(name)
    assert url is not None
    return remote_bytes(url)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray is scaled by its range, wider integers and floats by their own."""
    from PIL import Image

    values = np.asarray(image)
    most = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 1e-12)
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS].astype(np.float64)
        scaled[start : start + _ROWS] = (rows.clip(0, most) * (255 / most)).round()
    return Image.fromarray(scaled)


def _audio_problem(samples: npt.NDArray[np.float32], announced: int, data: bytes, finite: bool) -> str | None:
    if len(samples) < _WHOLE * announced or _wave_is_cut(data):
        return f"the audio is cut off after {len(samples)} samples; check that the file is whole"
    if not len(samples):
        return "the audio has no samples; leave it out"
    if not finite:
        return "the audio has samples that are not finite; leave it out"
    return None


def _wave_is_cut(data: bytes) -> bool:
    """libsndfile takes a WAV file for as long as it is, whatever its header says."""
    size = int.from_bytes(data[4:8], "little")
    return data[:4] == b"RIFF" and size < _ENDLESS and len(data) < _WHOLE * size


def _short(error: Any) -> str:
    """The first line of a decoder's message, without the address that it prints for our bytes in memory."""
    message = str(getattr(error, "error_string", error)).split(" <_io.BytesIO")[0]
    return (message.strip().splitlines() or [type(error).__name__])[0][:200]
