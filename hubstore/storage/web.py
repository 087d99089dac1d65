"""A store behind a plain web server, which gives files and byte ranges of them and lists nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hubstore.errors import StoreAccessError
from hubstore.storage.local import Buffer
from hubstore.storage.objects import RemoteStorage
from hubstore.store.commit import Commit
from hubstore.store.layout import LENS, ROOT, Layout, array_key, commit_key, group_keys
from hubstore.store.lensrecord import read_lens_record

PROBED = 32
"""Commits that are asked for at once."""


class WebStorage(RemoteStorage):
    """Everything below one URL of a web server, to be read only.

    What is there is known from the store itself: commits have numbers and name their files. Kept analyses, which only
    a listing would name, are not found.
    """

    def list(self, prefix: str) -> Sequence[str]:
        """The files below `prefix` that the store's commits and metadata name."""
        if prefix == "commits":
            return list(self._commits())
        known = [key for key in self._named_keys() if not prefix or key.startswith(f"{prefix}/")]
        return sorted(known)

    def stamps(self, keys: Sequence[str], prefixes: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """As in an object store, of what can be named."""
        named = [key for prefix in prefixes for key in self.list(prefix)]
        yield from super().stamps([*keys, *named], ())

    def write(self, key: str, *buffers: Buffer) -> None:
        """Refused: StoreAccessError."""
        self._refuse()

    def create(self, key: str, *buffers: Buffer) -> bool:
        """Refused: StoreAccessError."""
        self._refuse()

    def delete(self, key: str) -> None:
        """Refused: StoreAccessError."""
        self._refuse()

    def put_file(self, key: str, path: Path) -> None:
        """Refused: StoreAccessError."""
        self._refuse()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Refused: StoreAccessError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreAccessError(
            f"{self.root} is read over {self.root.scheme}, which cannot be written to; write to a path, s3://, gs:// "
            "or az://"
        )

    def _commits(self) -> Iterator[str]:
        """Commits by number, until a whole batch of numbers has none: shards that are still to come leave few gaps."""
        first = 0
        while True:
            keys = [commit_key(first + i) for i in range(PROBED)]
            there = [key for key, found in zip(keys, self._readers.map(self.exists, keys), strict=True) if found]
            yield from there
            if not there:
                return
            first += PROBED

    def _named_keys(self) -> set[str]:
        from hubstore.store.reader import read_attributes

        layout = Layout.from_json(read_attributes(self))
        keys = {ROOT, *group_keys(layout.poolings)}
        commits = list(self._commits())
        for key, data in zip(commits, self.read_all(commits), strict=True):
            keys |= {key, *Commit.decode(data, str(self.root / key)).files}
        if self.exists(LENS):
            keys |= {LENS, *read_lens_record(self)[1]}
        likely = []
        for pooling in layout.poolings:
            for layer in layout.layers:
                keys.add(f"{array_key(pooling, layer)}/{ROOT}")
                likely += [f"indexes/{pooling}/{layer}/{name}" for name in ("index.json", "index.faiss")]
        return keys | {key for key, found in zip(likely, self._readers.map(self.exists, likely), strict=True) if found}
