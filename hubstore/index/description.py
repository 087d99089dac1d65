"""What an index is, what it was built from, and whether that is still the store: `index.json` beside `index.faiss`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from hubstore.errors import CorruptStoreError, IndexNotFoundError, StaleIndexError
from hubstore.storage import FileRecord
from hubstore.storage.location import shell_word
from hubstore.store import StoreReader
from hubstore.store.layout import CENTERED, FAISS, INDEX
from hubstore.store.records import IndexJson, decode_record, sealed

FORMAT = 1
REBUILD = "build the index again: `hubstore index --rebuild`"


@dataclass(frozen=True)
class MeasuredRecall:
    """What an index was set to find, on rows of the store that were held out.

    Args:
        target: share of the true neighbors that was asked for.
        measured: share that the settings kept in the description found.
        k: neighbors of each row.
        queries: how many rows.
    """

    target: float
    measured: float
    k: int
    queries: int


@dataclass(frozen=True)
class IndexDescription:
    """One index, as `index.json` keeps it.

    Args:
        layer, pooling: the hidden states it is over.
        kind: one of `KINDS`.
        requested: the kind that was asked for, maybe "auto".
        rows: rows in it; FAISS's ids are the positions 0 to rows - 1.
        width: elements of a row.
        commits: (shard, digest) of the store's commits, in the order in which their rows were added.
        seed: of the training sample and of FAISS's clustering.
        factory: FAISS factory string of the index proper; None for exact, which has no file.
        parameters: what it was built and is, by default, searched with.
        trained_rows: rows of the store when it was trained.
        file: size and CRC32C of `index.faiss`.
        faiss, hubstore: versions that wrote it.
        metric: what a search ranks by.
        head: size and CRC32C of all of the file but its lists, where those are searched in the file.
        recall: what it finds as it is searched by default; None where nobody measured.
        centered: partitions whose means are removed from their rows, in the order in which the file keeps them; None
            for rows as they are.
    """

    layer: str
    pooling: str
    kind: str
    requested: str
    rows: int
    width: int
    commits: tuple[tuple[int, str], ...]
    seed: int
    hubstore: str
    factory: str | None = None
    parameters: Mapping[str, int] | None = None
    trained_rows: int | None = None
    file: FileRecord | None = None
    faiss: str | None = None
    metric: str = "cosine"
    head: FileRecord | None = None
    recall: MeasuredRecall | None = None
    centered: tuple[str, ...] | None = None

    @property
    def folder(self) -> str:
        """Where it is."""
        return folder(self.pooling, self.layer, centered=self.centered is not None)

    @property
    def faiss_key(self) -> str:
        """The FAISS file."""
        return f"{self.folder}/{FAISS}"

    def encode(self) -> bytes:
        """The bytes of `index.json`."""
        fields = asdict(self)
        fields["commits"] = [{"shard": shard, "digest": digest} for shard, digest in self.commits]
        for name in (
            "head",
            "recall",
            "centered",
        ):  # an index without them is as an earlier release writes and reads it
            if fields[name] is None:
                del fields[name]
        if self.head is not None:
            fields["head"] = self.head.to_json()
        if self.file is not None:
            fields["file"] = self.file.to_json()
            # For whoever opens the file with plain FAISS: give it raw hidden states.
            fields["distance"] = "squared L2 of unit rows less their mean = 2 - 2 cosine"
        return sealed({"format": FORMAT, **fields})

    @classmethod
    def decode(cls, data: bytes, name: str = INDEX, remedy: str = REBUILD) -> IndexDescription:
        """Back from `index.json`, called `name`; CorruptStoreError where that is not one."""
        found = decode_record(data, IndexJson, name, remedy)
        said = {one: getattr(found, one) for one in cls.__dataclass_fields__}
        said["commits"] = tuple((commit.shard, commit.digest) for commit in found.commits)
        for one in ("file", "head"):
            said[one] = said[one] and said[one].record()
        said["centered"] = found.centered and tuple(found.centered)
        said["recall"] = found.recall and MeasuredRecall(
            found.recall.target, found.recall.measured, found.recall.k, found.recall.queries
        )
        return cls(**said)


def folder(pooling: str, layer: str, *, centered: bool = False) -> str:
    """Where a layer's index is: that of its rows as they are, or of those less their partition's mean."""
    return f"indexes/{pooling}/{layer}{CENTERED if centered else ''}"


def description_key(pooling: str, layer: str, *, centered: bool = False) -> str:
    """The description; an index exists if and only if it does."""
    return f"{folder(pooling, layer, centered=centered)}/{INDEX}"


def faiss_key(pooling: str, layer: str, *, centered: bool = False) -> str:
    """The FAISS file."""
    return f"{folder(pooling, layer, centered=centered)}/{FAISS}"


def index_command(store: StoreReader, layer: str, pooling: str, *, centered: bool = False) -> str:
    """What builds an index, or adds to it."""
    of = " --centered" if centered else ""
    return f"`hubstore index {shell_word(store.path)} --layers {layer} --pooling {pooling}{of}`"


def rebuild_command(store: StoreReader, layer: str, pooling: str, *, centered: bool = False) -> str:
    """What mends an index."""
    return f"{index_command(store, layer, pooling, centered=centered)[:-1]} --rebuild`"


def rebuild_of(store: StoreReader, description: IndexDescription) -> str:
    """What mends the index of a description."""
    return rebuild_command(store, description.layer, description.pooling, centered=description.centered is not None)


def store_commits(store: StoreReader) -> tuple[tuple[int, str], ...]:
    """(shard, digest) of every commit, in position order."""
    return tuple((commit.shard, commit.digest) for commit in store.commits)


def read_description(store: StoreReader, layer: str, pooling: str, *, centered: bool = False) -> IndexDescription:
    """The description of a layer's index.

    Raises:
        IndexNotFoundError: the layer has none.
        CorruptStoreError: `index.json` cannot be read.
    """
    key = description_key(pooling, layer, centered=centered)
    if not store.storage.exists(key):
        raise IndexNotFoundError(
            f"{store.path} has no index of layer {layer} ({pooling}); "
            f"{index_command(store, layer, pooling, centered=centered)} builds one"
        )
    remedy = f"build the index again: {rebuild_command(store, layer, pooling, centered=centered)}"
    found = IndexDescription.decode(store.storage.read(key), str(store.path / key), remedy)
    described = (found.layer, found.pooling, found.width, found.centered is not None)
    if described != (layer, pooling, store.width, centered):
        raise CorruptStoreError(
            f"{store.path / key} describes an index of layer {found.layer} ({found.pooling}), {found.width} wide; "
            f"{remedy}"
        )
    rows = store.hidden(layer, pooling).shape[0]
    if found.commits == store_commits(store) and found.rows != rows and found.kind != "exact":
        raise CorruptStoreError(f"{store.path / key} counts {found.rows} rows, of which the store has {rows}; {remedy}")
    return found


def grows_from(store: StoreReader, description: IndexDescription) -> bool:
    """Whether the index's commits are the store's first ones, so that its positions still hold."""
    return store_commits(store)[: len(description.commits)] == description.commits


def check_fresh(store: StoreReader, description: IndexDescription, allow_stale: bool) -> None:
    """StaleIndexError where the store has changed since; one that only grew passes with `allow_stale`.

    An exact index reads the store itself, so it is never stale.
    """
    if description.kind == "exact" or description.commits == store_commits(store):
        return
    layer, pooling = description.layer, description.pooling
    if not grows_from(store, description):
        raise StaleIndexError(
            f"the index of layer {layer} ({pooling}) was built from other rows than {store.path} now holds; "
            f"build it again: {rebuild_of(store, description)}"
        )
    if not allow_stale:
        rows = store.hidden(layer, pooling).shape[0]
        raise StaleIndexError(
            f"the index of layer {layer} ({pooling}) holds {description.rows} rows, {store.path} now {rows}; "
            f"{index_command(store, layer, pooling, centered=description.centered is not None)} adds the new ones"
        )


def check_file(store: StoreReader, description: IndexDescription) -> None:
    """CorruptStoreError where `index.faiss` is not the file that was written."""
    key = description.faiss_key
    found = FileRecord.of(store.storage.map(key)) if store.storage.exists(key) else None
    if found != description.file:
        raise CorruptStoreError(
            f"{store.path / key} is not as it was written (expected {description.file}, found {found or 'no file'}); "
            f"build it again: {rebuild_of(store, description)}"
        )
