"""What a corpus is to a model, counted, and how fast this machine is at it, measured in a few seconds.

Every item is counted. Up to a number of them all are tokenized; beyond, of each batch a few that are drawn at random,
and the sum over batches has an interval (stratified sampling; Cochran, Sampling Techniques, 1977, chapter 5). What was
measured stays in the user's cache, by machine, model and settings.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.corpus import Corpus
from hubstore.extraction.plan import GENERATION_ITEMS, PlanStart, assign_shards
from hubstore.extraction.prepare import left_out
from hubstore.extraction.settings import ResolvedSettings, media_task
from hubstore.forward import Batching, HostBatch, collate, collate_media
from hubstore.forward.capture import Capture
from hubstore.forward.members import rows_by_modality
from hubstore.measurements import MeasurementCache, machine
from hubstore.media import MediaInputs
from hubstore.media.reading import read_rows
from hubstore.models import Model
from hubstore.store import DTYPES, Layout
from hubstore.store.writer import encode_items

EXACT = {"text": 200_000, "image": 64, "audio": 64}
"""Items of a modality that are all read as the model reads them."""

DRAWN = {"text": 256, "image": 4, "audio": 4}
"""Items of a batch of 4096 that are read so, once there were more."""

TABLE_EVERY = 64
"""Of so many batches one is put into Parquet, to see how large its items are there."""

SAMPLES = 32
"""Texts, and items of another modality, that the model is measured with."""

SEED = 0

LENGTHS = tuple(2**n for n in range(3, 21))
"""Lengths of texts, in tokens, at which the model is measured; between them it is interpolated."""

SECONDS = 0.3
"""How long the model runs at each length; its fastest batch counts."""


@dataclass
class Tokens:
    """The tokens of one modality's items.

    Args:
        items: how many there are.
        read: how many of them were read as the model reads them.
        total: tokens in all.
        variance: of `total`; 0 where all were read.
        truncated: of those read, how many were cut to the longest that the model takes.
        unreadable: of those read, how many cannot be.
        lengths: how many items of each length, scaled up where not all were read.
        reading: seconds that reading took: texts into token ids, media into the model's arguments.
    """

    items: int = 0
    read: int = 0
    total: float = 0.0
    variance: float = 0.0
    truncated: int = 0
    unreadable: int = 0
    lengths: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    reading: float = 0.0

    @property
    def error(self) -> float:
        """Half the 95 % interval of `total`."""
        return 1.96 * math.sqrt(self.variance)

    @property
    def exact(self) -> bool:
        """Whether every item was read."""
        return self.read == self.items

    @property
    def longest(self) -> int:
        """Of the items that were read."""
        return max(self.lengths, default=0)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        read = {"tokenized": self.read, "tokenised": self.read}  # "tokenised" is deprecated
        rounded = {"tokens": round(self.total), "tokens_error": round(self.error), **read}
        names = ("exact", "longest", "truncated", "unreadable")
        return {"items": self.items, **rounded, **{name: getattr(self, name) for name in names}}

    @property
    def all_seconds(self) -> float:
        """That reading all items would take."""
        return self.reading / self.read * self.items


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
    texts: Sequence[Sequence[int]]
    media: Mapping[str, Sequence[MediaInputs]]

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
    corpus: Corpus, model: Model, settings: ResolvedSettings, layout: Layout, generation_items: int = GENERATION_ITEMS
) -> Counted:
    """Read a corpus once, and count.

    Args:
        corpus: the items.
        model: its tokenizer and processors.
        settings: of the run.
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


