"""Decodes images and audio: what a model's processor is given."""

from __future__ import annotations

import io
import tarfile
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

_WHOLE: Final = 0.9  # of what a header announces: that of an MP3 may be an estimate
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
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError(NEEDED) from error
    data = media_bytes(media)
    try:
        with ignored_warnings(), Image.open(io.BytesIO(data)) as image:  # of odd metadata, which would name no file
            _check_pixels(image.size, Image.MAX_IMAGE_PIXELS, media.name)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except Image.DecompressionBombError as error:
        raise CorpusError(f"{media.name}: {_short(error)}; make the image smaller, or leave it out") from None
    except (CorpusError, MemoryError):
        raise
    except Exception as error:  # damaged images raise whatever their decoder trips over
        raise CorpusError(
            f"{media.name}: is no image that can be read: {_short(error)}; check that the file is whole"
        ) from error


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
        CorpusError: it is no audio that libsndfile reads, is cut off, or holds no sample or one that is not finite.
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
            samples = file.read(dtype="float32", always_2d=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged audio clips raise whatever their decoder trips over
        raise CorpusError(
            f"{media.name}: is no audio that can be read: {_short(error)}; check that the file is whole"
        ) from error
    if problem := _audio_problem(samples, announced, data):
        raise CorpusError(f"{media.name}: {problem}")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    resampled: npt.NDArray[np.float32] = mono if own_rate == rate else soxr.resample(mono, own_rate, rate, quality="HQ")
    return resampled


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

    values = np.asarray(image, np.float64)
    most = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 1e-12)
    return Image.fromarray((values.clip(0, most) * (255 / most)).round().astype(np.uint8))


def _audio_problem(samples: npt.NDArray[np.float32], announced: int, data: bytes) -> str | None:
    if len(samples) < _WHOLE * announced or _wave_is_cut(data):
        return f"the audio is cut off after {len(samples)} samples; check that the file is whole"
    if not len(samples):
        return "the audio has no samples; leave it out"
    if not np.isfinite(samples).all():
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
