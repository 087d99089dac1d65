"""Files behind a plain web server, which gives files and byte ranges of them and lists nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Self

from hubstore.errors import StoreAccessError, StoreError
from hubstore.storage.interface import FileStat, Storage
from hubstore.storage.location import Url
from hubstore.storage.objects import RemoteStorage

Listing = Callable[[Storage, str], Iterable[str]]
"""The keys below a prefix, as the files themselves name them."""


class WebStorage(RemoteStorage):
    """Everything below one URL of a web server, to be read only."""

    listing: Listing | None = None
    """Lists in the server's place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).at, (self._url, None, self.listing)

    @classmethod
    def at(cls, root: Url, token: str | None = None, listing: Listing | None = None) -> Self:
        """What is below a URL."""
        storage = super().at(root, token)
        storage.listing = listing
        return storage

    def list(self, prefix: str) -> Sequence[str]:
        """The keys below `prefix` that `listing` gives; StoreError where there is no listing."""
        if self.listing is None:
            raise StoreError(f"{self.root}: a web server does not list its files; give the URL of one file")
        return sorted(self.listing(self, prefix))

    def stat_many(self, keys: Sequence[str], prefixes: Sequence[str] = ()) -> Sequence[FileStat]:
        """As in an object store, of what can be listed."""
        return super().stat_many([*keys, *(key for prefix in prefixes for key in self.list(prefix))])

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Refused: StoreAccessError."""
        self._refuse()

    def share(self) -> contextlib.AbstractContextManager[None]:
        """Refused: StoreAccessError."""
        self._refuse()

    def _check_write(self, key: str, *, anew: bool = False) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreAccessError(
            f"{self.root} is read over {self.root.scheme}, which cannot be written to; write to a path, s3://, gs:// "
            "or az://"
        )
