"""The record of the lens that a store keeps: what it is made of, and its files' sizes and checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hubstore.errors import CorruptStoreError
from hubstore.storage import FileRecord, Storage
from hubstore.store.layout import LENS, content_digest, encode_json


def write_lens_record(storage: Storage, content: Mapping[str, Any], files: Mapping[str, FileRecord]) -> None:
    """Say that a lens is there; its files are on disk already."""
    content = {**content, "files": {key: file.to_json() for key, file in files.items()}}
    storage.write(LENS, encode_json({**content, "digest": content_digest(content)}))


def read_lens_record(storage: Storage) -> tuple[Mapping[str, Any], Mapping[str, FileRecord]]:
    """What a lens is made of, and its files by key; CorruptStoreError where the record is not as it was written."""
    try:
        record = json.loads(storage.read(LENS))
        content = {key: value for key, value in record.items() if key != "digest"}
        if record["digest"] != content_digest(content):
            raise ValueError("its digest is another")
        files = {key: FileRecord.from_json(file) for key, file in content["files"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        path = storage.root / LENS
        raise CorruptStoreError(
            f"{path} is not as it was written: {error}; remove it and add the lens again"
        ) from error
    return content, files
