"""Tables of results as a store keeps them: Parquet, with a checksum of all its bytes inside."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hubstore.arrow import read_parquet
from hubstore.errors import CorruptStoreError
from hubstore.storage import crc32c

KEY = "hubstore.crc32c"
"""Of the Parquet file's own metadata, under which the checksum is."""

SEAL = b"the CRC32C of this file, with eight zeros here, is "
UNSET = b"00000000"

OLDER_VARIANT = "centred"
"""In a column `variant`, as the release before spelled "centered": deprecated."""


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
            raise CorruptStoreError(f"{name}: its bytes do not match its checksum; remove it, and it is made again")
    try:
        table = read_parquet(data)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptStoreError(f"{name} is not a readable Parquet file; remove it, and it is made again") from error
    metadata = dict(table.schema.metadata or {})
    if metadata.pop(KEY.encode(), None) is not None and not sealed:
        raise CorruptStoreError(f"{name}: its checksum is not as it was written; remove it, and it is made again")
    if "variant" in table.column_names:
        place = table.column_names.index("variant")
        renamed = pc.replace_substring(table["variant"], OLDER_VARIANT, "centered")
        table = table.set_column(place, table.schema.field(place), renamed)
    return table.replace_schema_metadata(metadata or None), sealed
