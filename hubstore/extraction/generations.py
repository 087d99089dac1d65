"""The generations of one corpus: which is planned next, and one pass over the corpus for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from hubstore.corpus import Corpus
from hubstore.extraction.plan import Plan, PlannedShard, PlanStart
from hubstore.extraction.spool import ItemStream, KnownIds, id_hashes
from hubstore.storage import Storage
from hubstore.store.columns import ITEM_SCHEMA
from hubstore.store.commit import Commit
from hubstore.store.layout import commit_key
from hubstore.store.reader import read_items
from hubstore.store.unfinished import missing_shards

BATCH_ROWS: Final = 4096
"""Rows that are read of a corpus at once."""

BATCHES: Final = 8
"""Of a generation at least: that it ends is known when the batch after it has been read."""


IDS: Final = pa.schema([ITEM_SCHEMA.field("id")])


class Generations:
    """What is left to plan of a corpus.

    However many generations there are, a run reads the corpus once, from where the first that it plans begins, and
    hashes the ids of what was committed before once.

    Args:
        storage: the store.
        corpus: its items.
        entry: the corpus's entry in the store's `corpora`; None where it has none yet.
        commits: of the whole store.
        shard_rows: rows of a Zarr shard.
        plan: of a generation that is extracted before any is planned here.
        generation_items: most rows of a generation.
    """

    def __init__(
        self,
        storage: Storage,
        corpus: Corpus,
        entry: Mapping[str, Any] | None,
        commits: Sequence[Commit],
        shard_rows: int,
        plan: Plan | None,
        generation_items: int,
    ) -> None:
        self._storage = storage
        self._corpus = corpus
        self._rows = min(max(generation_items // BATCHES, 1), BATCH_ROWS)
        self._shard_rows = shard_rows
        self._more = entry is None or bool(entry["more"])
        self._offset = 0
        self._lacking: list[PlanStart] = []
        committed = {commit.shard for commit in commits}
        planned = [] if entry is None else entry["generations"]
        for one in planned:
            rows = int(one["items"]) + int(one.get("skipped", 0))
            if missing_shards(one, committed) and not (plan and plan.generation == one["generation"]):
                first = int(one["shards"][0])
                self._lacking.append(PlanStart(one["generation"], self._offset, first, 0, rows, one["fingerprint"]))
            self._offset += rows
        self._described = {one["generation"] for one in planned}
        self._generation = max((commit.generation for commit in commits), default=-1) + 1
        self._shard = max(committed, default=-1) + 1
        self._ends = {commit.generation: commit.shard + 1 for commit in sorted(commits, key=lambda one: one.shard)}
        self._token_ends = {commit.shard: self._token_end(commit) for commit in commits}
        later = {start.generation for start in self._lacking} | ({plan.generation} if plan else set())
        self._unread = [commit for commit in commits if commit.generation not in later]
        self._known = KnownIds()
        self._stream: ItemStream | None = None
        self._position = 0

    def next(self) -> PlanStart | None:
        """Where the next generation begins, one that lacks shards before a new one; None after the last."""
        if self._lacking:
            start = self._lacking[0]  # the generation before it may have been extracted only now
            before = (end for generation, end in self._ends.items() if generation < start.generation)
            shard = max(start.shard, *before, 0)
            return replace(start, shard=shard, token_shard=self._token_shard(shard))
        if not self._more:
            return None
        return PlanStart(self._generation, self._offset, self._shard, self._token_shard(self._shard))

    def stream(self, start: PlanStart) -> ItemStream:
        """The corpus from where a generation begins; the same pass where the one before ended there."""
        if self._stream is None or self._position != start.corpus_offset:
            self.close()
            self._stream = ItemStream(self._corpus.batches(self._rows, start.corpus_offset))
        return self._stream

    def known_ids(self) -> KnownIds:
        """Those of everything that is committed but for generations that are still to be planned again."""
        if self._unread:
            hashes = [id_hashes(read_items(self._storage, commit, IDS)["id"]) for commit in self._unread]
            self._known.add(np.concatenate(hashes))
            self._unread = []
        return self._known

    def planned(self, plan: Plan) -> None:
        """A generation has been taken from the corpus."""
        self._position = plan.corpus_offset + plan.items + plan.skipped

    def extracted(self, plan: Plan, *, whole: bool) -> None:
        """A generation is committed.

        Args:
            plan: of it.
            whole: whether it was planned by this run, and with all of its items committed; else their ids are read.
        """
        self._lacking = [start for start in self._lacking if start.generation != plan.generation]
        if plan.generation not in self._described:
            self._offset = plan.corpus_offset + plan.items + plan.skipped
            self._more = not plan.last
        last = plan.shards[-1]
        self._generation = max(self._generation, plan.generation + 1)
        self._shard = max(self._shard, last.shard + 1)
        self._ends[plan.generation] = last.shard + 1
        self._token_ends |= {shard.shard: self._token_end(shard) for shard in plan.shards}
        if whole:
            self._known.add(self._known.planned)
        elif self.next() is not None:
            keys = (commit_key(shard.shard) for shard in plan.shards)
            self._unread += [Commit.decode(self._storage.read(key), str(self._storage.root / key)) for key in keys]

    def close(self) -> None:
        """Let go of the corpus."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _token_end(self, shard: Commit | PlannedShard) -> int:
        """Where its token rows end, in Zarr shards."""
        return shard.first_token_shard - (-shard.tokens // self._shard_rows)

    def _token_shard(self, shard: int) -> int:
        """Where the token rows of a shard begin: behind those of all before it."""
        return max((end for before, end in self._token_ends.items() if before < shard), default=0)
