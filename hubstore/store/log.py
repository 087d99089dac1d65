"""The commit log: what many commits say, in a few files, so that a store of many shards opens at once.

The commits are what counts. A commit that is not there, or was written after the log, is never read from it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord, Storage
from hubstore.store.commit import Commit, decode_commits
from hubstore.store.layout import Layout, array_key, commit_key, items_key, previews_key
from hubstore.store.records import Count, Digest, Language, Modality, decode_record, is_canonical, sealed
from hubstore.store.sizes import size_limits

FOLDER = "log"
FEWEST_COMMITS = 1024
"""Of which a log is written: fewer are read as soon."""

PART_COMMITS = 1 << 13
"""Of one file of the log, which then has some 4 MB where 33 layers are kept."""

MOST_NUMBER = 1 << 40

Arrays = Mapping[str, npt.NDArray[Any]]
Dtypes = Mapping[str, np.dtype[Any]]

REMEDY = "remove the folder log, without which nothing is lost: the next extract or append writes it anew"

NUMBERS: Dtypes = {
    "shard": np.dtype("<i8"),
    "items": np.dtype("<i8"),
    "generation": np.dtype("<i8"),
    "first_token_shard": np.dtype("<i8"),
    "tokens": np.dtype("<i8"),
    "previews": np.dtype("<i8"),
    "bytes": np.dtype("<i8"),
    "committed": np.dtype("<i8"),
    "runs": np.dtype("<i8"),
}
"""One of each for a commit: `previews` is 1 where it lists some, `bytes` the size of its own file, `committed` its time
in seconds since 1970, or -1, `runs` how many it has."""

FILES: Dtypes = {"sizes": np.dtype("<i8"), "checksums": np.dtype("<u4")}
"""One of each for a file that a commit lists: its arrays' shards in their order, its items, its previews."""

RUNS: Dtypes = {"run_partitions": np.dtype("<i8"), "run_items": np.dtype("<i8")}


class LogJson(Struct, frozen=True, forbid_unknown_fields=True):
    """`log/<n>.json`: arrays of little-endian integers in base64, of commits in the order of their shards."""

    commits: Count
    partitions: list[tuple[Modality, Language]]
    numbers: dict[str, bytes]
    files: dict[str, bytes]
    runs: dict[str, bytes]
    digests: bytes
    digest: Digest


def log_key(number: int) -> str:
    """One file of the log."""
    return f"{FOLDER}/{number}.json"


@dataclass(frozen=True, eq=False)
class _Part:
    """One file of the log, decoded: arrays of its commits, and where each one's runs and files begin."""

    layout: Layout
    partitions: Sequence[tuple[str, str]]
    numbers: Arrays
    files: Arrays
    runs: Arrays
    digests: bytes
    first_file: npt.NDArray[np.int64]
    first_run: npt.NDArray[np.int64]


