"""Which items go together: stretches of one modality, and the members of each batch."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.media import MediaInputs, shapes_of
from hubstore.models import Model, length_borders
from hubstore.reading.batching import Batching


def runs_of(modalities: pa.ChunkedArray) -> Iterator[tuple[str, int, int]]:
    """Stretches of items of one modality: (modality, start, stop)."""
    start = 0
    for modality, run in groupby(modalities.to_pylist()):
        stop = start + len(list(run))
        yield modality, start, stop
        start = stop


def rows_by_modality(modalities: pa.Array) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Where the items of each modality are; captions may stand between images, one by one."""
    names = np.array(modalities.to_pylist())
    for modality in dict.fromkeys(names.tolist()):
        yield modality, np.flatnonzero(names == modality)


def media_members(
    inputs: Sequence[MediaInputs], lengths: npt.NDArray[np.int32], batch_tokens: int, batching: Batching
) -> Iterator[npt.NDArray[np.int64]]:
    """Which images or audio go into one batch: of like length, and where padding would change them of one shape.

    Args:
        inputs: the items.
        lengths: [items], in tokens.
        batch_tokens: of a batch, with its padding.
        batching: "padded", "same_shape" or "single".
    """
    if batching.kind != "same_shape":
        yield from batch_members(lengths, batch_tokens, batching)
        return
    shapes = [shapes_of(item) for item in inputs]
    for shape in dict.fromkeys(shapes):
        same = np.array([i for i, other in enumerate(shapes) if other == shape], np.int64)
        for member in batch_members(lengths[same], batch_tokens, replace(batching, kind="padded")):
            yield same[member]


def batch_members(
    lengths: npt.NDArray[np.int32], batch_tokens: int, batching: Batching | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Which items go into one batch, longest first, so that memory that does not suffice shows at once.

    Args:
        lengths: [items], in tokens.
        batch_tokens: of a batch, with its padding where it has any. A longer item goes alone.
        batching: padded batches by default: items of like length. Items of both sides of a border share none.
    """
    batching = batching or Batching()
    sides = sides_of(lengths.astype(np.int64), batching)
    chosen = _packed_members if batching.kind == "packed" else _padded_members
    for side in np.unique(sides)[::-1]:
        own = np.flatnonzero(sides == side)
        for members in chosen(lengths[own], 1 if batching.kind == "single" else batch_tokens):
            yield own[members]


def padded_batching(model: Model) -> Batching:
    """Padded batches in which the model reads every item on its own side of the lengths at which it changes."""
    borders = length_borders(model.trunk.config)
    return Batching("padded", borders=borders.lengths, varies_beyond=borders.varies_beyond)


def sides_of(lengths: npt.NDArray[np.int64], batching: Batching) -> npt.NDArray[np.int64]:
    """Ascending with length: items of the same number may share a batch."""
    if batching.kind == "same_shape":
        return lengths
    sides = np.searchsorted(np.array(batching.borders, np.int64), lengths)
    if batching.varies_beyond is None:
        return sides
    return np.where(lengths > batching.varies_beyond, len(batching.borders) + lengths, sides)


def _padded_members(lengths: npt.NDArray[np.int32], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """The longest item that is left, and as many of the next as there is room for."""
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(batch_tokens // int(lengths[order[start]]), 1)
        yield order[start : start + count]
        start += count


def _packed_members(lengths: npt.NDArray[np.int32], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """The longest item that is left, and while there is room the longest that fits: as many of a length at once."""
    order = np.argsort(lengths, kind="stable")
    of_length, starts = np.unique(lengths[order], return_index=True)
    left = np.diff([*starts, len(order)]).tolist()  # items of each length; the last of a length goes first
    ascending, begins = of_length.tolist(), starts.tolist()
    longest = len(ascending) - 1
    while longest >= 0:
        members, room, at = [], max(batch_tokens, ascending[longest]), longest
        while at >= 0:
            count = min(left[at], room // ascending[at])
            if count:
                end = begins[at] + left[at]
                members.append(order[end - count : end][::-1])
                left[at] -= count
                room -= count * ascending[at]
            at = min(at - 1, bisect.bisect_right(ascending, room) - 1)
        yield np.concatenate(members).astype(np.int64)
        while longest >= 0 and not left[longest]:
            longest -= 1
