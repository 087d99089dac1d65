"""The lens that a store keeps: unembedding, final norm and tokenizer, so that reading needs no model.

FORMAT.md says how it lies in the store; `lens/lens.json` is written last, so that a lens is whole or not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hubstore.errors import CorruptStoreError, LensError
from hubstore.extraction import require_same_model
from hubstore.lens.vocabulary import Vocabulary
from hubstore.models import FinalNorm, Head, Model
from hubstore.storage import Buffer, FileRecord, Storage
from hubstore.storage.location import shell_word
from hubstore.store import Layout, StoreReader, dtype_name
from hubstore.store.layout import LENS, ROOT, array_metadata, group_metadata
from hubstore.store.lensrecord import read_lens_record, write_lens_record
from hubstore.store.shardfile import encode_shard, map_rows
from hubstore.store.verify import file_problem

TOKENIZER = "lens/tokenizer.json"
SHARD_ROWS, CHUNK_ROWS = 8192, 256


@dataclass(frozen=True)
class LensUpdate:
    """What `keep_lens` has done.

    Args:
        outcome: "added", "mended", or "unchanged" of a lens that was there, whole.
        written: keys of the files that were written.
    """

    outcome: Literal["added", "mended", "unchanged"]
    written: tuple[str, ...]


def keep_lens(store: StoreReader, model: Model) -> LensUpdate:
    """Put a model's unembedding, final norm and tokenizer into the store that was made with it.

    A lens that is there already, whole, stays as it is; of one that is damaged, the files that are not as the model has
    them are written again.

    Args:
        store: the store.
        model: the model, loaded with its head.

    Returns:
        Which of these it was, and the files that were written.

    Raises:
        ModelError: the model has no head, or is not the store's.
        StoreLockedError: another process writes to the store.
        StoreError: the disk is full or broken; a lens that was there before stays.
    """
    require_same_model(store, model)
    head = model.require_head()
    definition = Vocabulary.of_model(model).definition
    storage, files, written = store.storage, {}, []
    with storage.lock():
        there = storage.exists(LENS)
        if there and _is_whole(storage):
            return LensUpdate("unchanged", ())
        for key, buffers in _files(head, definition):
            files[key] = FileRecord.of(*buffers)
            if storage.record(key) != files[key]:
                storage.write(key, *buffers)
                written.append(key)
        for stray in set(storage.list("lens")) - {LENS, *files}:
            storage.delete(stray)
        record = {
            "vocabulary": head.vocabulary,
            "width": head.width,
            "dtype": dtype_name(head.unembedding.dtype),
            "norm": {"kind": head.norm.kind, "eps": head.norm.eps},
            "scale": head.scale,
            "softcap": head.softcap,
        }
        write_lens_record(storage, record, files)
    return LensUpdate("mended" if there else "added", (*written, LENS))


def _is_whole(storage: Storage) -> bool:
    try:
        files = read_lens_record(storage)[1]
    except CorruptStoreError:
        return False
    return not any(file_problem(storage, key, file) for key, file in files.items())


def read_lens(store: StoreReader) -> tuple[Head, str]:
    """The head that a store keeps, and its tokenizer's definition.

    Raises:
        LensError: the store keeps none; says how to add it.
        CorruptStoreError: a file of it is missing, truncated or changed.
    """
    storage = store.storage
    if not storage.exists(LENS):
        raise LensError(
            f"{store.path} keeps no unembedding. Add it with `hubstore lens {shell_word(store.path)} --keep`, which "
            "loads the store's model once, or extract with --with-lens; or read with the model itself: --model MODEL"
        )
    record, files = read_lens_record(storage)
    for key, file in files.items():
        wrong = file_problem(storage, key, file)
        if wrong:
            raise CorruptStoreError(f"{storage.root / key}: {wrong}; remove {LENS} and add the lens again")
    arrays = {name: _read_array(storage, name) for name in ("unembedding", *_vectors(files))}
    vectors = {name: array[0] for name, array in arrays.items() if name != "unembedding"}
    norm = FinalNorm(
        record["norm"]["kind"], record["norm"]["eps"], vectors.get("norm_weight"), vectors.get("norm_bias")
    )
    head = Head(arrays["unembedding"], norm, vectors.get("bias"), record["scale"], record["softcap"])
    return head, storage.read(TOKENIZER).decode()


def _vectors(files: Mapping[str, FileRecord]) -> list[str]:
    """Names of the vectors that the lens has files of."""
    return [name for name in ("norm_weight", "norm_bias", "bias") if f"lens/{name}/{ROOT}" in files]


def _files(head: Head, definition: str) -> Iterator[tuple[str, list[Buffer]]]:
    """Every file but the record, a shard at a time."""
    yield f"lens/{ROOT}", [group_metadata()]
    yield from _array_files("unembedding", head.unembedding, ("token", "hidden"))
    for name, vector in (("norm_weight", head.norm.weight), ("norm_bias", head.norm.bias), ("bias", head.bias)):
        if vector is not None:
            along = "token" if name == "bias" else "hidden"
            yield from _array_files(name, vector.to(torch.float32)[None], ("one", along))
    yield TOKENIZER, [definition.encode()]


def _array_files(name: str, rows: Tensor, dimensions: tuple[str, str]) -> Iterator[tuple[str, list[Buffer]]]:
    layout = _layout(rows.shape[1], dtype_name(rows.dtype))
    yield f"lens/{name}/{ROOT}", [array_metadata(layout, len(rows), dimensions)]
    for shard, start in enumerate(range(0, len(rows), SHARD_ROWS)):
        yield f"lens/{name}/c/{shard}/0", encode_shard(rows[start : start + SHARD_ROWS].cpu(), layout)


def _layout(width: int, dtype: str) -> Layout:
    return Layout((), (), dtype, width, SHARD_ROWS, CHUNK_ROWS)


def _read_array(storage: Storage, name: str) -> Tensor:
    """[rows, width], a copy."""
    described = json.loads(storage.read(f"lens/{name}/{ROOT}"))
    rows, width = described["shape"]
    layout = _layout(width, described["data_type"])
    parts = []
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        key = f"lens/{name}/c/{shard}/0"
        parts.append(map_rows(storage.map(key), min(SHARD_ROWS, rows - start), layout, str(storage.root / key)))
    return torch.cat(parts)
