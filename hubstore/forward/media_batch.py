"""Images or audio as one batch: what their processor made of each, joined, and where their tokens are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubstore.forward.batch import HostBatch, placed_in_order
from hubstore.media import MediaInputs
from hubstore.media.shortcuts import PIXELS
from hubstore.models import Model
from hubstore.reading.layout import Integers


def collate_media(model: Model, modality: str, items: Sequence[MediaInputs]) -> HostBatch:
    """Several items as one batch.

    What differs in size is padded with zeros at the end, token ids with the model's padding; the self-check finds out
    for which models padded items have the states of single ones.

    Args:
        model: that will read them.
        modality: "image" or "audio".
        items: one at least.
    """
    adapter = model.adapters[modality]
    bos_id = model.bos_id if model.kind == "causal" else None  # left out of `first` and `mean`
    normalization = adapter.reader.normalization
    if normalization is not None and len({item.tensors[PIXELS].shape[1:] for item in items}) > 1:
        # Padding is zeros beside normalized pixels, and no byte value need be normalized to zero.
        items = [adapter.reader.finish(item) for item in items]
        normalization = None
    fills = {name: model.pad_id if name.endswith("input_ids") else 0 for name in items[0].tensors}
    tensors = {
        name: _joined([item.tensors[name] for item in items], fill, adapter.pinned) for name, fill in fills.items()
    }
    lengths = np.array([adapter.length_of(item) for item in items], np.int64)
    width = int(lengths.max())
    if items[0].length is None:
        assert adapter.rows is not None
        width = adapter.rows(tensors)[0]
    elif "decoder_input_ids" in tensors:
        tensors["decoder_attention_mask"] = torch.arange(width)[None] < torch.from_numpy(lengths)[:, None]
    start = np.arange(len(items), dtype=np.int64) * width
    begins = [item.tensors["input_ids"][0, 0] if "input_ids" in tensors else None for item in items]
    skip = np.array([bos_id is not None and begin is not None and int(begin) == bos_id for begin in begins], np.int64)
    arrays: dict[str, Any] = {
        "first": start + skip,
        "last": start + lengths - 1,
        "token_rows": _rows(start, [[(0, int(length))] for length in lengths])[0],
    }
    if any(item.media for item in items):
        own = list(zip(skip.tolist(), lengths.tolist(), strict=True))
        every = [[bounds] for bounds in own]
        own_text = [_outside(item.media, *bounds) for item, bounds in zip(items, own, strict=True)]
        for name, ranges in (("media", [item.media for item in items]), ("text", own_text)):
            arrays |= _spans(name, start, [found or whole for found, whole in zip(ranges, every, strict=True)])
    return HostBatch(
        placed_in_order(arrays),
        None,
        len(items) * width,
        tensors=tensors,
        modality=modality,
        normalization=normalization,
    )


def _joined(tensors: Sequence[torch.Tensor], fill: int, pinned: bool) -> torch.Tensor:
    """Laid one after the other along the first dimension, the others padded to the greatest."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    shape = (sum(len(tensor) for tensor in tensors), *largest)
    whole = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pinned)
    if all(list(tensor.shape[1:]) == largest for tensor in tensors):
        start, flat = 0, _bytes(whole)
        for run in _runs(tensors):
            # One thread of numpy's: torch would wake one on every core, which are busy reading.
            np.copyto(flat[start : start + run.nbytes], _bytes(run))
            start += run.nbytes
        return whole
    starts = itertools.accumulate((len(tensor) for tensor in tensors), initial=0)
    whole.fill_(fill)
    for start, tensor in zip(starts, tensors, strict=False):
        whole[(slice(start, start + len(tensor)), *map(slice, tensor.shape[1:]))] = tensor
    return whole


def _runs(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same, those that lie end to end in one piece of memory as one: fewer calls for as many bytes."""
    place = 0
    while place < len(tensors):
        first, stop = tensors[place], place + 1
        memory, end = first.untyped_storage(), first.data_ptr() + first.nbytes
        beyond = memory.data_ptr() + memory.nbytes()
        while stop < len(tensors) and tensors[stop].data_ptr() == end and end + tensors[stop].nbytes <= beyond:
            end, stop = end + tensors[stop].nbytes, stop + 1
        if all(tensor.is_contiguous() for tensor in tensors[place:stop]):
            yield first.as_strided(((end - first.data_ptr()) // first.itemsize,), (1,), first.storage_offset())
        else:
            yield from (tensor.contiguous() for tensor in tensors[place:stop])
        place = stop


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    laid: npt.NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return laid


def _outside(media: Sequence[tuple[int, int]], skip: int, length: int) -> list[tuple[int, int]]:
    """The ranges of [skip, length) that no medium's token is in."""
    starts = [skip, *(stop for _, stop in media)]
    stops = [*(start for start, _ in media), length]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _spans(name: str, start: Integers, ranges: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Integers]:
    rows, bounds = _rows(start, ranges)
    return {f"{name}.rows": rows, f"{name}.bounds": bounds}


def _rows(start: Integers, ranges: Sequence[Sequence[tuple[int, int]]]) -> tuple[Integers, Integers]:
    """Rows of the ranges of every item, and where each item's begin."""
    parts = [
        [np.arange(first + a, first + b, dtype=np.int64) for a, b in of_item]
        for first, of_item in zip(start, ranges, strict=True)
    ]
    counts = [sum(map(len, of_item)) for of_item in parts]
    rows = np.concatenate(list(itertools.chain.from_iterable(parts)) or [np.empty(0, np.int64)])
    return rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
