"""Neighbours: many requests' queries through one search, and each request's rows of what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.corpus import Media
from hubstore.errors import HubstoreError
from hubstore.query import search
from hubstore.serve.answers.about import file_names
from hubstore.serve.answers.items import previews
from hubstore.serve.encoders import Encoders
from hubstore.serve.snapshot import Snapshot

Written = Callable[[pa.Table, Mapping[str, Any]], Any]
"""Writes a table and what is to be known about it as an answer."""


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
    query_language: str | None
    effort: int | None


@dataclass(frozen=True, eq=False)
class Question:
    """What one request looks for.

    Args:
        kind: "ids", "texts", "vectors", "images" or "audio".
        asked: ids or texts; or float32 [queries, width]; or the media's bytes.
        written: writes its answer.
    """

    kind: str
    asked: Any
    written: Written

    def __len__(self) -> int:
        return len(self.asked)


def answers(
    snapshot: Snapshot, options: Options, encoders: Encoders, device: str, questions: Sequence[Question]
) -> list[Any]:
    """The answer to each question, all of one kind; an error in the place of one that has none."""
    try:
        found = _searched(snapshot, options, encoders, device, questions)
    except HubstoreError as error:
        if len(questions) == 1:
            return [error]
        # One of them is wrong: each is asked alone, so that it spoils no other's answer.
        return [answers(snapshot, options, encoders, device, [question])[0] for question in questions]
    about = json.loads(found.schema.metadata[b"hubstore"])
    found = _shown(snapshot, found)
    return [_written(question, part, about) for question, part in zip(questions, _parts(found, questions), strict=True)]


def _written(question: Question, part: pa.Table, about: Mapping[str, Any]) -> Any:
    try:
        return question.written(part, about)
    except HubstoreError as error:
        return error


def _searched(
    snapshot: Snapshot, options: Options, encoders: Encoders, device: str, questions: Sequence[Question]
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
        snapshot.positions(given)  # says so where one is not there, without looking for the closest
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
        query_languages=options.query_language,
        encoder=encoder,
        indexes=snapshot.indexes(options.layers, options.pooling),
        effort=options.effort,
        device=device,
    )


def _shown(snapshot: Snapshot, found: pa.Table) -> pa.Table:
    """With the names of files alone, and whether there are previews."""
    found = found.set_column(found.column_names.index("media"), "media", file_names(found["media"]))
    there = np.zeros(len(found), np.bool_)
    if snapshot.keeps_previews:
        there = previews(snapshot, snapshot.positions(found["id"].to_pylist()))
    return found.append_column("preview", pa.array(there))


def _parts(found: pa.Table, questions: Sequence[Question]) -> list[pa.Table]:
    """The rows of each question."""
    if len(questions) == 1:
        return [_relabelled(found, questions[0], 0)]
    labels = found["query"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])) if len(labels) else np.empty(0, int)
    stops = np.append(starts[1:], len(labels))
    ranges = {labels[start]: (int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)}
    parts, first = [], 0
    for question in questions:
        names = question.asked if question.kind in ("ids", "texts") else _numbered(question.kind, first, len(question))
        rows = [np.arange(*ranges[name], dtype=np.int64) for name in names if name in ranges]
        part = found.take(pa.array(np.concatenate(rows) if rows else _NONE))
        parts.append(_relabelled(part, question, first))
        first += len(question)
    return parts


_NONE: npt.NDArray[np.int64] = np.empty(0, np.int64)


def _numbered(kind: str, first: int, count: int) -> list[str]:
    """What queries are called that have no name: "vector 0", "image 0", "audio 0"."""
    return [f"{kind.removesuffix('s')} {number}" for number in range(first, first + count)]


def _relabelled(found: pa.Table, question: Question, first: int) -> pa.Table:
    """A request's own vectors, pictures and sounds are counted from 0."""
    if question.kind in ("ids", "texts") or first == 0:
        return found
    count = len(question)
    names = _numbered(question.kind, first, count), _numbered(question.kind, 0, count)
    own = dict(zip(*names, strict=True))
    return found.set_column(0, "query", pa.array([own[label] for label in found["query"].to_pylist()], pa.string()))
