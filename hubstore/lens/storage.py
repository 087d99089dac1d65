"""The lens that a store keeps: unembedding, final norm and tokenizer, so that reading needs no model.

FORMAT.md says how it lies in the store; `lens/lens.json` is written last, so that a lens is whole or not there.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from hubstore.store import StoreReader, dtype_name
from hubstore.store.layout import LENS, ROOT, array_metadata, group_metadata
from hubstore.store.lensrecord import SHARD_ROWS, TOKENIZER, LensArray, read_lens_record, write_lens_record
from hubstore.store.shardfile import encode_shard, map_rows
from hubstore.store.verification import file_problem


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
        existed = storage.exists(LENS)
        if existed and _is_whole(storage):
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
    return LensUpdate("mended" if existed else "added", (*written, LENS))


def _is_whole(storage: Storage) -> bool:
    try:
        files = read_lens_record(storage).files
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
    record = read_lens_record(storage)
    for key, file in record.files.items():
        wrong = file_problem(storage, key, file)
        if wrong:
            raise CorruptStoreError(f"{storage.root / key}: {wrong}; remove {LENS} and add the lens again")
    unembedding, *vectors = ((array.name, _read_array(storage, array)) for array in record.arrays())
    vector, said = {name: rows[0] for name, rows in vectors}, record.said
    norm = FinalNorm(said.norm.kind, said.norm.eps, vector.get("norm_weight"), vector.get("norm_bias"))
    head = Head(unembedding[1], norm, vector.get("bias"), said.scale, said.softcap)
    return head, storage.read(TOKENIZER).decode()


def _files(head: Head, definition: str) -> Iterator[tuple[str, list[Buffer]]]:
    """Every file but the record, a shard at a time."""
    yield f"lens/{ROOT}", [group_metadata()]
    yield from _array_files("unembedding", head.unembedding)
    for name, vector in (("norm_weight", head.norm.weight), ("norm_bias", head.norm.bias), ("bias", head.bias)):
        if vector is not None:
            yield from _array_files(name, vector.to(torch.float32)[None])
    yield TOKENIZER, [definition.encode()]


def _array_files(name: str, rows: Tensor) -> Iterator[tuple[str, list[Buffer]]]:
    array = LensArray.of(name, (len(rows), rows.shape[1]), dtype_name(rows.dtype))
    yield array.metadata_key, [array_metadata(array.layout, array.rows, array.dimensions)]
    for (key, _), part in zip(array.shards(), torch.split(rows, SHARD_ROWS), strict=True):
        yield key, encode_shard(part.cpu(), array.layout)


def _read_array(storage: Storage, array: LensArray) -> Tensor:
    """[rows, width], a copy."""
    return torch.cat(
        [map_rows(storage.map(key), rows, array.layout, str(storage.root / key)) for key, rows in array.shards()]
    )
