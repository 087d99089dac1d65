"""Local files: their identity, and their lines, split where line-aligned corpora are split."""

import bz2
import codecs
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from hubstore.errors import CorpusError
from hubstore.location import Url

if TYPE_CHECKING:
    from hubstore.corpus.remote import RemoteFile

PathLike = str | os.PathLike[str]

_COMPRESSED: Final[dict[str, Callable[..., Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
AUDIO_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
_LOOKED_UP: Final = 16  # files of other machines at a time
_MODALITIES: Final = dict.fromkeys(IMAGE_SUFFIXES, "image") | dict.fromkeys(AUDIO_SUFFIXES, "audio")


def modality_of(name: str) -> str | None:
    """Say by a file's suffix whether it is an `image` or `audio`; None for neither."""
    return _MODALITIES.get(os.path.splitext(name)[1].lower())


def paths_of(paths: PathLike | Url | Sequence[PathLike | Url]) -> tuple[Path, ...]:
    """Turn one path or URL or several into existing files; what is elsewhere is fetched.

    Raises:
        CorpusError: There is none, or one of them is not a file.
    """
    return tuple(existing_file(path) for path in _several(paths))


def files_of(paths: PathLike | Url | Sequence[PathLike | Url]) -> "tuple[Path | RemoteFile, ...]":
    """As `paths_of`, but what is elsewhere is looked up only, and fetched when it is opened.

    Raises:
        CorpusError: There is none, or one of them is not a file.
    """
    from hubstore.corpus.remote import remote_file, url_of

    def file(path: PathLike | Url) -> "Path | RemoteFile":
        url = url_of(path)
        return existing_file(path) if url is None else remote_file(url)

    with ThreadPoolExecutor(_LOOKED_UP) as pool:
        return tuple(pool.map(file, _several(paths)))


def _several(paths: PathLike | Url | Sequence[PathLike | Url]) -> tuple[PathLike | Url, ...]:
    several = (paths,) if isinstance(paths, str | os.PathLike | Url) else tuple(paths)
    if not several:
        raise CorpusError("no file was given; give at least one path")
    return several


def existing_file(path: PathLike | Url) -> Path:
    """Return the path of a file that is there.

    Raises:
        CorpusError: Nothing is there, or a folder.
    """
    from hubstore.corpus.remote import fetched, url_of

    url = url_of(path)
    if url is not None:
        return fetched(url)
    assert not isinstance(path, Url)
    path = Path(path)
    if path.is_dir():
        raise CorpusError(f"{path} is a folder; give a file")
    if not path.exists():
        raise CorpusError(f"{path}: there is no such file; check the path")
    return path


def format_suffix(path: Path) -> str:
    """Return the suffix that says the format, `.jsonl` of `x.jsonl` and of `x.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive by its name, compressed or not."""
    return format_suffix(path) == ".tar" or path.suffix.lower() == ".tgz"


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Find all files under a folder, in order: by name, in each folder its files before its folders.

    What is hidden (`.git`, `._picture.jpg`) is left out; links to folders are not followed.
    """
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))


def read_lines(path: Path) -> Iterator[str]:
    r"""Read the lines of a UTF-8 file, compressed or not, without their ends.

    Lines end with `\n`, and a `\r` before it is dropped; no other character ends one. (Python's
    `splitlines`, and text files opened with universal newlines, also split at a lone `\r`, and some
    at U+0085 or U+2028, which stand inside real sentences and would shift all that follow.)

    Raises:
        CorpusError: Naming the file and the line: it is not UTF-8, or its compressed data is damaged.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                content = line.removesuffix(b"\n").removesuffix(b"\r")
                yield (content.removeprefix(codecs.BOM_UTF8) if number == 1 else content).decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}, line {number}: byte {error.start + 1} of the line, 0x{error.object[error.start]:02x}, "
            "is not UTF-8; convert the file to UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorpusError(
            f"{path}, after line {number}: cannot be read: {error}; check that the file is whole"
        ) from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, _COMPRESSED.get(path.suffix.lower(), open)(path, "rb"))
