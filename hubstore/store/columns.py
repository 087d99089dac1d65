"""Columns of one's own: what item tables keep of a corpus beside what makes an item, each of one type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

ITEM_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("media", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("media_ranges", pa.list_(pa.int32())),
    ]
)
"""An item table's columns. `media` is where an image or audio clip is, `media_ranges` bounds of its tokens."""

RESERVED = frozenset({*ITEM_SCHEMA.names, "data", "hidden", "position", "preview"})
"""Names that no column of one's own has: those of item tables, and of what stands beside items elsewhere."""

MOST_COLUMNS = 256
MOST_NAME = 200
MOST_ITEM_BYTES = 8 << 10
"""Of one item's kept values: 8192 items that have the same ones fill half of what a table may take in memory."""

TYPES: Mapping[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "date32": pa.date32(),
}
TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=([A-Za-z0-9+_:/-]{1,64}))?\]")


def column_type(name: str) -> pa.DataType:
    """The Arrow type that a name stands for, such as "int64" or "timestamp[us, tz=UTC]"; ValueError for no such one."""
    if name in TYPES:
        return TYPES[name]
    found = TIMESTAMP.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r:.80} is no type of a kept column; they are {', '.join(TYPES)} and timestamp[us]")
    return pa.timestamp(found[1], found[2])


def type_name(kind: pa.DataType) -> str:
    """What `column_type` makes the type of."""
    return next((name for name, known in TYPES.items() if known == kind), str(kind))


def name_problem(name: str) -> str | None:
    """Why a column of one's own cannot be called so; the rest of a sentence that begins with the name."""
    if not name or len(name) > MOST_NAME or not name.isprintable():
        return f"is no name of 1 to {MOST_NAME} printable characters; rename it"
    if name in RESERVED:
        return "is a column that item tables have already; rename it in the corpus, or leave it out"
    return None


def stored_columns(pairs: Iterable[Sequence[str]]) -> dict[str, pa.DataType]:
    """The kept columns of a root or a plan, [name, type] each; ValueError where they are none."""
    columns: dict[str, pa.DataType] = {}
    for name, kind in pairs:
        if problem := name_problem(name):
            raise ValueError(f"its column {name!r:.80} {problem}")
        if name in columns:
            raise ValueError(f"its columns name {name!r} twice")
        columns[name] = column_type(kind)
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"it has {len(columns)} columns of its own; {MOST_COLUMNS} is the most")
    return columns


def named_types(columns: Mapping[str, pa.DataType]) -> list[list[str]]:
    """As a root or a plan keeps them."""
    return [[name, type_name(kind)] for name, kind in columns.items()]


def with_columns(schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """A schema with kept columns after its own."""
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in columns.items())])
