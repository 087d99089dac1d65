"""A Parquet file is held against its own footer and page headers before Arrow makes room for what they say."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.errors import CorruptStoreError
from hubstore.parquet import parquet_content
from hubstore.store import tables
from hubstore.store.tables import decode_table


def file_of(table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def table():
    return pa.table(
        {
            "id": [f"row {number}" for number in range(500)],
            "same": ["the same"] * 500,
            "lists": [list(range(number % 5)) if number % 7 else None for number in range(500)],
            "nested": [{"a": number, "b": [None]} for number in range(500)],
            "x": [float(number) if number % 3 else None for number in range(500)],
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "row_group_size": 90, "data_page_size": 300},
        {"compression": "none", "data_page_version": "2.0", "use_dictionary": False, "write_page_checksum": True},
        {"compression": "lz4", "write_page_index": True, "column_encoding": None},
    ],
)
def test_what_is_read_of_a_footer_is_what_arrow_says(table, options):
    data = file_of(table, **options)
    content, metadata = parquet_content(data), pq.ParquetFile(pa.BufferReader(data)).metadata
    chunks = [
        metadata.row_group(group).column(number)
        for group in range(metadata.num_row_groups)
        for number in range(metadata.num_columns)
    ]
    assert content.rows == metadata.num_rows == 500
    assert [(chunk.name, chunk.values) for chunk in content.chunks] == [
        (chunk.path_in_schema.split(".")[0], chunk.num_values) for chunk in chunks
    ]
    for found, chunk in zip(content.chunks, chunks, strict=True):
        assert 0 < found.size < chunk.total_uncompressed_size, "which counts the headers too"
    assert decode_table(data, "a", "b").equals(table)


def test_an_empty_table_is_read(table):
    empty = table.slice(0, 0)
    assert decode_table(file_of(empty), "a", "b").equals(empty)


def test_a_row_group_of_no_rows_whose_columns_have_no_pages_is_read(table):
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], schema=table.schema))
    data = sink.getvalue().to_pybytes()
    assert pq.ParquetFile(pa.BufferReader(data)).metadata.num_row_groups == 1
    assert decode_table(data, "a", "b").equals(table.slice(0, 0))


def test_a_page_that_says_to_be_large_is_refused_before_room_is_made_for_it(monkeypatch):
    monkeypatch.setattr(tables, "FREE_BYTES", 1 << 12)
    monkeypatch.setattr(tables, "MOST_TIMES", 1)
    data = bytearray(file_of(pa.table({"x": [1] * 99}), compression="zstd", use_dictionary=False))
    (size,) = (chunk.size for chunk in parquet_content(bytes(data)).chunks)
    assert decode_table(bytes(data), "a", "b").num_rows == 99
    place = data.index(varint(2 * size), 4)
    assert place < 20, "in the header of the first page"
    data[place : place + 2] = varint(2 * 8000)
    with pytest.raises(CorruptStoreError, match=r"more than .* bytes of memory"):
        decode_table(bytes(data), "a", "b")


def varint(value):
    return bytes([value & 127 | 128, value >> 7])


def test_a_flipped_bit_of_a_footer_never_ends_the_process(table):
    data, rng = file_of(table.slice(0, 9)), random.Random(0)
    refused = 0
    for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        try:
            decode_table(bytes(changed), "a", "b")
        except CorruptStoreError:
            refused += 1
    assert refused > 300
