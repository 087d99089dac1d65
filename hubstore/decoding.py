"""JSON that files hold, decoded in one way: bounded, strict, and against a typed description."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Of one record. The largest are the roots of stores of corpora of many files."""

MOST_NESTED = 64
"""Objects and lists in one another, where a description leaves open what they hold."""


def one_line(error: Exception) -> str:
    """What an error says, in one line of what can be printed: it may quote names that are anybody's."""
    said = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(said.split())[:300]


def decode_json(data: bytes | str, kind: type[T]) -> T:
    """The value in `data`, which is of the type `kind`; see `msgspec` for how ranges and patterns are described.

    Raises:
        ValueError: it is too long, no JSON, not UTF-8, too deeply nested, or not of the type; says where in it.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, and {MOST_BYTES:,} are read at most")
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_object(data: bytes | str, kind: Any = None) -> dict[str, Any]:
    """The object in `data` with all that it holds, checked against `kind`, which may describe a part of it.

    Raises:
        ValueError: as of `decode_json`.
    """
    found = decode_json(data, dict[str, Any])
    if is_nested(found, MOST_NESTED):
        raise ValueError(f"it is nested in more than {MOST_NESTED} levels")
    if kind is not None:
        msgspec.convert(found, kind, strict=True)
    return found


def is_nested(value: Any, most: int) -> bool:
    """Whether objects and lists in one another are more than `most` levels deep."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
