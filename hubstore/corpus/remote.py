"""Corpora and media of object stores and web servers: files by way of the cache, media as bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote, unquote

from hubstore.corpus.suffixes import format_suffix, is_tar
from hubstore.errors import CorpusError, CorpusUnreachableError, StorageUnreachableError, StoreAccessError, StoreError
from hubstore.storage import Storage, Url, location, open_storage
from hubstore.storage.location import LINKS, WEB

SOURCE = ".origin"
"""Beside such a link: the URL of what it links to."""

SECOND = 10**9


@dataclass(frozen=True)
class RemoteFile:
    """A file of an object store or a web server, which is fetched when it is opened.

    Args:
        url: where it is.
        size: its bytes.
        mtime_ns: when it was written.
        etag: what the server calls this version of it, where it says so.
    """

    url: Url
    size: int
    mtime_ns: int
    etag: str | None = None

    def __str__(self) -> str:
        return str(self.url)

    @property
    def name(self) -> str:
        """What follows the last slash of its URL."""
        return self.url.name

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Its bytes, from the cache, where they need not stay meanwhile.

        Raises:
            CorpusError: it cannot be fetched, or is another than it was.
        """
        storage, key = _object(self.url)
        with _refused(self.url):
            file = storage.open(key)
        found = os.fstat(file.fileno())
        if found.st_size != self.size or abs(found.st_mtime_ns - self.mtime_ns) >= SECOND:  # not all disks keep more
            file.close()
            raise CorpusError(f"{self.url}: changed after the corpus was opened; run the same command again")
        return file


def url_of(where: str | os.PathLike[str] | Url) -> Url | None:
    """The URL that `where` is; None for a path. CorpusError where it is one that hubstore does not take."""
    try:
        found = location(where)
    except StoreError as error:
        raise CorpusError(str(error)) from None
    return found if isinstance(found, Url) else None


def medium_name(where: str | os.PathLike[str]) -> str:
    """What finds an image or audio clip again: its URL, or the whole of its path."""
    return str(url_of(where) or os.path.abspath(where))


def remote_file(url: Url) -> RemoteFile:
    """What the server says of the object at a URL; CorpusError where it is not there, or the server refuses."""
    storage, key = _object(url)
    with _refused(url):
        found = storage.stat(key)
    if found is None:
        raise _is_missing(url)
    return RemoteFile(url, found.size, found.mtime_ns, found.etag)


def download(url: Url) -> Path:
    """A local file with the object's bytes, name and time, which stays while this process runs.

    Raises:
        CorpusError: it is not there, the cache cannot hold it, or the server refuses.
    """
    from hubstore.storage.cache import user_cache

    storage, key = _object(url)
    with _refused(url):
        if not storage.exists(key):
            raise _is_missing(url)
        local, named = storage.local(key), user_cache().folder / LINKS
    folder = named / hashlib.sha256(f"{url} {local.name}".encode()).hexdigest()[:40]  # of this version of the object
    link = folder / url.name
    try:
        if not (link.exists() and link.samefile(local)):
            folder.mkdir(parents=True, exist_ok=True)
            _put(folder / SOURCE, lambda partial: partial.write_text(str(url), encoding="utf-8"))
            _put(link, lambda partial: _link(partial, local))
    except OSError as error:
        raise CorpusError(
            f"{url}: cannot be named in the cache {named} ({error.strerror}); set HUBSTORE_CACHE to a folder that can "
            "be written to"
        ) from error
    return link


def source_url(path: Path) -> Url | None:
    """Where a file that `download` gave comes from; None for any other."""
    if path.parent.parent.name != LINKS:
        return None
    try:
        return url_of((path.parent / SOURCE).read_text(encoding="utf-8"))
    except OSError:
        return None


def sibling_url(folder: Path, path: str) -> str | None:
    """The URL of `path` as a downloaded file in `folder` names it; None where nothing was downloaded to `folder`."""
    found = source_url(folder / SOURCE)
    if found is None:
        return None
    whole = posixpath.normpath(posixpath.join("/", posixpath.dirname(_key(found)), path))
    return str(Url(found.scheme, found.host + (quote(whole) if found.scheme in WEB else whole)))


def tars_below(url: Url) -> list[Url]:
    """The tar archives below a URL, in order; CorpusError where there is none, or the server lists nothing."""
    storage = _storage(url)
    try:
        keys = storage.list("")
    except StoreError as error:
        raise CorpusError(f"{url}: cannot be listed: {error}") from error
    found = [url / key for key in keys if is_tar(key)]
    if not found:
        raise CorpusError(f"{url}: is neither a file by its suffix nor a folder of tar archives; check the URL")
    return found


def remote_bytes(url: Url) -> bytes:
    """The bytes of one object; CorpusError where it is not there or cannot be read."""
    storage, key = _object(url)
    with _refused(url):
        if not storage.exists(key):
            raise _is_missing(url)
        return storage.read(key)


def is_file_name(url: Url) -> bool:
    """Whether the URL has a suffix, and so names one file."""
    return format_suffix(url.name) != ""


def _object(url: Url) -> tuple[Storage, str]:
    if not url.path:
        raise CorpusError(f"{url}: names no object; give one below it")
    return _storage(Url(url.scheme, url.host)), _key(url)


def _key(url: Url) -> str:
    """The object's name below its host; a client for web servers quotes it anew."""
    return unquote(url.path) if url.scheme in WEB else url.path


@contextlib.contextmanager
def _refused(url: Url) -> Iterator[None]:
    try:
        yield
    except (StorageUnreachableError, StoreAccessError) as error:
        raise CorpusUnreachableError(f"{url}: cannot be read now: {error}") from error
    except StoreError as error:
        raise CorpusError(f"{url}: cannot be read: {error}") from error


def _is_missing(url: Url) -> CorpusError:
    return CorpusError(f"{url}: there is no such object; check the URL")


@cache
def _storage(url: Url) -> Storage:
    try:
        return open_storage(url)
    except StoreError as error:
        raise CorpusError(str(error)) from error


def _put(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file whole, whatever other threads and processes put there."""
    partial = path.with_name(f".{uuid.uuid4().hex}")
    try:
        make(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # still there where both are links to one file


def _link(link: Path, target: Path) -> None:
    """Link to a file so that its removal leaves the link whole, where the disk has such links."""
    try:
        os.link(target, link)
    except FileNotFoundError:
        raise
    except OSError:
        link.symlink_to(target.absolute())
