"""From a picture or a sound to what a model is given: its processor, a prompt around it, and where its tokens are.

A reader works without the model, so that other processes can read while the model is busy. What it makes of one
item does not depend on other items; `collate_media` joins several.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from hubstore.errors import CorpusError, ModelError
from hubstore.media.shortcuts import PIXELS, Levels, extract_heard
from hubstore.models.batch import HostBatch, Integers, placed_in_order
from hubstore.models.special import NOTHING, Added

MEDIA: Final = "{media}"
TEXT: Final = "{text}"

SAMPLES_A_SECOND: Final = 16_000
"""Where a processor does not say."""

DROPPED: Final = ("num_crops", "audio_embed_sizes", "num_audio_tokens")
"""What some processors return that no model takes."""


@dataclass(frozen=True)
class MediaInputs:
    """One picture or sound, ready for the model.

    Args:
        tensors: the model's arguments, for a batch of one; pixels may still be levels, as bytes (`Levels`).
        media: (start, stop) of the medium's tokens among the item's, in order; empty where only its length is known.
        length: tokens that the blocks will see; None where only the model knows (`Adapter.rows_of`).
        truncated: whether the medium was longer than the model takes.
    """

    tensors: Mapping[str, torch.Tensor]
    media: tuple[tuple[int, int], ...] = ()
    length: int | None = None
    truncated: bool = False

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class MediaReader:
    """Turns one decoded picture or sound, and a text beside it, into a model's arguments.

    Args:
        modality: "image" or "audio".
        processor: transformers' processor, image processor or feature extractor.
        marker: what stands for the medium in a prompt; "" for a model that reads no text beside it.
        token_ids: the ids of the medium's tokens once the processor has filled in the marker.
        dtype: of the floating-point arguments.
        samples: most samples of a sound that the model takes; None for any number.
        decoder: whether the text goes to a decoder of its own ("decoder_input_ids").
        quick: what pictures go through in the processor's place, to the same effect; None for the processor itself.
        levels: what is left to the device of a picture's processing; None where the processor does all of it.
        heard: whether a sound is processed only as far as there is sound; see `extract_heard`.
        added: the special tokens that its tokenizer puts around a prompt.
    """

    modality: str
    processor: Any
    marker: str
    token_ids: frozenset[int]
    dtype: torch.dtype
    samples: int | None = None
    decoder: bool = False
    quick: Any = None
    levels: Levels | None = None
    heard: bool = False
    added: Added = NOTHING

    @property
    def takes_text(self) -> bool:
        """Whether a prompt goes with the medium."""
        return bool(self.marker) or self.decoder

    @property
    def rate(self) -> int:
        """Samples a second that a sound must have."""
        part = getattr(self.processor, "feature_extractor", None) or getattr(self.processor, "audio_processor", None)
        return int(getattr(part or self.processor, "sampling_rate", None) or SAMPLES_A_SECOND)

    def check(self, template: str, whose: str) -> None:
        """ModelError unless the template is one that the model can be given."""
        if template.count(MEDIA) != 1 or template.count(TEXT) > 1:
            raise ModelError(f"media template {template!r} must hold {MEDIA} exactly once, and {TEXT} once at most")
        if not self.takes_text and template != MEDIA:
            raise ModelError(f"{whose} reads no text beside {self.modality} items; the media template must be {MEDIA}")

    def read(self, medium: Any, template: str = MEDIA, text: str = "") -> MediaInputs:
        """The model's arguments for one item, but for what is left to the device; see `finish`.

        Args:
            medium: an RGB `PIL.Image`, or float32 samples at `rate`.
            template: the prompt: `{media}` stands for the medium, `{text}` for the item's text.
            text: the item's text.

        Raises:
            CorpusError: the text holds what stands for a medium in the model's prompts.
        """
        self._check_text(text, template)
        truncated = self.samples is not None and len(medium) > self.samples
        if truncated:
            medium = medium[: self.samples]  # some processors would draw a part at random
        prompt = template.replace(MEDIA, self.marker).replace(TEXT, text)  # a text may hold "{media}" itself
        (prompt,) = self.added.without([prompt])
        given = dict(self._process(medium, prompt))
        for name in DROPPED:
            given.pop(name, None)
        tensors = {name: _tensor(value, self.dtype) for name, value in given.items()}
        if self.decoder:
            ids = self.processor.tokenizer(self.added.without([text]))["input_ids"][0]
            tensors["decoder_input_ids"] = torch.tensor([ids])
            return MediaInputs(tensors, length=len(ids), truncated=truncated)
        if "input_ids" not in tensors:
            return MediaInputs(tensors, truncated=truncated)
        is_media = np.isin(tensors["input_ids"][0].numpy(), list(self.token_ids))
        edges = np.flatnonzero(np.diff(is_media, prepend=False, append=False)).tolist()
        media = tuple(zip(edges[::2], edges[1::2], strict=True))
        return MediaInputs(tensors, media, len(is_media), truncated)

    def _check_text(self, text: str, template: str) -> None:
        """A marker in a text would be filled in as the medium is, or its token be taken for one of the medium's."""
        if not self.marker or not text or TEXT not in template:
            return
        tokenizer = self.processor.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = next((tokenizer.convert_ids_to_tokens(i) for i in ids if i in self.token_ids), None)
        if found is None and self.marker in text:
            found = self.marker
        if found is not None:
            raise CorpusError(
                f"its text {text[:80]!r} holds {found!r}, which stands for {self.modality} input in this model's "
                "prompts; change the text, or leave the item out"
            )

    def finish(self, inputs: MediaInputs) -> MediaInputs:
        """The same with nothing left to the device: its tensors are the model's own arguments."""
        if self.levels is None or PIXELS not in inputs.tensors:
            return inputs
        return replace(inputs, tensors={**inputs.tensors, PIXELS: self.levels.finish(inputs.tensors[PIXELS])})

    def _process(self, medium: Any, prompt: str) -> Mapping[str, Any]:
        options: dict[str, Any] = {"return_tensors": "pt"}
        processor = self.processor if self.quick is None else self.quick
        if self.modality == "audio":
            options["sampling_rate"] = self.rate
        if self.marker:
            part = {"images": [medium]} if self.modality == "image" else {"audio": [medium]}
            if self.modality == "audio" and not hasattr(processor, "feature_extractor"):
                del options["sampling_rate"]  # its audio processor knows one rate only
            fill: Callable[..., Mapping[str, Any]] = processor
            return fill(text=[prompt], **part, **options)
        if self.modality == "image":
            make: Callable[..., Mapping[str, Any]] = getattr(processor, "image_processor", processor)
            return make(images=medium, **options)
        extractor = getattr(self.processor, "feature_extractor", self.processor)
        if "input_features" in extractor.model_input_names:
            options["return_attention_mask"] = True  # its padding is part of what the model sees, but none of the sound
        if self.heard:
            return extract_heard(extractor, medium)
        extract: Callable[..., Mapping[str, Any]] = extractor
        return extract(medium, **options)


