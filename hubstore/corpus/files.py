"""Files: those that are named, those of a folder, and what stands in the place of one."""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from hubstore.corpus.remote import RemoteFile, download, remote_file, url_of
from hubstore.errors import CorpusError, CorpusWarning
from hubstore.storage.location import Url

PathLike = str | os.PathLike[str]

POINTER: Final = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS left in the place of another."""

_SHOWN: Final = 5
_LOOKED_UP: Final = 16  # files of other machines at a time


class File(Protocol):
    """A file of this machine or another. A `Path` is one."""

    @property
    def name(self) -> str:
        """What follows the last slash."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Its bytes."""


def paths_of(paths: PathLike | Url | Sequence[PathLike | Url]) -> tuple[Path, ...]:
    """Turn one path or URL or several into existing files; what is elsewhere is fetched.

    Raises:
        CorpusError: There is none, or one of them is not a file.
    """
    return tuple(existing_file(path) for path in _several(paths))


def files_of(paths: PathLike | Url | Sequence[PathLike | Url]) -> tuple[Path | RemoteFile, ...]:
    """As `paths_of`, but what is elsewhere is looked up only, and fetched when it is opened.

    Raises:
        CorpusError: There is none, or one of them is not a file.
    """

    def file(path: PathLike | Url) -> Path | RemoteFile:
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
    url = url_of(path)
    if url is not None:
        return download(url)
    assert not isinstance(path, Url)
    path = Path(path)
    if path.is_dir():
        raise CorpusError(f"{path} is a folder; give a file")
    if path.is_symlink() and not path.exists():
        raise CorpusError(broken_problem(path))
    if not path.exists():
        raise CorpusError(f"{path}: there is no such file; check the path")
    return path.absolute()  # a process may change its folder before it is read


def refuse_pointer(file: File) -> None:
    """Refuse what Git LFS left in the place of a file.

    Raises:
        CorpusError: Naming the file; it is a pointer, or cannot be opened.
    """
    if not isinstance(file, Path):
        return  # a server gives the file itself, and another request for its start would cost more than it tells
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError as error:
        raise CorpusError(f"{file}: cannot be opened: {error.strerror or error}; check that it may be read") from error
    if start == POINTER:
        raise CorpusError(pointer_problem(str(file)))


def pointer_problem(name: str) -> str:
    """What is wrong with a pointer of Git LFS."""
    return f"{name}: is a pointer of Git LFS, and not the file itself; fetch the file with `git lfs pull`"


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Find all files under a folder, in order: by name, in each folder its files before its folders.

    What is hidden (`.git`, `._picture.jpg`) is left out. Links are followed, those to folders too, but none that leads
    back to a folder it is in. A link to nothing is found as well, and is no file: see `is_broken`.

    Raises:
        CorpusError: A folder cannot be listed.
    """
    return _walk(str(folder), ())


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of `walk` is a link to nothing."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def refuse_broken(entry: os.DirEntry[str], is_wanted: bool) -> None:
    """Raise CorpusError for a link to nothing that is wanted, or has no suffix and may be to a folder of such files."""
    if (is_wanted or "." not in entry.name) and is_broken(entry):
        raise CorpusError(broken_problem(entry.path))


def warn_of_others(folder: Path, kind: str, others: Sequence[str | os.PathLike[str]]) -> None:
    """Warn of files of a folder that are not read where what is read is of another kind."""
    if others:
        warnings.warn(
            f"{folder}: only its {kind} are read, and not {shown_names(others)}; move what is no part of the corpus "
            "elsewhere, or name the files to read",
            CorpusWarning,
            stacklevel=2,
        )


def shown_names(names: Sequence[str | os.PathLike[str]]) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def broken_problem(path: str | os.PathLike[str]) -> str:
    """What is wrong with a link to nothing."""
    return f"{path}: is a link to {os.readlink(path)}, where nothing is; mend the link, or remove it"


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[os.DirEntry[str]]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be listed: {error.strerror}; check that it may be read") from error
    this = (status.st_dev, status.st_ino)
    if this in above:
        return
    yield from (entry for entry in entries if is_broken(entry) or entry.is_file())
    for entry in entries:
        if not is_broken(entry) and entry.is_dir():
            yield from _walk(entry.path, (*above, this))
