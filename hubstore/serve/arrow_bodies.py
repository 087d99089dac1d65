"""Vectors that clients send as Arrow streams. What a body takes in memory is known before any of it is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.errors import QueryError
from hubstore.serve.http_errors import TooLargeError, UnreadableError
from hubstore.serve.limits import MIB

COLUMN = "vector"

ONE_THREAD = False
"""Arrow's own threads would decompress beside those that the server has counted."""

_DICTIONARY, _BATCH = 2, 3
"""Kinds of messages: org.apache.arrow.flatbuf.MessageHeader."""


def read_vectors(body: bytes, most: int, budget: int) -> npt.NDArray[np.float32]:
    """float32 [queries, width] of the column `vector` of an Arrow stream, compressed or not.

    Args:
        body: the stream.
        most: vectors that it may have, and batches.
        budget: bytes that all of it may have decompressed.

    Raises:
        TooLargeError: it has more bytes decompressed.
        UnreadableError: it is no such stream.
        QueryError: it has no vectors, or more than `most`.
    """
    try:
        _check_size(body, most, budget)
        column = _column(body, most)
    except (pa.ArrowException, struct.error, KeyError, OSError, ValueError, TypeError) as error:
        if isinstance(error, (TooLargeError, UnreadableError, QueryError)):
            raise
        raise UnreadableError("the body is no Arrow stream with a column `vector` of fixed-size lists") from None
    if column.null_count or column.flatten().null_count:
        raise UnreadableError("column vector has nulls")
    with np.errstate(over="ignore"):  # infinity is refused by the search
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)


def _column(body: bytes, most: int) -> pa.FixedSizeListArray:
    """The vectors, batch by batch; no other column is decoded."""
    with pa.ipc.open_stream(body) as reader:
        number, kind = reader.schema.get_field_index(COLUMN), reader.schema.field(COLUMN).type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise UnreadableError(f"column vector is {kind}; it must be a fixed-size list of floats")
    options = pa.ipc.IpcReadOptions(use_threads=ONE_THREAD, included_fields=[number])
    parts, count = [], 0
    with pa.ipc.open_stream(body, options=options) as reader:
        for batch in reader:
            count += len(batch)
            if count > most:
                break
            batch.validate(full=True)
            parts.append(batch.column(0))
    if not 1 <= count <= most or not kind.list_size:
        raise QueryError(f"there are {'more than ' * (count > most)}{min(count, most)} vectors; give 1 to {most}")
    return pa.concat_arrays(parts)


def _check_size(body: bytes, most: int, budget: int) -> None:
    """TooLargeError where the stream's compressed buffers say that they have more than `budget` bytes together."""
    size = 0
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(body)):
        if number > most + 1:  # after the schema, and a dictionary that nobody needs
            raise QueryError(f"the stream has more than {most} batches; put the vectors into one")
        size += sum(_decompressed(message))
        if size > budget:
            raise TooLargeError(
                f"the body has more than {budget / MIB:g} MiB decompressed, which is what this server takes; "
                "send fewer vectors at a time"
            )


def _decompressed(message: pa.Message) -> Iterator[int]:
    """Bytes of each compressed buffer of a batch as it is to be in memory, which stand before it in the body."""
    table = _Flat(message.metadata.to_pybytes())
    root = table.reference(0)
    kind_at, header_at = table.field(root, 1), table.field(root, 2)
    kind = table.data[kind_at] if kind_at else 0
    if kind not in (_DICTIONARY, _BATCH) or not header_at:
        return
    batch = table.reference(header_at)
    if kind == _DICTIONARY:
        batch = table.reference(table.field(batch, 1))
    buffers = table.field(batch, 2)
    if not table.field(batch, 3) or not buffers:  # not compressed: the buffers are those of the body
        return
    vector = table.reference(buffers)
    (count,) = struct.unpack_from("<I", table.data, vector)
    body = message.body
    for at in range(vector + 4, vector + 4 + 16 * count, 16):
        offset, length = struct.unpack_from("<qq", table.data, at)
        if length:
            (size,) = struct.unpack_from("<q", body, offset)
            yield max(size, 0)  # -1: this one is as it is


class _Flat:
    """A FlatBuffer whose structure Arrow has verified.

    Args:
        data: its bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def reference(self, at: int) -> int:
        """Where what is referred to at a place begins."""
        return at + int(struct.unpack_from("<I", self.data, at)[0])

    def field(self, table: int, number: int) -> int:
        """Where a table has a field; 0 where it does not have it."""
        (back,) = struct.unpack_from("<i", self.data, table)
        (size,) = struct.unpack_from("<H", self.data, table - back)
        if 4 + 2 * number >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, table - back + 4 + 2 * number)
        return table + int(offset) if offset else 0
