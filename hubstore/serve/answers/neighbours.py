"""Neighbours: many requests' queries through one search, and each request's rows of what it found."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hubstore.corpus import Media
from hubstore.errors import HubstoreError
from hubstore.query import search
from hubstore.serve.answers.about import file_names
from hubstore.serve.answers.items import previews, require_rows
from hubstore.serve.encoders import Encoders
from hubstore.serve.formats import Answers
from hubstore.serve.snapshot import Snapshot

HIT_BYTES = 40
"""Of a neighbor in a table, at least: its rank and score, and where each of its eight texts ends."""

Parts = Callable[[pa.Table, Mapping[str, Any]], Answers]
"""Gets a table, and what is to be known about it, ready to be sent in parts."""


@dataclass(frozen=True)
class Options:
    """How to search; questions with the same options are answered together."""

    layers: tuple[str, ...]
    pooling: str
    k: int
    languages: tuple[str, ...] | None
    modalities: tuple[str, ...] | None
    concepts: tuple[str, ...] | None
    exclude_same_language: bool
    exclude_self: bool
    centred: bool
    query_language: str | None
    effort: int | None


@dataclass(frozen=True, eq=False)
class Question:
    """What one request looks for.

    Args:
        kind: "ids", "texts", "vectors", "images" or "audio".
        asked: ids or texts, each once; or float32 [queries, width]; or the media's bytes.
    """

    kind: str
    asked: Any

    def __len__(self) -> int:
        return len(self.asked)


def answers(
    snapshot: Snapshot, options: Options, encoders: Encoders, most: int, parts: Parts, questions: Sequence[Question]
) -> list[Any]:
    """The answer to each question, all of one kind, of `most` bytes; an error in the place of one that has none."""
    try:
        found = _searched(snapshot, options, encoders, most, questions)
    except HubstoreError as error:
        if len(questions) == 1:
            return [error]
        # One of them is wrong: each is asked alone, so that it spoils no other's answer.
        return [answers(snapshot, options, encoders, most, parts, [question])[0] for question in questions]
    about = json.loads(found.schema.metadata[b"hubstore"])
    ready = parts(_shown(snapshot, found), about)
    if len(questions) == 1:
        return [_or_error(ready.whole)]
    return _in_parts(found["query"], ready, questions)


def _searched(
    snapshot: Snapshot, options: Options, encoders: Encoders, most: int, questions: Sequence[Question]
) -> pa.Table:
    kind = questions[0].kind
    given: Any
    if kind == "vectors":
        given = torch.from_numpy(np.concatenate([question.asked for question in questions]))
    elif kind in ("images", "audio"):
        media = [data for question in questions for data in question.asked]
        given = [Media(name, data) for name, data in zip(_numbered(kind, 0, len(media)), media, strict=True)]
    else:
        given = list(dict.fromkeys(name for question in questions for name in question.asked))
    if kind == "ids":
        positions = snapshot.positions(given)  # says so where one is not there, without looking for the closest
        hits = min(options.k, snapshot.hidden(options.layers[0], options.pooling).shape[0])
        require_rows(snapshot.rows_of(positions, options.pooling) * len(options.layers) * hits, HIT_BYTES, most)
    encoder = None if kind in ("ids", "vectors") else encoders.encoder(snapshot, options.layers, options.pooling)
    return search(
        snapshot,
        **{kind: given},
        k=options.k,
        layers=options.layers,
        pooling=options.pooling,
        languages=options.languages,
        modalities=options.modalities,
        concepts=options.concepts,
        exclude_same_language=options.exclude_same_language,
        exclude_self=options.exclude_self,
        centred=options.centred,
        query_languages=options.query_language,
        encoder=encoder,
        indexes=None if options.centred else snapshot.indexes(options.layers, options.pooling),
        effort=options.effort,
        device=snapshot.device,
    )


def _shown(snapshot: Snapshot, found: pa.Table) -> pa.Table:
    """With the names of files alone, and whether there are previews."""
    found = found.set_column(found.column_names.index("media"), "media", file_names(found["media"]))
    there = np.zeros(len(found), np.bool_)
    if snapshot.keeps_previews:
        there = previews(snapshot, snapshot.positions(found["id"].to_pylist()))
    return found.append_column("preview", pa.array(there))


def _in_parts(labels: pa.ChunkedArray, ready: Answers, questions: Sequence[Question]) -> list[Any]:
    """Each question's rows; those of one query are together, under its label."""
    names = labels.to_pylist()
    starts = [place for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
    ranges = {names[start]: (start, stop) for start, stop in zip(starts, [*starts[1:], len(names)], strict=True)}
    found, first = [], 0
    for question in questions:
        if question.kind in ("ids", "texts"):
            own = [ranges[name] for name in question.asked if name in ranges]
            found.append(_or_error(functools.partial(ready.rows, own)))
            continue
        # Vectors, pictures and sounds have numbers for names, and each request's are counted from 0.
        there = _numbered(question.kind, first, len(question))
        here = _numbered(question.kind, 0, len(question))
        own = [ranges[name] for name in there if name in ranges]
        called = [name for name, old in zip(here, there, strict=True) for _ in range(*ranges.get(old, (0, 0)))]
        found.append(_or_error(functools.partial(ready.rows, own, called)))
        first += len(question)
    return found


def _or_error(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except HubstoreError as error:
        return error


def _numbered(kind: str, first: int, count: int) -> list[str]:
    """What queries are called that have no name: "vector 0", "image 0", "audio 0"."""
    return [f"{kind.removesuffix('s')} {number}" for number in range(first, first + count)]
