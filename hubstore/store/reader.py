"""Reading a store: its items, its partitions, and every layer's hidden states, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hubstore.arrow import read_parquet
from hubstore.checks import check_count, check_positions, check_strings
from hubstore.errors import CorruptStoreError, QueryError, StoreFormatError, StoreNotFoundError
from hubstore.storage.local import Storage
from hubstore.storage.location import Location, Url, location, shell_word
from hubstore.storage.objects import RemoteStorage
from hubstore.storage.opening import open_storage
from hubstore.store.commit import Commit, FileRecord
from hubstore.store.dtypes import DTYPES
from hubstore.store.gather import gather_rows
from hubstore.store.layout import FORMAT, PLAN, ROOT, Layout, items_key, previews_key, shard_key
from hubstore.store.lookup import IdLookup
from hubstore.store.partition import Partition, Positions
from hubstore.store.shardfile import decode_shard
from hubstore.store.unfinished import Unfinished, unfinished_corpus, with_defaults

NO_ITEMS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("media", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("media_ranges", pa.list_(pa.int32())),
    ]
).empty_table()
"""An item table's columns. `media` is where a picture or sound is, `media_ranges` starts and stops of its tokens."""

MAPPED = 256
"""Zarr shards of a layer that stay mapped: two million rows by default, and far fewer than a process may open."""


