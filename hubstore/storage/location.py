"""Where a store, a corpus or a medium is: a path on this machine, or the URL of an object store or a web server."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hubstore.errors import StoreError

OBJECT_STORES = ("s3", "gs", "az")
WEB = ("https", "http")

LINKS = "named"
"""Folder of the cache with a corpus's links, which have the names of the objects, since readers go by a suffix."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A scheme of two letters or more, which no drive has. `Path` leaves one slash of two."""

_BUCKET = re.compile(r"[A-Za-z0-9$._-]+")
_WEB_HOST = re.compile(r"[^\s:\[\]]+(:\d*)?|\[[0-9A-Fa-f:.]+\](:\d*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, order=True)
class Url:
    """A place that no `Path` can name, with what is asked of a path in messages: `/`, `name`, str.

    Args:
        scheme: "s3", "gs", "az", "https" or "http".
        rest: what follows "://", without a slash at its end.
    """

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"

    def __truediv__(self, key: str) -> Url:
        return Url(self.scheme, f"{self.rest}/{key}")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.rest.rpartition("/")[2]

    @property
    def host(self) -> str:
        """The bucket, the container, or the host and its port."""
        return self.rest.partition("/")[0]

    @property
    def path(self) -> str:
        """What follows the host, without a slash before it."""
        return self.rest.partition("/")[2]

    def absolute(self) -> Url:
        """Itself: no URL is relative."""
        return self

    def resolve(self) -> Url:
        """Itself: nothing is followed."""
        return self


Location = Path | Url


def location(where: str | os.PathLike[str] | Url) -> Location:
    """The path or URL that `where` names.

    Raises:
        StoreError: a URL of a scheme that is not known, with a user, password or query in it, or that names no place.
    """
    if isinstance(where, Url):
        return where
    text = os.fspath(where)
    found = _URL.fullmatch(text)
    if not found:
        return Path(where)
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if scheme not in OBJECT_STORES + WEB:
        raise StoreError(
            f"{scheme}:// is no place that hubstore knows; it takes paths, s3://, gs://, az:// and https://"
        )
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise StoreError(
            f"a location of {scheme}:// names no user, password or query: leave them out, and give credentials in the "
            "environment or where the provider's own tools keep them"
        )
    if problem := _problem(scheme, rest):
        raise StoreError(f"{scheme + '://' + rest!r} {problem}")
    return Url(scheme, rest)


def shell_word(where: Location | str) -> str:
    """A location as a shell reads it, for commands that a message gives to be typed: quoted where it has a blank."""
    return shlex.quote(str(where))


def _problem(scheme: str, rest: str) -> str | None:
    """What a client for the URL would trip over."""
    host, _, path = rest.partition("/")
    host_of = "host" if scheme in WEB else "container" if scheme == "az" else "bucket"
    if not host:
        return f"names no {host_of}; write {scheme}://{host_of}/folder"
    if _CONTROL.search(rest):
        return "has a line break, a tab or another control character in it; leave it out"
    if not (_WEB_HOST if scheme in WEB else _BUCKET).fullmatch(host) or not _has_port(host):
        return f"has no {host_of} that can be: {host!r}; check its spelling"
    if {".", ".."} & set(path.split("/")):
        return "has . or .. in its path, which names nothing there; write the whole path"
    return None


def _has_port(host: str) -> bool:
    """Whether the host and its port, if there is one, are such."""
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False
