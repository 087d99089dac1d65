"""What a corpus is to a model: its items, their tokens, and the shards they would fill. Nothing is written.

Every item is counted. Up to a number of them all are tokenised; beyond, of each batch a few that are drawn at random,
and the sum over batches has an interval (stratified sampling; Cochran, Sampling Techniques, 1977, chapter 5).
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.corpus import Corpus
from hubstore.extraction.plan import GENERATION_ITEMS, PlanStart, deal
from hubstore.extraction.prepare import left_out, tokenized
from hubstore.extraction.settings import Settings, media_task
from hubstore.forward.members import rows_by_modality
from hubstore.media import MediaInputs
from hubstore.media.reading import read_rows
from hubstore.models import Model
from hubstore.store import Layout
from hubstore.store.writer import encode_items

EXACT = {"text": 200_000, "image": 64, "audio": 64}
"""Items of a modality that are all read as the model reads them."""

DRAWN = {"text": 256, "image": 4, "audio": 4}
"""Items of a batch of 4096 that are read so, once there were more."""

TABLE_EVERY = 64
"""Of so many batches one is put into Parquet, to see how large its items are there."""

KEPT = 32
"""Texts and media that are kept to measure the model with."""

SEED = 0


@dataclass(frozen=True)
class Tokens:
    """The tokens of one modality's items.

    Args:
        items: how many there are.
        read: how many of them were read as the model reads them.
        total: tokens in all.
        error: half the 95 % interval of `total`; 0 where all were read.
        truncated: of those read, how many were cut to the longest that the model takes.
        unreadable: of those read, how many cannot be.
        lengths: how many items of each length, scaled up where not all were read.
        seconds: that reading took for each item: a text into token ids, a medium into the model's arguments.
    """

    items: int
    read: int
    total: float
    error: float
    truncated: int
    unreadable: int
    lengths: Mapping[int, float]
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether every item was read."""
        return self.read == self.items

    @property
    def longest(self) -> int:
        """Of the items that were read."""
        return max(self.lengths, default=0)


@dataclass(frozen=True)
class Counted:
    """A corpus, counted.

    Args:
        partitions: (modality, language, items).
        tokens: by modality.
        shards: items and token rows of every shard.
        table_bytes: bytes of all item tables, from some that were made.
        spool_bytes: bytes of the largest generation's items, which the plan keeps until its last shard is committed.
        reading: seconds that the corpus took to be read once.
        texts: token ids of a few texts.
        media: by modality, a few items as the model takes them.
    """

    partitions: tuple[tuple[str, str, int], ...]
    tokens: Mapping[str, Tokens]
    shards: tuple[tuple[int, int], ...]
    table_bytes: int
    spool_bytes: int
    reading: float
    texts: tuple[Sequence[int], ...]
    media: Mapping[str, tuple[MediaInputs, ...]]

    @property
    def items(self) -> int:
        """All of them."""
        return sum(count for _, _, count in self.partitions)

    @property
    def total_tokens(self) -> float:
        """Of all modalities."""
        return sum(one.total for one in self.tokens.values())

    @property
    def error(self) -> float:
        """Half the 95 % interval of `total_tokens`."""
        return math.hypot(*(one.error for one in self.tokens.values()))


def count_corpus(
    corpus: Corpus, model: Model, settings: Settings, layout: Layout, *, generation_items: int = GENERATION_ITEMS
) -> Counted:
    """Read a corpus once, and count.

    Args:
        corpus: the items.
        model: its tokenizer and processors.
        settings: resolved.
        layout: what the store's shapes would be.
        generation_items: most items that are planned at once.

    Raises:
        CorpusError: an item that is not valid or cannot be read, where such are not left out.
        ModelError: a modality that the model does not read.
    """
    counting = _Counting(corpus, model, settings, layout, generation_items)
    started = time.perf_counter()
    for batch in corpus.batches():
        counting.add(batch)
    return counting.counted(time.perf_counter() - started)


@dataclass
class _OfModality:
    items: int = 0
    read: int = 0
    total: float = 0.0
    variance: float = 0.0
    truncated: int = 0
    unreadable: int = 0
    lengths: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0


