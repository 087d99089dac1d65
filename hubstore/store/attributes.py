"""A store's own description: attributes.hubstore of its root group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hubstore.errors import CorruptStoreError, StoreFormatError, StoreNotFoundError
from hubstore.storage import Location, Storage
from hubstore.store.layout import FORMAT, ROOT
from hubstore.store.unfinished import with_defaults


class Attributes(dict[str, Any]):
    """attributes.hubstore of a root group.

    Args:
        content: of the group.
        where: its zarr.json.

    Raises:
        StoreFormatError: an attribute is read that is not there.
    """

    def __init__(self, content: Mapping[str, Any], where: Location) -> None:
        super().__init__(content)
        self._where = where

    def __missing__(self, key: str) -> Any:
        """Refuse what needs an attribute that only extractions write, or a layout that is not whole."""
        raise StoreFormatError(
            f"{self._where} has no {key!r}: an older hubstore or another program wrote it; what needs that can only be "
            "done with a store that is extracted again"
        )


def read_attributes(storage: Storage) -> Mapping[str, Any]:
    """attributes.hubstore of the root group, with what older stores leave out of their `corpora`."""
    if not storage.exists(ROOT):
        raise StoreNotFoundError(f"{storage.root} is not a hubstore store: it has no {ROOT}")
    try:
        root = json.loads(storage.read(ROOT))
    except ValueError as error:
        raise CorruptStoreError(f"{storage.root / ROOT} is not JSON: {error}") from error
    attributes = root.get("attributes", {}).get("hubstore") if isinstance(root, dict) else None
    if not isinstance(attributes, dict):
        raise StoreNotFoundError(f"{storage.root} is a Zarr group, but no hubstore store")
    if attributes.get("format") != FORMAT:
        raise StoreFormatError(
            f"{storage.root} is a store of format {attributes.get('format')!r}; this hubstore reads format {FORMAT}. "
            "Extract it again, or use the hubstore that wrote it"
        )
    try:
        corpora = [with_defaults(entry) for entry in attributes.get("corpora", [])]
    except (TypeError, ValueError) as error:
        raise CorruptStoreError(
            f"{storage.root / ROOT}: its 'corpora' are no list of corpora with numbered generations ({error}); bring "
            "it back from a copy, or extract the store again"
        ) from error
    return Attributes({**attributes, "corpora": corpora}, storage.root / ROOT)
