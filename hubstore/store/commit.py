"""Commits: a shard exists if and only if its commit does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from hubstore.decoding import decode_json, one_line
from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord, Storage
from hubstore.store.layout import Layout, commit_key, encode_json, items_key, previews_key, shard_key
from hubstore.store.records import CommitJson
from hubstore.store.sizes import size_limits

REMEDY = "remove it and run the same command again, which writes the shard again, or bring it back from a copy"


@dataclass(frozen=True)
class Commit:
    """One committed shard.

    Args:
        shard: its number; its pooled rows start at shard x shard_rows.
        items: items in it.
        generation: which planning of the store it belongs to.
        first_token_shard: Zarr shard of the "tokens" arrays where its token rows start.
        tokens: token rows in it; 0 where the store keeps no tokens.
        runs: (modality, language, items) in order: its part of each partition.
        files: every file of the shard, by key.
        times: milliseconds spent, and when it was committed; no part of the digest.
    """

    shard: int
    items: int
    generation: int
    first_token_shard: int
    tokens: int
    runs: tuple[tuple[str, str, int], ...]
    files: Mapping[str, FileRecord]
    times: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the times: two shards with one digest hold the same bytes."""
        return _digest_of(self._content())

    def encode(self) -> bytes:
        """The commit file."""
        return encode_json({**self._content(), "digest": self.digest, "times": dict(self.times)})

    @classmethod
    def decode(cls, data: bytes, name: str, remedy: str = REMEDY) -> Commit:
        """Read a commit file; CorruptStoreError, with the remedy, when it is not as it was written."""
        try:
            content = decode_json(data, dict[str, Any])
            found = msgspec.convert(content, CommitJson)
            if found.digest != _digest_of({key: content[key] for key in content if key not in ("digest", "times")}):
                raise ValueError("it does not match its digest; it was changed after it was written")
            commit = cls(
                found.shard,
                found.items,
                found.generation,
                found.first_token_shard,
                found.tokens,
                tuple(found.runs),
                {key: file.record() for key, file in found.files.items()},
                found.times,
            )
            vars(commit)["digest"] = found.digest  # of what it holds, as was seen
        except ValueError as error:
            raise CorruptStoreError(f"{name} is not a commit: {one_line(error)}; {remedy}") from error
        return commit

    def check(self, layout: Layout, name: str, remedy: str = REMEDY) -> None:
        """CorruptStoreError where it counts rows, or lists files or sizes, that no store of the layout has.

        Nothing else is asked of a commit: a reader opens what it lists, and makes room for what it counts.
        """
        problem = next(self._problems(layout), None)
        if problem:
            raise CorruptStoreError(f"{name} is no commit of this store: {problem}; {remedy}")

    def arrays(self, layout: Layout) -> Iterator[tuple[str, int]]:
        """Key and rows of each of its Zarr shards, in order."""
        for pooling in layout.poolings:
            rows = self.tokens if pooling == "tokens" else self.items
            first = self.first_token_shard if pooling == "tokens" else self.shard
            for layer in layout.layers:
                for offset, start in enumerate(range(0, rows, layout.shard_rows)):
                    yield shard_key(pooling, layer, first + offset), min(layout.shard_rows, rows - start)

    def _problems(self, layout: Layout) -> Iterator[str]:
        if self.items > layout.shard_rows:
            yield f"it counts {self.items} items in a shard of {layout.shard_rows} rows"
        if self.items != sum(count for _, _, count in self.runs):
            yield f"it counts {self.items} items, and its runs others"
        if self.tokens and ("tokens" not in layout.poolings or not self.items):
            yield f"it counts {self.tokens} rows of tokens where there are none"
        if self.tokens > layout.shard_rows * len(self.files):
            yield f"it counts {self.tokens} rows of tokens, which its files do not hold"
        named, limits = {items_key(self.shard), previews_key(self.shard)}, dict[int, tuple[int, int]]()
        for key, rows in self.arrays(layout):
            named.add(key)
            if key not in self.files:
                yield f"it does not list {key}"
            least, most = limits.get(rows) or limits.setdefault(rows, size_limits(rows, layout))
            if not least <= self.files[key].size <= most:
                yield f"it lists {key} with {self.files[key].size} bytes, which {rows} rows do not have"
        if items_key(self.shard) not in self.files:
            yield f"it does not list {items_key(self.shard)}"
        for key in self.files.keys() - named:
            yield f"it lists {key!r:.200}, which is no file of shard {self.shard}"

    def _content(self) -> dict[str, Any]:
        return {
            "shard": self.shard,
            "items": self.items,
            "generation": self.generation,
            "first_token_shard": self.first_token_shard,
            "tokens": self.tokens,
            "runs": [list(run) for run in self.runs],
            "files": {key: record.to_json() for key, record in self.files.items()},
        }


def _digest_of(content: Mapping[str, Any]) -> str:
    """As `content_digest`, many times sooner: every number in a commit is whole."""
    encoded = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2)
    return hashlib.sha256(encoded + b"\n").hexdigest()


def decode_commits(storage: Storage, layout: Layout, keys: Sequence[str]) -> Iterator[Commit]:
    """The commits in the files `keys`, each checked against the layout; CorruptStoreError for one that is none."""
    for key, data in zip(keys, storage.read_many(keys), strict=True):
        name = str(storage.root / key)
        commit = Commit.decode(data, name)
        if key != commit_key(commit.shard):
            raise CorruptStoreError(f"{name} holds the commit of shard {commit.shard}; {REMEDY}")
        commit.check(layout, name)
        yield commit