@dataclass(frozen=True)
class Adapter:
    """How a model reads one modality.

    Args:
        reader: makes its arguments.
        whole: the module that takes them; the model's blocks are inside it.
        identity: digests of processor and weights, as kept in the store.
        rows: of an item's arguments, how many tokens its blocks see and how many of them are the item's; None
            where a prompt's length says it.
    """

    reader: MediaReader
    whole: Any
    identity: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[Mapping[str, torch.Tensor]], tuple[int, int]] | None = None

    @property
    def pinned(self) -> bool:
        """Whether batches are laid in pinned memory, from which a GPU takes them without another copy."""
        return any(parameter.is_cuda for parameter in itertools.islice(self.whole.parameters(), 1))

    def length_of(self, inputs: MediaInputs) -> int:
        """Tokens of one item."""
        if inputs.length is not None:
            return inputs.length
        assert self.rows is not None
        return self.rows(inputs.tensors)[1]


def collate_media(adapter: Adapter, items: Sequence[MediaInputs], pad_id: int, bos_id: int | None) -> HostBatch:
    """Several items as one batch.

    What differs in size is padded with zeros at the end, token ids with `pad_id`; the self-check finds out for which
    models padded items have the states of single ones.

    Args:
        adapter: of the items' modality.
        items: one at least.
        pad_id: a token id; it is masked.
        bos_id: the first token of a causal model's sequences, left out of `first` and `mean`; or None.
    """
    levels = adapter.reader.levels
    if levels is not None and len({item.tensors[PIXELS].shape[1:] for item in items}) > 1:
        # Zeros at a picture's end are zeros beside normalised pixels, which no level need be.
        items = [adapter.reader.finish(item) for item in items]
        levels = None
    fills = {name: pad_id if name.endswith("input_ids") else 0 for name in items[0].tensors}
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
        beside = [_beside(item.media, *bounds) for item, bounds in zip(items, own, strict=True)]
        for name, ranges in (("media", [item.media for item in items]), ("text", beside)):
            arrays |= _spans(name, start, [found or whole for found, whole in zip(ranges, every, strict=True)])
    return HostBatch(
        placed_in_order(arrays),
        None,
        len(items) * width,
        tensors=tensors,
        modality=adapter.reader.modality,
        levels=levels,
    )


def shapes_of(inputs: MediaInputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of an item's arguments: items that agree in them need no padding."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in inputs.tensors.items())


def processor_digest(processor: Any) -> str:
    """SHA-256 of what a processor is configured with; its tokenizer has a digest of its own."""
    parts = ("image_processor", "feature_extractor", "audio_processor", "video_processor")
    configured: dict[str, Any] = {
        name: getattr(processor, name).to_dict() for name in parts if getattr(processor, name, None) is not None
    }
    own = processor.to_dict()
    configured["own"] = {name: value for name, value in own.items() if name not in (*parts, "tokenizer")}
    return hashlib.sha256(json.dumps(configured, sort_keys=True, default=str).encode()).hexdigest()


def _tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


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


def _beside(media: Sequence[tuple[int, int]], skip: int, length: int) -> list[tuple[int, int]]:
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
