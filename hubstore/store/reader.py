"""Reading a store: its metadata, its items, its partitions, and every layer's hidden states."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.checks import check_strings
from hubstore.errors import CorruptStoreError, QueryError
from hubstore.storage import FileRecord, Location, Storage, Url, location
from hubstore.storage.location import shell_word
from hubstore.store.attributes import read_attributes
from hubstore.store.by_column import partitions_by
from hubstore.store.columns import ITEM_SCHEMA, stored_columns, with_columns
from hubstore.store.commit import Commit
from hubstore.store.files import store_files
from hubstore.store.layout import PLAN, Layout, items_key, previews_key
from hubstore.store.log import read_commits
from hubstore.store.lookup import IdLookup
from hubstore.store.names import LayersAndPoolings
from hubstore.store.partition import Partition, Positions
from hubstore.store.tables import decode_table
from hubstore.store.unfinished import Unfinished, unfinished_corpus

if TYPE_CHECKING:  # describing a store needs no torch
    import torch

    from hubstore.store.states import HiddenStates

FEW_SHARDS = 32
"""Shards whose items are read by themselves at most."""

NO_ITEMS = pa.Table.from_batches([], ITEM_SCHEMA)  # `empty_table` would import pandas

SHOWN_IDS = 5
"""In a message, of items that share a concept."""

PREVIEWS = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("data", pa.binary(), nullable=False)])


class StoreReader(LayersAndPoolings):
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

    partition_by: str | None = None
    """The column whose values its partitions are; None for languages and modalities."""

    def __init__(self, path: str | os.PathLike[str] | Url, storage: Storage | None = None) -> None:
        self.path: Location = location(path).absolute()  # a process may change its folder later
        self.storage = storage or store_files(self.path)
        self.attributes: Mapping[str, Any] = read_attributes(self.storage)
        self.layout = Layout.from_json(self.attributes)
        self.columns: Mapping[str, pa.DataType] = stored_columns(self.attributes.get("columns", []))
        self.commits = read_commits(self.storage, self.layout)
        self.partition_means: dict[tuple[str, str, str], torch.Tensor] = {}  # see `hubstore.query.centered`
        self._shards_read = 0
        self._read_previews: tuple[int, pa.Table] = -1, NO_ITEMS

    @property
    def place(self) -> str:
        """Its path, for messages."""
        return str(self.path)

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
        from hubstore.store.torch_dtypes import DTYPES

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
        return int(self._item_starts[-1])

    @cached_property
    def _item_starts(self) -> npt.NDArray[np.int64]:
        """int64 [commits + 1]: the position of each commit's first item, and how many items there are."""
        return np.cumsum([0, *(commit.items for commit in self.commits)], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the commits' digests: changes when, and only when, the store's content does."""
        return hashlib.sha256("".join(commit.digest for commit in self.commits).encode()).hexdigest()

    @property
    def item_schema(self) -> pa.Schema:
        """Of `items`: ITEM_SCHEMA, and the columns of one's own that the store keeps."""
        return with_columns(ITEM_SCHEMA, self.columns)

    @cached_property
    def items(self) -> pa.Table:
        """One row per item, in position order; `item_schema` has its columns."""
        # Stores of texts that are older than media have no columns for them, nor have appended items of others'.
        return self._tables(self._committed(), self.item_schema.names).combine_chunks()

    def _committed(self) -> Sequence[Commit]:
        """Its commits; CorruptStoreError where there is none."""
        if not self.commits:
            raise CorruptStoreError(f"{self.path} has no committed shard yet; run the extraction again to go on")
        return self.commits

    def items_at(self, positions: Positions, columns: Sequence[str]) -> pa.Table:
        """Some columns of the items at `positions`, in their order.

        Where few shards hold them only those are read, until as many have been read as the store has.
        """
        if "items" not in self.__dict__:
            shards = np.searchsorted(self._item_starts, positions, side="right") - 1
            numbers = np.unique(shards)
            self._shards_read += len(numbers)
        if "items" in self.__dict__ or self._shards_read > len(self.commits) or len(numbers) > FEW_SHARDS:
            return self.items.select(columns).take(pa.array(positions, pa.int64()))
        found = self._tables([self.commits[number] for number in numbers], columns)
        first = np.concatenate([[0], np.cumsum([self.commits[number].items for number in numbers], dtype=np.int64)])
        places = positions - self._item_starts[shards] + first[np.searchsorted(numbers, shards)]
        return found.take(pa.array(places, pa.int64()))

    def item_columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all items, decoded once for each open store, without the others.

        Example:
            >>> store.item_columns(["id", "language"]).num_rows == len(store)
            True
        """
        if "items" not in self.__dict__:
            if new := [name for name in names if name not in self._columns_read]:
                found = self._tables(self.commits, new).combine_chunks()
                self._columns_read.update(zip(new, found.columns, strict=True))
            return pa.table({name: self._columns_read[name] for name in names})
        return self.items.select(list(names))

    @cached_property
    def _columns_read(self) -> dict[str, pa.ChunkedArray]:
        return {}

    def _column(self, name: str) -> pa.ChunkedArray:
        """One column of all items, without decoding the others."""
        return (self.items if "items" in self.__dict__ else self._tables(self.commits, [name]).combine_chunks())[name]

    def _tables(self, commits: Sequence[Commit], columns: Sequence[str]) -> pa.Table:
        """Some columns of the item tables of some shards, one after the other."""
        schema = pa.schema([self.item_schema.field(name) for name in columns])
        data = self.storage.read_many([items_key(commit.shard) for commit in commits])
        tables = [_item_table(self.storage, *one, schema) for one in zip(commits, data, strict=True)]
        return pa.concat_tables([pa.Table.from_batches([], schema), *tables], promote_options="default")

    def preview(self, item: str) -> bytes | None:
        """The thumbnail (WebP) or clip of an item; None where none is kept. QueryError when there is no such item."""
        position = int(self.positions([item])[0])
        for commit in self.commits:
            if position >= commit.items:
                position -= commit.items
                continue
            if previews_key(commit.shard) not in commit.files:
                return None
            found = self._previews(commit)
            row = pc.index_in(pa.scalar(item), value_set=found["id"]).as_py()
            return None if row is None else found["data"][row].as_py()
        return None

    def _previews(self, commit: Commit) -> pa.Table:
        shard, table = self._read_previews
        if shard != commit.shard:
            table = read_previews(self.storage, commit)
            self._read_previews = commit.shard, table  # one shard's at a time: they are large
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
        found = (Partition(modality, language, np.array(r, np.int64)) for (modality, language), r in ranges.items())
        return {partition.name: partition for partition in found}

    def partitioned_by(self, column: str) -> Self:
        """The same store with a partition for each value of a column, for analyses; items without one are in none.

        Args:
            column: "language", "modality", or one that the store keeps.

        Raises:
            QueryError: there is no such column, it has no value, or too many.

        Example:
            >>> tables = store.partitioned_by("modality").analyze("geometry", layers=[2], bootstrap=0)
            >>> sorted(set(tables["geometry"]["x"].to_pylist()))
            ['text']
        """
        names = ("language", "modality", *self.columns)
        if column not in names:
            raise QueryError(f"{self.path} has no column {column!r} to partition by; it has {', '.join(names)}")
        other = copy.copy(self)
        other.partition_by = column
        other.partition_means = {}
        other.__dict__["partitions"] = partitions_by(self._column(column), f"column {column!r} of {self.path}")
        return other

    def partition(self, name: str) -> Partition:
        """The partition called `name`; QueryError, naming those there are, when there is none."""
        try:
            return self.partitions[name]
        except KeyError:
            names = ", ".join(self.partitions)
            raise QueryError(f"{self.path} has no partition {name!r}; it has {names}") from None

    @cached_property
    def lookup(self) -> IdLookup:
        """Positions by id."""
        return IdLookup.of(self._column("id"))

    def positions(self, ids: Sequence[str]) -> Positions:
        """int64 positions of `ids`; QueryError names the first that is not there, or is no string."""
        found = self.find(ids)
        if len(found) and found.min() < 0:
            missing = ids[int(found.argmin())]
            raise QueryError(
                f"{self.path} has no item with id {missing!r}; `hubstore items {shell_word(self.path)}` lists them"
            )
        return found

    def find(self, ids: Sequence[str]) -> Positions:
        """int64 positions of items by their ids, or by PARTITION:CONCEPT, which names one in any store; -1 for none.

        Raises:
            QueryError: an id is no string, or several items are of the partition and the concept.
        """
        ids = check_strings("ids", ids, error=QueryError)
        found = self.lookup.find(ids)
        parts = {number: ids[number].partition(":") for number in np.flatnonzero(found < 0).tolist()}
        named = {number: (first, rest) for number, (first, _, rest) in parts.items() if first in self.partitions}
        if named:
            known = self._of_concepts(set(named.values()))
            for number, key in named.items():
                found[number] = self._only(ids[number], known.get(key, []))
        return found

    def _of_concepts(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
        """The positions of the items of each partition and concept that is named, found in one pass."""
        concepts = self._column("concept")
        wanted = pa.array(list({concept for _, concept in keys}), pa.string())
        places = np.flatnonzero(pc.is_in(concepts, value_set=wanted).to_numpy())
        found: dict[tuple[str, str], list[int]] = {}
        for name in {partition for partition, _ in keys}:
            own = np.intersect1d(places, self.partitions[name].positions(), assume_unique=True)
            for place, concept in zip(own.tolist(), concepts.take(pa.array(own)).to_pylist(), strict=True):
                found.setdefault((name, concept), []).append(place)
        return found

    def _only(self, name: str, own: Sequence[int]) -> int:
        """The one position that a name has, -1 for none; QueryError where there are several."""
        if len(own) > 1:
            several = ", ".join(self.items["id"].take(pa.array(own[:SHOWN_IDS])).to_pylist())
            others = ", ..." if len(own) > SHOWN_IDS else ""
            raise QueryError(
                f"{name!r} names {len(own)} items of {self.path}: {several}{others}; give one of these ids"
            )
        return own[0] if own else -1

    def hidden(self, layer: str | int, pooling: str | None = None) -> HiddenStates:
        """The hidden states of one layer; QueryError for a layer or pooling that is not kept."""
        from hubstore.store.states import HiddenStates

        return HiddenStates(self.storage, self.layout, self.commits, self.layer_name(layer), self.pooling_name(pooling))

    def token_ranges(self) -> npt.NDArray[np.int64]:
        """int64 [items, 2]: start and stop of each item's rows in the "tokens" states."""
        return self._token_ranges

    @cached_property
    def _token_ranges(self) -> npt.NDArray[np.int64]:
        stops = np.cumsum(self._column("tokens").to_numpy(), dtype=np.int64)
        ranges = np.stack([np.concatenate([[0], stops[:-1]]), stops], axis=1)
        ranges.flags.writeable = False  # all callers share it
        return ranges


def read_items(storage: Storage, commit: Commit, schema: pa.Schema = ITEM_SCHEMA) -> pa.Table:
    """The item table of one shard; see `decode_items`."""
    return _item_table(storage, commit, storage.read(items_key(commit.shard)), schema)


def decode_items(
    data: bytes, commit: Commit, where: Location | str, remedy: str, schema: pa.Schema = ITEM_SCHEMA
) -> pa.Table:
    """The item table of a shard in its file; CorruptStoreError where its commit says another.

    Args:
        data: the file.
        commit: of the shard.
        where: names the file in messages.
        remedy: follows what is wrong.
        schema: the columns to read, of those that are there, with their types; no others are decoded.
    """
    table = decode_table(data, where, remedy, schema.names, rows=commit.items, schema=schema)
    tokens = table["tokens"].to_numpy() if commit.tokens and "tokens" in table.column_names else None
    if tokens is not None and not ((tokens >= 0).all() and tokens.sum() == commit.tokens):
        what = f"counts other tokens than the {commit.tokens} that were committed"
        raise CorruptStoreError(f"{where} {what}; {remedy}")
    return table


def read_previews(storage: Storage, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    """Thumbnails and clips of a shard that has some: `id` and `data`."""
    key = previews_key(commit.shard)
    data = storage.read(key)
    _check_record(storage, key, data, commit)
    return decode_table(data, storage.root / key, _remedy(storage), columns, schema=PREVIEWS)


def _item_table(storage: Storage, commit: Commit, data: bytes, schema: pa.Schema) -> pa.Table:
    key = items_key(commit.shard)
    _check_record(storage, key, data, commit)
    return decode_items(data, commit, storage.root / key, _remedy(storage), schema)


def _check_record(storage: Storage, key: str, data: bytes, commit: Commit) -> None:
    """CorruptStoreError where a file is not the one that was committed. To look takes a hundredth of decoding it."""
    if len(data) != commit.files[key].size:
        raise storage.other_size(key, len(data), commit.files[key])
    if FileRecord.of(data) != commit.files[key]:
        raise storage.corrupt(key, "has bytes that do not match the checksum of its commit")


def _remedy(storage: Storage) -> str:
    return f"`hubstore verify {shell_word(storage.root)}` lists all that is wrong"