class StoreReader:
    """A store opened for reading, as of its commits at that moment.

    Args:
        path: its folder, or the URL of an object store that holds it.
        storage: where it is, opened already.

    Raises:
        StoreNotFoundError: no store is at the path.
        StoreAccessError, StorageUnreachableError: an object store refuses, or does not answer.
        StoreFormatError: it is of another format version.
        CorruptStoreError: its metadata cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | Url, storage: Storage | None = None) -> None:
        self.path: Location = location(path).absolute()  # a process may change its folder later
        self.storage = storage or open_storage(self.path)
        self.attributes: Mapping[str, Any] = read_attributes(self.storage)
        self.layout = Layout.from_json(self.attributes)
        self.commits = read_commits(self.storage)
        self.partition_means: dict[tuple[str, str, str], torch.Tensor] = {}  # see `hubstore.query.centered`
        self._read_previews: tuple[str, pa.Table] = "", NO_ITEMS

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers kept: "0" is the embedding output, "final" is after the final norm."""
        return self.layout.layers

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings kept; the first is the default."""
        return self.layout.poolings

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every hidden state."""
        return DTYPES[self.layout.dtype]

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return self.layout.width

    @cached_property
    def unfinished(self) -> Unfinished | None:
        """The corpus of which a run has not committed everything yet; None where all is there."""
        return unfinished_corpus(self.attributes, self.commits, lambda: self.storage.exists(PLAN))

    def __len__(self) -> int:
        """Items committed."""
        return sum(commit.items for commit in self.commits)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the commits' digests: changes when, and only when, the store's content does."""
        return hashlib.sha256("".join(commit.digest for commit in self.commits).encode()).hexdigest()

    @cached_property
    def items(self) -> pa.Table:
        """One row per item, in position order: NO_ITEMS has its columns."""
        keys = [items_key(commit.shard) for commit in self.commits]
        read = zip(self.commits, read_all(self.storage, keys), strict=True)
        tables = [_item_table(self.storage, commit, data) for commit, data in read]
        if not tables:
            raise CorruptStoreError(f"{self.path} has no committed shard yet; run the extraction again to go on")
        # Stores of texts that are older than media have no columns for them.
        return pa.concat_tables([NO_ITEMS, *tables], promote_options="default").combine_chunks()

    def preview(self, item: str) -> bytes | None:
        """The thumbnail (WebP) or clip of an item; None where none is kept. QueryError when there is no such item."""
        position = int(self.positions([item])[0])
        for commit in self.commits:
            if position >= commit.items:
                position -= commit.items
                continue
            key = previews_key(commit.shard)
            if key not in commit.files:
                return None
            found = self._previews(key)
            row = pc.index_in(pa.scalar(item), value_set=found["id"]).as_py()
            return None if row is None else found["data"][row].as_py()
        return None

    def _previews(self, key: str) -> pa.Table:
        read, table = self._read_previews
        if read != key:
            table = read_parquet(self.storage.read(key))
            self._read_previews = key, table  # one shard's at a time: they are large
        return table

    @cached_property
    def partitions(self) -> Mapping[str, Partition]:
        """Every partition by name, in the order of first appearance."""
        ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
        position = 0
        for commit in self.commits:
            for modality, language, count in commit.runs:
                known = ranges.setdefault((modality, language), [])
                if known and known[-1][1] == position:
                    known[-1] = (known[-1][0], position + count)
                else:
                    known.append((position, position + count))
                position += count
        found = (Partition(modality, language, tuple(r)) for (modality, language), r in ranges.items())
        return {partition.name: partition for partition in found}

    def partition(self, name: str) -> Partition:
        """The partition called `name`; QueryError, naming those there are, when there is none."""
        try:
            return self.partitions[name]
        except KeyError:
            there = ", ".join(self.partitions)
            raise QueryError(f"{self.path} has no partition {name!r}; it has {there}") from None

    @cached_property
    def lookup(self) -> IdLookup:
        """Positions by id."""
        return IdLookup.of(self.items["id"])

    def positions(self, ids: Sequence[str]) -> Positions:
        """int64 positions of `ids`; QueryError names the first that is not there, or is no string."""
        ids = check_strings("ids", ids, error=QueryError)
        found = self.lookup.find(ids)
        if len(found) and found.min() < 0:
            missing = ids[int(found.argmin())]
            raise QueryError(
                f"{self.path} has no item with id {missing!r}; "
                f"`hubstore export {shell_word(self.path)} --items --out FOLDER` writes all ids"
            )
        return found

    def layer_name(self, layer: str | int) -> str:
        """`layer` as the store names it; a negative number counts from the last block."""
        name = str(layer)
        if name in self.layers:
            return name
        blocks = [kept for kept in self.layers if kept != "final"]
        from_last = {str(place - len(blocks)): kept for place, kept in enumerate(blocks)}
        if name in from_last:
            return from_last[name]
        raise QueryError(f"{self.path} has no layer {name!r}; it keeps {', '.join(self.layers)}")

    def layer_names(self, layers: str | int | Sequence[str | int] | None) -> list[str]:
        """The names of one layer or several, each once, or of all; QueryError for none, or for one that is not kept."""
        if layers is None:
            return list(self.layers)
        several = [layers] if isinstance(layers, str) or not isinstance(layers, Iterable) else layers
        names = list(dict.fromkeys(self.layer_name(layer) for layer in several))
        if not names:
            raise QueryError(f"no layer is named; {self.path} keeps {', '.join(self.layers)}; leave layers out for all")
        return names

    def pooling_name(self, pooling: str | None) -> str:
        """`pooling`, or the store's default; QueryError when the store does not keep it."""
        if pooling is None:
            return self.poolings[0]
        if pooling not in self.poolings:
            raise QueryError(
                f"{self.path} has no pooling {pooling!r}; it keeps {', '.join(self.poolings)}. "
                "Another pooling needs another extraction"
            )
        return pooling

    def hidden(self, layer: str | int, pooling: str | None = None) -> HiddenStates:
        """The hidden states of one layer; QueryError for a layer or pooling that is not kept."""
        where = self.layer_name(layer), self.pooling_name(pooling)
        if isinstance(self.storage, RemoteStorage):
            from hubstore.store.remotestates import RemoteStates

            return RemoteStates(self.storage, self.layout, self.commits, *where)
        return HiddenStates(self.storage, self.layout, self.commits, *where)

    def token_ranges(self) -> npt.NDArray[np.int64]:
        """int64 [items, 2]: start and stop of each item's rows in the "tokens" states."""
        return self._token_ranges

    @cached_property
    def _token_ranges(self) -> npt.NDArray[np.int64]:
        stops = np.cumsum(self.items["tokens"].to_numpy(), dtype=np.int64)
        ranges = np.stack([np.concatenate([[0], stops[:-1]]), stops], axis=1)
        ranges.flags.writeable = False  # all callers share it
        return ranges


