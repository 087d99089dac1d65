"""Images and audio on their way to the model: read, decoded and processed, here or in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.corpus import Media
from hubstore.errors import CorpusError, CorpusUnreachableError, HubstoreError
from hubstore.media.decode import open_audio, open_image
from hubstore.media.previews import clip, thumbnail
from hubstore.media.processor import MediaInputs, MediaReader


@dataclass(frozen=True)
class MediaTask:
    """How items are read.

    Args:
        readers: by modality.
        template: the prompt around a medium.
        previews: whether to make a thumbnail or a clip of each.
    """

    readers: Mapping[str, MediaReader]
    template: str
    previews: bool = False


@dataclass(frozen=True)
class ReadItem:
    """One image or audio clip, read; or what is wrong with it.

    An error here is of the item itself, which may be left out for it. What would meet other items too, or would not
    meet this one another time, is raised instead.
    """

    inputs: MediaInputs | None = None
    preview: bytes | None = None
    error: CorpusError | None = None


def read_item(task: MediaTask, modality: str, media: Media, text: str, name: str) -> ReadItem:
    """Decode a medium and make the model's arguments of it.

    Args:
        task: how.
        modality: "image" or "audio".
        media: what to decode.
        text: beside it.
        name: the item's id, for messages.

    Raises:
        CorpusUnreachableError: it cannot be read now, and may be later.
        HubstoreError: it cannot be read here: a package is missing, or memory.
    """
    reader = task.readers[modality]
    preview = None
    try:
        if modality == "image":
            image = open_image(media)
            preview = thumbnail(image) if task.previews else None
            return ReadItem(reader.read(image, task.template, text), preview)
        samples = open_audio(media, reader.rate)
        preview = clip(samples, reader.rate) if task.previews else None
        return ReadItem(reader.read(samples, task.template, text), preview)
    except HubstoreError as error:
        if isinstance(error, CorpusError) and not isinstance(error, CorpusUnreachableError):
            return ReadItem(error=error)
        raise
    except MemoryError as error:
        raise CorpusUnreachableError(
            f"item {name!r}: memory did not suffice to read {media.name}; free some, or read with fewer processes "
            "(--readers), and run the same command again: what was committed stays"
        ) from error
    except (ValueError, RuntimeError, IndexError, TypeError) as error:  # a processor that cannot take this medium
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return ReadItem(error=CorpusError(f"{media.name} cannot be made into the model's input: {why}; leave it out"))


def read_rows(task: MediaTask, rows: Sequence[Mapping[str, Any]]) -> list[ReadItem]:
    """Read items given as rows of ITEM_SCHEMA."""
    return [read_item(task, row["modality"], Media(row["media"], row["data"]), row["text"], row["id"]) for row in rows]


@dataclass(frozen=True)
class _Stack:
    """Items one after the other whose tensors have the same names, dtypes and shapes: each name's, as one array.

    Args:
        count: of items.
        tensors: name, dtype, and array of all items': [items, *shape], as integers where numpy has no such dtype.
    """

    count: int
    tensors: tuple[tuple[str, torch.dtype, npt.NDArray[Any]], ...]

    @classmethod
    def of(cls, items: Sequence[Mapping[str, torch.Tensor]]) -> _Stack:
        stacked = ((name, torch.stack([item[name] for item in items])) for name in items[0])
        return cls(len(items), tuple((name, one.dtype, _array(one)) for name, one in stacked))

    def items(self) -> Iterator[dict[str, torch.Tensor]]:
        """The tensors of each item, in few calls: torch hands the interpreter to another thread at every one."""
        columns = [
            [(name, tensor) for tensor in torch.from_numpy(array).view(dtype).unbind()]
            for name, dtype, array in self.tensors
        ]
        return (dict(of_item) for of_item in zip(*columns, strict=True))


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return found


@dataclass(frozen=True)
class ReadItems:
    """Items as they come from the process that read them.

    Args:
        bare: the items without their tensors.
        stacks: the tensors of those that could be read, in order.
    """

    bare: list[ReadItem]
    stacks: list[_Stack]

    def items(self) -> Iterator[ReadItem]:
        """Each item, with its tensors."""
        tensors = chain.from_iterable(stack.items() for stack in self.stacks)
        for item in self.bare:
            yield item if item.inputs is None else replace(item, inputs=replace(item.inputs, tensors=next(tensors)))


def read_portion(task: MediaTask, rows: pa.Buffer, schema: pa.Schema) -> ReadItems:
    """Read the items of a record batch of ITEM_SCHEMA in Arrow's IPC format, with one of torch's threads."""
    items = read_rows(task, pa.ipc.read_record_batch(rows, schema).to_pylist())
    tensors = [item.inputs.tensors for item in items if item.inputs]
    stacks = [_Stack.of(list(run)) for _, run in groupby(tensors, _shapes)]
    return ReadItems(
        [replace(item, inputs=replace(item.inputs, tensors={})) if item.inputs else item for item in items], stacks
    )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.dtype, torch.Size]]:
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