class _Files(Mapping[str, FileRecord]):
    """The files of a commit, from the arrays of the log: no name of one is held."""

    def __init__(self, commit: LoggedCommit) -> None:
        self._commit = commit

    def __getitem__(self, key: str) -> FileRecord:
        try:
            return self._record(self._place(key))
        except ValueError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        commit, part = self._commit, self._commit.part
        yield from (key for key, _ in commit.arrays(part.layout))
        yield items_key(commit.shard)
        if part.numbers["previews"][commit.row]:
            yield previews_key(commit.shard)

    def __len__(self) -> int:
        start, stop = self._commit.part.first_file[self._commit.row : self._commit.row + 2]
        return int(stop - start)

    def _place(self, key: str) -> int:
        """The number of a file among the commit's; ValueError for one that it does not list."""
        commit, layout = self._commit, self._commit.part.layout
        previews = bool(commit.part.numbers["previews"][commit.row])
        if key == items_key(commit.shard):
            return len(self) - 1 - previews
        if key == previews_key(commit.shard) and previews:
            return len(self) - 1
        before = 0
        for pooling in layout.poolings:
            tokens = pooling == "tokens"
            count = -(-(commit.tokens if tokens else commit.items) // layout.shard_rows)
            if key.startswith(f"hidden/{pooling}/"):
                for number, layer in enumerate(layout.layers):
                    folder = f"{array_key(pooling, layer)}/c/"
                    if key.startswith(folder):
                        named = range(first := commit.first_token_shard if tokens else commit.shard, first + count)
                        at = named.index(int(key.removeprefix(folder).removesuffix("/0")))
                        return before + number * count + at
            before += len(layout.layers) * count
        raise ValueError(key)

    def _record(self, place: int) -> FileRecord:
        part = self._commit.part
        at = int(part.first_file[self._commit.row]) + place
        return FileRecord(int(part.files["sizes"][at]), int(part.files["checksums"][at]))


class LoggedCommit(Commit):
    """A commit as the log says it: what makes up most of it stays in the log's arrays.

    Args:
        part: of the log.
        row: of the commit in it.
        numbers: its shard, items, generation, first_token_shard and tokens.
    """

    part: _Part
    row: int

    def __init__(self, part: _Part, row: int, numbers: Sequence[int]) -> None:
        names = ("part", "row", "shard", "items", "generation", "first_token_shard", "tokens")
        object.__setattr__(self, "__dict__", dict(zip(names, (part, row, *numbers), strict=True)))

    @property
    def digest(self) -> str:
        """As of `Commit`."""
        return self.part.digests[32 * self.row : 32 * self.row + 32].hex()

    @property
    def runs(self) -> tuple[tuple[str, str, int], ...]:
        """As of `Commit`."""
        part = self.part
        start, stop = part.first_run[self.row : self.row + 2].tolist()
        named, counts = (part.runs[name][start:stop].tolist() for name in RUNS)
        return tuple((*part.partitions[one], count) for one, count in zip(named, counts, strict=True))

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """As of `Commit`."""
        return _Files(self)

    @property
    def times(self) -> Mapping[str, Any]:
        """When it was committed, to the second."""
        seconds = int(self.part.numbers["committed"][self.row])
        if seconds < 0:
            return {}
        return {"committed": datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")}


def decode_log(data: bytes, layout: Layout, where: str) -> Sequence[LoggedCommit]:
    """The commits of one file of the log, held against the layout as each commit is.

    Raises:
        CorruptStoreError: it is none, or not as it was written; or its commits have rows, files or sizes that no store
            of the layout has.
    """
    found = decode_record(data, LogJson, where, REMEDY)
    try:
        part = _decoded(found, layout)
    except (ValueError, KeyError) as error:
        raise CorruptStoreError(f"{where} is no log of this store's commits: {error}; {REMEDY}") from error
    columns = [part.numbers[name].tolist() for name in list(NUMBERS)[:5]]
    return [LoggedCommit(part, row, numbers) for row, numbers in enumerate(zip(*columns, strict=True))]


def read_commits(storage: Storage, layout: Layout) -> tuple[Commit, ...]:
    """Every commit, by shard number: from the log what it says, and the others from their own files."""
    keys = [key for key in storage.list("commits") if key.endswith(".json")]
    with _without_collection():
        logged = logged_commits(storage, layout, keys)
    single = decode_commits(storage, layout, [key for key in keys if key not in logged])
    return tuple(sorted((*logged.values(), *single), key=lambda commit: commit.shard))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Python would look for cycles among all commits again and again while they are made, and none has one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def logged_commits(storage: Storage, layout: Layout, keys: Sequence[str]) -> dict[str, Commit]:
    """Of the commits `keys`, by key those that the log says and that are as they were when it was written.

    A commit that has another size, or was written when the log was or later, counts by itself; a file of the log that
    is not as it was written counts for nothing.
    """
    if len(keys) < FEWEST_COMMITS:
        return {}
    stats = {found.key: found for found in storage.stat_many((), ("commits", FOLDER))}
    parts = [key for key in stats if key.startswith(f"{FOLDER}/")]
    vouched: dict[str, Commit] = {}
    for part, data in zip(parts, storage.read_many(parts), strict=True):
        try:
            commits = decode_log(data, layout, str(storage.root / part))
        except CorruptStoreError:
            continue
        written = stats[part].mtime_ns
        for commit, size in zip(commits, commits[0].part.numbers["bytes"].tolist() if commits else (), strict=True):
            found = stats.get(key := commit_key(commit.shard))
            if found is not None and found.size == size and found.mtime_ns < written:
                vouched[key] = commit
    return vouched


def write_log(storage: Storage, layout: Layout, commits: Sequence[Commit]) -> None:
    """Write what all commits of a store say, where they are many; files of the log that say it already stay.

    Args:
        storage: the store, locked by the caller.
        layout: its shapes.
        commits: of it, by shard number.
    """
    if len(commits) < FEWEST_COMMITS:
        return
    sizes = {found.key: found.size for found in storage.stat_many((), ("commits",))}
    starts = range(0, len(commits), PART_COMMITS)
    for number, start in enumerate(starts):
        data = _encoded(commits[start : start + PART_COMMITS], layout, sizes)
        if not storage.exists(log_key(number)) or storage.read(log_key(number)) != data:
            storage.write(log_key(number), data)
    for key in storage.list(FOLDER):
        if key not in {log_key(number) for number in range(len(starts))}:
            storage.delete(key)


def log_problem(storage: Storage, layout: Layout, key: str, commits: Iterable[Commit]) -> str | None:
    """What verifying says of a file of the log, against the commits themselves; None where they agree."""
    data = storage.read(key)
    digests = {commit.shard: commit.digest for commit in commits}
    logged = decode_log(data, layout, str(storage.root / key))
    both = [one for one in logged if one.shard in digests]
    differ = [one.shard for one in both if {one.digest, _of(one).digest} != {digests[one.shard]}]
    if differ:
        return f"says of shard {differ[0]} what its commit does not; {REMEDY}"
    return None if is_canonical(data) else f"says what was written, but in other bytes; {REMEDY}"


def _of(logged: LoggedCommit) -> Commit:
    """The commit with all that the log says of it, whose digest is of that."""
    names = ("shard", "items", "generation", "first_token_shard", "tokens", "runs")
    return Commit(**{name: getattr(logged, name) for name in names}, files=dict(logged.files))


def _encoded(commits: Sequence[Commit], layout: Layout, bytes_of: Mapping[str, int]) -> bytes:
    runs = [run for commit in commits for run in commit.runs]
    partitions = list(dict.fromkeys((modality, language) for modality, language, _ in runs))
    numbers = {partition: number for number, partition in enumerate(partitions)}
    listed = [_listed(commit, layout) for commit in commits]
    columns: dict[str, Iterable[int]] = {
        **{name: [getattr(commit, name) for commit in commits] for name in list(NUMBERS)[:5]},
        "previews": [previews_key(commit.shard) in commit.files for commit in commits],
        "bytes": [bytes_of.get(commit_key(commit.shard), 0) for commit in commits],
        "committed": [_seconds(commit) for commit in commits],
        "runs": [len(commit.runs) for commit in commits],
    }
    of_runs = {"run_partitions": [numbers[run[:2]] for run in runs], "run_items": [count for _, _, count in runs]}
    return sealed(
        {
            "commits": len(commits),
            "partitions": [list(partition) for partition in partitions],
            "numbers": {name: _base64(np.array(columns[name], kind)) for name, kind in NUMBERS.items()},
            "files": {
                name: _base64(np.concatenate([one[place] for one in listed]).astype(kind))
                for place, (name, kind) in enumerate(FILES.items())
            },
            "runs": {name: _base64(np.array(of_runs[name], kind)) for name, kind in RUNS.items()},
            "digests": base64.b64encode(bytes.fromhex("".join(commit.digest for commit in commits))).decode(),
        }
    )


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _listed(commit: Commit, layout: Layout) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Sizes and checksums of a commit's files: of its arrays' shards in order, its items, its previews."""
    if isinstance(commit, LoggedCommit):
        start, stop = commit.part.first_file[commit.row : commit.row + 2]
        return commit.part.files["sizes"][start:stop], commit.part.files["checksums"][start:stop]
    keys = [key for key, _ in commit.arrays(layout)] + [items_key(commit.shard)]
    records = [commit.files[key] for key in (*keys, previews_key(commit.shard)) if key in commit.files]
    return np.array([one.size for one in records], np.int64), np.array([one.crc32c for one in records], np.uint32)


def _seconds(commit: Commit) -> int:
    try:
        return int(datetime.datetime.fromisoformat(str(commit.times["committed"])).timestamp())
    except (KeyError, ValueError, OverflowError, OSError):
        return -1


def _decoded(found: LogJson, layout: Layout) -> _Part:
    """The arrays of a file of the log; ValueError or KeyError where no commits of the layout have such."""
    arrays: list[dict[str, npt.NDArray[Any]]] = [
        {name: np.frombuffer(said[name], kind) for name, kind in kinds.items()}
        for said, kinds in ((found.numbers, NUMBERS), (found.files, FILES), (found.runs, RUNS))
    ]
    numbers, files, runs = arrays
    _check_numbers(found, layout, numbers, runs, len(files["sizes"]))
    counts = [len(layout.layers) * -(-_rows(pooling, numbers) // layout.shard_rows) for pooling in layout.poolings]
    first_file = _starts(np.sum(counts, axis=0) + 1 + (numbers["previews"] > 0))
    first_run = _starts(numbers["runs"])
    if any(len(column) != first_file[-1] for column in files.values()):
        raise ValueError("it has other files than its commits list")
    if any(len(column) != first_run[-1] for column in runs.values()):
        raise ValueError("it has other runs than its commits")
    if (np.diff(_starts(runs["run_items"])[first_run]) != numbers["items"]).any():
        raise ValueError("its runs have other items than its commits")
    part = _Part(layout, found.partitions, numbers, files, runs, found.digests, first_file, first_run)
    _check_sizes(part, counts)
    return part


def _check_numbers(found: LogJson, layout: Layout, numbers: Arrays, runs: Arrays, files: int) -> None:
    """ValueError where there are other numbers than commits, or one that no commit of so many files has."""
    if any(len(column) != found.commits for column in numbers.values()) or len(found.digests) != 32 * found.commits:
        raise ValueError("it has other numbers than commits")
    for name, column in (*numbers.items(), *runs.items()):
        if column.min(initial=0) < -(name == "committed") or column.max(initial=0) > MOST_NUMBER:
            raise ValueError(f"it has a number of {name} that no commit has")
    items, tokens = numbers["items"], numbers["tokens"]
    if (np.diff(numbers["shard"]) <= 0).any() or items.max(initial=0) > layout.shard_rows:
        raise ValueError("its shards are not in order, or have more items than rows")
    if tokens[items == 0].any() or (tokens.any() and "tokens" not in layout.poolings):
        raise ValueError("it counts rows of tokens where there are none")
    if tokens.max(initial=0) > layout.shard_rows * files:
        raise ValueError("it counts rows of tokens which its files do not hold")
    if runs["run_partitions"].max(initial=-1) >= len(found.partitions):
        raise ValueError("its runs are of no partition")


def _rows(pooling: str, numbers: Arrays) -> npt.NDArray[np.int64]:
    return numbers["tokens" if pooling == "tokens" else "items"]


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of several runs begins that lie end to end, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _check_sizes(part: _Part, counts: Sequence[npt.NDArray[np.int64]]) -> None:
    """ValueError where a shard of an array has a size that its rows do not have."""
    layout, sizes = part.layout, part.files["sizes"]
    begin = part.first_file[:-1].copy()
    for pooling, count in zip(layout.poolings, counts, strict=True):
        rows = _rows(pooling, part.numbers)
        within = np.arange(count.sum()) - np.repeat(_starts(count)[:-1], count)
        offset = within % np.repeat(np.maximum(count // len(layout.layers), 1), count)
        held = np.minimum(layout.shard_rows, np.repeat(rows, count) - offset * layout.shard_rows)
        least, most = size_limits(held, layout)
        found = sizes[np.repeat(begin, count) + within]
        if ((found < least) | (found > most)).any():
            raise ValueError("it lists files in sizes that their rows do not have")
        begin += count
    if sizes.min(initial=0) < 0:
        raise ValueError("it lists files of no size")