class _Counting:
    def __init__(
        self, corpus: Corpus, model: Model, settings: ResolvedSettings, layout: Layout, generation_items: int
    ) -> None:
        self._corpus, self._model, self._settings, self._layout = corpus, model, settings, layout
        self._generation_items = generation_items
        self._task = media_task(model, settings)
        self._rng = np.random.default_rng(SEED)
        self._of: defaultdict[str, Tokens] = defaultdict(Tokens)
        self._partitions: Counter[tuple[str, str]] = Counter()
        self._codes: list[npt.NDArray[np.int32]] = []
        self._tokens: list[npt.NDArray[np.int32]] = []
        self._held, self._spooled, self._most_spooled = 0, 0, 0
        self._shards: list[tuple[int, int]] = []
        self._batches, self._table_items, self._table_bytes, self._empty_table = 0, 0, 0, 0
        self._texts: list[Sequence[int]] = []
        self._media: defaultdict[str, list[MediaInputs]] = defaultdict(list)

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
                self._assign_shards()
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
        of, count = self._of[modality], len(rows)
        chosen = np.arange(count)
        if of.items + count > EXACT[modality] and count > DRAWN[modality]:
            chosen = np.sort(self._rng.choice(count, DRAWN[modality], replace=False))
        started = time.perf_counter()
        read = self._lengths(modality, batch.take(pa.array(rows[chosen])), of)
        of.reading += time.perf_counter() - started
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

    def _lengths(self, modality: str, part: pa.RecordBatch, of: Tokens) -> npt.NDArray[np.int32]:
        if modality == "text":
            reader = self._model.text_reader(self._settings.max_tokens, self._settings.template)
            read = reader.read(part.column("text").to_pylist())
            for number, problem in read.problems.items():
                self._leave_out(part, number, problem, of)
            of.truncated += int(read.cut.sum())
            self._texts += [ids.tolist() for ids in read.split() if len(ids)][: SAMPLES - len(self._texts)]
            return read.lengths
        lengths = []
        for number, item in enumerate(read_rows(self._task, part.to_pylist())):
            if item.inputs is None:
                self._leave_out(part, number, item.error, of)
                lengths.append(0)
                continue
            of.truncated += item.inputs.truncated
            self._media[modality] += [item.inputs][: SAMPLES - len(self._media[modality])]
            lengths.append(self._model.adapters[modality].length_of(item.inputs))
        return np.array(lengths, np.int32)

    def _leave_out(self, part: pa.RecordBatch, number: int, problem: object, of: Tokens) -> None:
        left_out(part.column("id")[number].as_py(), problem, skip=self._corpus.skip_errors)
        of.unreadable += 1

    def _assign_shards(self) -> None:
        """What has come since the last time is a generation: its shards, and no more of it than those."""
        if not self._held:
            return
        order = np.argsort(np.concatenate(self._codes), kind="stable").astype(np.int64)
        tokens = np.concatenate(self._tokens) if "tokens" in self._layout.poolings else None
        assigned = assign_shards(order, tokens, self._layout, PlanStart(0, 0, 0, 0), self._settings.memory_budget)
        self._shards += [(shard.stop - shard.start, shard.tokens) for shard in assigned]
        self._most_spooled = max(self._most_spooled, self._spooled)
        self._codes, self._tokens, self._held, self._spooled = [], [], 0, 0

    def counted(self, seconds: float) -> Counted:
        self._assign_shards()
        of_items = self._table_bytes * self._partitions.total() / max(self._table_items, 1)
        return Counted(
            partitions=tuple((*pair, count) for pair, count in self._partitions.items()),
            tokens=self._of,
            shards=tuple(self._shards),
            table_bytes=round(of_items + self._empty_table * len(self._shards)),
            spool_bytes=self._most_spooled,
            reading=seconds - sum(of.reading for of in self._of.values()),
            texts=self._texts,
            media=self._media,
        )


@dataclass(frozen=True)
class Speed:
    """What this machine was measured to do.

    Args:
        token_seconds: by length in tokens, of the model for each token of full batches of texts so long.
        media_seconds: by modality, of the model for each token of images or audio.
        device_bytes: of the GPU beside the model's weights, at most, while it did.
        write_seconds: for each byte of a shard, checked, written, synced and committed; None where nothing is written,
            or nothing may be.
    """

    token_seconds: Mapping[int, float]
    media_seconds: Mapping[str, float]
    device_bytes: int
    write_seconds: float | None = None

    def of_text(self, length: int) -> float:
        """Seconds of the model for one text of so many tokens."""
        known = sorted(self.token_seconds)
        rates = [self.token_seconds[one] for one in known]
        return length * float(np.interp(np.log2(max(length, 1)), np.log2(known), rates))


