"""The record of the lens that a store keeps: what it is made of, and its files' sizes and checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord, Storage
from hubstore.store.layout import LENS, ROOT, Layout
from hubstore.store.records import LensJson, decode_record, sealed
from hubstore.store.sizes import size_limits

TOKENIZER = "lens/tokenizer.json"
SHARD_ROWS, CHUNK_ROWS = 8192, 256
VECTORS = ("norm_weight", "norm_bias", "bias")
REMEDY = "remove it and add the lens again: `hubstore lens STORE --keep`"


@dataclass(frozen=True)
class LensArray:
    """One array of a lens.

    Args:
        name: "unembedding", "norm_weight", "norm_bias" or "bias".
        rows: of it.
        layout: of its shards.
        dimensions: what its rows and columns are.
    """

    name: str
    rows: int
    layout: Layout
    dimensions: tuple[str, str]

    @classmethod
    def of(cls, name: str, shape: tuple[int, int], dtype: str) -> LensArray:
        """The array of that name, shape and dtype."""
        columns = "token" if name == "bias" else "hidden"
        dimensions = ("token" if name == "unembedding" else "one", columns)
        return cls(name, shape[0], Layout((), (), dtype, shape[1], SHARD_ROWS, CHUNK_ROWS), dimensions)

    @property
    def metadata_key(self) -> str:
        """Its zarr.json."""
        return f"lens/{self.name}/{ROOT}"

    def shards(self) -> Iterator[tuple[str, int]]:
        """Key and rows of each of its Zarr shards, in order."""
        for number, start in enumerate(range(0, self.rows, SHARD_ROWS)):
            yield f"lens/{self.name}/c/{number}/0", min(SHARD_ROWS, self.rows - start)


@dataclass(frozen=True)
class LensRecord:
    """What a lens is made of: see FORMAT.md.

    Args:
        said: the record.
        files: sizes and checksums, by key.
    """

    said: LensJson
    files: Mapping[str, FileRecord]

    def arrays(self) -> list[LensArray]:
        """Its arrays, as it describes them."""
        width, vocabulary = self.said.width, self.said.vocabulary
        shapes = {"norm_weight": width, "norm_bias": width, "bias": vocabulary}
        vectors = [name for name in VECTORS if f"lens/{name}/{ROOT}" in self.files]
        return [
            LensArray.of("unembedding", (vocabulary, width), self.said.dtype),
            *(LensArray.of(name, (1, shapes[name]), "float32") for name in vectors),
        ]


def write_lens_record(storage: Storage, content: Mapping[str, Any], files: Mapping[str, FileRecord]) -> None:
    """Say that a lens is there; its files are on disk already."""
    storage.write(LENS, sealed({**content, "files": {key: file.to_json() for key, file in files.items()}}))


def read_lens_record(storage: Storage) -> LensRecord:
    """What a lens is made of, and its files; CorruptStoreError where the record is not as it was written."""
    where = storage.root / LENS
    said = decode_record(storage.read(LENS), LensJson, where, REMEDY)
    record = LensRecord(said, {key: file.record() for key, file in said.files.items()})
    problem = next(_problems(record), None)
    if problem:
        raise CorruptStoreError(f"{where} is not as it was written: {problem}; {REMEDY}")
    return record


def _problems(record: LensRecord) -> Iterator[str]:
    named = {f"lens/{ROOT}", TOKENIZER}
    if record.said.vocabulary > SHARD_ROWS * len(record.files):
        yield f"its files do not hold {record.said.vocabulary} tokens"
    for array in record.arrays():
        named.add(array.metadata_key)
        for key, rows in array.shards():
            named.add(key)
            least, most = size_limits(rows, array.layout)
            if key in record.files and not least <= record.files[key].size <= most:
                yield f"{key} has not the size of {rows} rows"
    different = sorted(named ^ record.files.keys())
    if different:
        yield f"its files are not those of a lens: {different[0]!r:.200}"
