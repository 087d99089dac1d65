"""Tables of results as a store keeps them: Parquet, with a checksum of all its bytes inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hubstore.decoding import decode_object, one_line
from hubstore.errors import CorruptStoreError
from hubstore.storage import crc32c
from hubstore.store.records import ResultJson
from hubstore.store.tables import decode_table

KEY = "hubstore.crc32c"
"""Of the Parquet file's own metadata, under which the checksum is."""

METADATA = b"hubstore"
"""Of a kept table's schema metadata, under which is how it was made."""

SEAL = b"the CRC32C of this file, with eight zeros here, is "
UNSET = b"00000000"

OLDER_VARIANT = "centred"
"""In a column `variant`, as the release before spelled "centered": deprecated."""


REMEDY = "remove it, and it is made again"


def result_record(metadata: Mapping[bytes, bytes], name: str) -> dict[str, Any]:
    """How a kept table was made, from its schema's metadata; CorruptStoreError where that is no such record."""
    try:
        return decode_object(metadata[METADATA], ResultJson)
    except (ValueError, KeyError) as error:
        raise CorruptStoreError(f"{name} does not say how it was made: {one_line(error)}; {REMEDY}") from error


def result_key(record: Mapping[str, Any]) -> str:
    """Where a store keeps the table with this record, which is the table's `metadata`."""
    identity = {name: record[name] for name in ("analysis", "parameters", "seed", "commits", "version")}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"analyses/{record['analysis']}/{digest[:32]}.parquet"


def encode_result(table: pa.Table) -> bytes:
    """The file of a table."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: (SEAL + UNSET).decode()})
    data = bytearray(sink.getvalue())
    place = data.rindex(SEAL) + len(SEAL)
    data[place : place + len(UNSET)] = b"%08x" % crc32c(memoryview(data))
    return bytes(data)


def decode_result(data: bytes, name: str) -> tuple[pa.Table, bool]:
    """The table in a file, and whether a checksum vouches for it: those of older versions have none.

    Raises:
        CorruptStoreError: the file, called `name`, is not as it was written.
    """
    place = data.rfind(SEAL) + len(SEAL)
    sealed = place >= len(SEAL)
    if sealed:
        unset = memoryview(data[:place] + UNSET + data[place + len(UNSET) :])
        if data[place : place + len(UNSET)] != b"%08x" % crc32c(unset):
            raise CorruptStoreError(f"{name}: its bytes do not match its checksum; {REMEDY}")
    table = decode_table(data, name, REMEDY)
    metadata = dict(table.schema.metadata or {})
    if metadata.pop(KEY.encode(), None) is not None and not sealed:
        raise CorruptStoreError(f"{name}: its checksum is not as it was written; {REMEDY}")
    if "variant" in table.column_names and pa.types.is_string(table["variant"].type):
        place = table.column_names.index("variant")
        renamed = pc.replace_substring(table["variant"], OLDER_VARIANT, "centered")
        table = table.set_column(place, table.schema.field(place), renamed)
    return table.replace_schema_metadata(metadata or None), sealed
