"""A store in memory: what analyses and indexes read of a StoreReader, over tensors a test makes up."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hubstore.errors import CorruptStoreError
from hubstore.store import Partition, StoreReader


class MemoryStorage:
    """A dictionary under the storage's verbs."""

    root = Path("memory.hub")

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def exists(self, key: str) -> bool:
        return key in self.files

    def size(self, key: str) -> int:
        return len(self.read(key))

    def read(self, key: str) -> bytes:
        if key not in self.files:
            raise CorruptStoreError(f"{self.root / key} is missing")
        return self.files[key]

    def write(self, key: str, *buffers: bytes | memoryview) -> None:
        self.files[key] = b"".join(bytes(buffer) for buffer in buffers)

    def put_if_absent(self, key: str, *buffers: bytes | memoryview) -> bool:
        if key in self.files:
            return False
        self.write(key, *buffers)
        return True

    def list(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self.files if key.startswith(prefix + "/"))

    def delete(self, key: str) -> None:
        self.files.pop(key, None)

    def map(self, key: str) -> np.ndarray:
        return np.frombuffer(self.read(key), np.uint8)


class MemoryStates:
    """One layer under one pooling, in segments of `segment` rows."""

    def __init__(self, rows: torch.Tensor, layer: str, pooling: str, segment: int) -> None:
        self._rows, self.layer, self.pooling, self._segment = rows, layer, pooling, segment

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows.shape[0], self._rows.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self._rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        stop = len(self) if stop is None else stop
        while start < stop:
            end = min(stop, (start // self._segment + 1) * self._segment)
            yield start, self._rows[start:end]
            start = end

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._rows[start:stop].clone()

    def take(self, positions: np.ndarray) -> torch.Tensor:
        return self._rows[torch.from_numpy(np.array(positions, np.int64))]


class MemoryStore:
    """Partitions of items with states made up by the test.

    Args:
        partitions: by name ("en", "image/en"), the concept of each item, in order; None for none.
        states: by layer, [items, width] in the order of the partitions; of the store's dtype.
        pooling: the one pooling.
        segment: rows of a segment.
    """

    layer_name = StoreReader.layer_name
    layer_names = StoreReader.layer_names
    pooling_name = StoreReader.pooling_name
    partition = StoreReader.partition
    positions = StoreReader.positions
    find = StoreReader.find
    place = StoreReader.place

    partition_by = None

    def __init__(
        self,
        partitions: Mapping[str, Sequence[str | None]],
        states: Mapping[str, torch.Tensor],
        pooling: str = "mean",
        segment: int = 64,
    ) -> None:
        self.path = MemoryStorage.root
        self.storage = MemoryStorage()
        self.layers = tuple(states)
        self.poolings = (pooling,)
        self.states = dict(states)
        self.attributes: Mapping[str, object] = {}
        self._segment = segment
        rows, self.partitions, start = [], {}, 0
        for name, concepts in partitions.items():
            modality, _, language = name.rpartition("/")
            modality = modality or "text"
            self.partitions[name] = Partition(modality, language, np.array([[start, start + len(concepts)]]))
            start += len(concepts)
            for number, concept in enumerate(concepts):
                text = f"{concept} in {name}"
                rows.append((f"{name}:{number}", concept, language, modality, text, len(text.split())))
        names = ("id", "concept", "language", "modality", "text", "tokens")
        types = (*[pa.string()] * 5, pa.int32())
        columns = [[row[i] for row in rows] for i in range(len(names))]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
        self.items = pa.table(dict(zip(names, arrays, strict=True)))

    def __len__(self) -> int:
        return self.items.num_rows

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.states.values())).dtype

    @property
    def width(self) -> int:
        return next(iter(self.states.values())).shape[1]

    @property
    def digest(self) -> str:
        found = hashlib.sha256(repr(sorted(self.states)).encode())
        for rows in self.states.values():
            found.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def hidden(self, layer: str | int, pooling: str | None = None) -> MemoryStates:
        name = self.layer_name(layer)
        return MemoryStates(self.states[name], name, self.pooling_name(pooling), self._segment)


def parallel(languages: Sequence[str], states: Mapping[str, torch.Tensor], **options: object) -> MemoryStore:
    """A store of one parallel corpus: states by layer are [languages, concepts, width]."""
    count = next(iter(states.values())).shape[1]
    partitions = {language: [f"c{i}" for i in range(count)] for language in languages}
    flat = {layer: rows.reshape(-1, rows.shape[-1]) for layer, rows in states.items()}
    return MemoryStore(partitions, flat, **options)
