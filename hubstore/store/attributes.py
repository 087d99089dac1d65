"""A store's own description: attributes.hubstore of its root group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import convert

from hubstore.decoding import decode_object, one_line
from hubstore.errors import CorruptStoreError, StoreError, StoreFormatError, StoreNotFoundError
from hubstore.storage import Location, Storage
from hubstore.store.columns import stored_columns
from hubstore.store.layout import FORMAT, ROOT, content_digest, group_metadata
from hubstore.store.records import MOST_SHARDS, ROOT_FIELDS, ProvenanceJson, RootJson, check_digest, is_canonical

REMEDY = "bring it back from a copy, or extract the store again"


class Attributes(dict[str, Any]):
    """attributes.hubstore of a root group, or an object in it.

    Args:
        content: of the group.
        where: its zarr.json.
        within: the object's name, with a point after it.

    Raises:
        StoreFormatError: an attribute is read that is not there.
    """

    def __init__(self, content: Mapping[str, Any], where: Location, within: str = "") -> None:
        super().__init__(content)
        self._where = where
        self._within = within

    def __missing__(self, key: str) -> Any:
        """Refuse what needs an attribute that only extractions write, or a layout that is not whole."""
        raise StoreFormatError(
            f"{self._where} has no {self._within + key!r}: an older hubstore or another program wrote it; what needs "
            "that can only be done with a store that is extracted again"
        )


def write_root(storage: Storage, attributes: Mapping[str, Any]) -> None:
    """Write the root group, with a digest of its attributes beside them."""
    content = {key: value for key, value in attributes.items() if key != "digest"}
    storage.write(ROOT, group_metadata({"hubstore": {**content, "digest": content_digest(content)}}))


def read_attributes(storage: Storage) -> Mapping[str, Any]:
    """attributes.hubstore of the root group without its digest, and with what older stores leave out of `corpora`.

    Raises:
        StoreNotFoundError: no store is there.
        StoreFormatError: it is of another format version.
        CorruptStoreError: the root group is not as it was written, or describes no store that can be.
    """
    if not storage.exists(ROOT):
        raise StoreNotFoundError(f"{storage.root} is not a hubstore store: it has no {ROOT}")
    where = storage.root / ROOT
    try:
        group = decode_object(storage.read(ROOT)).get("attributes")
        content = group.get("hubstore") if isinstance(group, dict) else None
        if not isinstance(content, dict):
            raise StoreNotFoundError(f"{storage.root} is a Zarr group, but no hubstore store")
        if content.get("format") != FORMAT or isinstance(content["format"], bool):
            raise StoreFormatError(
                f"{storage.root} is a store of format {content.get('format')!r:.60}; this hubstore reads format "
                f"{FORMAT}. Extract it again, or use the hubstore that wrote it"
            )
        check_digest(content)
        for key in RootJson.__annotations__:
            Attributes(content, where)[key]
        _check(content)
    except StoreError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{where} is not as it was written: {one_line(error)}; {REMEDY}") from error
    attributes = {key: value for key, value in content.items() if key != "digest"}
    attributes["corpora"] = [_whole(entry) for entry in content.get("corpora", [])]
    for name in ("model", "settings"):
        if name in attributes:
            attributes[name] = Attributes(attributes[name], where, f"{name}.")
    return Attributes(attributes, where)


def root_problem(storage: Storage) -> tuple[str, bool] | None:
    """What verifying says of a root that can be read, and whether it is wrong; None where its digest vouches for it."""
    data = storage.read(ROOT)
    content = decode_object(data)["attributes"]["hubstore"]
    if "digest" in content and is_canonical(data) and data == group_metadata({"hubstore": content}):
        return None
    if "digest" in content or not content.keys() <= ROOT_FIELDS:
        return f"is not as it was written, though it can be read; {REMEDY}", True
    return "cannot be verified: an older version wrote it without a digest; the next append adds one", False


def _check(content: Mapping[str, Any]) -> None:
    """ValueError where the attributes are of no store that can be."""
    root = convert(content, RootJson, strict=True)
    convert(content, ProvenanceJson, strict=True)
    stored_columns(content.get("columns", []))
    for name in ("layers", "poolings"):
        if len(set(root[name])) < len(root[name]):
            raise ValueError(f"its {name} name one twice")
    if root["shard_rows"] % root["chunk_rows"]:
        raise ValueError("its chunk_rows do not divide its shard_rows")
    shards = 0
    for one in (one for entry in content.get("corpora", []) for one in entry.get("generations", [])):
        start, stop = one.get("shards", (0, -(-one.get("items", 0) // root["shard_rows"])))
        shards += stop - start
        if "generation" not in one:
            raise ValueError("a generation of its corpora has no number")
        if not start <= stop or stop - start > max(one.get("items", 0), 1) or shards > MOST_SHARDS:
            raise ValueError(
                f"generation {one['generation']} has shards {start} to {stop}, which its items do not fill"
            )


def _whole(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A corpus as the metadata describes it, with what older stores and other programs leave out."""
    generations = [{"items": 0, "fingerprint": None, **one} for one in entry.get("generations", [])]
    return {"name": "", "identity": {}, "more": False, **entry, "generations": generations}