class _Counting:
    def __init__(self, corpus: Corpus, model: Model, settings: Settings, layout: Layout, generation_items: int) -> None:
        self._corpus, self._model, self._settings, self._layout = corpus, model, settings, layout
        self._generation_items = generation_items
        self._task = media_task(model, settings)
        self._rng = np.random.default_rng(SEED)
        self._of: dict[str, _OfModality] = {}
        self._partitions: Counter[tuple[str, str]] = Counter()
        self._codes: list[npt.NDArray[np.int32]] = []
        self._tokens: list[npt.NDArray[np.int32]] = []
        self._held, self._spooled, self._most_spooled = 0, 0, 0
        self._shards: list[tuple[int, int]] = []
        self._batches, self._table_items, self._table_bytes, self._empty_table = 0, 0, 0, 0
        self._texts: list[Sequence[int]] = []
        self._media: dict[str, list[MediaInputs]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        if self._batches % TABLE_EVERY == 0:
            table = pa.Table.from_batches([batch]).drop_columns(["data"])
            self._empty_table = len(encode_items(table.slice(0, 0)))
            self._table_bytes += len(encode_items(table)) - self._empty_table
            self._table_items += len(batch)
        self._batches += 1
        while len(batch):
            part = batch.slice(0, self._generation_items - self._held)
            self._add(part)
            if self._held == self._generation_items:
                self._deal()
            batch = batch.slice(len(part))

    def _add(self, batch: pa.RecordBatch) -> None:
        tokens = np.empty(len(batch), np.int32)
        for modality, rows in rows_by_modality(batch.column("modality")):
            self._model.require_modality(modality)
            tokens[rows] = self._read(modality, batch, rows)
        pairs = list(zip(batch.column("modality").to_pylist(), batch.column("language").to_pylist(), strict=True))
        self._partitions.update(pairs)
        numbers = {pair: number for number, pair in enumerate(self._partitions)}
        self._codes.append(np.fromiter((numbers[pair] for pair in pairs), np.int32, len(pairs)))
        self._tokens.append(tokens)
        self._held += len(batch)
        self._spooled += batch.nbytes

    def _read(self, modality: str, batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Tokens of the items in these rows; of those that were not read, the mean of the others."""
        of = self._of.setdefault(modality, _OfModality())
        count = len(rows)
        chosen = np.arange(count)
        if of.items + count > EXACT[modality] and count > DRAWN[modality]:
            chosen = np.sort(self._rng.choice(count, DRAWN[modality], replace=False))
        started = time.perf_counter()
        read = self._lengths(modality, batch.take(pa.array(rows[chosen])), of)
        of.seconds += time.perf_counter() - started
        of.items += count
        of.read += len(read)
        of.total += float(read.mean()) * count
        if len(read) < count:
            of.variance += count**2 * float(read.var(ddof=1)) / len(read) * (1 - len(read) / count)
        for length, number in zip(*np.unique(read, return_counts=True), strict=True):
            of.lengths[int(length)] += float(number * count / len(read))
        tokens = np.full(count, round(float(read.mean())), np.int32)
        tokens[chosen] = read
        return tokens

    def _lengths(self, modality: str, part: pa.RecordBatch, of: _OfModality) -> npt.NDArray[np.int32]:
        if modality == "text":
            ids, cut, problems = tokenized(self._model, self._settings, part.column("text").to_pylist())
            for number, problem in problems.items():
                self._leave_out(part, number, problem, of)
            of.truncated += sum(cut)
            self._texts += [own for own in ids if own][: KEPT - len(self._texts)]
            return np.array([len(own) for own in ids], np.int32)
        lengths = []
        for number, item in enumerate(read_rows(self._task, part.to_pylist())):
            if item.inputs is None:
                self._leave_out(part, number, item.error, of)
                lengths.append(0)
                continue
            of.truncated += item.inputs.truncated
            kept = self._media.setdefault(modality, [])
            if len(kept) < KEPT:
                kept.append(item.inputs)
            lengths.append(self._model.adapters[modality].length_of(item.inputs))
        return np.array(lengths, np.int32)

    def _leave_out(self, part: pa.RecordBatch, number: int, problem: object, of: _OfModality) -> None:
        left_out(part.column("id")[number].as_py(), problem, skip=self._corpus.skip_errors)
        of.unreadable += 1

    def _deal(self) -> None:
        """What has come since the last time is a generation: its shards, and no more of it than those."""
        if not self._held:
            return
        order = np.argsort(np.concatenate(self._codes), kind="stable").astype(np.int64)
        tokens = np.concatenate(self._tokens) if "tokens" in self._layout.poolings else None
        start = PlanStart(0, 0, 0, 0)
        budget = self._settings.memory_budget
        self._shards += [(s.stop - s.start, s.tokens) for s in deal(order, tokens, self._layout, start, budget)]
        self._most_spooled = max(self._most_spooled, self._spooled)
        self._codes, self._tokens, self._held, self._spooled = [], [], 0, 0

    def counted(self, seconds: float) -> Counted:
        self._deal()
        items = sum(of.items for of in self._of.values())
        of_items = self._table_bytes * items / max(self._table_items, 1)
        return Counted(
            partitions=tuple((*pair, count) for pair, count in self._partitions.items()),
            tokens={
                modality: Tokens(
                    items=of.items,
                    read=of.read,
                    total=of.total,
                    error=1.96 * of.variance**0.5,
                    truncated=of.truncated,
                    unreadable=of.unreadable,
                    lengths=dict(of.lengths),
                    seconds=of.seconds / of.read,
                )
                for modality, of in self._of.items()
            },
            shards=tuple(self._shards),
            table_bytes=round(of_items + self._empty_table * len(self._shards)),
            spool_bytes=self._most_spooled,
            reading=seconds - sum(of.seconds for of in self._of.values()),
            texts=tuple(self._texts),
            media={modality: tuple(kept) for modality, kept in self._media.items()},
        )
