"""Corpora and media of object stores and web servers: files by way of the cache, media as bytes."""

from __future__ import annotations

import hashlib
import os
import posixpath
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hubstore.corpus.files import format_suffix, is_tar
from hubstore.errors import CorpusError, StoreError
from hubstore.location import Url, location

if TYPE_CHECKING:
    from hubstore.store.remote import RemoteStorage

NAMED = "named"
"""Folder of the cache with links that have the names of the objects, since readers go by a file's suffix."""

ORIGIN = ".origin"
"""Beside such a link: the URL of what it links to."""


def url_of(where: str | os.PathLike[str] | Url) -> Url | None:
    """The URL that `where` is; None for a path. CorpusError where it is one that hubstore does not take."""
    try:
        found = location(where)
    except StoreError as error:
        raise CorpusError(str(error)) from None
    return found if isinstance(found, Url) else None


def medium_name(where: str | os.PathLike[str]) -> str:
    """What finds a picture or a sound again: its URL, or the whole of its path."""
    return str(url_of(where) or os.path.abspath(where))


def fetched(url: Url) -> Path:
    """A local file with the object's bytes, name and time.

    Raises:
        CorpusError: it is not there, the cache cannot hold it, or the server refuses.
    """
    from hubstore.store.cache import user_cache

    storage, key = _object(url)
    try:
        if not storage.exists(key):
            raise CorpusError(f"{url}: there is no such object; check the URL")
        local = storage.local(key)
    except StoreError as error:
        raise CorpusError(f"{url}: cannot be read: {error}") from error
    folder = user_cache().folder / NAMED / hashlib.sha256(str(url).encode()).hexdigest()[:40]
    folder.mkdir(parents=True, exist_ok=True)
    _put_link(folder / url.name, local)
    (folder / ORIGIN).write_text(str(url), encoding="utf-8")
    return folder / url.name


def origin(path: Path) -> Url | None:
    """Where a file comes from that `fetched` gave; None for any other."""
    if path.parent.parent.name != NAMED:
        return None
    try:
        return url_of((path.parent / ORIGIN).read_text(encoding="utf-8"))
    except OSError:
        return None


def beside(folder: Path, path: str) -> str | None:
    """The URL of `path`, as a file in `folder` that `fetched` gave names it; None where `folder` is of this machine."""
    found = origin(folder / ORIGIN)
    if found is None:
        return None
    whole = posixpath.normpath(posixpath.join("/", posixpath.dirname(found.path), path))
    return str(Url(found.scheme, found.host + whole))


def tars_below(url: Url) -> list[Url]:
    """The tar archives below a URL, in order; CorpusError where there is none, or the server lists nothing."""
    storage = _storage(url)
    try:
        keys = storage.list("")
    except StoreError as error:
        raise CorpusError(f"{url}: cannot be listed: {error}") from error
    found = [url / key for key in keys if is_tar(Path(key))]
    if not found:
        raise CorpusError(f"{url}: is neither a file by its suffix nor a folder of tar archives; check the URL")
    return found


def remote_bytes(url: Url) -> bytes:
    """The bytes of one object; CorpusError where it is not there or cannot be read."""
    storage, key = _object(url)
    try:
        if not storage.exists(key):
            raise CorpusError(f"{url}: there is no such object; check the URL")
        return storage.read(key)
    except StoreError as error:
        raise CorpusError(f"{url}: cannot be read: {error}") from error


def is_file_name(url: Url) -> bool:
    """Whether the URL has a suffix, and so names one file."""
    return format_suffix(Path(url.name)) != ""


def _object(url: Url) -> tuple[RemoteStorage, str]:
    if not url.path:
        raise CorpusError(f"{url}: names no object; give one below it")
    return _storage(Url(url.scheme, url.host)), url.path


@cache
def _storage(url: Url) -> RemoteStorage:
    from hubstore.store import open_storage
    from hubstore.store.remote import RemoteStorage

    try:
        storage = open_storage(url)
    except StoreError as error:
        raise CorpusError(str(error)) from error
    assert isinstance(storage, RemoteStorage)
    return storage


def _put_link(link: Path, target: Path) -> None:
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
