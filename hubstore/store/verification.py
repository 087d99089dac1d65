"""Reading a store back: everything in it against its commits, its records and its layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hubstore.errors import CorruptStoreError, StoreError
from hubstore.storage import FileRecord, Storage
from hubstore.storage.location import shell_word
from hubstore.store.attributes import read_attributes, root_problem
from hubstore.store.columns import ITEM_SCHEMA, stored_columns, with_columns
from hubstore.store.commit import Commit
from hubstore.store.layout import (
    CENTERED,
    FAISS,
    INDEX,
    LENS,
    PLAN,
    ROOT,
    Layout,
    array_key,
    array_metadata,
    commit_key,
    group_keys,
    group_metadata,
    items_key,
)
from hubstore.store.lensrecord import read_lens_record
from hubstore.store.log import FOLDER, log_problem
from hubstore.store.metadata import wrong_metadata
from hubstore.store.reader import decode_items
from hubstore.store.records import IndexJson, PlanFileJson, decode_record, is_canonical
from hubstore.store.result import decode_result, result_key, result_record
from hubstore.store.shardfile import read_index
from hubstore.store.unfinished import missing_shards, with_shards

SHOWN_SHARDS = 20
"""Missing commits of a generation that are named one by one."""

SHARD_FILES = ("hidden/", "items/", "previews/")

NO_DIGEST = "cannot be verified: an older version wrote it without a digest"


@dataclass(frozen=True)
class Problem:
    """One thing that verifying a store finds.

    Args:
        key: the file.
        what: what is wrong, and what mends it.
        wrong: False where nothing recorded says what the file should be, so that it cannot be verified.
        stray: whether the file belongs to no record of the store; it is not wrong.
    """

    key: str
    what: str
    wrong: bool = True
    stray: bool = False


def verify(
    storage: Storage,
    progress: Callable[[str], None] | None = None,
    check_index: Callable[[Storage, str], str | None] | None = None,
) -> list[Problem]:
    """Check all that is in a store.

    Those are the root, by its digest; the metadata of groups and arrays, by the layout; every commit, and every file
    that one lists, by size, CRC32C and shard index; commits that are missing; the lens, the indexes, and the results of
    analyses. Files that belong to none of these are named.

    Args:
        storage: the store.
        progress: called with each key before it is read.
        check_index: what is wrong with the index in a folder of the storage, beyond its checksum, which is by whoever
            made it: `hubstore.index.index_problem`. None looks no further.

    Returns:
        What is wrong, what cannot be verified, and what is stray; empty when the store is as it was written.

    Raises:
        StoreNotFoundError, StoreFormatError, CorruptStoreError: the root metadata itself cannot be read.
    """
    return list(_Verification(storage, progress or (lambda key: None), check_index).problems())


@dataclass
class _Verification:
    storage: Storage
    progress: Callable[[str], None]
    check_index: Callable[[Storage, str], str | None] | None
    known: set[str] = field(default_factory=lambda: {ROOT})
    """Keys of all that belongs to the store, as far as it is read."""
    unlisted: tuple[str, ...] = ()
    """Folders of files of which nothing readable says whether they belong to the store."""

    def problems(self) -> Iterator[Problem]:
        self.attributes: Mapping[str, Any] = read_attributes(self.storage)
        self.layout = Layout.from_json(self.attributes)
        found = root_problem(self.storage)
        if found:
            yield Problem(ROOT, *found)
        commits: list[Commit] = []
        for key in self.storage.list("commits"):
            yield from self.guarded(key, self.commit(key, commits))
        for key in self.storage.list(FOLDER):
            yield from self.guarded(key, self.log(key, commits))
        planned = yield from self.plan()
        if planned:
            self.unlisted = SHARD_FILES
        yield from self.completeness(commits, planned)
        yield from self.metadata(commits)
        yield from self.guarded(LENS, self.lens())
        for pooling in self.layout.poolings:
            for layer in self.layout.layers:
                for rows in ("", CENTERED):
                    folder = f"indexes/{pooling}/{layer}{rows}"
                    yield from self.guarded(f"{folder}/{INDEX}", self.index(folder, pooling, layer))
        for key in self.storage.list("analyses"):
            if key.endswith(".parquet"):
                yield from self.guarded(key, self.result(key))
        for key in self.storage.list(""):
            if key not in self.known and not key.startswith(("plan/", *self.unlisted)):
                what = "belongs to no record of the store: nothing reads it; remove it, unless you put it there"
                yield Problem(key, what, wrong=False, stray=True)

    def guarded(self, key: str, problems: Iterator[Problem]) -> Iterator[Problem]:
        """The problems of a file, one of which may be that it cannot be read."""
        self.progress(key)
        try:
            yield from problems
        except StoreError as error:
            yield Problem(key, str(error).removeprefix(str(self.storage.root / key)).lstrip(": "))

    def file(self, key: str, record: FileRecord, remedy: str) -> Iterator[Problem]:
        """What is wrong with a file that a record lists."""
        self.progress(key)
        self.known.add(key)
        wrong = file_problem(self.storage, key, record)
        if wrong:
            yield Problem(key, f"{wrong}; {remedy}")

    def commit(self, key: str, commits: list[Commit]) -> Iterator[Problem]:
        self.known.add(key)
        before, self.unlisted = self.unlisted, SHARD_FILES  # as long as the commit is none
        data = self.storage.read(key)
        remedy = f"remove {key} and run {self.command(key)} again"
        commit = Commit.decode(data, str(self.storage.root / key), remedy)
        if key != commit_key(commit.shard):
            yield Problem(key, f"holds the commit of shard {commit.shard}; {remedy}")
            return
        commit.check(self.layout, str(self.storage.root / key), remedy)
        if not is_canonical(data):
            yield Problem(key, f"says what was committed, but in other bytes; {remedy}")
        commits.append(commit)
        self.unlisted = before
        for name, record in commit.files.items():
            wrong = list(self.guarded(name, self.file(name, record, remedy)))
            yield from wrong
            if not wrong:
                yield from self.guarded(name, self.content(name, record, commit, remedy))

    def content(self, key: str, record: FileRecord, commit: Commit, remedy: str) -> Iterator[Problem]:
        """What reading a file finds, though it is the one that was committed."""
        if key.startswith("hidden/"):
            try:
                read_index(partial(self.storage.read_ranges, key, record), record.size, 1, self.layout, key)
            except CorruptStoreError as error:
                yield Problem(key, f"{error}; {remedy}")
        elif key == items_key(commit.shard):
            schema = with_columns(ITEM_SCHEMA, stored_columns(self.attributes.get("columns", [])))
            decode_items(self.storage.read(key), commit, self.storage.root / key, remedy, schema)

    def log(self, key: str, commits: Sequence[Commit]) -> Iterator[Problem]:
        self.known.add(key)
        found = log_problem(self.storage, self.layout, key, commits)
        if found:
            yield Problem(key, found)

    def command(self, key: str = "") -> str:
        """What writes the shard of a commit, as far as the root numbers them."""
        appended = (one for entry in self.attributes["corpora"][1:] for one in entry["generations"])
        number = key.removeprefix("commits/").removesuffix(".json")
        shard = int(number) if number.isdecimal() and len(number) < 12 else -1
        owned = any(shard in range(*one.get("shards", (0, 0))) for one in appended)
        return "the same `hubstore append`" if owned else "the same `hubstore extract`"

    def plan(self) -> Generator[Problem, None, range]:
        """What is wrong with the plan of an extraction that is under way; returns the shards that it is of."""
        if not self.storage.exists(PLAN):
            return range(0)
        self.progress(PLAN)
        remedy = "remove the folder plan and run the same command again"
        try:
            data = self.storage.read(PLAN)
            read = decode_record(data, PlanFileJson, self.storage.root / PLAN, remedy)
        except StoreError as error:
            yield Problem(PLAN, str(error).removeprefix(str(self.storage.root / PLAN)).lstrip(": "))
            return range(0)
        for key, checksum in read.files.items():
            found = self.storage.record(key)
            if found is None or found.crc32c != checksum:
                yield Problem(key, f"was changed after it was planned; {remedy}")
        return range(read.plan.shards[0][0], read.plan.shards[-1][0] + 1)

    def completeness(self, commits: Sequence[Commit], planned: range) -> Iterator[Problem]:
        """Commits that the root counts, that are not there, and that no plan is left to write."""
        committed = {commit.shard for commit in commits} | set(planned)
        broken = self.known - {commit_key(commit.shard) for commit in commits}
        for entry in with_shards(self.attributes, commits)["corpora"]:
            for one in entry["generations"]:
                missing = [shard for shard in missing_shards(one, committed) if commit_key(shard) not in broken]
                if missing:
                    self.unlisted = SHARD_FILES
                for shard in missing[:SHOWN_SHARDS]:
                    command = self.command(commit_key(shard))
                    what = f"missing, and with it the items of its shard; run {command} again"
                    yield Problem(commit_key(shard), what)
                if missing[SHOWN_SHARDS:]:
                    yield Problem(
                        "commits", f"{len(missing) - SHOWN_SHARDS} more are missing; run the same commands again"
                    )

    def metadata(self, commits: Sequence[Commit]) -> Iterator[Problem]:
        """Groups and arrays, against the layout and the rows of the shards."""
        layout = self.layout
        self.known |= {*group_keys(layout.poolings)}
        self.known |= {f"{array_key(pooling, layer)}/{ROOT}" for pooling in layout.poolings for layer in layout.layers}
        for key, _ in wrong_metadata(self.storage, layout, self.attributes, commits):
            what = "is not what the store's layout gives" if self.storage.exists(key) else "missing"
            yield Problem(key, f"{what}; run {self.command()} again, which writes it anew")

    def lens(self) -> Iterator[Problem]:
        if not self.storage.exists(LENS):
            return
        remedy = f"remove {LENS} and run `hubstore lens {shell_word(self.storage.root)} --keep`"
        self.known.add(LENS)
        self.unlisted = (*self.unlisted, "lens/")
        record = read_lens_record(self.storage)
        self.unlisted = self.unlisted[:-1]
        if not is_canonical(self.storage.read(LENS)):
            yield Problem(LENS, f"says what was written, but in other bytes; {remedy}")
        metadata = {f"lens/{ROOT}": group_metadata()}
        for array in record.arrays():
            metadata[array.metadata_key] = array_metadata(array.layout, array.rows, array.dimensions)
        for key, file in record.files.items():
            yield from self.guarded(key, self.file(key, file, remedy))
            if key in metadata and file != FileRecord.of(metadata[key]):
                yield Problem(key, f"is not what the lens's record gives; {remedy}")

    def index(self, folder: str, pooling: str, layer: str) -> Iterator[Problem]:
        key = f"{folder}/{INDEX}"
        if not self.storage.exists(key):
            return
        self.known.add(key)
        where = shell_word(self.storage.root)
        of = " --centered" if folder.endswith(CENTERED) else ""
        remedy = f"build the index again: `hubstore index {where} --layers {layer} --pooling {pooling}{of} --rebuild`"
        data = self.storage.read(key)
        self.known.add(f"{folder}/{FAISS}")
        found = decode_record(data, IndexJson, str(self.storage.root / key), remedy)
        if (found.layer, found.pooling, found.width) != (layer, pooling, self.layout.width):
            yield Problem(key, f"describes an index of layer {found.layer} ({found.pooling}); {remedy}")
        if found.digest is None:
            yield Problem(key, f"{NO_DIGEST}; {remedy}", wrong=False)
        elif not is_canonical(data):
            yield Problem(key, f"says what was written, but in other bytes; {remedy}")
        if found.file is None:
            self.known.discard(f"{folder}/{FAISS}")
            return
        wrong = list(self.guarded(f"{folder}/{FAISS}", self.file(f"{folder}/{FAISS}", found.file.record(), remedy)))
        yield from wrong
        refused = self.check_index(self.storage, folder) if self.check_index and not wrong else None
        if refused:
            yield Problem(f"{folder}/{FAISS}", f"{refused}; {remedy}")

    def result(self, key: str) -> Iterator[Problem]:
        self.known.add(key)
        table, sealed = decode_result(self.storage.read(key), str(self.storage.root / key))
        record = result_record(table.schema.metadata or {}, str(self.storage.root / key))
        if result_key(record) != key:
            yield Problem(key, "is not the table that its name says; remove it, and it is made again")
        if not sealed:
            what = "cannot be verified: an older version wrote it without a checksum; remove it, and it is made again"
            yield Problem(key, what, wrong=False)


def file_problem(storage: Storage, key: str, record: FileRecord) -> str | None:
    """What is wrong with a file, against its record; None where nothing is."""
    found = storage.record(key)
    if found is None:
        return "missing"
    if found.size != record.size:
        return f"{found.size} bytes, {record.size} were committed"
    return None if found == record else "its bytes do not match the checksum of its commit"


def corrupt_file(storage: Storage, shard: int) -> str | None:
    """A file of a committed shard that is not what was committed; None where all are."""
    key = commit_key(shard)
    files = Commit.decode(storage.read(key), str(storage.root / key)).files
    return next((name for name, record in files.items() if file_problem(storage, name, record)), None)
