"""What a corpus is read from, as JSON can hold it, and whether two such records are of the same corpus."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, Final

import xxhash

from hubstore.corpus.files import File
from hubstore.corpus.remote import RemoteFile
from hubstore.errors import CorpusError

_BLOCK: Final = 1 << 20  # bytes read at once
_SAMPLE: Final = 1 << 14  # bytes of each of three places of a file
_THREADS: Final = 4  # files read at once; hashing lets go of the interpreter

_TIME: Final = "mtime_ns"
"""Recorded by older stores. It says nothing: a copy of a file has another."""

_CONTENT: Final = {_TIME, "xxh3", "sha256", "names_and_sizes", "samples", "etag", "modified_ns"}
"""What tells contents apart. Compared where both records have it, since older ones have less."""


def file_identities(files: Iterable[File], folder: Path | None = None) -> list[dict[str, Any]]:
    """Describe files so that a file of other content has another description; local files are read to their end.

    Args:
        files: the files, in order.
        folder: what their names are relative to. Without it only the last part of a path is taken, so that a corpus
            may move.
    """

    def describe(file: File) -> dict[str, Any]:
        if isinstance(file, RemoteFile):
            version = {"modified_ns": file.mtime_ns} if file.etag is None else {"etag": file.etag}
            return {"name": file.name, "size": file.size, **version}
        assert isinstance(file, Path)
        name = file.name if folder is None else PurePath(os.path.relpath(file, folder)).as_posix()
        size, digest = _digest(file)
        return {"name": name, "size": size, "xxh3": digest}

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(describe, files))


def sampled_content(folder: Path, names: Sequence[str]) -> str:
    """A digest of files that are too many to be read whole: all of a small one, the ends and the middle of others.

    Raises:
        CorpusError: one of them cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        digest = xxhash.xxh3_128()
        for of_file in pool.map(lambda name: _sample(folder / name), names):
            digest.update(of_file)
        return digest.hexdigest()


def _sample(file: Path) -> bytes:
    try:
        with file.open("rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            digest = xxhash.xxh3_128(size.to_bytes(8, "little"))
            for start in (0,) if size <= 3 * _SAMPLE else (0, size // 2, size - _SAMPLE):
                opened.seek(start)
                digest.update(opened.read(_SAMPLE if start or size > 3 * _SAMPLE else size))
    except OSError as error:
        raise _unreadable(file, error) from error
    return digest.digest()


def same_source(one: Any, other: Any) -> bool:
    """Whether two records of `Corpus.source` are of the same corpus, read in the same way.

    Sizes and digests of files must be equal, times of change need not be. A record of an older store, which has times
    in place of digests, is of the same corpus where nothing else contradicts; an option that one of the two lacks is
    taken for None.

    Args:
        one: a record, as it is or as JSON gave it back.
        other: another.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        lacking = (one.keys() ^ other.keys()) - _CONTENT
        return all(one.get(key, other.get(key)) is None for key in lacking) and all(
            same_source(one[key], other[key]) for key in one.keys() & other.keys() if key != _TIME
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_source, one, other))
    return bool(one == other)


def _digest(file: Path) -> tuple[int, str]:
    digest, size = xxhash.xxh3_128(), 0
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise _unreadable(file, error) from error
    return size, digest.hexdigest()


def _unreadable(file: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{file}: cannot be read: {error.strerror}; check that it is there and may be read")
