"""Columns of one's own: what item tables keep of a corpus beside what makes an item, each of one type."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

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
    """The Arrow type that a name stands for, such as "int64" or "timestamp[us, tz=UTC]".

    Raises:
        ValueError: there is no such type, or no such time zone.
    """
    if name in TYPES:
        return TYPES[name]
    found = TIMESTAMP.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r:.80} is no type of a kept column; they are {', '.join(TYPES)} and timestamp[us]")
    kind = pa.timestamp(found[1], found[2])
    try:
        pa.scalar(0, kind).as_py()
    except (pa.ArrowException, ValueError, LookupError):
        raise ValueError(f"{name!r} has a time zone that is not known; name one such as UTC or Europe/Berlin") from None
    return kind


DAY_SECONDS = 24 * 60 * 60
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@cache
def time_range(kind: pa.DataType) -> range:
    """The integers that a type of times stores for the years 1 to 9999, which Python has; of a zone's a day less."""
    epoch = datetime.date(1970, 1, 1).toordinal()
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    scale = DAY_SECONDS * UNITS[kind.unit] if pa.types.is_timestamp(kind) else 1
    return range((1 + zoned - epoch) * scale, (datetime.date.max.toordinal() + 1 - zoned - epoch) * scale)


def check_times(table: pa.Table) -> None:
    """ValueError where a column has a time outside of the years 1 to 9999, which Python does not have."""
    for field in table.schema:
        if pa.types.is_timestamp(field.type) or field.type == pa.date32():
            stored = table[field.name].cast(pa.int32() if field.type == pa.date32() else pa.int64())
            for value in pc.min_max(stored).as_py().values():
                if value is not None and value not in time_range(field.type):
                    raise ValueError(f"its column {field.name!r} has a time outside of the years 1 to 9999")


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