def model_speed(model: Model, settings: ResolvedSettings, counted: Counted, *, refresh: bool) -> Speed:
    """The model's speed, from the cache where it is there; that of images and audio is always measured.

    Args:
        model: on its device.
        settings: resolved.
        counted: the corpus, with some of its items.
        refresh: measure whatever the cache has.
    """
    run = _timer(model, settings)
    token_seconds: dict[int, float] = {}
    device_bytes = [0.0]
    if counted.texts:
        cache = MeasurementCache(_model_key(model, settings), refresh=refresh)
        longest = counted.tokens["text"].longest
        lengths = list(itertools.takewhile(lambda length: length < 2 * longest, LENGTHS)) or [LENGTHS[0]]
        lengths = sorted({min(length, settings.max_tokens) for length in lengths})

        def run_texts(length: int, figure: int) -> float:
            return run(_text_batch(model, settings, counted.texts, length))[figure]

        token_seconds = {
            length: cache.value(str(length), functools.partial(run_texts, length, 0)) for length in lengths
        }
        device_bytes.append(cache.value(f"device_bytes {lengths[-1]}", lambda: run_texts(lengths[-1], 1)))
    of_media = {name: run(_media_batch(model, settings, name, items)) for name, items in counted.media.items() if items}
    device_bytes += [taken for _, taken in of_media.values()]
    media_seconds = {modality: seconds for modality, (seconds, _) in of_media.items()}
    return Speed(token_seconds, media_seconds, int(max(device_bytes)))


def _timer(model: Model, settings: ResolvedSettings) -> Callable[[HostBatch], tuple[float, float]]:
    """What measures a batch: seconds of the model for each of its tokens, and bytes of the GPU beside what it had."""
    capture = Capture(model, settings.layers, settings.poolings, DTYPES[settings.dtype])
    fewest = 3 if model.device.type == "cuda" else 1  # a GPU's first run of a shape takes long

    def run(batch: HostBatch) -> tuple[float, float]:
        times: list[float] = []
        with _most_on(model.device) as most:
            while sum(times) < SECONDS or len(times) < fewest:
                started = time.perf_counter()
                _run_once(capture, batch)
                times.append(time.perf_counter() - started)
        return min(times) / batch.tokens, most()

    return run


def _run_once(capture: Capture, batch: HostBatch) -> None:
    capture.run(batch.to(capture.model.device))
    if capture.model.device.type == "cuda":
        torch.cuda.synchronize(capture.model.device)


@contextlib.contextmanager
def _most_on(device: torch.device) -> Iterator[Callable[[], int]]:
    """How many bytes of a GPU were taken at most meanwhile, beside those that were taken before."""
    if device.type != "cuda":
        yield lambda: 0
        return
    torch.cuda.reset_peak_memory_stats(device)  # else loading the model counts, and whatever ran before
    before = torch.cuda.memory_allocated(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before


def _text_batch(model: Model, settings: ResolvedSettings, texts: Sequence[Sequence[int]], length: int) -> HostBatch:
    """A full batch of texts of `length` tokens."""
    batching = Batching("packed", first_position=0) if settings.batching == "packed" else Batching("padded")
    endless = itertools.cycle(itertools.chain.from_iterable(texts))
    items = [list(itertools.islice(endless, length)) for _ in range(max(1, settings.batch_tokens // length))]
    return collate(model, items, batching, settings.batch_tokens)


def _media_batch(model: Model, settings: ResolvedSettings, modality: str, items: Sequence[MediaInputs]) -> HostBatch:
    """A full batch, or as many as there are, of images or audio as long as the first."""
    lengths = [model.adapters[modality].length_of(item) for item in items]
    same_length = [item for item, length in zip(items, lengths, strict=True) if length == lengths[0]]
    return collate_media(model, modality, same_length[: max(1, settings.media_tokens // lengths[0])])


def _model_key(model: Model, settings: ResolvedSettings) -> dict[str, Any]:
    device = model.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    captured = {name: getattr(settings, name) for name in ("layers", "poolings", "dtype", "batch_tokens", "batching")}
    named = {name: model.identity.get(name) for name in ("weights", "dtype", "attention", "stack")}
    return {**machine(), "gpu": gpu, "model": named, "settings": captured}
