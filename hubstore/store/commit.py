"""Commits: a shard exists if and only if its commit does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord
from hubstore.store.layout import content_digest, encode_json


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

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the times: two shards with one digest hold the same bytes."""
        return content_digest(self._content())

    def encode(self) -> bytes:
        """The commit file."""
        return encode_json({**self._content(), "digest": self.digest, "times": dict(self.times)})

    @classmethod
    def decode(cls, data: bytes, name: str) -> Commit:
        """Read a commit file; CorruptStoreError when it is not as it was written."""
        try:
            content = json.loads(data)
            commit = cls(
                shard=content["shard"],
                items=content["items"],
                generation=content["generation"],
                first_token_shard=content["first_token_shard"],
                tokens=content["tokens"],
                runs=tuple((modality, language, count) for modality, language, count in content["runs"]),
                files={key: FileRecord.from_json(record) for key, record in content["files"].items()},
                times=content["times"],
            )
            intact = content["digest"] == commit.digest
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStoreError(f"{name} is not a commit: {error}") from error
        if not intact:
            raise CorruptStoreError(f"{name} does not match its digest; it was changed after it was written")
        return commit

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
