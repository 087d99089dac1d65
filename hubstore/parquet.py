"""What a Parquet file holds, by its footer and its pages' headers, read before Arrow reads it.

Arrow makes room for a page by what its header says, up to 2 GiB, and what it asks of a footer's columns ends the
process where their statistics are damaged (`RowGroupMetaData.column`). Both are Thrift's compact protocol.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = b"PAR1"
CUT = "it is no Parquet file, or was cut"

MOST_NESTED = 16
"""Structs and lists in one another; Parquet's own have seven."""

DATA_PAGES = {0: 5, 3: 8}
"""By the type of a page that holds values, the field of its header that counts them."""


@dataclass(frozen=True)
class ColumnChunk:
    """One column of a row group.

    Args:
        name: of the column, the first part of its path.
        values: in its pages, those of lists and nulls too.
        size: bytes of its pages when they are decompressed.
    """

    name: str
    values: int
    size: int


@dataclass(frozen=True)
class ParquetContent:
    """What a file holds."""

    rows: int
    chunks: tuple[ColumnChunk, ...]


def parquet_content(data: bytes) -> ParquetContent:
    """What a file holds; ValueError where it is no Parquet file, or its pages are others than its footer says."""
    size = _footer_size(data[-8:], len(data))
    if not data.startswith(MAGIC):
        raise ValueError(CUT)
    end = len(data) - 8 - size
    with _as_written():
        groups = _groups(data[end:-8])
        chunks = tuple(_chunk(data, column[3], end) for group in groups for column in group[1])
        return ParquetContent(sum(group[3] for group in groups), chunks)


def row_group_rows(file: BinaryIO) -> list[int]:
    """Rows of each row group of an open file, of which the footer alone is read; ValueError where it has none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 8, 0))
    footer = _footer_size(file.read(8), size)
    file.seek(size - 8 - footer)
    with _as_written():
        return [group[3] for group in _groups(file.read(footer))]


def _footer_size(end: bytes, size: int) -> int:
    """Bytes of a footer, by the last eight of a file of `size` bytes."""
    footer = int.from_bytes(end[:4], "little")
    if not end.endswith(MAGIC) or footer + 12 > size:
        raise ValueError(CUT)
    return footer


@contextmanager
def _as_written() -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ValueError("its footer, or a page's header, is not as it was written") from error


def _groups(footer: bytes) -> list[Any]:
    """The row groups of a footer, as Thrift has them."""
    fields = _Compact(footer, 0, len(footer)).struct()
    groups: list[Any] = fields[4]
    if sum(group[3] for group in groups) != fields[3] or any(group[3] < 0 for group in groups):
        raise ValueError("its row groups do not have its rows")
    return groups


def _chunk(data: bytes, described: dict[int, Any], end: int) -> ColumnChunk:
    name = described[3][0].decode()
    if not described[5]:  # a table of no rows may have no page
        return ColumnChunk(name, 0, 0)
    start = min(one for one in (described[9], described.get(11)) if one)
    stop = start + described[7]
    if not 0 < start <= stop <= end:
        raise ValueError("a column is not where its footer says")
    values = size = 0
    for counted, decompressed in _pages(data, start, stop):
        values, size = values + counted, size + decompressed
        if values >= described[5]:
            break
    if values != described[5]:
        raise ValueError(f"a column has other values than the {described[5]} that its footer says")
    return ColumnChunk(name, values, size)


def _pages(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Values, and bytes when it is decompressed, of each page."""
    while start < stop:
        reader = _Compact(data, start, stop)
        header = reader.struct()
        counted = header[DATA_PAGES[header[1]]][1] if header[1] in DATA_PAGES else 0
        start = reader.place + header[3]
        if counted < 0 or header[2] < 0 or not reader.place <= start <= stop:
            raise ValueError("a page has another size than its column")
        yield counted, header[2]


class _Compact:
    """Reads Thrift's compact protocol in `data` from `place`; IndexError or TypeError where it is none."""

    def __init__(self, data: bytes, place: int, end: int) -> None:
        self._data, self.place, self._end = data, place, end
        self._readers = {
            1: lambda depth: True,
            2: lambda depth: False,
            3: lambda depth: self._bytes(1)[0],
            **dict.fromkeys((4, 5, 6), lambda depth: self._integer()),
            7: lambda depth: struct.unpack("<d", self._bytes(8))[0],
            8: lambda depth: self._bytes(self._varint()),
            **dict.fromkeys((9, 10), self._list),
            12: self.struct,
        }

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """By number, the fields of a struct."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._bytes(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, depth + 1)
        return fields

    def _list(self, depth: int) -> list[Any]:
        head = self._bytes(1)[0]
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if head & 15 in (1, 2):
            return list(self._bytes(count))
        if count > self._end - self.place:
            raise IndexError(count)
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _value(self, kind: int, depth: int) -> Any:
        if kind not in self._readers or depth > MOST_NESTED:
            raise TypeError(kind)
        return self._readers[kind](depth)

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise TypeError(shift)

    def _bytes(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if self.place > self._end:
            raise IndexError(self.place)
        return self._data[start : self.place]
