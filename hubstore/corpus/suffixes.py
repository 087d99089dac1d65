"""What the names of files say: their format, and whether they are images, audio or archives."""

import os
from typing import Final

COMPRESSED: Final = (".gz", ".bz2", ".xz")
IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
AUDIO_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
_MODALITIES: Final = dict.fromkeys(IMAGE_SUFFIXES, "image") | dict.fromkeys(AUDIO_SUFFIXES, "audio")


def modality_of(name: str) -> str | None:
    """Say by a file's suffix whether it is an `image` or `audio`; None for neither."""
    return _MODALITIES.get(os.path.splitext(name)[1].lower())


def format_suffix(name: str) -> str:
    """Return the suffix that says the format, `.jsonl` of `x.jsonl` and of `x.jsonl.gz`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix


def is_tar(name: str) -> bool:
    """Whether a file is a tar archive by its name, compressed or not."""
    return format_suffix(name) == ".tar" or name.lower().endswith(".tgz")