class HiddenStates:
    """One layer under one pooling: rows by position, memory-mapped from the store's Zarr shards.

    Rows that no commit covers are not reachable: positions count committed rows only.
    """

    def __init__(self, storage: Storage, layout: Layout, commits: Sequence[Commit], layer: str, pooling: str) -> None:
        self.layer = layer
        self.pooling = pooling
        self._storage = storage
        self._layout = layout
        self._pieces = _pieces(layout, commits, layer, pooling)
        self._starts = [0]
        for _, _, rows in self._pieces:
            self._starts.append(self._starts[-1] + rows)
        self._mapped: dict[int, torch.Tensor] = {}
        self._keeping = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self._starts[-1], self._layout.width

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return DTYPES[self._layout.dtype]

    def __len__(self) -> int:
        """Rows."""
        return self._starts[-1]

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of rows [start, stop) in order, each with its first position: [rows, width], mapped, not copied."""
        start, stop = self._range(start, stop)
        piece = bisect_right(self._starts, start) - 1
        while start < stop:
            first = self._starts[piece]
            last = min(stop, self._starts[piece + 1])
            yield start, self._segment(piece)[start - first : last - first]
            start, piece = last, piece + 1

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) as a copy [rows, width] in the stored dtype."""
        start, stop = self._range(start, stop)
        out = torch.empty((max(stop - start, 0), self._layout.width), dtype=self.dtype)
        for position, rows in self.segments(start, stop):
            out[position - start : position - start + len(rows)] = rows
        return out

    def take(self, positions: npt.ArrayLike) -> torch.Tensor:
        """The rows at `positions` [n], in that order, as a copy [n, width] in the stored dtype."""
        wanted = check_positions(f"rows of layer {self.layer}", positions, len(self), error=QueryError)
        out = torch.empty((len(wanted), self._layout.width), dtype=self.dtype)
        gather_rows(wanted, self._starts, self._segment, out)
        return out

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        """Rows asked for as [start, stop); QueryError where the layer has no such."""
        of = f"rows of layer {self.layer}"
        start = check_count("start", start, least=0, most=len(self), of=of, error=QueryError)
        if stop is None:
            return start, len(self)
        return start, check_count("stop", stop, least=0, most=len(self), of=of, error=QueryError)

    def _segment(self, piece: int) -> torch.Tensor:
        rows = self._mapped.get(piece)
        if rows is None:
            rows = self._read(piece)
            if self._layout.compressor == "none":  # kept, decompressed rows would fill the memory of a long scan
                self._keep(piece, rows)
        return rows

    def _read(self, piece: int) -> torch.Tensor:
        key, record, rows = self._pieces[piece]
        mapped = self._storage.map(key)
        if len(mapped) != record.size:
            raise CorruptStoreError(
                f"{self._storage.root / key} has {len(mapped)} bytes, {record.size} were committed; "
                f"`hubstore verify {shell_word(self._storage.root)}` lists all that is wrong"
            )
        return decode_shard(mapped, rows, self._layout, str(self._storage.root / key))

    def _keep(self, piece: int, rows: torch.Tensor) -> None:
        with self._keeping:
            while len(self._mapped) >= MAPPED:  # a mapping holds a file descriptor
                del self._mapped[next(iter(self._mapped))]
            self._mapped[piece] = rows


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


def read_commits(storage: Storage) -> tuple[Commit, ...]:
    """Every commit, by shard number."""
    keys = [key for key in storage.list("commits") if key.endswith(".json")]
    read = zip(keys, read_all(storage, keys), strict=True)
    commits = [Commit.decode(data, str(storage.root / key)) for key, data in read]
    return tuple(sorted(commits, key=lambda commit: commit.shard))


def read_items(storage: Storage, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    """The item table of one shard."""
    return _item_table(storage, commit, storage.read(items_key(commit.shard)), columns)


def read_all(storage: Storage, keys: Sequence[str]) -> Iterable[bytes]:
    """The bytes under each key: from a remote storage side by side, else one after the other, as they are used."""
    return storage.read_all(keys) if isinstance(storage, RemoteStorage) else map(storage.read, keys)


def _item_table(storage: Storage, commit: Commit, data: bytes, columns: list[str] | None = None) -> pa.Table:
    key = items_key(commit.shard)
    if len(data) != commit.files[key].size:
        raise CorruptStoreError(f"{storage.root / key} has {len(data)} bytes, {commit.files[key].size} were committed")
    try:
        return read_parquet(data, columns)
    except (pa.ArrowException, OSError) as error:
        raise CorruptStoreError(f"{storage.root / key} is not a readable Parquet file: {error}") from error


def _pieces(layout: Layout, commits: Sequence[Commit], layer: str, pooling: str) -> list[tuple[str, FileRecord, int]]:
    """Key, size and checksum, and rows of every Zarr shard of one layer, in position order."""
    pieces = []
    for commit in commits:
        rows = commit.tokens if pooling == "tokens" else commit.items
        first = commit.first_token_shard if pooling == "tokens" else commit.shard
        for offset, start in enumerate(range(0, rows, layout.shard_rows)):
            key = shard_key(pooling, layer, first + offset)
            pieces.append((key, commit.files[key], min(layout.shard_rows, rows - start)))
    return pieces
